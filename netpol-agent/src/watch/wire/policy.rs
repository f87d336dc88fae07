// SPDX-License-Identifier: Apache-2.0
//! NetworkPolicy, whole: a field that is not here is one that Kubernetes does not know.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Deserialize;

use super::Metadata;
use crate::model::Labels;

/// `networking.k8s.io/v1` NetworkPolicy.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct NetworkPolicy {
    /// Name and namespace.
    #[serde(default, deserialize_with = "super::or_default")]
    pub metadata: Metadata,
    /// What it says.
    pub spec: Option<NetworkPolicySpec>,
}

/// `spec` of a NetworkPolicy.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicySpec {
    /// The pods it isolates.
    pub pod_selector: Option<LabelSelector>,
    /// The directions it applies to.
    pub policy_types: Option<Vec<String>>,
    /// What the pods may receive.
    pub ingress: Option<Vec<NetworkPolicyIngressRule>>,
    /// What the pods may send.
    pub egress: Option<Vec<NetworkPolicyEgressRule>>,
}

/// One entry of `ingress`.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct NetworkPolicyIngressRule {
    /// From whom.
    pub from: Option<Vec<NetworkPolicyPeer>>,
    /// To which ports.
    pub ports: Option<Vec<NetworkPolicyPort>>,
}

/// One entry of `egress`.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct NetworkPolicyEgressRule {
    /// To whom.
    pub to: Option<Vec<NetworkPolicyPeer>>,
    /// To which ports.
    pub ports: Option<Vec<NetworkPolicyPort>>,
}

/// One entry of `from` or `to`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicyPeer {
    /// Pods by label.
    pub pod_selector: Option<LabelSelector>,
    /// Namespaces by label.
    pub namespace_selector: Option<LabelSelector>,
    /// Addresses.
    pub ip_block: Option<IpBlock>,
}

/// `ipBlock`.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct IpBlock {
    /// The block.
    pub cidr: Option<String>,
    /// Blocks that are removed from it.
    pub except: Option<Vec<String>>,
}

/// One entry of `ports`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicyPort {
    /// TCP if absent.
    pub protocol: Option<String>,
    /// By number or by name.
    pub port: Option<IntOrString>,
    /// Last port of a range.
    pub end_port: Option<i32>,
}

/// A label selector.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LabelSelector {
    /// Labels that must be there.
    pub match_labels: Option<Labels>,
    /// Conditions on labels.
    pub match_expressions: Option<Vec<LabelSelectorRequirement>>,
}

/// One entry of `matchExpressions`.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct LabelSelectorRequirement {
    /// The label's key.
    pub key: Option<String>,
    /// The operator.
    pub operator: Option<String>,
    /// Its values.
    pub values: Option<Vec<String>>,
}
