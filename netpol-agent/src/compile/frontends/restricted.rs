// SPDX-License-Identifier: Apache-2.0
//! Restricted backends: those of frontends of which some policy accepts a part of the backends only.
//!
//! They are counted for the Services that have them, and have a budget (rule L2). A frontend that a
//! Service within the budget has too, or whose address is the node's own, is never closed for it.
//! The frontends of a Service over it that some policy lets pass in part are closed instead.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::Frontends;
use crate::{
    compile::{
        budget::Budget,
        class::{ClassId, Target},
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

/// What decides whether a policy lets a frontend pass: its backends, and itself, where nobody
/// translates it; a NodePort has no address of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Ends {
    class: ClassId,
    itself: Option<Target>,
}

/// What was restricted last.
#[derive(Debug)]
pub(in crate::compile) struct RestrictedBackends {
    policies: Map<PolicyId, Arc<Policy>>,
    ends: BTreeMap<Frontend, Ends>,
    /// The frontends of each.
    known: BTreeMap<Ends, BTreeSet<Frontend>>,
    /// The policies that let some pass in part. What a policy says of a class stays as long as both
    /// have their numbers.
    partial: BTreeMap<Ends, BTreeSet<PolicyId>>,
    /// The backends of each frontend that counts.
    of: BTreeMap<Frontend, BTreeSet<Frontend>>,
    /// Number of frontends by which a backend counts.
    count: BTreeMap<Frontend, usize>,
    /// The backends.
    pub(in crate::compile) backends: Set<Frontend>,
    /// The Services of each frontend that some policy lets pass in part.
    services: BTreeMap<Frontend, BTreeSet<ObjectKey>>,
    budget: Budget<1>,
}

impl RestrictedBackends {
    /// None yet.
    pub(in crate::compile) fn new(limits: &Limits) -> Self {
        Self {
            policies: Map::new(),
            ends: BTreeMap::new(),
            known: BTreeMap::new(),
            partial: BTreeMap::new(),
            of: BTreeMap::new(),
            count: BTreeMap::new(),
            backends: Set::new(),
            services: BTreeMap::new(),
            budget: Budget::new([limits.guards]),
        }
    }

    /// Goes over what has changed.
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
            // Who claims what another Service has, or the node itself, closes neither.
            let ends = self.ends.get(&frontend);
            let is_node = ends.is_some_and(|ends| ends.itself.is_some_and(|itself| itself.node));
            let closed = self.services.contains_key(&frontend) && fitting.is_empty() && !is_node;
            let backends = |key: &&ObjectKey| frontends.services.get(*key)?.get(&frontend);
            let now = fitting.iter().filter_map(backends).flatten().copied().collect();
            frontends.set_closed(frontend, closed, classes);
            self.set(frontend, now);
        }
        // Those that were closed or opened have other classes, which are the same to every policy.
        self.settle_partial(policies, frontends, classes);
    }

    /// Finds out what each frontend that has changed is to each policy, and which frontends a
    /// policy that has changed lets pass in part. Returns the frontends that may be others.
    fn settle_partial(
        &mut self,
        policies: &Map<PolicyId, Arc<Policy>>,
        frontends: &mut Frontends,
        classes: &Classes,
    ) -> BTreeSet<Frontend> {
        let list = &classes.list;
        let matches = Matches::among(list);
        let is_partial = |policy, ends: &Ends| {
            let class = list.get(&ends.class);
            let Some(targets) = class.and_then(|class| class.frontend.as_ref()) else {
                return false;
            };
            match Policy::passage(policy, targets, &matches) {
                Some(Passage::Defer) => true,
                Some(Passage::Accept(_)) => false,
                None | Some(Passage::Refuse) => ends
                    .itself
                    .is_some_and(|itself| policy.reaches(&itself, &matches)),
            }
        };
        let mut touched = std::mem::take(&mut frontends.moved);
        let before = std::mem::replace(&mut self.policies, policies.clone());
        for (id, old, new) in before.diff(policies) {
            for (ends, of) in &self.known {
                let partial = self.partial.entry(*ends).or_default();
                let changed = if new.is_some_and(|policy| is_partial(policy, ends)) {
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
            let now = frontends.classes.get(frontend).map(|class| Ends {
                class: *class,
                itself: itself(*frontend, classes),
            });
            if self.ends.get(frontend) == now.as_ref() {
                continue;
            }
            if let Some(before) = self.ends.remove(frontend)
                && let Some(of) = self.known.get_mut(&before)
            {
                of.remove(frontend);
                if of.is_empty() {
                    self.known.remove(&before);
                    self.partial.remove(&before);
                }
            }
            if let Some(now) = now {
                self.ends.insert(*frontend, now);
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

    /// Whether some policy lets a frontend pass in part.
    fn is_partial(&self, frontend: &Frontend) -> bool {
        let partial = self.ends.get(frontend).and_then(|ends| self.partial.get(ends));
        partial.is_some_and(|policies| !policies.is_empty())
    }

    /// Counts for the Services of these frontends anew. Returns the frontends of those that are
    /// over budget since now, or no longer.
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
                diagnostic("Service", &key, Fault::new("guards-over-budget", "spec", message))
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

fn itself(frontend: Frontend, classes: &Classes) -> Option<Target> {
    let address = classes.address_at(frontend.address);
    (!frontend.address.is_unspecified()).then_some(Target {
        class: address.class,
        node: address.node,
        protocol: frontend.protocol,
        port: frontend.port,
    })
}
