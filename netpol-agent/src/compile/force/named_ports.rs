// SPDX-License-Identifier: Apache-2.0
//! Named ports that nobody has (rule T4).

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{Force, ForceRule};
use crate::{
    compile::{
        Class, ClassId, RuleRef,
        fault::{Fault, Findings, Place, diagnostic},
        ports::PortKey,
    },
    model::{Diagnostic, Direction, Map, ObjectKey},
};

/// Named ports that nobody has which are looked for in one policy.
const LOOKS: usize = 20;

#[cfg(test)]
thread_local! {
    /// How often this thread held a class against an entry of a rule: what no change of others may
    /// come to for each policy.
    pub(in crate::compile) static HELD: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// What was looked at last.
#[derive(Debug, Default)]
pub(super) struct Looked {
    /// Policies whose rules, or the ports of whose pods, may be others since.
    pub(super) stale: BTreeSet<ObjectKey>,
    classes: Map<ClassId, Arc<Class>>,
    /// The classes that have each port.
    having: BTreeMap<PortKey, BTreeSet<ClassId>>,
    /// The policies whose egress rules name each port.
    naming: BTreeMap<PortKey, BTreeSet<ObjectKey>>,
    /// The policies whose egress rules name ports.
    known: BTreeMap<ObjectKey, Known>,
}

/// The egress rules of a policy.
#[derive(Debug, Default)]
struct Known {
    /// The ports that they name.
    ports: BTreeSet<PortKey>,
    /// By rule and entry, of those that were looked at: a class that it reaches which has the port;
    /// `None`: there was none among all classes.
    reached: BTreeMap<(u32, usize), Option<ClassId>>,
}

impl Looked {
    /// Tells of each policy which of its named ports nobody has. Those are looked at whose own
    /// rules or pods have changed, and those that name a port of a class that is new or gone.
    pub(super) fn report(
        &mut self,
        force: &Force,
        classes: &Map<ClassId, Arc<Class>>,
        findings: &mut Findings,
    ) {
        let mut again = std::mem::take(&mut self.stale);
        for policy in &again {
            self.learn(policy, force);
        }
        let before = std::mem::replace(&mut self.classes, classes.clone());
        let mut moved = BTreeMap::<&PortKey, Vec<ClassId>>::new();
        for (id, old, new) in before.diff(classes) {
            // As long as a class has its number, it says the same to rules that stay.
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
            let found = self.look(&policy, force, &moved);
            findings.tell(Place::NamedPorts(policy), found);
        }
    }

    /// Takes the egress rules of a policy as they are now, of which nothing was looked at.
    fn learn(&mut self, policy: &ObjectKey, force: &Force) {
        let before = self.known.remove(policy).unwrap_or_default();
        for port in &before.ports {
            take(&mut self.naming, port, policy);
        }
        let rules = super::all_rules(force.policies.get(policy));
        let rules = rules.filter(|rule| rule.reference.direction == Direction::Egress);
        let named = rules.flat_map(|rule| rule.ports.named());
        let ports: BTreeSet<PortKey> = named.map(|(_, port)| port.clone()).collect();
        for port in &ports {
            add(&mut self.naming, port, policy.clone());
        }
        if !ports.is_empty() {
            let reached = BTreeMap::new();
            self.known.insert(policy.clone(), Known { ports, reached });
        }
    }

    /// What is to be said of a policy; `come` are the classes that are new, by port.
    fn look(
        &mut self,
        policy: &ObjectKey,
        force: &Force,
        come: &BTreeMap<&PortKey, Vec<ClassId>>,
    ) -> Vec<Diagnostic> {
        let before = self.known.get_mut(policy);
        let before = before.map_or_else(BTreeMap::new, |known| std::mem::take(&mut known.reached));
        let mut now = BTreeMap::new();
        let mut found = Vec::new();
        let given = OnceCell::new();
        for rule in super::all_rules(force.policies.get(policy)) {
            for (index, port) in rule.ports.named() {
                // No more than these are told.
                if found.len() > LOOKS {
                    break;
                }
                let nobody = match rule.reference.direction {
                    Direction::Ingress => {
                        let given = given.get_or_init(|| given_ports(force, policy));
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
        if let Some(known) = self.known.get_mut(policy) {
            known.reached = now;
        }
        found
    }

    /// The first of some classes that an egress rule reaches by what pods they are.
    fn reached<'a>(
        &self,
        rule: &ForceRule,
        mut classes: impl Iterator<Item = &'a ClassId>,
    ) -> Option<ClassId> {
        let reaches = |id: &&ClassId| {
            #[cfg(test)]
            HELD.set(HELD.get() + 1);
            self.classes.get(*id).is_some_and(|class| rule.reaches(class))
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

/// The ports that endpoints have which the policy selects.
fn given_ports(force: &Force, policy: &ObjectKey) -> BTreeSet<PortKey> {
    let selected = force.selected.get(policy).into_iter().flatten();
    let locals = selected.filter_map(|endpoint| force.endpoints.get(endpoint));
    locals
        .flat_map(|local| PortKey::of(&local.pod).into_keys())
        .collect()
}

impl ForceRule {
    /// Whether an egress rule reaches a class by what pods they are (rule T4).
    pub(in crate::compile) fn reaches(&self, class: &Class) -> bool {
        self.peers.is_none() || self.selectors.intersects(&class.peers)
    }
}

fn unresolved(rule: &ForceRule, index: usize, port: &PortKey, nobody: &str) -> Diagnostic {
    let RuleRef {
        policy,
        direction,
        index: of_rule,
    } = &rule.reference;
    let field = format!("spec.{direction}[{of_rule}].ports[{index}].port");
    let message = format!("{nobody} has a port {port}; this entry matches nothing here");
    diagnostic(
        "NetworkPolicy",
        policy,
        Fault::new("named-port-unresolved", field, message),
    )
}
