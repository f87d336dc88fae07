// SPDX-License-Identifier: Apache-2.0
//! What the active policies cost on this node, and which are over budget (rule L2).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    compile::{
        budget::{Budget, Refusal, Weight},
        weight,
    },
    model::{Limits, NetworkPolicy, ObjectKey, POLICY_RESOURCES, PREFIXES, WIDE},
};

const RESOURCES: usize = POLICY_RESOURCES.len();

/// What each active policy uses, and may use.
#[derive(Debug)]
pub(in crate::compile) struct Cost {
    budget: Budget<RESOURCES>,
    limits: Limits,
    /// What each uses as part of one policy of an endpoint.
    of: BTreeMap<ObjectKey, Weight<RESOURCES>>,
    /// In how many policies of endpoints each is a part, if in more than one.
    parts: BTreeMap<ObjectKey, usize>,
}

impl Cost {
    /// With these limits.
    pub(in crate::compile) fn new(limits: &Limits) -> Self {
        Self {
            budget: Budget::new(limits.policies),
            limits: *limits,
            of: BTreeMap::new(),
            parts: BTreeMap::new(),
        }
    }

    /// Takes a policy as it is now; `None`: it is not active.
    pub(in crate::compile) fn set(&mut self, key: &ObjectKey, policy: Option<&Arc<NetworkPolicy>>) {
        match policy {
            Some(policy) => self.of.insert(key.clone(), weight::policy(policy)),
            None => self.of.remove(key),
        };
        self.update_budget(key);
    }

    /// Settles which policies are over budget. `together` has, for each endpoint, the policies that
    /// select it. Returns the policies of which that has changed.
    pub(in crate::compile) fn settle<'a>(
        &mut self,
        together: impl Iterator<Item = &'a BTreeSet<ObjectKey>>,
    ) -> BTreeSet<ObjectKey> {
        let different: BTreeSet<&BTreeSet<ObjectKey>> = together.collect();
        let mut parts: BTreeMap<ObjectKey, usize> = BTreeMap::new();
        for key in different.into_iter().flatten() {
            *parts.entry(key.clone()).or_default() += 1;
        }
        parts.retain(|_, parts| *parts > 1);
        let before = std::mem::replace(&mut self.parts, parts);
        let other = |(key, parts): &(&ObjectKey, &usize)| self.parts.get(*key) != Some(*parts);
        let mut moved: Vec<ObjectKey> = before.iter().filter(other).map(|(key, _)| key.clone()).collect();
        let new = self.parts.keys().filter(|key| !before.contains_key(*key));
        moved.extend(new.cloned());
        for key in moved {
            self.update_budget(&key);
        }
        let limits = self.limits;
        let mut least = [0; RESOURCES];
        least[PREFIXES] = limits.everyones.each;
        self.budget.settle_within(|asked| shares(asked, &limits), least)
    }

    /// Whether a policy is over budget.
    pub(in crate::compile) fn refusal(&self, key: &ObjectKey) -> Option<&Refusal> {
        self.budget.refusal(key)
    }

    fn update_budget(&mut self, key: &ObjectKey) {
        let weight = self.of.get(key).map(|weight| {
            let mut weight = *weight;
            let parts = self.parts.get(key).copied().unwrap_or(1);
            weight[WIDE] = weight[WIDE].saturating_mul(parts);
            weight
        });
        self.budget.set(key, weight);
    }
}

/// What all namespaces may use: as many prefixes as fit beside the entries for everyone's
/// addresses.
fn shares(asked: &[Weight<RESOURCES>], limits: &Limits) -> Weight<RESOURCES> {
    let mut all = limits.policies.map(|limit| limit.all);
    let everyones = &limits.everyones;
    let prefixes: usize = asked.iter().map(|of| of[PREFIXES]).sum();
    let wide: usize = asked.iter().map(|of| of[WIDE].min(everyones.each)).sum();
    if prefixes.saturating_mul(wide) > everyones.most {
        let fit = everyones.least.max(everyones.most / wide);
        all[PREFIXES] = all[PREFIXES].min(fit);
    }
    all
}
