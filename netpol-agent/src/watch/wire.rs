// SPDX-License-Identifier: Apache-2.0
//! Kubernetes objects as they are written, cut to the fields that policy needs while they are
//! decoded: what is not named here never reaches memory. The same types decode answers of an API
//! server and manifests.
//!
//! Every field is optional here, and `null` is the same as absent, as for the API server.

use hyper::body::Bytes;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use std::fmt::Debug;

use super::{kinds::OfKind, object::Entry};

mod binary;
mod metadata;
mod node;
mod pod;
mod policy;
mod service;
mod text;

pub(in crate::watch) use node::BACKEND;

pub(in crate::watch) use binary::pod as pod_from_binary;
pub use metadata::Metadata;
pub use node::{Node, NodeAddress, NodeSpec, NodeStatus};
pub use pod::{CONFIG_HASH, Container, ContainerPort, MIRROR, Namespace, Pod, PodIp, PodSpec, PodStatus};
pub use policy::{
    IpBlock, LabelSelector, LabelSelectorRequirement, NetworkPolicy, NetworkPolicyEgressRule,
    NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
pub use service::{
    Endpoint, EndpointConditions, EndpointPort, EndpointSlice, LoadBalancerIngress, LoadBalancerStatus,
    Service, ServicePort, ServiceSpec, ServiceStatus,
};

/// Code, field and reason.
pub(super) type Refusal = (&'static str, String, String);

/// Reads an object in the API server's binary encoding.
pub type FromBinary<T> = fn(Bytes) -> Result<T, prost::DecodeError>;

/// A kind that is read.
pub(crate) trait Wire: OfKind + DeserializeOwned + Clone + Debug + Send + 'static {
    /// The object of the model, and what of it could not be represented.
    fn convert(self) -> Entry;

    /// Reads one in the API server's binary encoding. `None` for a kind that is asked for in JSON.
    const FROM_BINARY: Option<FromBinary<Self>> = None;

    /// Why a manifest with it is refused, though all its fields are read.
    fn refusal(&self) -> Option<Refusal> {
        None
    }
}

/// `null` is the same as absent.
pub(super) fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_read_is_not_kept() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "a", "annotations": {"x": "y"}, "managedFields": [{"manager": "m"}],
                         "labels": null, "resourceVersion": "7"},
            "spec": {"containers": null},
            "status": null,
        }))
        .unwrap();
        assert_eq!(pod.metadata.resource_version.as_deref(), Some("7"));
        assert_eq!(pod.metadata.annotations.get("x"), None);
    }
}
