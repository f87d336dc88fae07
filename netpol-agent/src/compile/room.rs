// SPDX-License-Identifier: Apache-2.0
//! Entries that policies come to in the map (rule L2): each policy times the classes that it says
//! something of. They are counted by class, not built; what is over budget closes its endpoints.
//! Classes come of everyone's objects, so what a policy comes to is not in the hand of who wrote
//! it: namespaces share, and who comes to little loses nothing. What others' `ipBlock`s add to wide
//! rules was bounded before ([`super::force::Cost`]); what is left to close for is pods that
//! selectors tell apart, and frontends that policies for everyone speak of.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    CLOSED, Class, ClassId, Endpoint, PolicyId,
    budget::{Budget, Refusal},
    fault::{Fault, Findings, Place, diagnostic},
    policy::{Matches, Policy},
};
use crate::model::{Direction, Limit, Map, ObjectKey};

/// What budgets of entries are about.
pub(super) const RESOURCES: [&str; 1] = ["entries for the peers that there are"];

/// The policies and what they come to.
#[derive(Debug)]
pub(super) struct Room {
    limit: Limit,
    counted: BTreeMap<PolicyId, (ObjectKey, usize)>,
    policies: Map<PolicyId, Arc<Policy>>,
    classes: Map<ClassId, Arc<Class>>,
    budget: Budget<1>,
}

impl Room {
    /// With this limit.
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
        let most = policies.values().map(|policy| policy.most_entries());
        let most = most.fold(0, usize::saturating_add).saturating_mul(classes.len());
        // No need to count: hardly ever do they come near it.
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
                let count = classes.values().map(|class| policy.count(class, &now)).sum();
                self.counted.insert(*id, (key(*id, policy), count));
                moved.insert(*id);
            }
        }
        for (id, policy) in policies.iter().filter(|_| !changed.is_empty()) {
            // Those that are new were counted with these classes.
            let Some((_, count)) = self.counted.get_mut(id).filter(|_| !moved.contains(id)) else {
                continue;
            };
            for (_, old, new) in &changed {
                let of = |class: &Option<&Arc<Class>>, matches| {
                    class.map_or(0, |class| policy.count(class, matches))
                };
                *count = *count + of(new, &now) - of(old, &before);
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
            findings.tell(Place::Room(key.clone()), found);
            closed.insert(key.clone());
        }
    }
    closed
}

/// Policies of a namespace are taken by what they are, whoever comes first.
fn key(id: PolicyId, policy: &Policy) -> ObjectKey {
    ObjectKey::new(
        policy.namespace(),
        format!("{:08x}-{id:010}", policy.fingerprint()),
    )
}
