// SPDX-License-Identifier: Apache-2.0
//! A cluster of one node on which the image runs.

use anyhow::Result;
use netpol_tests::{
    cluster::Cluster,
    container::{self, Container, Given, Host, Image},
    deploy::Deployment,
    privilege::{api_server, can_enforce, settle},
};
use serde_json::{Value, json};
use tempfile::TempDir;

const SUITE: &str = "image";

/// The cluster, the node's folders, and the image unpacked there. What is dropped first is first.
pub struct World {
    pub cluster: Cluster,
    pub deployment: Deployment,
    pub host: Host,
    image: Image,
    /// Of the image, and of the pod's volumes.
    folder: TempDir,
}

impl World {
    /// With the pods of [`Cluster::with_pods`] and the manifest applied, where that can be had.
    pub fn new() -> Option<Self> {
        let missing = container::archive().err().or_else(|| api_server().err());
        if !can_enforce(SUITE) || !settle(SUITE, missing.or_else(no_runc)) {
            return None;
        }
        let (cluster, deployment) = (Cluster::with_pods().unwrap(), Deployment::load().unwrap());
        for object in &deployment.objects {
            cluster.api.apply(object).unwrap();
        }
        let folder = tempfile::Builder::new()
            .prefix("netpol-image-")
            .tempdir()
            .unwrap();
        let image = Image::unpack(&container::archive().unwrap(), folder.path()).unwrap();
        let host = Host::new().unwrap();
        Some(Self {
            cluster,
            deployment,
            host,
            image,
            folder,
        })
    }

    /// Starts the container of the manifest.
    pub fn start(&self) -> Container {
        self.start_as(&self.deployment, None).unwrap()
    }

    /// Starts the container of a manifest, with other arguments if there are any.
    pub fn start_as(&self, deployment: &Deployment, arguments: Option<&[&str]>) -> Result<Container> {
        let token = self.cluster.api.token("kube-system", "netpol")?;
        let account = self.cluster.api.service_account("kube-system", &token)?;
        let environment = self.cluster.api.environment().map(|(name, value)| {
            let value = value.into_string().expect("addresses and ports are text");
            (name, value)
        });
        Container::start(&Given {
            deployment,
            image: &self.image,
            host: &self.host,
            node: &self.cluster.node.plan().name,
            netns: &self.cluster.node.netns().path(),
            environment: &environment,
            service_account: Some(&account),
            empty: &self.folder.path().join("empty"),
            arguments,
        })
    }

    /// Isolates `shop/a`, and lets `shop/b` in.
    pub fn isolate(&self) {
        let from_b = json!([{"from": [{"podSelector": {"matchLabels": {"app": "b"}}}]}]);
        self.cluster.api.apply(&policy(&from_b)).unwrap();
    }
}

/// An ingress policy of namespace `shop` for the pods with `app: a`.
pub fn policy(ingress: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": "shop", "name": "a"},
        "spec": {"podSelector": {"matchLabels": {"app": "a"}}, "policyTypes": ["Ingress"], "ingress": ingress},
    })
}

fn no_runc() -> Option<String> {
    let found = std::process::Command::new("runc").arg("--version").output();
    found
        .err()
        .map(|error| format!("no runc: {error}; it is in the package runc"))
}
