// SPDX-License-Identifier: Apache-2.0
//! Backends that not everyone may reach: those of frontends that some policy lets pass in part.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{Frontends, Target};
use crate::{
    compile::{
        ClassId, Frontend, PolicyId,
        classes::Classes,
        policy::{Passage, Policy},
    },
    model::{Map, Set},
};

/// What decides whether a policy lets a frontend pass: its backends, and itself, where nobody
/// translates it; a NodePort has no address of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Ends {
    class: ClassId,
    itself: Option<Target>,
}

/// What was guarded last.
#[derive(Debug, Default)]
pub(in crate::compile) struct Guards {
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
}

impl Guards {
    /// Goes over what has changed.
    pub(in crate::compile) fn update(
        &mut self,
        policies: &Map<PolicyId, Arc<Policy>>,
        frontends: &mut Frontends,
        classes: &Classes,
    ) {
        let list = &classes.list;
        let is_partial = |policy: &Policy, ends: &Ends| {
            let class = list.get(&ends.class);
            let Some(targets) = class.and_then(|class| class.frontend.as_ref()) else {
                return false;
            };
            match policy.passage(targets, list) {
                Some(Passage::Defer) => true,
                Some(Passage::Accept(_)) => false,
                None => ends.itself.is_some_and(|itself| policy.reaches(&itself, list)),
            }
        };
        let mut touched = std::mem::take(&mut frontends.moved);
        for (id, old, new) in self.policies.diff(policies) {
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
        self.policies = policies.clone();
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
        for frontend in touched {
            let partial = self.ends.get(&frontend).and_then(|ends| self.partial.get(ends));
            let now = match partial {
                Some(policies) if !policies.is_empty() => frontends.backends(frontend),
                _ => BTreeSet::new(),
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

fn itself(frontend: Frontend, classes: &Classes) -> Option<Target> {
    let address = classes.address_at(frontend.address);
    (!frontend.address.is_unspecified()).then_some(Target {
        class: address.class,
        node: address.node,
        protocol: frontend.protocol,
        port: frontend.port,
    })
}
