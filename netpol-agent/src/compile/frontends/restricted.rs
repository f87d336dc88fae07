// SPDX-License-Identifier: Apache-2.0
//! Restricted backends: those of frontends of which some policy accepts a part of the backends
//! only.
//!
//! They count for the Services that have them, and have a budget (rule L2). The frontends of a
//! Service over budget are closed, if some policy accepts a part of their backends. A frontend that
//! a Service within the budget has too, or that is at an address of the node, is never closed for
//! it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::Frontends;
use crate::{
    compile::{
        budget::Budget,
        class::ClassId,
        classes::Classes,
        fault::{Fault, Findings, Topic, diagnostic},
        matches::Matches,
        passage::Passage,
        policy::{Policy, PolicyId},
    },
    model::{Frontend, Limits, Map, ObjectKey, Set},
};

/// What this budget is about.
const RESOURCES: [&str; 1] = ["backends that some pods may not reach"];

/// The restricted backends, and what they were found from.
#[derive(Debug)]
pub(in crate::compile) struct RestrictedBackends {
    policies: Map<PolicyId, Arc<Policy>>,
    /// The frontends of each class, as of the last time.
    known: BTreeMap<ClassId, BTreeSet<Frontend>>,
    /// The class of each frontend, as of the last time.
    classes: BTreeMap<Frontend, ClassId>,
    /// The policies that accept a part of where packets to a class may end, closed or not. What a
    /// policy says of a class stays as long as both keep their numbers.
    partial: BTreeMap<ClassId, BTreeSet<PolicyId>>,
    /// The restricted backends of each frontend.
    of: BTreeMap<Frontend, BTreeSet<Frontend>>,
    /// Number of frontends that restrict each backend.
    count: BTreeMap<Frontend, usize>,
    /// The backends.
    pub(in crate::compile) backends: Set<Frontend>,
    /// The Services of each frontend of which some policy accepts a part of the backends.
    services: BTreeMap<Frontend, BTreeSet<ObjectKey>>,
    budget: Budget<1>,
}

impl RestrictedBackends {
    /// None yet.
    pub(in crate::compile) fn new(limits: &Limits) -> Self {
        Self {
            policies: Map::new(),
            known: BTreeMap::new(),
            classes: BTreeMap::new(),
            partial: BTreeMap::new(),
            of: BTreeMap::new(),
            count: BTreeMap::new(),
            backends: Set::new(),
            services: BTreeMap::new(),
            budget: Budget::new([limits.restricted]),
        }
    }

    /// Takes policies, frontends and classes as they are now.
    pub(in crate::compile) fn update(
        &mut self,
        policies: &Map<PolicyId, Arc<Policy>>,
        frontends: &mut Frontends,
        classes: &mut Classes,
        findings: &mut Findings,
    ) {
        let mut touched = self.settle_partial(policies, frontends, classes);
        touched.extend(self.settle_budget(&touched, frontends, findings));
        for frontend in touched {
            let services = self.services.get(&frontend).into_iter().flatten();
            let fitting: Vec<_> = services
                .filter(|key| self.budget.refusal(key).is_none())
                .collect();
            // A Service over budget that claims a frontend of another Service, or the node's
            // address, closes neither.
            let is_node = classes.address_at(frontend.address).node;
            let closed = self.services.contains_key(&frontend) && fitting.is_empty() && !is_node;
            let backends = |key: &&ObjectKey| frontends.services.get(*key)?.get(&frontend);
            let now = fitting.iter().filter_map(backends).flatten().copied().collect();
            frontends.set_closed(frontend, closed, classes);
            self.set(frontend, now);
        }
        // Frontends that were closed or opened have another class now, which policies treat alike.
        self.settle_partial(policies, frontends, classes);
    }

