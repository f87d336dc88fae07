// SPDX-License-Identifier: Apache-2.0
//! From what the cluster wants to what this node's kernel must hold. Pure: no I/O, no clock, no lock, cannot fail, and the
//! same input gives the same output, byte for byte. What is wrong with an object is a [`Diagnostic`].
//!
//! A [`Compiler`] remembers what it compiled last, and works on what is different since. [`compile()`] is one that remembers nothing.
//!
//! Invariants:
//! - What is compiled says the same, whatever was compiled before.
//! - As long as a class has its number, it says the same of every peer that is in force all the while, and has the same named ports. A
//!   policy's number is for ever of the same rules. So what a policy says of a class is the same as long as both have their numbers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use self::{
    classes::Classes,
    fault::{Findings, Place},
    force::Force,
    forwards::Forwards,
    frontends::Frontends,
    policy::Policies,
    profiles::Profiles,
    room::Room,
};
pub use self::{
    force::ForceRule,
    frontends::Target,
    peer::PeerId,
    peer_set::PeerSet,
    policy::{Matches, Passage, Policy},
    ports::{PortKey, ProtocolMatch},
};
use crate::model::{Diagnostic, Direction, Limits, Map, Node, ObjectKey, Pod, Set, Snapshot};

mod blocks;
mod budget;
mod check;
mod classes;
mod fault;
mod force;
mod forwards;
mod frontends;
mod peer;
mod peer_set;
mod policy;
mod ports;
mod profiles;
mod room;
mod selector;
#[cfg(test)]
mod tests;
mod weight;

/// Number of a class, given once by a compiler. This and the numbers below never come again: 32
/// bits would, within days of changes as fast as they can be made.
pub type ClassId = u64;
/// Number of a policy, given once by a compiler.
pub type PolicyId = u64;

/// In the place of a policy: closed, as what should be there is over budget (rule L2).
pub const CLOSED: PolicyId = PolicyId::MAX;

/// The class of addresses that match no peer.
pub const NO_PEER: ClassId = 0;

/// The desired state of this node, still without the numbers that the kernel maps use: [`crate::sync`] gives them. A copy is cheap.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Compiled {
    /// The snapshot's revision.
    pub revision: u64,
    /// Whose numbers these are.
    pub origin: Origin,
    /// Local pods that the agent enforces on.
    pub endpoints: BTreeMap<ObjectKey, Endpoint>,
    /// The distinct sets of allowed traffic.
    pub policies: Map<PolicyId, Arc<Policy>>,
    /// The classes of addresses, and those of frontends.
    pub classes: Map<ClassId, Arc<Class>>,
    /// Which class an address has: longest prefix wins; an address that no prefix covers has class [`NO_PEER`].
    pub addresses: Map<IpNet, Address>,
    /// Which class each frontend of a Service has (rule A5).
    pub frontends: Map<Frontend, ClassId>,
    /// Backends of frontends that some policy lets pass in part only.
    pub guarded: Set<Frontend>,
    /// Frontends that are closed to whom they would be open in part, as guarding what is behind is
    /// over budget (rule L2).
    pub closed: Set<Frontend>,
    /// Canonical text of every peer of the policies in force on this node, whether an address matches it or not.
    pub peers: Map<PeerId, Arc<str>>,
    /// Rules by the number that policy entries carry.
    pub rules: Map<u32, RuleRef>,
    /// What is wrong with the objects of the snapshot.
    pub diagnostics: Set<Diagnostic>,
}

/// Whose numbers those of a [`Compiled`] are: numbers of different compilers have nothing in common. It is no part of what was compiled, so
/// any two are equal.
#[derive(Debug, Clone, Default)]
pub struct Origin(Arc<()>);

impl Origin {
    /// Whether both are of one compiler.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl PartialEq for Origin {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Origin {}

/// A local pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `metadata.uid` of the pod.
    pub uid: String,
    /// Addresses of the pod.
    pub addresses: Vec<IpAddr>,
    /// Its ingress policy; `None` if it is not isolated for ingress (rule I1).
    pub ingress: Option<PolicyId>,
    /// Its egress policy; `None` if it is not isolated for egress.
    pub egress: Option<PolicyId>,
    /// What it sends and receives for beside its own addresses (rule A6).
    pub forwards: Arc<BTreeSet<IpNet>>,
}

/// What an address prefix stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Address {
    /// Its class.
    pub class: ClassId,
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

/// All addresses that match exactly the same peers of the policies in force on this node, and give the named ports that
/// egress rules use the same numbers (rule T4).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Class {
    /// The peers that it matches.
    pub peers: PeerSet,
    /// Number of each named port.
    pub named_ports: BTreeMap<PortKey, u16>,
    /// What is behind, for a class of frontends, which has nothing else; `None` for a class of addresses.
    pub frontend: Option<BTreeSet<Target>>,
    /// A class of frontends that let pass only who may reach all that is behind (rule L2).
    pub closed: bool,
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
    Compiler::default().compile(snapshot, node)
}

