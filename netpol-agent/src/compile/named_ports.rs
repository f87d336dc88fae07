// SPDX-License-Identifier: Apache-2.0
//! Named ports that nobody has (rule T4).

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    active::ActivePolicies,
    class::{Class, ClassId},
    fault::{Fault, Findings, Topic, diagnostic},
    rule::Rule,
};
use crate::model::{Diagnostic, Direction, Map, ObjectKey, PortKey};

/// Named ports that nobody has: no more are looked for in one policy.
const LOOKS: usize = 20;

#[cfg(test)]
thread_local! {
    /// How often this thread compared a class with an entry of a rule. A change of other objects
    /// must not cost this for each policy.
    pub(super) static HELD: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// What was looked up last.
#[derive(Debug, Default)]
pub(super) struct NamedPorts {
    classes: Map<ClassId, Arc<Class>>,
    /// The classes that have each port.
    having: BTreeMap<PortKey, BTreeSet<ClassId>>,
    /// The policies whose egress rules name each port.
    naming: BTreeMap<PortKey, BTreeSet<ObjectKey>>,
    /// What egress rules of each policy name.
    egress: BTreeMap<ObjectKey, EgressPorts>,
}

/// Ports that egress rules of a policy name.
#[derive(Debug, Default)]
struct EgressPorts {
    /// The ports.
    ports: BTreeSet<PortKey>,
    /// For each rule and entry that was looked up: a class that the rule matches and that has the
    /// port; `None`: no class.
    reached: BTreeMap<(u32, usize), Option<ClassId>>,
}

impl NamedPorts {
    /// Reports the named ports of active rules that no pod has which the rule is about (rule T4).
    /// It looks at policies whose own rules or pods have changed, and at those that name a port of
    /// a class that is new or gone.
    pub(super) fn report(
        &mut self,
        active: &mut ActivePolicies,
        classes: &Map<ClassId, Arc<Class>>,
        findings: &mut Findings,
    ) {
        let mut again = std::mem::take(&mut active.stale_ports);
        for policy in &again {
            self.learn(policy, active);
        }
        let before = std::mem::replace(&mut self.classes, classes.clone());
        let mut moved = BTreeMap::<&PortKey, Vec<ClassId>>::new();
        for (id, old, new) in before.diff(classes) {
            // A class that keeps its number says the same to rules that stay.
            if old.is_some() == new.is_some() {
                continue;
            }
            for port in old.or(new).into_iter().flat_map(|class| class.named_ports.keys()) {
                let come = moved.entry(port).or_default();
                if new.is_some() {
                    add(&mut self.having, port, *id);
                    come.push(*id);
                } else {
                    take(&mut self.having, port, id);
                }
            }
        }
        let naming = moved.keys().filter_map(|port| self.naming.get(*port));
        again.extend(naming.flatten().cloned());
        for policy in again {
            let found = self.look(&policy, active, &moved);
            findings.report(Topic::NamedPorts(policy), found);
        }
    }

    /// Takes the egress rules of a policy as they are now, and forgets what was looked up of them.
    fn learn(&mut self, policy: &ObjectKey, active: &ActivePolicies) {
        let before = self.egress.remove(policy).unwrap_or_default();
        for port in &before.ports {
            take(&mut self.naming, port, policy);
        }
        let rules = active.rules_of(policy);
        let rules = rules.filter(|rule| rule.reference.direction == Direction::Egress);
        let named = rules.flat_map(|rule| rule.ports.named());
        let ports: BTreeSet<PortKey> = named.map(|(_, port)| port.clone()).collect();
        for port in &ports {
            add(&mut self.naming, port, policy.clone());
        }
        if !ports.is_empty() {
            let reached = BTreeMap::new();
            self.egress.insert(policy.clone(), EgressPorts { ports, reached });
        }
    }

    /// What to report of a policy; `come` are the new classes, by port.
    fn look(
        &mut self,
        policy: &ObjectKey,
        active: &ActivePolicies,
        come: &BTreeMap<&PortKey, Vec<ClassId>>,
    ) -> Vec<Diagnostic> {
        let before = self.egress.get_mut(policy);
        let before = before.map_or_else(BTreeMap::new, |known| std::mem::take(&mut known.reached));
        let mut now = BTreeMap::new();
        let mut found = Vec::new();
        let given = OnceCell::new();
        for rule in active.rules_of(policy) {
            for (index, port) in rule.ports.named() {
                // No more than these are reported.
                if found.len() > LOOKS {
                    break;
                }
                let nobody = match rule.reference.direction {
                    Direction::Ingress => {
                        let given = given.get_or_init(|| given_ports(active, policy));
                        (!given.contains(port)).then_some("no pod of this node that the policy selects")
                    }
                    Direction::Egress => {
                        let place = (rule.number, *index);
                        let class = match before.get(&place) {
                            Some(Some(class)) if self.classes.contains_key(class) => Some(*class),
                            Some(None) => self.reached(rule, come.get(port).into_iter().flatten()),
                            _ => self.reached(rule, self.having.get(port).into_iter().flatten()),
                        };
                        now.insert(place, class);
                        class.is_none().then_some("no pod that the rule reaches")
                    }
                };
                found.extend(nobody.map(|nobody| unresolved(rule, *index, port, nobody)));
            }
        }
        if let Some(known) = self.egress.get_mut(policy) {
            known.reached = now;
        }
        found
    }

    /// The first of some classes that an egress rule matches by the pods that it selects.
    fn reached<'a>(&self, rule: &Rule, mut classes: impl Iterator<Item = &'a ClassId>) -> Option<ClassId> {
        let reaches = |id: &&ClassId| {
            #[cfg(test)]
            HELD.set(HELD.get() + 1);
            self.classes.get(*id).is_some_and(|class| rule.selects(class))
        };
        classes.find(reaches).copied()
    }
}

fn add<T: Ord>(sets: &mut BTreeMap<PortKey, BTreeSet<T>>, port: &PortKey, one: T) {
    match sets.get_mut(port) {
        Some(set) => set.insert(one),
        None => sets.insert(port.clone(), BTreeSet::from([one])).is_none(),
    };
}

fn take<T: Ord>(sets: &mut BTreeMap<PortKey, BTreeSet<T>>, port: &PortKey, one: &T) {
    if let Some(set) = sets.get_mut(port) {
        set.remove(one);
        if set.is_empty() {
            sets.remove(port);
        }
    }
}

/// The named ports of the endpoints that the policy selects.
fn given_ports(active: &ActivePolicies, policy: &ObjectKey) -> BTreeSet<PortKey> {
    let pods = active.selected_pods(policy);
    pods.flat_map(|pod| PortKey::numbers_of(pod).into_keys())
        .collect()
}

fn unresolved(rule: &Rule, index: usize, port: &PortKey, nobody: &str) -> Diagnostic {
    let field = format!("{}.ports[{index}].port", rule.reference.field());
    let message = format!("{nobody} has a port {port}; this entry matches nothing here");
    diagnostic(
        "NetworkPolicy",
        &rule.reference.policy,
        Fault::new("named-port-unresolved", field, message),
    )
}
