// SPDX-License-Identifier: Apache-2.0
//! From what the cluster wants to what this node's kernel must hold. Pure: no I/O, no clock, no lock, cannot fail, and the
//! same input gives the same output, byte for byte. What is wrong with an object is a [`Diagnostic`].

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use crate::model::{Diagnostic, Direction, Node, ObjectKey, Snapshot};

/// The desired state of this node, still without the numbers that the kernel maps use: [`crate::sync`] gives them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Compiled {
    /// The snapshot's revision.
    pub revision: u64,
    /// Local pods that the agent enforces on.
    pub endpoints: BTreeMap<ObjectKey, Endpoint>,
    /// The distinct sets of allowed traffic; endpoints refer to them by index.
    pub policies: Vec<Policy>,
    /// The classes of addresses; addresses and policies refer to them by index. Index 0 is the class that matches no peer.
    pub classes: Vec<Class>,
    /// Which class an address has: longest prefix wins; an address that no prefix covers has class 0.
    pub addresses: BTreeMap<IpNet, Address>,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// Index of its class.
    pub class: usize,
    /// An address of this node (rule A2).
    pub node: bool,
}

/// All addresses that match exactly the same peers of the policies in force on this node, and give the named ports that
/// egress rules use the same numbers (rule T4).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Class {
    /// Canonical text of each peer that it matches.
    pub peers: BTreeSet<String>,
    /// `name/PROTOCOL` and number of each named port.
    pub named_ports: BTreeMap<String, u16>,
}

/// What a policy allows, in normal form. The longest match decides; no match denies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Policy {
    /// Allowed traffic, and the number of the rule that allows it.
    pub entries: BTreeMap<Match, u32>,
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
pub fn compile(snapshot: &Snapshot, node: &Node) -> Compiled {
    let _ = (snapshot, node);
    Compiled::default()
}
