// SPDX-License-Identifier: Apache-2.0
//! A one-node cluster that runs the image.

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

/// The cluster, the node's folders, and the unpacked image. Fields are in the order of dropping.
pub struct World {
    pub cluster: Cluster,
    pub deployment: Deployment,
    pub host: Host,
    image: Image,
    /// Folder of the image and of the pod's volumes.
    folder: TempDir,
}

impl World {
    /// Makes the pods of [`Cluster::with_pods`] and applies the manifest, where that is possible.
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

    /// Starts the manifest's container.
    pub fn start(&self) -> Container {
        self.start_as(&self.deployment, None).unwrap()
    }

    /// Starts a manifest's container, with other arguments if given.
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

    /// Isolates `shop/a`, and allows `shop/b`.
    pub fn isolate(&self) {
        let from_b = json!([{"from": [{"podSelector": {"matchLabels": {"app": "b"}}}]}]);
        self.cluster.api.apply(&policy(&from_b)).unwrap();
    }
}

/// Makes an ingress policy in namespace `shop` for the pods with `app: a`.
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
