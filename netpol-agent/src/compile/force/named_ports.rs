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

/// What was looked at last.
#[derive(Debug, Default)]
pub(super) struct Looked {
    /// Endpoints, or what is in force, may have changed since.
    pub(super) stale: bool,
    classes: Map<ClassId, Arc<Class>>,
    /// The policies that have named ports.
    policies: Vec<ObjectKey>,
    /// A class that has a port which an egress rule names, by rule and entry.
    having: BTreeMap<(u32, usize), ClassId>,
}

impl Looked {
    /// Tells of each policy which of its named ports nobody has.
    pub(super) fn report(
        &mut self,
        force: &Force,
        classes: &Map<ClassId, Arc<Class>>,
        findings: &mut Findings,
    ) {
        if !self.stale && self.classes.is_same(classes) {
            return;
        }
        if self.stale {
            let named = |key: &&ObjectKey| {
                super::all_rules(force.policies.get(*key)).any(|rule| !rule.ports.named().is_empty())
            };
            let now: Vec<ObjectKey> = force.policies.keys().filter(named).cloned().collect();
            for gone in std::mem::replace(&mut self.policies, now) {
                if self.policies.binary_search(&gone).is_err() {
                    findings.tell(Place::NamedPorts(gone), Vec::new());
                }
            }
            self.having.retain(|(rule, _), _| force.rules.contains_key(rule));
        }
        self.stale = false;
        self.classes = classes.clone();
        for policy in &self.policies {
            let mut found = Vec::new();
            let given = OnceCell::new();
            for rule in super::all_rules(force.policies.get(policy)) {
                for (index, port) in rule.ports.named() {
                    // Each costs a look at all classes.
                    if found.len() > LOOKS {
                        break;
                    }
                    let given = || given.get_or_init(|| given_ports(force, policy));
                    let nobody = match rule.reference.direction {
                        Direction::Ingress if !given().contains(port) => {
                            "no pod of this node that the policy selects"
                        }
                        Direction::Egress if !is_reached(&mut self.having, classes, rule, *index, port) => {
                            "no pod that the rule reaches"
                        }
                        _ => continue,
                    };
                    found.push(unresolved(rule, *index, port, nobody));
                }
            }
            findings.tell(Place::NamedPorts(policy.clone()), found);
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

/// Whether a class that an egress rule reaches by what pods they are has the port.
fn is_reached(
    having: &mut BTreeMap<(u32, usize), ClassId>,
    classes: &Map<ClassId, Arc<Class>>,
    rule: &ForceRule,
    index: usize,
    port: &PortKey,
) -> bool {
    let has = |class: &Arc<Class>| rule.reaches(class) && class.named_ports.contains_key(port);
    let place = (rule.number, index);
    if having
        .get(&place)
        .and_then(|known| classes.get(known))
        .is_some_and(has)
    {
        return true;
    }
    let found = classes.iter().find(|(_, class)| has(class));
    match found {
        Some((class, _)) => having.insert(place, *class),
        None => having.remove(&place),
    };
    found.is_some()
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
