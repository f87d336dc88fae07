// SPDX-License-Identifier: Apache-2.0
//! From what the cluster wants to what this node's kernel must hold. Pure: no I/O, no clock, no lock, cannot fail, and the
//! same input gives the same output, byte for byte. What is wrong with an object is a [`Diagnostic`].

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use self::{
    check::CheckedPolicy, classes::Classes, fault::Findings, force::Force, frontends::Frontends,
    policy::Writer,
};
use crate::model::{Diagnostic, Direction, Node, ObjectKey, Pod, Snapshot};

mod check;
mod classes;
mod fault;
mod force;
mod frontends;
mod peer;
mod policy;
mod ports;
mod profiles;
mod selector;
#[cfg(test)]
mod tests;

/// The desired state of this node, still without the numbers that the kernel maps use: [`crate::sync`] gives them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Compiled {
    /// The snapshot's revision.
    pub revision: u64,
    /// Local pods that the agent enforces on.
    pub endpoints: BTreeMap<ObjectKey, Endpoint>,
    /// The distinct sets of allowed traffic; endpoints refer to them by index.
    pub policies: Vec<Policy>,
    /// The classes of addresses, then those of frontends; addresses, frontends and policies refer to them by index. Index 0 is the class
    /// of addresses that match no peer.
    pub classes: Vec<Class>,
    /// Which class an address has: longest prefix wins; an address that no prefix covers has class 0.
    pub addresses: BTreeMap<IpNet, Address>,
    /// Which class each frontend of a Service has (rule A5).
    pub frontends: BTreeMap<Frontend, usize>,
    /// Backends of frontends that some policy lets pass in part only.
    pub guarded: BTreeSet<Frontend>,
    /// Canonical text of every peer of the policies in force on this node, whether an address matches it or not.
    pub peers: BTreeSet<String>,
    /// Rules by the number that policy entries carry.
    pub rules: BTreeMap<u32, RuleRef>,
    /// What is wrong with the objects of the snapshot, sorted.
    pub diagnostics: Vec<Diagnostic>,
}

/// A local pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `metadata.uid` of the pod.
    pub uid: String,
    /// Addresses of the pod.
    pub addresses: Vec<IpAddr>,
    /// Index of its ingress policy; `None` if it is not isolated for ingress (rule I1).
    pub ingress: Option<usize>,
    /// Index of its egress policy; `None` if it is not isolated for egress.
    pub egress: Option<usize>,
}

/// What an address prefix stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Address {
    /// Index of its class.
    pub class: usize,
    /// An address of this node (rule A2).
    pub node: bool,
    /// An address of a node that is on no interface of this one (rules A4, A5).
    pub remote_node: bool,
}

/// Where a Service is reached, before translation; or one of its backends, behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// A virtual IP; the unspecified address of a family for a NodePort, which every address of every node has.
    pub address: IpAddr,
    /// IANA protocol number.
    pub protocol: u8,
    /// The Service's port or its NodePort.
    pub port: u16,
}

/// A backend: what policy can know of its address, and its port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Backend {
    /// As in [`Class`].
    pub peers: BTreeSet<String>,
    /// As in [`Class`].
    pub named_ports: BTreeMap<String, u16>,
    /// This node has the address: always open (rule A2).
    pub node: bool,
    /// IANA protocol number.
    pub protocol: u8,
    /// Target port.
    pub port: u16,
}

/// All addresses that match exactly the same peers of the policies in force on this node, and give the named ports that
/// egress rules use the same numbers (rule T4).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Class {
    /// Canonical text of each peer that it matches.
    pub peers: BTreeSet<String>,
    /// `name/PROTOCOL` and number of each named port.
    pub named_ports: BTreeMap<String, u16>,
    /// What is behind, for a class of frontends, which has nothing else; `None` for a class of addresses.
    pub frontend: Option<BTreeSet<Backend>>,
}

/// What a policy allows, in normal form. The longest match decides; no match denies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Policy {
    /// Allowed traffic, and the number of the rule that allows it.
    pub entries: BTreeMap<Match, u32>,
    /// What it says of the classes of frontends, for egress; nothing is denied (rule A5).
    pub frontends: BTreeMap<usize, Passage>,
}

