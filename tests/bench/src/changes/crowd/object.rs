// SPDX-License-Identifier: Apache-2.0
//! Makes pods, namespaces and nodes as the API server stores them.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Value, json};

use super::LOCAL;
use netpol_tests::random::Random;

/// Teams and environments that namespaces are labelled with.
const TEAMS: usize = 10;
const ENVIRONMENTS: [&str; 3] = ["prod", "staging", "dev"];
const TIERS: [&str; 3] = ["frontend", "backend", "data"];

/// The facts that distinguish a pod.
#[derive(Debug, Clone)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Number of its app.
    pub app: usize,
    /// Its node.
    pub node: String,
    /// Its only address.
    pub address: IpAddr,
}

/// Makes a running pod, as a Deployment does.
pub fn pod(of: &Pod) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "namespace": of.namespace, "name": of.name, "uid": uid(&of.name),
            "creationTimestamp": CREATED,
            "labels": labels(of.app),
            "annotations": {"example.com/config": format!("{:064x}", of.app)},
        },
        "spec": {
            "nodeName": of.node,
            "containers": [{
                "name": "main", "image": "registry.example.com/shop/app:1.7.3", "imagePullPolicy": "IfNotPresent",
                "ports": [
                    {"name": "http", "containerPort": 8080 + of.app % 2, "protocol": "TCP"},
                    {"name": "metrics", "containerPort": 9090, "protocol": "TCP"},
                ],
                "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            }],
            "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "terminationGracePeriodSeconds": 30,
            "securityContext": {}, "schedulerName": "default-scheduler", "enableServiceLinks": true,
        },
        "status": {
            "phase": "Running", "podIP": of.address, "podIPs": [{"ip": of.address}], "startTime": CREATED,
            "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": CREATED},
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": CREATED},
            ],
        },
    })
}

/// Labels of the pods of an app.
pub fn labels(app: usize) -> Value {
    json!({
        "app": app_name(app), "tier": TIERS[app % TIERS.len()], "version": "v1",
        "pod-template-hash": format!("{:08x}", app * 7919),
    })
}

/// When everything was made.
pub(super) const CREATED: &str = "2026-01-01T00:00:00Z";

/// Name of an app.
pub fn app_name(app: usize) -> String {
    format!("app-{app}")
}

/// Name of a namespace with pods.
pub fn near_name(index: usize) -> String {
    format!("ns-{index:03}")
}

pub(super) fn far_name(index: usize) -> String {
    format!("far-{index:03}")
}

pub(super) fn node_name(index: usize) -> String {
    format!("node-{index:04}")
}

/// Value of the label `team` of a namespace.
pub fn team(index: usize) -> String {
    format!("team-{}", index % TEAMS)
}

/// The address of pod `index`: a /24 for each node.
pub fn address(index: usize) -> IpAddr {
    let Some(remote) = index.checked_sub(LOCAL) else {
        return Ipv4Addr::new(10, 244, 0, 10 + index as u8).into();
    };
    let base = Ipv4Addr::new(10, 32, 0, 0).to_bits();
    Ipv4Addr::from_bits(base + (remote / LOCAL * 256 + 10 + remote % LOCAL) as u32).into()
}

pub(super) fn node(index: usize) -> Value {
    let address = Ipv4Addr::from_bits(Ipv4Addr::new(172, 16, 0, 10).to_bits() + index as u32);
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": node_name(index), "uid": uid(&node_name(index)), "creationTimestamp": CREATED},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    })
}

pub(super) fn namespace(name: &str, index: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {
            "name": name, "uid": uid(name), "creationTimestamp": CREATED,
            "labels": {
                "kubernetes.io/metadata.name": name, "team": team(index),
                "env": ENVIRONMENTS[index % ENVIRONMENTS.len()],
            },
        },
        "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
    })
}

/// Returns a number in the form of a UUID, the same for the same name.
pub(super) fn uid(name: &str) -> String {
    let seed = name.bytes().fold(7_u64, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(u64::from(byte))
    });
    let mut random = Random(seed);
    let mut digits = |bits: u32| random.below(1 << bits);
    format!(
        "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
        digits(32),
        digits(16),
        digits(12),
        digits(12),
        digits(48)
    )
}
