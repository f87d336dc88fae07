// SPDX-License-Identifier: Apache-2.0
//! Kubernetes objects as they are written, cut to the fields that policy needs while they are
//! decoded: what is not named here never reaches memory. The same types decode answers of an API
//! server and manifests.
//!
//! Every field is optional here, and `null` is the same as absent, as for the API server.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Resource;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, MapAccess, Visitor},
};
use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt::{self, Debug},
};

use super::{kinds::OfKind, object::Entry};
use crate::model::FORWARDS;

mod node;
mod pod;
mod policy;
mod service;

pub(in crate::watch) use node::BACKEND;

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

/// A kind that is read.
pub(crate) trait Wire:
    OfKind + Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + 'static
{
    /// The object of the model, and what of it could not be represented.
    fn convert(self) -> Entry;

    /// Why a manifest with it is refused, though all its fields are read.
    fn refusal(&self) -> Option<Refusal> {
        None
    }
}

/// Only what is read of `metadata`; the rest (managed fields, owners, nearly all annotations) is
/// dropped unread.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SlimMeta {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    deletion_timestamp: Option<Time>,
    #[serde(default, deserialize_with = "few")]
    annotations: Option<BTreeMap<String, String>>,
}

/// Annotations that are read: what a kubelet writes on the mirror of a static pod, flanneld on a
/// Node, and who edits a Namespace.
const ANNOTATIONS: [&str; 4] = [pod::MIRROR, pod::CONFIG_HASH, node::BACKEND, FORWARDS];

/// Keeps the annotations that are read. Others are passed over, and not copied.
fn few<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<BTreeMap<String, String>>, D::Error> {
    let Kept(kept) = Option::deserialize(deserializer)?.unwrap_or_default();
    Ok((!kept.is_empty()).then_some(kept))
}

/// A text that is copied only if it is written with escapes.
#[derive(Deserialize)]
struct Borrowed<'a>(#[serde(borrow)] Cow<'a, str>);

/// Annotations that are read.
#[derive(Default)]
struct Kept(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Kept {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Self::default())
    }
}

impl<'de> Visitor<'de> for Kept {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of annotations")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut all: A) -> Result<Self, A::Error> {
        while let Some((Borrowed(name), value)) = all.next_entry::<Borrowed<'de>, Option<Borrowed<'de>>>()? {
            if let (true, Some(Borrowed(value))) = (ANNOTATIONS.contains(&&*name), value) {
                self.0.insert(name.into_owned(), value.into_owned());
            }
        }
        Ok(self)
    }
}
fn slim<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let meta = Option::<SlimMeta>::deserialize(deserializer)?;
    Ok(meta.map_or_else(ObjectMeta::default, |meta| ObjectMeta {
        name: meta.name,
        namespace: meta.namespace,
        uid: meta.uid,
        resource_version: meta.resource_version,
        labels: meta.labels,
        deletion_timestamp: meta.deletion_timestamp,
        annotations: meta.annotations,
        ..ObjectMeta::default()
    }))
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
        assert!(pod.metadata.annotations.is_none() && pod.metadata.managed_fields.is_none());
    }
}
