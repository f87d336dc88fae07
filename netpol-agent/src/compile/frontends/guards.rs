// SPDX-License-Identifier: Apache-2.0
//! Backends that not everyone may reach: those of frontends that some policy lets pass in part.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::Frontends;
use crate::{
    compile::{
        Class, ClassId, Frontend, PolicyId,
        policy::{Passage, Policy},
    },
    model::{Map, Set},
};

/// What was guarded last.
#[derive(Debug, Default)]
pub(in crate::compile) struct Guards {
    policies: Map<PolicyId, Arc<Policy>>,
    /// Classes of frontends by the policies that let them pass in part. What a policy says of a class stays as long as both have their numbers.
    partial: BTreeMap<ClassId, BTreeSet<PolicyId>>,
    looked: BTreeSet<ClassId>,
    /// The backends of each frontend that counts.
    of: BTreeMap<Frontend, BTreeSet<Frontend>>,
    /// Number of frontends by which a backend counts.
    count: BTreeMap<Frontend, usize>,
    /// The backends.
    pub(in crate::compile) backends: Set<Frontend>,
}

impl Guards {
    /// Goes over what has changed.
    pub(in crate::compile) fn update(
        &mut self,
        policies: &Map<PolicyId, Arc<Policy>>,
        frontends: &mut Frontends,
        classes: &Map<ClassId, Arc<Class>>,
    ) {
        let mut stale: BTreeSet<ClassId> = BTreeSet::new();
        let is_partial = |policy: &Policy, class: &ClassId| {
            let targets = classes.get(class).and_then(|class| class.frontend.as_ref());
            targets.is_some_and(|targets| policy.passage(targets, classes) == Some(Passage::Defer))
        };
        for (id, old, new) in self.policies.diff(policies) {
            for class in &self.looked {
                let partial = new.is_some_and(|policy| is_partial(policy, class));
                if partial && self.partial.entry(*class).or_default().insert(*id) {
                    stale.insert(*class);
                }
                if old.is_some()
                    && !partial
                    && self.partial.get_mut(class).is_some_and(|known| known.remove(id))
                {
                    stale.insert(*class);
                }
            }
        }
        self.policies = policies.clone();
        let moved = std::mem::take(&mut frontends.moved);
        let gone: Vec<ClassId> = self
            .looked
            .iter()
            .filter(|class| !frontends.known.contains_key(class))
            .copied()
            .collect();
        for class in gone {
            self.looked.remove(&class);
            self.partial.remove(&class);
        }
        for frontend in &moved {
            let Some(class) = frontends.classes.get(frontend) else {
                continue;
            };
            if self.looked.insert(*class) {
                let partial = policies.iter().filter(|(_, policy)| is_partial(policy, class));
                self.partial.insert(*class, partial.map(|(id, _)| *id).collect());
            }
        }
        self.partial.retain(|_, policies| !policies.is_empty());
        let of_stale = stale
            .iter()
            .filter_map(|class| frontends.known.get(class))
            .flatten();
        let touched: BTreeSet<Frontend> = moved.iter().chain(of_stale).copied().collect();
        for frontend in touched {
            let class = frontends.classes.get(&frontend);
            let counts = class.is_some_and(|class| self.partial.contains_key(class));
            let now = if counts {
                frontends.backends(frontend)
            } else {
                BTreeSet::new()
            };
            self.set(frontend, now);
        }
    }

    fn set(&mut self, frontend: Frontend, now: BTreeSet<Frontend>) {
        for backend in &now {
            let count = self.count.entry(*backend).or_default();
            *count += 1;
            if *count == 1 {
                self.backends.insert(*backend, ());
            }
        }
        let before = if now.is_empty() {
            self.of.remove(&frontend)
        } else {
            self.of.insert(frontend, now)
        };
        for backend in before.into_iter().flatten() {
            if let Some(count) = self.count.get_mut(&backend) {
                *count -= 1;
                if *count == 0 {
                    self.count.remove(&backend);
                    self.backends.remove(&backend);
                }
            }
        }
    }
}
