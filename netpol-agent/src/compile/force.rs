// SPDX-License-Identifier: Apache-2.0
//! The policies in force on this node: those that select at least one of its endpoints, with their rules and peers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    Class, ClassId, RuleRef,
    check::{self, CheckedPolicy, CheckedRule},
    fault::{Fault, Findings, Place, diagnostic},
    peer::{PeerId, PeerSpec},
    peer_set::PeerSet,
    ports::Ports,
};
use crate::model::{Direction, Limits, Map, NetworkPolicy, ObjectKey, POLICY_RESOURCES, Pod, Snapshot};

mod cost;
mod named_ports;
mod wanted;

#[cfg(test)]
pub(super) use self::named_ports::HELD;
pub(super) use self::{
    cost::Cost,
    wanted::{Moved, Wanted},
};

#[cfg(test)]
thread_local! {
    /// How often this thread found the number of a rule to be another's.
    pub(super) static ALIKE: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// All that is in force.
#[derive(Debug)]
pub(super) struct Force {
    /// The pods of this node that are enforced on.
    pub(super) endpoints: BTreeMap<ObjectKey, Local>,
    policies: BTreeMap<ObjectKey, Lists>,
    /// The endpoints that each policy selects.
    selected: BTreeMap<ObjectKey, BTreeSet<ObjectKey>>,
    peers: BTreeMap<PeerId, Known>,
    ids: BTreeMap<Arc<str>, PeerId>,
    last_peer: PeerId,
    /// Canonical text of each peer.
    pub(super) texts: Map<PeerId, Arc<str>>,
    /// All rules by number.
    pub(super) rules: Map<u32, RuleRef>,
    named_ports: named_ports::Looked,
    cost: Cost,
}

/// A pod of this node.
#[derive(Debug)]
pub(super) struct Local {
    /// The pod.
    pub(super) pod: Arc<Pod>,
    /// The policies that select it.
    policies: BTreeSet<ObjectKey>,
}

/// The rules of a policy for a direction, ingress first; `None` if it does not apply to it.
type Lists = [Option<Vec<Arc<ForceRule>>>; 2];

#[derive(Debug)]
struct Known {
    text: Arc<str>,
    spec: Arc<PeerSpec>,
    /// Number of rules that have it.
    uses: usize,
}

/// A rule in force.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ForceRule {
    /// Where it stands.
    pub(super) reference: RuleRef,
    /// Its number: never 0.
    pub(super) number: u32,
    /// Its peers; `None` is everyone (rule P1).
    pub(super) peers: Option<PeerSet>,
    /// Those of them that select pods.
    pub(super) selectors: PeerSet,
    /// Its ports.
    pub(super) ports: Ports,
}

/// What an update brought.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Peers that are new in force.
    pub(super) added: Vec<(PeerId, Arc<PeerSpec>)>,
    /// Peers that no rule in force has any more.
    pub(super) removed: Vec<(PeerId, Arc<PeerSpec>)>,
    /// Endpoints, or what selects them, may be others.
    pub(super) changed: bool,
}