/// Compiles one snapshot after the other; what it costs is what is different between two.
#[derive(Debug)]
pub struct Compiler {
    node: Node,
    snapshot: Snapshot,
    findings: Findings,
    force: Force,
    profiles: Profiles,
    classes: Classes,
    frontends: Frontends,
    forwards: Forwards,
    policies: Policies,
    room: Room,
    /// Endpoints that are closed as their policies are over budget.
    closed: BTreeSet<ObjectKey>,
    origin: Origin,
}

impl Default for Compiler {
    fn default() -> Self {
        Self::new(String::new(), Limits::default())
    }
}

impl Compiler {
    /// One that has compiled nothing.
    fn new(node: String, limits: Limits) -> Self {
        Self {
            node: Node {
                name: node,
                ..Node::default()
            },
            snapshot: Snapshot {
                limits,
                ..Snapshot::default()
            },
            findings: Findings::default(),
            force: Force::new(&limits),
            profiles: Profiles::default(),
            classes: Classes::default(),
            frontends: Frontends::new(&limits),
            forwards: Forwards::default(),
            policies: Policies::new(&limits),
            room: Room::new(limits.entries),
            closed: BTreeSet::new(),
            origin: Origin::default(),
        }
    }

    /// What [`compile()`] gives, under numbers that stay from one time to the next.
    pub fn compile(&mut self, snapshot: &Snapshot, node: &Node) -> Compiled {
        if node.name != self.node.name || snapshot.limits != self.snapshot.limits {
            *self = Self::new(node.name.clone(), snapshot.limits);
        }
        let before = std::mem::replace(&mut self.snapshot, snapshot.clone());
        let findings = &mut self.findings;
        findings.reported(&before.diagnostics, &snapshot.diagnostics);

        let force = self.force.update(&before, snapshot, &node.name, findings);
        let profiles = &mut self.profiles;
        let namespaces = before.namespaces.diff(&snapshot.namespaces);
        profiles.relabel(namespaces.iter().map(|(name, _, _)| *name), snapshot);
        profiles.set_force(&force, || self.force.wanted_ports(), snapshot);
        for (_, old, new) in before.pods.diff(&snapshot.pods) {
            if let Some(pod) = old {
                profiles.remove_pod(pod);
            }
            if let Some(pod) = new {
                profiles.add_pod(pod, snapshot);
            }
            let pods = old.into_iter().chain(new);
            pods.flat_map(|pod| addresses_of(pod))
                .for_each(|address| self.frontends.claim(address));
        }
        profiles.set_nodes((&self.node, node), &before, snapshot);
        let own = self.node.addresses.symmetric_difference(&node.addresses);
        let told = before.nodes.diff(&snapshot.nodes);
        let told = told.iter().flat_map(|(_, old, new)| old.iter().chain(new));
        own.chain(told.flat_map(|node| &node.addresses))
            .for_each(|address| self.frontends.claim(address.to_canonical()));
        let moved = self.node.addresses != node.addresses;
        self.forwards.update(&before, snapshot, moved, profiles, findings);
        self.node.clone_from(node);

        let classes = &mut self.classes;
        let changed = classes.update(profiles, &force, findings);
        self.frontends
            .update(&before, snapshot, (&changed, profiles), classes, findings);
        if force.changed {
            self.policies.update(&self.force);
        }
        let guarded = self.policies.guard(&mut self.frontends, classes, findings);
        self.force.report_unresolved(&classes.list, findings);
        let refused = self.room.update(&self.policies.list, &classes.list);
        let mut endpoints = self.policies.endpoints.clone();
        let closed = room::close(&mut endpoints, &refused, findings);
        for (key, endpoint) in &mut endpoints {
            endpoint.forwards = self.forwards.of(&key.namespace);
        }
        for no_longer in self.closed.difference(&closed) {
            findings.tell(Place::Room(no_longer.clone()), Vec::new());
        }
        self.closed = closed;
        Compiled {
            revision: snapshot.revision,
            origin: self.origin.clone(),
            endpoints,
            policies: self.policies.list.clone(),
            classes: classes.list.clone(),
            addresses: classes.addresses.clone(),
            frontends: self.frontends.classes.clone(),
            guarded,
            closed: self.frontends.closed.clone(),
            peers: self.force.texts.clone(),
            rules: self.force.rules.clone(),
            diagnostics: findings.all(),
        }
    }
}

/// Rules I6 and I7: a pod of this node that has a network of its own and still runs.
pub(crate) fn is_endpoint(pod: &Pod, node: &str) -> bool {
    pod.node.as_deref() == Some(node) && !pod.host_network && !pod.terminal && !pod.addresses.is_empty()
}

/// The distinct addresses of a pod (rule P6), IPv4-mapped ones as IPv4, as the packets carry them.
fn addresses_of(pod: &Pod) -> BTreeSet<IpAddr> {
    pod.addresses.iter().map(IpAddr::to_canonical).collect()
}
