// SPDX-License-Identifier: Apache-2.0
//! Node.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

/// `v1` Node.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Node {
    /// Its name.
    #[serde(default, deserialize_with = "super::slim")]
    pub metadata: ObjectMeta,
    /// Its addresses.
    pub status: Option<NodeStatus>,
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