impl Force {
    /// Nothing yet.
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            endpoints: BTreeMap::new(),
            policies: BTreeMap::new(),
            selected: BTreeMap::new(),
            peers: BTreeMap::new(),
            ids: BTreeMap::new(),
            last_peer: 0,
            texts: Map::new(),
            rules: Map::new(),
            named_ports: named_ports::Looked::default(),
            cost: Cost::new(limits),
        }
    }

    /// Goes from one snapshot to the next.
    pub(super) fn update(
        &mut self,
        before: &Snapshot,
        after: &Snapshot,
        node: &str,
        findings: &mut Findings,
    ) -> Changes {
        let mut changes = Changes::default();
        let mut touched = BTreeSet::new();
        for (key, _, policy) in before.policies.diff(&after.policies) {
            let (checked, found) = policy.map(|policy| CheckedPolicy::new(policy)).unzip();
            findings.tell(Place::Policy(key.clone()), found.unwrap_or_default());
            let selects = |local: &Local| {
                checked
                    .as_ref()
                    .is_some_and(|checked| checked.selects(&local.pod.labels))
            };
            let start = ObjectKey::new(key.namespace.as_str(), "");
            let locals = self.endpoints.range_mut(start..);
            for (name, local) in locals.take_while(|(name, _)| name.namespace == key.namespace) {
                if selects(local) {
                    local.policies.insert(key.clone());
                    self.selected.entry(key.clone()).or_default().insert(name.clone());
                } else if local.policies.remove(key)
                    && let Some(selected) = self.selected.get_mut(key)
                {
                    selected.remove(name);
                }
            }
            if self.policies.contains_key(key) || self.selected.contains_key(key) {
                touched.insert(key.clone());
            }
        }
        for (key, _, pod) in before.pods.diff(&after.pods) {
            let pod = pod.filter(|pod| super::is_endpoint(pod, node));
            changes.changed |= pod.is_some() || self.endpoints.contains_key(key);
            self.set_endpoint(key, pod, after, &mut touched);
        }
        for key in &touched {
            let in_force = self
                .selected
                .get(key)
                .is_some_and(|selected| !selected.is_empty());
            let policy = after.policies.get(key).filter(|_| in_force);
            self.cost.set(key, policy);
        }
        let together = self.endpoints.values().map(|local| &local.policies);
        let together = (changes.changed || !touched.is_empty()).then_some(together);
        for key in together
            .map(|together| self.cost.settle(together))
            .unwrap_or_default()
        {
            let found = self.cost.refusal(&key).map(|refusal| {
                let message = format!(
                    "{}; its rules match nothing, and what it selects is isolated",
                    refusal.describe(&POLICY_RESOURCES)
                );
                diagnostic(
                    "NetworkPolicy",
                    &key,
                    Fault::new("policy-over-budget", "spec", message),
                )
            });
            findings.tell(Place::Budget(key.clone()), found.into_iter().collect());
            touched.insert(key);
        }
        changes.changed |= !touched.is_empty();
        self.named_ports.stale.extend(touched.iter().cloned());
        let last_peer = self.last_peer;
        let mut idle = BTreeSet::new();
        for key in touched {
            if self.selected.get(&key).is_some_and(BTreeSet::is_empty) {
                self.selected.remove(&key);
            }
            let old = self.policies.remove(&key);
            let policy = after
                .policies
                .get(&key)
                .filter(|_| self.selected.contains_key(&key));
            if let Some(policy) = policy {
                let lists = self.enforce(policy, old.as_ref());
                self.policies.insert(key.clone(), lists);
            }
            self.release(&key, old, &mut idle);
        }
        for id in idle {
            if let Some(known) = self.peers.get(&id).filter(|known| known.uses == 0) {
                self.ids.remove(&known.text);
                self.texts.remove(&id);
                changes
                    .removed
                    .extend(self.peers.remove(&id).map(|known| (id, known.spec)));
            }
        }
        let added = self.peers.range(last_peer + 1..);
        changes.added = added.map(|(id, known)| (*id, known.spec.clone())).collect();
        changes
    }

    /// Takes a pod of this node as it is now, if it still is one.
    fn set_endpoint(
        &mut self,
        key: &ObjectKey,
        pod: Option<&Arc<Pod>>,
        after: &Snapshot,
        touched: &mut BTreeSet<ObjectKey>,
    ) {
        let before = self.endpoints.remove(key);
        let selecting = match (&before, pod) {
            (_, None) => BTreeSet::new(),
            (Some(before), Some(pod)) if before.pod.labels == pod.labels => before.policies.clone(),
            (_, Some(pod)) => {
                let policies = after.policies.behind(|policy| policy.namespace < key.namespace);
                policies
                    .take_while(|(policy, _)| policy.namespace == key.namespace)
                    .filter(|(_, policy)| {
                        check::selector(policy).is_ok_and(|selector| selector.matches(&pod.labels))
                    })
                    .map(|(policy, _)| policy.clone())
                    .collect()
            }
        };
        let ports_before = before.as_ref().map(|before| &before.pod.named_ports);
        if ports_before != pod.map(|pod| &pod.named_ports) {
            self.named_ports.stale.extend(selecting.iter().cloned());
        }
        let selected_before = before.map(|before| before.policies).unwrap_or_default();
        for policy in selecting.symmetric_difference(&selected_before) {
            let selected = self.selected.entry(policy.clone()).or_default();
            if !selected.remove(key) {
                selected.insert(key.clone());
            }
            touched.insert(policy.clone());
        }
        if let Some(pod) = pod {
            let local = Local {
                pod: pod.clone(),
                policies: selecting,
            };
            self.endpoints.insert(key.clone(), local);
        }
    }

    /// The rules of a policy, whose numbers stay with their places. One over budget has none: it isolates.
    fn enforce(&mut self, policy: &NetworkPolicy, old: Option<&Lists>) -> Lists {
        if self.cost.refusal(&policy.key).is_some() {
            let directions = [Direction::Ingress, Direction::Egress];
            return directions.map(|direction| check::applies(policy, direction).then(Vec::new));
        }
        let (checked, _) = CheckedPolicy::new(policy);
        let known: BTreeMap<&RuleRef, u32> = all_rules(old)
            .map(|rule| (&rule.reference, rule.number))
            .collect();
        let mut list = |rules: Option<Vec<CheckedRule>>, direction| {
            let numbered = rules?.into_iter().enumerate();
            let rules = numbered.map(|(index, rule)| {
                let reference = RuleRef {
                    policy: policy.key.clone(),
                    direction,
                    index,
                };
                let number = known.get(&reference).copied();
                Arc::new(self.rule(reference, number, rule))
            });
            Some(rules.collect())
        };
        [
            list(checked.ingress, Direction::Ingress),
            list(checked.egress, Direction::Egress),
        ]
    }

    fn rule(&mut self, reference: RuleRef, number: Option<u32>, rule: CheckedRule) -> ForceRule {
        let number = number.unwrap_or_else(|| self.take_number(&reference));
        let mut selectors = BTreeSet::new();
        let peers = rule.peers.map(|specs| {
            let mut ids = BTreeSet::new();
            for spec in specs {
                let is_selector = matches!(spec, PeerSpec::Pods { .. });
                let id = self.peer(spec);
                if ids.insert(id)
                    && let Some(known) = self.peers.get_mut(&id)
                {
                    known.uses += 1;
                }
                if is_selector {
                    selectors.insert(id);
                }
            }
            ids.into_iter().collect()
        });
        ForceRule {
            reference,
            number,
            peers,
            selectors: selectors.into_iter().collect(),
            ports: rule.ports,
        }
    }

    fn peer(&mut self, spec: PeerSpec) -> PeerId {
        let text: Arc<str> = spec.to_string().into();
        if let Some(id) = self.ids.get(&text) {
            return *id;
        }
        self.last_peer += 1;
        let id = self.last_peer;
        self.ids.insert(text.clone(), id);
        self.texts.insert(id, text.clone());
        let known = Known {
            text,
            spec: Arc::new(spec),
            uses: 0,
        };
        self.peers.insert(id, known);
        id
    }

    /// A number for a rule: the same in every compilation unless two rules in force hash alike. Who
    /// writes policies can make many do so; they part where they are hashed again.
    fn take_number(&mut self, reference: &RuleRef) -> u32 {
        let RuleRef {
            policy,
            direction,
            index,
        } = reference;
        let text = format!("{direction} {policy} {index}");
        let mut number = fnv1a(text.as_bytes());
        let mut nth = 0_u32;
        while number == 0 || self.rules.contains_key(&number) {
            #[cfg(test)]
            ALIKE.set(ALIKE.get() + 1);
            nth += 1;
            // In front: what comes behind texts that hash alike does not part them.
            number = fnv1a(format!("{nth} {text}").as_bytes());
        }
        self.rules.insert(number, reference.clone());
        number
    }

    /// Lets go of the rules that a policy had.
    fn release(&mut self, key: &ObjectKey, old: Option<Lists>, idle: &mut BTreeSet<PeerId>) {
        let kept: BTreeSet<u32> = all_rules(self.policies.get(key))
            .map(|rule| rule.number)
            .collect();
        for rule in all_rules(old.as_ref()) {
            if !kept.contains(&rule.number) {
                self.rules.remove(&rule.number);
            }
            for peer in rule.peers.iter().flat_map(PeerSet::iter) {
                if let Some(known) = self.peers.get_mut(&peer) {
                    known.uses -= 1;
                    if known.uses == 0 {
                        idle.insert(peer);
                    }
                }
            }
        }
    }

    /// The rules that isolate an endpoint for a direction, in the order of policies and rules; `None` where no policy does (rule I1).
    pub(super) fn isolation(&self, local: &Local, direction: Direction) -> Option<Vec<Arc<ForceRule>>> {
        let policies = local
            .policies
            .iter()
            .filter_map(|policy| self.policies.get(policy));
        let mut lists = policies
            .filter_map(|lists| lists[direction as usize].as_ref())
            .peekable();
        lists.peek()?;
        Some(lists.flatten().cloned().collect())
    }

    /// Reports the named ports of rules in force that no pod gives which the rule is about (rule T4).
    pub(super) fn report_unresolved(&mut self, classes: &Map<ClassId, Arc<Class>>, findings: &mut Findings) {
        let mut looked = std::mem::take(&mut self.named_ports);
        looked.report(self, classes, findings);
        self.named_ports = looked;
    }
}

fn all_rules(lists: Option<&Lists>) -> impl Iterator<Item = &Arc<ForceRule>> {
    lists.into_iter().flatten().flatten().flatten()
}

/// The 32-bit FNV-1a hash.
pub(super) fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, &byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}
