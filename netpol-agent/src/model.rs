// SPDX-License-Identifier: Apache-2.0
//! The objects that policy needs, reduced to the fields that it reads. Kubernetes API types stop at
//! [`crate::watch`], which converts them once. Fields that need a check (CIDRs, selectors, ports,
//! policy types) keep their text: the check, and the diagnostic when it fails, belong to
//! [`crate::compile`].

mod address;
pub(crate) mod findings;
mod forwards;
mod labels;
mod limits;
mod map;
mod pod;
mod ports;
pub(crate) mod syntax;
mod text;

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use ipnet::IpNet;
use serde::Serialize;

pub use address::{CidrError, parse_address, parse_cidr};
pub use forwards::{FORWARDS, ForwardedRange, MOST_FORWARDS, TooMany, forwarded_ranges, is_nobodys_alone};
pub use labels::Labels;
pub use limits::{Everyones, Limit, Limits, POLICY_RESOURCES, SERVICE_RESOURCES};
pub(crate) use limits::{PREFIXES, WIDE};
pub use map::{Change, Iter, Map, Set};
pub use ports::{Frontend, PortKey, ProtocolMatch};
pub use text::Text;

/// Namespace and name of a namespaced object. Displayed as `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ObjectKey {
    /// Namespace of the object.
    pub namespace: Text,
    /// Name of the object within its namespace.
    pub name: Text,
}

impl ObjectKey {
    /// Makes a key from its two parts.
    pub fn new(namespace: impl Into<Text>, name: impl Into<Text>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A transport protocol that NetworkPolicy ports can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP, the default where none is given (rule T2).
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// All protocols.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// Returns the IANA protocol number, as in the IPv4 header.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// Reads a Kubernetes `protocol` field (upper case, as the API server demands). Returns `None`
    /// for any other word.
    pub fn from_kubernetes(name: &str) -> Option<Self> {
        match name {
            "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// A Namespace. The source adds label `kubernetes.io/metadata.name` if the API server did not (rule
/// P4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// Name of the namespace.
    pub name: String,
    /// Labels of the namespace, including `kubernetes.io/metadata.name`.
    pub labels: Labels,
    /// Annotation [`FORWARDS`], as written: the ranges that its pods send and receive for (rule
    /// A6).
    pub forwards: Option<Text>,
}

/// A Pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Namespace and name.
    pub key: ObjectKey,
    /// `metadata.uid`; empty if the source gives none. It tells a pod from its successor of the
    /// same name.
    pub uid: String,
    /// Labels of the pod.
    pub labels: Labels,
    /// `spec.nodeName`, once scheduled.
    pub node: Option<Text>,
    /// `spec.hostNetwork`: the pod shares the node's network, so it is neither isolated nor a peer
    /// (rule I6).
    pub host_network: bool,
    /// The phase is Succeeded or Failed: its addresses may already be someone else's (rule I7).
    pub terminal: bool,
    /// `metadata.deletionTimestamp` is set. Another live pod that claims its addresses gets them
    /// (rule A8).
    pub terminating: bool,
    /// For the mirror of a static pod: the UID that the kubelet gave the static pod itself. The
    /// runtime knows the pod by this UID.
    pub static_uid: Option<Text>,
    /// `status.podIPs`, both families (rule P6).
    pub addresses: Vec<IpAddr>,
    /// Named ports of containers, then those of restartable init containers, in the order of the
    /// object (rule T4).
    pub named_ports: Vec<NamedPort>,
    /// Ports of its node that lead to the pod, in the order of the object. None if the pod shares
    /// its node's network.
    pub host_ports: Vec<HostPort>,
}

/// A container port with `hostPort`. The CNI translates it at the node's addresses.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// `hostIP`: the only address of the node with this port; `None` for all addresses.
    pub address: Option<IpAddr>,
    /// `protocol` of the port.
    pub protocol: Protocol,
    /// `hostPort`.
    pub number: u16,
    /// `containerPort` that it is translated to.
    pub container_port: u16,
}

/// A named container port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NamedPort {
    /// `name` of the port.
    pub name: Text,
    /// `protocol` of the port.
    pub protocol: Protocol,
    /// `containerPort`.
    pub number: u16,
}

/// A direction, always seen from the pod that policy isolates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Traffic that the pod receives.
    Ingress,
    /// Traffic that the pod sends.
    Egress,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

/// A NetworkPolicy (`networking.k8s.io/v1`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkPolicy {
    /// Namespace and name.
    pub key: ObjectKey,
    /// `spec.podSelector`: the pods of this namespace that it isolates.
    pub pod_selector: LabelSelector,
    /// `spec.policyTypes` as written; `None` if absent or empty (rule I2).
    pub policy_types: Option<Vec<Direction>>,
    /// `spec.ingress`. Absent and empty mean the same.
    pub ingress: Vec<Rule>,
    /// `spec.egress`. Absent and empty mean the same.
    pub egress: Vec<Rule>,
}

/// One entry of `spec.ingress` or `spec.egress`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rule {
    /// `from` or `to`. Absent and empty both mean everyone (rule P1).
    pub peers: Vec<Peer>,
    /// `ports`. Absent and empty both mean every port of every protocol (rule T1).
    pub ports: Vec<PolicyPort>,
}

/// One entry of `from` or `to`. It matches nothing if all three fields are absent (rule P5).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Peer {
    /// `podSelector`.
    pub pod_selector: Option<LabelSelector>,
    /// `namespaceSelector`.
    pub namespace_selector: Option<LabelSelector>,
    /// `ipBlock`. The API server refuses it together with a selector.
    pub ip_block: Option<IpBlock>,
}

