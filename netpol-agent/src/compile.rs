// SPDX-License-Identifier: Apache-2.0
//! Compiles the cluster's objects into what this node's kernel must hold. Pure: no I/O, no clock,
//! no lock. It cannot fail, and the same input gives the same output, byte for byte. What is wrong
//! with an object is a [`Diagnostic`](crate::model::Diagnostic).
//!
//! A [`Compiler`] remembers what it compiled last, and works on what has changed since.
//! [`compile()`] starts from nothing.
//!
//! The result, [`Compiled`], is plain data: `class`, `rule` and `policy` hold its types, `matches`
//! and `passage` read them. All other modules make it.
//!
//! Invariants:
//! - The result means the same, whatever was compiled before.
//! - A class that keeps its number says the same of every peer that stays active, and keeps its
//!   named ports. A policy's number always stands for the same rules. So what a policy says of a
//!   class stays as long as both keep their numbers.

use std::collections::{BTreeMap, BTreeSet};

use self::{
    active::ActivePolicies,
    classes::Classes,
    entry_budget::EntryBudget,
    fault::{Findings, Topic},
    forwards::Forwards,
    frontends::{Frontends, RestrictedBackends},
    named_ports::NamedPorts,
    policies::Policies,
    profiles::Profiles,
    wanted::Wanted,
};
pub use self::{
    class::{Address, Class, ClassId, FrontendClass, NO_PEER, Target, Untranslated},
    compiled::{Compiled, Endpoint, Origin},
    matches::Matches,
    passage::Passage,
    peer_set::{PeerId, PeerSet},
    policy::{CLOSED, Entries, Entry, Policy, PolicyId},
    rule::{Action, PolicyKind, Ports, Rule, RuleRef},
};
use crate::model::{Limits, Node, ObjectKey, Snapshot};

mod active;
mod blocks;
mod budget;
mod check;
mod class;
mod classes;
mod compiled;
mod entry_budget;
mod fault;
mod forwards;
mod frontends;
mod matches;
mod named_ports;
mod passage;
mod peer;
mod peer_set;
mod policies;
mod policy;
mod ports;
mod profiles;
mod rule;
mod selector;
#[cfg(test)]
mod tests;
mod wanted;
mod weight;

/// Compiles what `node` must enforce.
///
/// The diagnostics are those of the snapshot and those found here. An address that two live pods
/// claim gets no more than each of them would: see the diagnostic `address-conflict`. IPv4-mapped
/// IPv6 addresses count as IPv4.
pub fn compile(snapshot: &Snapshot, node: &Node) -> Compiled {
    Compiler::default().compile(snapshot, node)
}

/// Compiles one snapshot after the other. The cost is that of what changes between two.
#[derive(Debug)]
pub struct Compiler {
    node: Node,
    snapshot: Snapshot,
    findings: Findings,
    active: ActivePolicies,
    named_ports: NamedPorts,
    profiles: Profiles,
    classes: Classes,
    frontends: Frontends,
    forwards: Forwards,
    policies: Policies,
    restricted: RestrictedBackends,
    entry_budget: EntryBudget,
    /// Endpoints that are closed because their policies are over budget.
    over_budget: BTreeSet<ObjectKey>,
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
            active: ActivePolicies::new(&limits),
            named_ports: NamedPorts::default(),
            profiles: Profiles::default(),
            classes: Classes::default(),
            frontends: Frontends::new(&limits),
            forwards: Forwards::default(),
            policies: Policies::default(),
            restricted: RestrictedBackends::new(&limits),
            entry_budget: EntryBudget::new(limits.entries),
            over_budget: BTreeSet::new(),
            origin: Origin::default(),
        }
    }

    /// Compiles as [`compile()`] does, under numbers that stay from one time to the next.
    pub fn compile(&mut self, snapshot: &Snapshot, node: &Node) -> Compiled {
        if node.name != self.node.name || snapshot.limits != self.snapshot.limits {
            *self = Self::new(node.name.clone(), snapshot.limits);
        }
        let before = std::mem::replace(&mut self.snapshot, snapshot.clone());
        self.findings
            .update_source(&before.diagnostics, &snapshot.diagnostics);
        let changes = self
            .active
            .update(&before, snapshot, &node.name, &mut self.findings);
        let namespaces = before.namespaces.diff(&snapshot.namespaces);
        let names = namespaces.iter().map(|(name, _, _)| *name);
        self.profiles.relabel(names, snapshot);
        self.profiles
            .set_active(&changes, || Wanted::of(&self.active), snapshot);
        self.update_addresses(&before, snapshot, node);

        let (classes, findings) = (&mut self.classes, &mut self.findings);
        let moved = classes.update(&mut self.profiles, &changes, findings);
        let moved = (moved.as_slice(), &self.profiles);
        self.frontends.update(&before, snapshot, moved, classes, findings);
        if changes.changed {
            self.policies.update(&self.active);
        }
        self.restricted
            .update(&self.policies.list, &mut self.frontends, classes, findings);
        self.named_ports.report(&mut self.active, &classes.list, findings);
        let endpoints = self.finish_endpoints();
        Compiled {
            revision: snapshot.revision,
            origin: self.origin.clone(),
            endpoints,
            policies: self.policies.list.clone(),
            classes: self.classes.list.clone(),
            addresses: self.classes.addresses.clone(),
            frontends: self.frontends.classes.clone(),
            restricted: self.restricted.backends.clone(),
            closed: self.frontends.closed.clone(),
            peers: self.active.texts.clone(),
            rules: self.active.rules.clone(),
            diagnostics: self.findings.all(),
        }
    }

    /// Takes the pods and nodes that have changed, and what they have addresses for.
    fn update_addresses(&mut self, before: &Snapshot, snapshot: &Snapshot, node: &Node) {
        let profiles = &mut self.profiles;
        for (_, old, new) in before.pods.diff(&snapshot.pods) {
            if let Some(pod) = old {
                profiles.remove_pod(pod);
            }
            if let Some(pod) = new {
                profiles.add_pod(pod, snapshot);
            }
            let pods = old.into_iter().chain(new);
            pods.flat_map(|pod| pod.distinct_addresses())
                .for_each(|address| self.frontends.claim(address));
        }
        profiles.set_nodes((&self.node, node), before, snapshot);
        let own = self.node.addresses.symmetric_difference(&node.addresses);
        let nodes = before.nodes.diff(&snapshot.nodes);
        let nodes = nodes.iter().flat_map(|(_, old, new)| old.iter().chain(new));
        own.chain(nodes.flat_map(|node| &node.addresses))
            .for_each(|address| self.frontends.claim(address.to_canonical()));
        self.frontends.set_own(&node.addresses);
        let moved = self.node.addresses != node.addresses;
        self.forwards
            .update(before, snapshot, moved, profiles, &mut self.findings);
        self.node.clone_from(node);
    }

    /// The endpoints with all that applies to them. Those whose policies are over budget are
    /// closed.
    fn finish_endpoints(&mut self) -> BTreeMap<ObjectKey, Endpoint> {
        let refused = self.entry_budget.update(&self.policies.list, &self.classes.list);
        let mut endpoints = self.policies.endpoints.clone();
        let over_budget = entry_budget::close(&mut endpoints, &refused, &mut self.findings);
        for (key, endpoint) in &mut endpoints {
            endpoint.forwards = self.forwards.of(&key.namespace);
        }
        for no_longer in self.over_budget.difference(&over_budget) {
            let topic = Topic::EntryBudget(no_longer.clone());
            self.findings.report(topic, Vec::new());
        }
        self.over_budget = over_budget;
        endpoints
    }
}
