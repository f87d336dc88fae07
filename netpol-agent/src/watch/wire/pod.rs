// SPDX-License-Identifier: Apache-2.0
//! Namespace and Pod.

use serde::Deserialize;

use super::Metadata;
use crate::model::Text;

/// The annotation by which a kubelet marks the mirror of a static pod.
pub const MIRROR: &str = "kubernetes.io/config.mirror";
/// The annotation with the UID that the kubelet gave the static pod itself.
pub const CONFIG_HASH: &str = "kubernetes.io/config.hash";

/// `v1` Namespace.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Namespace {
    /// Name and labels.
    #[serde(default, deserialize_with = "super::or_default")]
    pub metadata: Metadata,
}

/// `v1` Pod.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Pod {
    /// Name, namespace, uid and labels.
    #[serde(default, deserialize_with = "super::or_default")]
    pub metadata: Metadata,
    /// Node, network and ports.
    pub spec: Option<PodSpec>,
    /// Phase and addresses.
    pub status: Option<PodStatus>,
}

/// `spec` of a Pod.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    /// The node it is scheduled to.
    pub node_name: Option<Text>,
    /// Shares the node's network.
    pub host_network: Option<bool>,
    /// Containers.
    pub containers: Option<Vec<Container>>,
    /// Init containers; those with `restartPolicy: Always` run beside the others.
    pub init_containers: Option<Vec<Container>>,
}

/// A container.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    /// `Always` makes an init container a restartable one (rule T4).
    pub restart_policy: Option<Text>,
    /// Its ports.
    pub ports: Option<Vec<ContainerPort>>,
}

/// A container port.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPort {
    /// Its name, if it has one.
    pub name: Option<Text>,
    /// Its number.
    pub container_port: Option<i64>,
    /// The port of the node that leads to it.
    pub host_port: Option<i64>,
    /// The only address of the node that has that port.
    #[serde(rename = "hostIP")]
    pub host_ip: Option<String>,
    /// Its protocol; TCP if absent.
    pub protocol: Option<Text>,
}

/// `status` of a Pod.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    /// Life cycle phase.
    pub phase: Option<Text>,
    /// The first address, as old API servers give it.
    #[serde(rename = "podIP")]
    pub pod_ip: Option<String>,
    /// All addresses.
    #[serde(rename = "podIPs")]
    pub pod_ips: Option<Vec<PodIp>>,
}

/// One address of a Pod.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct PodIp {
    /// The address.
    pub ip: Option<String>,
}