/// `ipBlock`, as written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct IpBlock {
    /// `cidr`.
    pub cidr: String,
    /// `except`.
    pub except: Vec<String>,
}

/// One entry of `ports`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PolicyPort {
    /// `protocol` as written. Absent means TCP (rule T2).
    pub protocol: Option<String>,
    /// `port`. Absent means every port of the protocol.
    pub port: Option<PortName>,
    /// `endPort`, inclusive (rule T3).
    pub end_port: Option<i32>,
}

/// A port by number or by name (Kubernetes' int-or-string).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortName {
    /// A number as written, which may be out of range.
    Number(i32),
    /// The name of a container port.
    Name(String),
}

/// A label selector, as written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct LabelSelector {
    /// `matchLabels`, ANDed.
    pub match_labels: Labels,
    /// `matchExpressions`, ANDed.
    pub match_expressions: Vec<LabelExpression>,
}

/// One entry of `matchExpressions` as written. The operator may be unknown, and the values missing
/// (rule I3).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LabelExpression {
    /// Key of the label.
    pub key: String,
    /// `In`, `NotIn`, `Exists`, `DoesNotExist`, or a word that Kubernetes does not know.
    pub operator: String,
    /// The values of `In` and `NotIn`.
    pub values: Vec<String>,
}

/// A Service (rule A5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub key: ObjectKey,
    /// `spec.clusterIPs` without `None`, both families.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip`.
    pub load_balancer_ips: Vec<IpAddr>,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
}

/// One entry of a Service's `spec.ports`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// `name`; empty if the Service has a single unnamed port.
    pub name: String,
    /// `protocol`.
    pub protocol: Protocol,
    /// `port`, on the virtual IPs.
    pub port: u16,
    /// `nodePort`, on every node, if the Service has one.
    pub node_port: Option<u16>,
}

/// An EndpointSlice (`discovery.k8s.io/v1`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Name of its Service (label `kubernetes.io/service-name`).
    pub service: Option<String>,
    /// Ports by name. A number of `None` means all ports.
    pub ports: Vec<EndpointPort>,
    /// Addresses with their conditions.
    pub endpoints: Vec<SliceEndpoint>,
}

/// One entry of a slice's `ports`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointPort {
    /// `name`; empty if the Service has a single unnamed port.
    pub name: String,
    /// `protocol`.
    pub protocol: Protocol,
    /// `port`.
    pub number: Option<u16>,
}

/// One entry of a slice's `endpoints`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// `addresses`.
    pub addresses: Vec<IpAddr>,
    /// `conditions.ready`. Absent means ready.
    pub ready: bool,
    /// `conditions.serving`. Absent means the same as `ready`.
    pub serving: bool,
    /// `conditions.terminating`.
    pub terminating: bool,
}

/// Everything known of the cluster at one moment. A copy is cheap and shares what did not change
/// with later snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// Goes up by one with each snapshot. All stages, logs and metrics carry it.
    pub revision: u64,
    /// Nodes by name, with the addresses from their objects.
    pub nodes: Map<String, Arc<Node>>,
    /// Namespaces by name. A namespace that a pod or policy names and that is missing here has no
    /// labels but `kubernetes.io/metadata.name`.
    pub namespaces: Map<String, Arc<Namespace>>,
    /// Pods, including terminal and hostNetwork ones.
    pub pods: Map<ObjectKey, Arc<Pod>>,
    /// NetworkPolicies.
    pub policies: Map<ObjectKey, Arc<NetworkPolicy>>,
    /// Services.
    pub services: Map<ObjectKey, Arc<Service>>,
    /// EndpointSlices.
    pub endpoint_slices: Map<ObjectKey, Arc<EndpointSlice>>,
    /// Faults that the source found in objects, or objects that it could not read. It keeps the
    /// last good object if there was one.
    pub diagnostics: Set<Diagnostic>,
    /// Budgets for objects (rule L2).
    pub limits: Limits,
}

/// A node: the one that this agent runs on, or another of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// Name of the node, as in `spec.nodeName` of its pods.
    pub name: String,
    /// Addresses of the node. For the agent's own node: those of its interfaces, read from netlink
    /// (rule A2). For other nodes: `status.addresses`.
    pub addresses: std::collections::BTreeSet<IpAddr>,
    /// For the agent's own node: the link-local addresses of its pods, as bound (rules A8, A9).
    pub link_locals: std::collections::BTreeMap<ObjectKey, std::collections::BTreeSet<Ipv6Addr>>,
    /// `spec.podCIDRs`, without those that do not parse. The first addresses of each belong to the
    /// node's bridge and tunnel.
    pub pod_cidrs: Vec<IpNet>,
    /// Annotation `flannel.alpha.coreos.com/backend-type`: how pods of other nodes are reached.
    /// Empty if not known.
    pub backend: String,
}

/// A fault of an object, and what it means for enforcement. It is never an error: the rest goes on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Diagnostic {
    /// Stable code in kebab case, e.g. `cidr-invalid`.
    pub code: &'static str,
    /// Kind and key of the object, e.g. `NetworkPolicy shop/web`, or the file if no object could be
    /// read.
    pub object: String,
    /// Path of the field, e.g. `spec.ingress[0].from[1].ipBlock.cidr`. Empty for the whole object.
    pub field: String,
    /// What is wrong, and how enforcement treats it.
    pub message: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.object)?;
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.message)
    }
}
