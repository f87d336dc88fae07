// SPDX-License-Identifier: Apache-2.0
//! Node.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Deserializer};

/// Annotation of flanneld: how pods of other nodes are reached.
pub(in crate::watch) const BACKEND: &str = "flannel.alpha.coreos.com/backend-type";

/// `v1` Node.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Node {
    /// Its name, and how its CNI reaches other nodes.
    #[serde(default, deserialize_with = "slim")]
    pub metadata: ObjectMeta,
    /// The addresses of its pods.
    pub spec: Option<NodeSpec>,
    /// Its addresses.
    pub status: Option<NodeStatus>,
}

/// Only what is read of `metadata`, and of its annotations.
#[derive(Deserialize)]
struct Annotated {
    name: Option<String>,
    uid: Option<String>,
    #[serde(rename = "resourceVersion")]
    resource_version: Option<String>,
    annotations: Option<Annotations>,
}

#[derive(Deserialize)]
struct Annotations {
    #[serde(rename = "flannel.alpha.coreos.com/backend-type")]
    backend: Option<String>,
}

fn slim<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let meta = Option::<Annotated>::deserialize(deserializer)?;
    Ok(meta.map_or_else(ObjectMeta::default, |meta| {
        let backend = meta.annotations.and_then(|annotations| annotations.backend);
        ObjectMeta {
            name: meta.name,
            uid: meta.uid,
            resource_version: meta.resource_version,
            annotations: backend.map(|backend| [(BACKEND.to_owned(), backend)].into()),
            ..ObjectMeta::default()
        }
    }))
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
