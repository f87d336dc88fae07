// SPDX-License-Identifier: Apache-2.0
//! The pods and Services of the cluster, and its objects as manifests.

use anyhow::Result;
use serde_json::{Value, json};

use super::Cluster;
use crate::{
    node::Node,
    services::{Backend, Readiness, Service},
};

/// Name, node and label `app` of the pods, all in namespace `shop`.
pub(super) const PODS: [(&str, usize, &str); 6] = [
    ("client", 0, "client"),
    ("web-a", 0, "web"),
    ("bad-a", 0, "bad"),
    ("far", 1, "client"),
    ("web-b", 1, "web"),
    ("bad-b", 1, "bad"),
];

/// Backends of the Services by name; `-` marks one that terminates, `!` one that is not ready.
pub(super) const SERVICES: [(&str, &[&str]); 12] = [
    ("web", &["web-a", "web-b"]),
    ("near", &["web-a"]),
    ("distant", &["web-b"]),
    ("mixed-near", &["web-a", "bad-a"]),
    ("mixed-distant", &["web-b", "bad-b"]),
    ("across", &["web-b", "bad-a"]),
    ("named", &["web-a", "web-b"]),
    ("empty", &[]),
    ("mine", &["client"]),
    ("abroad", &["outside"]),
    ("headless", &["web-a", "web-b"]),
    ("leaving", &["-web-a", "!bad-a"]),
];

impl Cluster {
    /// Makes a Service of [`SERVICES`] with the named backends.
    pub(super) fn make_service(&self, number: u8, name: &str, backends: &[&str]) -> Result<Service> {
        Ok(Service {
            name: name.to_owned(),
            number,
            headless: name == "headless",
            named_target: name == "named",
            backends: self.backends(name, backends)?,
            slice_size: 1,
        })
    }

    /// Parses backends as [`SERVICES`] writes them.
    pub(super) fn backends(&self, service: &str, names: &[&str]) -> Result<Vec<Backend>> {
        let backend = |name: &&str| {
            let readiness = match name.as_bytes()[0] {
                b'-' => Readiness::Terminating,
                b'!' => Readiness::Unready,
                _ => Readiness::Ready,
            };
            let name = name.trim_start_matches(['-', '!']);
            let tcp = if service == "named" { http_port(name) } else { 8080 };
            Ok(Backend {
                addresses: self.site(name)?.addresses,
                tcp,
                udp: 5353,
                readiness,
            })
        };
        names.iter().map(backend).collect()
    }

    pub(super) fn node_manifests(&self) -> Vec<Value> {
        let manifest = |node: &Node| {
            let addresses = node.site().addresses;
            let internal = addresses
                .iter()
                .map(|ip| json!({"type": "InternalIP", "address": ip}));
            json!({
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": node.plan().name},
                "spec": {"podCIDRs": node.plan().pod_networks().map(|net| net.to_string())},
                "status": {"addresses": internal.collect::<Vec<_>>()},
            })
        };
        self.nodes.iter().map(manifest).collect()
    }

    pub(super) fn pod_manifests(&self) -> Result<Vec<Value>> {
        let manifest = |(name, node, app): (&str, usize, &str)| {
            let node = &self.nodes[node];
            let addresses = node.pod(name)?.addresses;
            Ok(json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"namespace": "shop", "name": name, "labels": {"app": app}},
                "spec": {
                    "nodeName": node.plan().name,
                    "containers": [{
                        "name": "main",
                        "image": "example",
                        "ports": [{"name": "http", "containerPort": http_port(name)}],
                    }],
                },
                "status": {
                    "phase": "Running",
                    "podIPs": addresses.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>(),
                },
            }))
        };
        PODS.into_iter().map(manifest).collect()
    }
}

/// Returns the number of a pod's port name `http`.
fn http_port(pod: &str) -> u16 {
    if pod == "web-b" { 9090 } else { 8080 }
}

/// JSON is YAML.
pub(super) fn joined(objects: &[Value]) -> String {
    let texts: Vec<String> = objects.iter().map(Value::to_string).collect();
    texts.join("\n---\n") + "\n"
}