    /// Finds the policies that accept a part of each frontend's backends, for frontends and
    /// policies that have changed. Returns the frontends of which that may have changed.
    fn settle_partial(
        &mut self,
        policies: &Map<PolicyId, Arc<Policy>>,
        frontends: &mut Frontends,
        classes: &Classes,
    ) -> BTreeSet<Frontend> {
        let list = &classes.list;
        let matches = Matches::among(list);
        let is_partial = |policy, class: &ClassId| {
            let class = list.get(class).and_then(|class| class.frontend.as_ref());
            class.is_some_and(|class| Policy::open_passage(policy, class, &matches) == Some(Passage::Defer))
        };
        let mut touched = std::mem::take(&mut frontends.moved);
        let before = std::mem::replace(&mut self.policies, policies.clone());
        for (id, old, new) in before.diff(policies) {
            for (class, of) in &self.known {
                let partial = self.partial.entry(*class).or_default();
                let changed = if new.is_some_and(|policy| is_partial(policy, class)) {
                    partial.insert(*id)
                } else {
                    old.is_some() && partial.remove(id)
                };
                if changed {
                    touched.extend(of);
                }
            }
        }
        for frontend in &touched {
            let now = frontends.classes.get(frontend).copied();
            if self.classes.get(frontend) == now.as_ref() {
                continue;
            }
            if let Some(before) = self.classes.remove(frontend)
                && let Some(of) = self.known.get_mut(&before)
            {
                of.remove(frontend);
                if of.is_empty() {
                    self.known.remove(&before);
                    self.partial.remove(&before);
                }
            }
            if let Some(now) = now {
                self.classes.insert(*frontend, now);
                if self.known.entry(now).or_default().insert(*frontend) {
                    self.partial.entry(now).or_insert_with(|| {
                        let partial = policies.iter().filter(|(_, policy)| is_partial(policy, &now));
                        partial.map(|(id, _)| *id).collect()
                    });
                }
            }
        }
        touched
    }

    /// Whether some policy accepts a part of a frontend's backends.
    fn is_partial(&self, frontend: &Frontend) -> bool {
        let class = self.classes.get(frontend);
        let partial = class.and_then(|class| self.partial.get(class));
        partial.is_some_and(|policies| !policies.is_empty())
    }

    /// Counts the restricted backends of these frontends' Services again. Returns the frontends of
    /// the Services that are over budget now and were not, or the other way round.
    fn settle_budget(
        &mut self,
        touched: &BTreeSet<Frontend>,
        frontends: &Frontends,
        findings: &mut Findings,
    ) -> BTreeSet<Frontend> {
        let mut affected = BTreeSet::new();
        for frontend in touched {
            let now = frontends
                .by_frontend
                .get(frontend)
                .filter(|_| self.is_partial(frontend));
            affected.extend(now.into_iter().flatten().cloned());
            let before = match now {
                Some(services) => self.services.insert(*frontend, services.clone()),
                None => self.services.remove(frontend),
            };
            affected.extend(before.into_iter().flatten());
        }
        for key in &affected {
            let reached = frontends.services.get(key).into_iter().flatten();
            let partial = reached.filter(|(frontend, _)| self.services.contains_key(frontend));
            let restricted: BTreeSet<&Frontend> = partial.flat_map(|(_, backends)| backends).collect();
            self.budget
                .set(key, (!restricted.is_empty()).then_some([restricted.len()]));
        }
        let mut moved = BTreeSet::new();
        for key in self.budget.settle() {
            let found = self.budget.refusal(&key).map(|refusal| {
                let message = format!(
                    "{}; pods of this node that may reach a part of its backends only may reach none by the addresses and ports that are its alone",
                    refusal.describe(&RESOURCES)
                );
                diagnostic("Service", &key, Fault::new("restricted-backends-over-budget", "spec", message))
            });
            findings.report(
                Topic::RestrictedBackends(key.clone()),
                found.into_iter().collect(),
            );
            let reached = frontends.services.get(&key).into_iter().flatten();
            moved.extend(reached.map(|(frontend, _)| *frontend));
        }
        moved
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
