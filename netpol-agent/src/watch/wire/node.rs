// SPDX-License-Identifier: Apache-2.0
//! Node.

use serde::Deserialize;

use super::Metadata;

/// Annotation of flanneld: how pods of other nodes are reached.
pub(in crate::watch) const BACKEND: &str = "flannel.alpha.coreos.com/backend-type";

/// `v1` Node.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Node {
    /// Its name, and how its CNI reaches other nodes.
    #[serde(default, deserialize_with = "super::or_default")]
    pub metadata: Metadata,
    /// The addresses of its pods.
    pub spec: Option<NodeSpec>,
    /// Its addresses.
    pub status: Option<NodeStatus>,
}

/// `spec` of a Node.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct NodeSpec {
    /// The ranges that its pods have their addresses from, one a family.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Option<Vec<String>>,
}

/// `status` of a Node.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct NodeStatus {
    /// Addresses and names.
    pub addresses: Option<Vec<NodeAddress>>,
}

/// One entry of `status.addresses`.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct NodeAddress {
    /// `InternalIP`, `ExternalIP`, or a kind of name.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The address or name.
    pub address: Option<String>,
}