/// What a policy says of a frontend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Passage {
    /// All backends are allowed, one of them by the rule of this number (0: none was needed).
    Accept(u32),
    /// Some backends are allowed: the packet is judged again where it is known which one it goes to.
    Defer,
}

/// What one policy entry matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Match {
    /// Index of the peer's class.
    pub class: usize,
    /// Protocol and port; `None` is every protocol and port.
    pub protocol: Option<ProtocolMatch>,
}

/// The protocol and port part of a match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProtocolMatch {
    /// IANA protocol number.
    pub protocol: u8,
    /// First port of an aligned block of ports.
    pub port: u16,
    /// Leading bits of `port` that count: 16 is one port, 0 is every port.
    pub prefix_len: u8,
}

/// A rule of a policy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleRef {
    /// The NetworkPolicy.
    pub policy: ObjectKey,
    /// `spec.ingress` or `spec.egress`.
    pub direction: Direction,
    /// Index in that list.
    pub index: usize,
}

/// Compiles what `node` must enforce.
///
/// The diagnostics are those of the snapshot and those found here. Of two live pods that claim one address, neither gives it
/// more than both would: see the diagnostic `address-conflict`. IPv4-mapped IPv6 addresses count as the IPv4 they stand for.
pub fn compile(snapshot: &Snapshot, node: &Node) -> Compiled {
    let mut findings = Findings::default();
    findings.extend(snapshot.diagnostics.iter().cloned());
    let checked: Vec<CheckedPolicy<'_>> = snapshot
        .policies
        .values()
        .map(|policy| CheckedPolicy::new(policy, &mut findings))
        .collect();
    let pods: Vec<&Pod> = snapshot
        .pods
        .values()
        .map(Arc::as_ref)
        .filter(|pod| is_endpoint(pod, node))
        .collect();
    let force = Force::new(&checked, &pods);
    let classes = Classes::new(snapshot, node, &force, &mut findings);
    let frontends = Frontends::new(snapshot, &classes, &mut findings);
    force.report_unresolved_ingress(&pods, &mut findings);
    policy::report_unresolved_egress(&force, &classes, &mut findings);

    let numbers = force.number_rules();
    let mut writer = Writer::new(&force, &classes, &frontends, &numbers);
    let mut endpoints = BTreeMap::new();
    for (index, &pod) in pods.iter().enumerate() {
        let mut isolation = |direction| {
            let lists = force.isolation(direction)[index].as_deref()?;
            Some(writer.policy(direction, lists, pod))
        };
        let endpoint = Endpoint {
            uid: pod.uid.clone(),
            ingress: isolation(Direction::Ingress),
            egress: isolation(Direction::Egress),
            addresses: addresses_of(pod).into_iter().collect(),
        };
        endpoints.insert(pod.key.clone(), endpoint);
    }
    let policies = writer.into_policies();
    let guarded = frontends.guarded(&policies);
    let references = force.rules.iter().map(|rule| rule.reference.clone());
    Compiled {
        revision: snapshot.revision,
        endpoints,
        policies,
        guarded,
        peers: force.peers.iter().map(|(text, _)| text.clone()).collect(),
        rules: numbers.iter().copied().zip(references).collect(),
        classes: [&classes.list[..], &frontends.written(&classes.list)].concat(),
        frontends: frontends.classes,
        addresses: classes.addresses,
        diagnostics: findings.into_vec(),
    }
}

/// Rules I6 and I7: a pod of this node that has a network of its own and still runs.
fn is_endpoint(pod: &Pod, node: &Node) -> bool {
    pod.node.as_ref() == Some(&node.name) && !pod.host_network && !pod.terminal && !pod.addresses.is_empty()
}

/// The distinct addresses of a pod (rule P6), IPv4-mapped ones as IPv4, as the packets carry them.
fn addresses_of(pod: &Pod) -> BTreeSet<IpAddr> {
    pod.addresses.iter().map(IpAddr::to_canonical).collect()
}
