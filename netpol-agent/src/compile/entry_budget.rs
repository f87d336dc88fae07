// SPDX-License-Identifier: Apache-2.0
//! The budget of policy entries in the kernel's map (rule L2): each policy has some for each class
//! that it says something of. They are counted, not built. A policy over budget closes its
//! endpoints.
//!
//! Classes come from everyone's objects, so the author of a policy does not control its entries
//! alone: namespaces share the budget, and one that needs little loses nothing. What `ipBlock`s of
//! others add to wide rules is bounded before ([`super::active::Cost`]). What is left are pods that
//! selectors tell apart, and frontends that policies for everyone concern.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    active::fnv1a,
    budget::{Budget, Refusal},
    class::{Class, ClassId},
    compiled::Endpoint,
    fault::{Fault, Findings, Topic, diagnostic},
    matches::Matches,
    policy::{CLOSED, Policy, PolicyId},
    rule::Action,
};
use crate::model::{Direction, Limit, Map, ObjectKey};

/// The resource of this budget.
pub(super) const RESOURCES: [&str; 1] = ["entries for the peers that there are"];

/// The policies, and how many entries they have.
#[derive(Debug)]
pub(super) struct EntryBudget {
    limit: Limit,
    counted: BTreeMap<PolicyId, (ObjectKey, usize)>,
    policies: Map<PolicyId, Arc<Policy>>,
    classes: Map<ClassId, Arc<Class>>,
    budget: Budget<1>,
}

impl EntryBudget {
    /// A budget with this limit.
    pub(super) fn new(limit: Limit) -> Self {
        Self {
            limit,
            counted: BTreeMap::new(),
            policies: Map::new(),
            classes: Map::new(),
            budget: Budget::new([limit]),
        }
    }

    /// Takes the policies and classes as they are now. Returns the policies that are over budget.
    pub(super) fn update(
        &mut self,
        policies: &Map<PolicyId, Arc<Policy>>,
        classes: &Map<ClassId, Arc<Class>>,
    ) -> BTreeMap<PolicyId, Refusal> {
        let most = policies.values().map(|policy| most_entries(policy));
        let most = most.fold(0, usize::saturating_add).saturating_mul(classes.len());
        // No need to count: policies hardly ever come near the limit.
        if most <= self.limit.object.min(self.limit.namespace).min(self.limit.all) {
            if !self.counted.is_empty() {
                *self = Self::new(self.limit);
            }
            return BTreeMap::new();
        }
        if self.counted.is_empty() {
            (self.policies, self.classes) = (Map::new(), Map::new());
        }
        let changed = self.classes.diff(classes);
        let (before, now) = (Matches::among(&self.classes), Matches::among(classes));
        let mut moved = BTreeSet::new();
        for (id, old, new) in self.policies.diff(policies) {
            if old.is_some()
                && let Some((key, _)) = self.counted.remove(id)
            {
                self.budget.set(&key, None);
            }
            if let Some(policy) = new {
                let entries = classes.values().map(|class| count(policy, class, &now)).sum();
                self.counted.insert(*id, (key(*id, policy), entries));
                moved.insert(*id);
            }
        }
        for (id, policy) in policies.iter().filter(|_| !changed.is_empty()) {
            // New policies were counted with these classes.
            let Some((_, entries)) = self.counted.get_mut(id).filter(|_| !moved.contains(id)) else {
                continue;
            };
            for (_, old, new) in &changed {
                let of = |class: &Option<&Arc<Class>>, matches| {
                    class.map_or(0, |class| count(policy, class, matches))
                };
                *entries = *entries + of(new, &now) - of(old, &before);
            }
        }
        self.policies = policies.clone();
        self.classes = classes.clone();
        for (key, count) in self.counted.values() {
            self.budget.set(key, Some([*count]));
        }
        self.budget.settle();
        let refused = self.counted.iter();
        refused
            .filter_map(|(id, (key, _))| Some((*id, *self.budget.refusal(key)?)))
            .collect()
    }
}

/// Closes endpoints whose policies are over budget, and reports each once. Returns them.
pub(super) fn close(
    endpoints: &mut BTreeMap<ObjectKey, Endpoint>,
    refused: &BTreeMap<PolicyId, Refusal>,
    findings: &mut Findings,
) -> BTreeSet<ObjectKey> {
    let mut closed = BTreeSet::new();
    if refused.is_empty() {
        return closed;
    }
    for (key, endpoint) in endpoints {
        let mut found = Vec::new();
        for (direction, policy) in [
            (Direction::Ingress, &mut endpoint.ingress),
            (Direction::Egress, &mut endpoint.egress),
        ] {
            if let Some(refusal) = policy.and_then(|policy| refused.get(&policy)) {
                *policy = Some(CLOSED);
                let message = format!(
                    "its policies for {direction} are too much: {}; it is closed in this direction",
                    refusal.describe(&RESOURCES)
                );
                let fault = Fault::new("pod-over-budget", "", message);
                found.push(diagnostic("Pod", key, fault));
            }
        }
        if !found.is_empty() {
            findings.report(Topic::EntryBudget(key.clone()), found);
            closed.insert(key.clone());
        }
    }
    closed
}

/// The most entries that a policy has for one class.
fn most_entries(policy: &Policy) -> usize {
    let of_rules: usize = policy.rules.iter().map(|rule| rule.ports.count()).sum();
    of_rules + usize::from(policy.default_action == Action::Accept)
}

/// No less than the entries that a policy has for a class, without making them.
fn count<'a>(policy: &'a Policy, class: &Class, matches: &Matches<'a>) -> usize {
    if class.frontend.is_some() {
        return usize::from(policy.passage(class, matches).is_some());
    }
    let matching = policy.rules.iter().filter(|rule| {
        let peers = rule.peers.as_ref();
        peers.is_none_or(|peers| peers.intersects(&class.peers))
    });
    let of_rules: usize = matching.map(|rule| rule.ports.count()).sum();
    of_rules + usize::from(policy.default_action == Action::Accept)
}

/// The budget admits the policies of a namespace in the order of their content, not of their age.
fn key(id: PolicyId, policy: &Policy) -> ObjectKey {
    let first = policy.rules.first();
    let namespace = first.map_or("", |rule| rule.reference.policy.namespace.as_str());
    ObjectKey::new(namespace, format!("{:08x}-{id:010}", fingerprint(policy)))
}

/// A number that another policy hardly has: by the places of its rules.
fn fingerprint(policy: &Policy) -> u32 {
    let numbers = policy.rules.iter().flat_map(|rule| rule.number.to_be_bytes());
    let own = policy.named_ports.values().flat_map(|port| port.to_be_bytes());
    let all: Vec<u8> = numbers.chain(own).chain([policy.direction as u8]).collect();
    fnv1a(&all)
}
