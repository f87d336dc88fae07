// SPDX-License-Identifier: Apache-2.0
//! Kubernetes objects as they are written, cut to the fields that policy needs while they are decoded: what is not named
//! here never reaches memory. The same types decode answers of an API server and manifests.
//!
//! Every field is optional here, and `null` is the same as absent, as for the API server.

use k8s_openapi::{
    ClusterResourceScope, NamespaceResourceScope,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::Resource;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use std::{borrow::Cow, collections::BTreeMap};

use super::object::{Entry, Kind};
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

/// A kind that is read.
pub(crate) trait Wire: Resource<DynamicType = ()> + DeserializeOwned {
    /// Which one.
    const KIND: Kind;

    /// The object of the model, and what of it could not be represented.
    fn convert(self) -> Entry;
}

/// Only what is read of `metadata`; the rest (managed fields, owners, nearly all annotations) is dropped unread.
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

/// Keeps the annotations that are read. Others are passed over before they are copied.
fn few<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<BTreeMap<String, String>>, D::Error> {
    let all = Option::<BTreeMap<Cow<'de, str>, Option<Cow<'de, str>>>>::deserialize(deserializer)?;
    let kept: BTreeMap<_, _> = all
        .into_iter()
        .flatten()
        .filter(|(key, _)| ANNOTATIONS.contains(&key.as_ref()))
        .filter_map(|(key, value)| Some((key.into_owned(), value?.into_owned())))
        .collect();
    Ok((!kept.is_empty()).then_some(kept))
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

macro_rules! resource {
    ($type:ty, $kind:ident, $scope:ty, $group:literal) => {
        impl Resource for $type {
            type DynamicType = ();
            type Scope = $scope;

            fn kind((): &()) -> Cow<'_, str> {
                Kind::$kind.name().into()
            }
            fn group((): &()) -> Cow<'_, str> {
                $group.into()
            }
            fn version((): &()) -> Cow<'_, str> {
                "v1".into()
            }
            fn plural((): &()) -> Cow<'_, str> {
                Kind::$kind.resource().into()
            }
            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }
            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

resource!(Node, Node, ClusterResourceScope, "");
resource!(Namespace, Namespace, ClusterResourceScope, "");
resource!(Pod, Pod, NamespaceResourceScope, "");
resource!(
    NetworkPolicy,
    NetworkPolicy,
    NamespaceResourceScope,
    "networking.k8s.io"
);
resource!(Service, Service, NamespaceResourceScope, "");
resource!(
    EndpointSlice,
    EndpointSlice,
    NamespaceResourceScope,
    "discovery.k8s.io"
);

#[cfg(test)]
mod tests {
    use super::*;

    fn same<T: Resource<DynamicType = ()>>(kind: Kind, path: &str) {
        assert_eq!(T::kind(&()), kind.name());
        assert_eq!(T::api_version(&()), kind.api_version());
        assert_eq!(T::url_path(&(), None), path);
    }

    #[test]
    fn resources_are_where_the_api_server_has_them() {
        same::<Node>(Kind::Node, "/api/v1/nodes");
        same::<Namespace>(Kind::Namespace, "/api/v1/namespaces");
        same::<Pod>(Kind::Pod, "/api/v1/pods");
        same::<NetworkPolicy>(Kind::NetworkPolicy, "/apis/networking.k8s.io/v1/networkpolicies");
        same::<Service>(Kind::Service, "/api/v1/services");
        same::<EndpointSlice>(Kind::EndpointSlice, "/apis/discovery.k8s.io/v1/endpointslices");
    }

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
