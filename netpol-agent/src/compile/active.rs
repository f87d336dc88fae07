// SPDX-License-Identifier: Apache-2.0
//! The active policies: those that select at least one endpoint of this node, with their rules and
//! peers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    check::{self, CheckedPolicy, CheckedRule},
    fault::{Fault, Findings, Topic, diagnostic},
    peer::PeerSpec,
    peer_set::{PeerId, PeerSet},
    rule::{Action, PolicyKind, Rule, RuleRef},
};
use crate::model::{Direction, Limits, Map, NetworkPolicy, ObjectKey, POLICY_RESOURCES, Pod, Snapshot};

mod cost;

pub(super) use self::cost::Cost;

#[cfg(test)]
thread_local! {
    /// How often this thread found the number of a rule to be another's.
    pub(super) static ALIKE: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// The active policies, and the endpoints that they select.
#[derive(Debug)]
pub(super) struct ActivePolicies {
    /// The pods of this node that policy is enforced on.
    pub(super) endpoints: BTreeMap<ObjectKey, Local>,
    policies: BTreeMap<ObjectKey, RuleLists>,
    /// The endpoints that each policy selects.
    selected: BTreeMap<ObjectKey, BTreeSet<ObjectKey>>,
    peers: BTreeMap<PeerId, ActivePeer>,
    ids: BTreeMap<Arc<str>, PeerId>,
    last_peer: PeerId,
    /// Canonical text of each peer.
    pub(super) texts: Map<PeerId, Arc<str>>,
    /// All rules by number.
    pub(super) rules: Map<u32, RuleRef>,
    /// Policies whose rules, or the ports of whose pods, have changed since their named ports were
    /// last looked up.
    pub(super) stale_ports: BTreeSet<ObjectKey>,
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

/// The rules of a policy by direction, ingress first; `None` if the policy does not apply to it.
type RuleLists = [Option<Vec<Arc<Rule>>>; 2];

#[derive(Debug)]
struct ActivePeer {
    text: Arc<str>,
    spec: Arc<PeerSpec>,
    /// Number of rules that have it.
    uses: usize,
}

/// What an update changed.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Peers that no active rule had before.
    pub(super) added: Vec<(PeerId, Arc<PeerSpec>)>,
    /// Peers that no active rule has any more.
    pub(super) removed: Vec<(PeerId, Arc<PeerSpec>)>,
    /// Endpoints, or the policies that select them, may have changed.
    pub(super) changed: bool,
}

impl ActivePolicies {
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
            stale_ports: BTreeSet::new(),
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
        let mut touched = self.select(before, after, findings);
        for (key, _, pod) in before.pods.diff(&after.pods) {
            let pod = pod.filter(|pod| pod.is_endpoint_on(node));
            changes.changed |= pod.is_some() || self.endpoints.contains_key(key);
            self.set_endpoint(key, pod, after, &mut touched);
        }
        self.settle_cost(changes.changed, after, &mut touched, findings);
        changes.changed |= !touched.is_empty();
        self.stale_ports.extend(touched.iter().cloned());
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
            if let Some(peer) = self.peers.get(&id).filter(|peer| peer.uses == 0) {
                self.ids.remove(&peer.text);
                self.texts.remove(&id);
                let removed = self.peers.remove(&id);
                changes.removed.extend(removed.map(|peer| (id, peer.spec)));
            }
        }
        let added = self.peers.range(last_peer + 1..);
        changes.added = added.map(|(id, peer)| (*id, peer.spec.clone())).collect();
        changes
    }

    /// Matches the policies that have changed against the endpoints. Returns those that are active
    /// now or were before.
    fn select(
        &mut self,
        before: &Snapshot,
        after: &Snapshot,
        findings: &mut Findings,
    ) -> BTreeSet<ObjectKey> {
        let mut touched = BTreeSet::new();
        for (key, _, policy) in before.policies.diff(&after.policies) {
            let (checked, found) = policy.map(|policy| CheckedPolicy::new(policy)).unzip();
            findings.report(Topic::Policy(key.clone()), found.unwrap_or_default());
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
        touched
    }

    /// Finds the policies that are over budget (rule L2), and touches those of which that has
    /// changed.
    fn settle_cost(
        &mut self,
        endpoints_changed: bool,
        after: &Snapshot,
        touched: &mut BTreeSet<ObjectKey>,
        findings: &mut Findings,
    ) {
        for key in touched.iter() {
            let selected = self.selected.get(key);
            let is_active = selected.is_some_and(|selected| !selected.is_empty());
            let policy = after.policies.get(key).filter(|_| is_active);
            self.cost.set(key, policy);
        }
        if !endpoints_changed && touched.is_empty() {
            return;
        }
        let together = self.endpoints.values().map(|local| &local.policies);
        for key in self.cost.settle(together) {
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
            findings.report(Topic::PolicyBudget(key.clone()), found.into_iter().collect());
            touched.insert(key);
        }
    }

    /// Takes a pod as it is now; `None`: it is no endpoint of this node.
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
            self.stale_ports.extend(selecting.iter().cloned());
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

    /// The rules of a policy. A rule keeps its number as long as it keeps its place. A policy over
    /// budget has no rules: it isolates.
    fn enforce(&mut self, policy: &NetworkPolicy, old: Option<&RuleLists>) -> RuleLists {
        if self.cost.refusal(&policy.key).is_some() {
            let directions = [Direction::Ingress, Direction::Egress];
            return directions.map(|direction| check::applies(policy, direction).then(Vec::new));
        }
        let (checked, _) = CheckedPolicy::new(policy);
        let numbers: BTreeMap<&RuleRef, u32> = all_rules(old)
            .map(|rule| (&rule.reference, rule.number))
            .collect();
        let mut list = |rules: Option<Vec<CheckedRule>>, direction| {
            let rules = rules?.into_iter().enumerate().map(|(index, rule)| {
                let reference = RuleRef {
                    kind: PolicyKind::NetworkPolicy,
                    policy: policy.key.clone(),
                    direction,
                    index,
                };
                let number = numbers.get(&reference).copied();
                Arc::new(self.rule(reference, number, rule))
            });
            Some(rules.collect())
        };
        [
            list(checked.ingress, Direction::Ingress),
            list(checked.egress, Direction::Egress),
        ]
    }

    fn rule(&mut self, reference: RuleRef, number: Option<u32>, rule: CheckedRule) -> Rule {
        let number = number.unwrap_or_else(|| self.take_number(&reference));
        let mut selectors = BTreeSet::new();
        let peers = rule.peers.map(|specs| {
            let mut ids = BTreeSet::new();
            for spec in specs {
                let is_selector = matches!(spec, PeerSpec::Pods { .. });
                let id = self.peer(spec);
                if ids.insert(id)
                    && let Some(peer) = self.peers.get_mut(&id)
                {
                    peer.uses += 1;
                }
                if is_selector {
                    selectors.insert(id);
                }
            }
            ids.into_iter().collect()
        });
        Rule {
            reference,
            number,
            action: Action::Accept,
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
        let peer = ActivePeer {
            text,
            spec: Arc::new(spec),
            uses: 0,
        };
        self.peers.insert(id, peer);
        id
    }

    /// A number for a rule: a hash of its place, so that it is the same in every compilation. Who
    /// writes policies can make many rules hash alike; these are hashed again with a count.
    fn take_number(&mut self, reference: &RuleRef) -> u32 {
        let RuleRef {
            kind,
            policy,
            direction,
            index,
        } = reference;
        let text = match kind {
            PolicyKind::NetworkPolicy => format!("{direction} {policy} {index}"),
        };
        let mut number = fnv1a(text.as_bytes());
        let mut nth = 0_u32;
        while number == 0 || self.rules.contains_key(&number) {
            #[cfg(test)]
            ALIKE.set(ALIKE.get() + 1);
            nth += 1;
            // The count comes first: texts that hash alike still do with the same text behind.
            number = fnv1a(format!("{nth} {text}").as_bytes());
        }
        self.rules.insert(number, reference.clone());
        number
    }

    /// Gives up the rules that a policy had and no longer has. `idle` gets the peers that no rule
    /// has now.
    fn release(&mut self, key: &ObjectKey, old: Option<RuleLists>, idle: &mut BTreeSet<PeerId>) {
        let kept: BTreeSet<u32> = self.rules_of(key).map(|rule| rule.number).collect();
        for rule in all_rules(old.as_ref()) {
            if !kept.contains(&rule.number) {
                self.rules.remove(&rule.number);
            }
            for id in rule.peers.iter().flat_map(PeerSet::iter) {
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.uses -= 1;
                    if peer.uses == 0 {
                        idle.insert(id);
                    }
                }
            }
        }
    }

    /// The rules that apply to an endpoint in a direction, in the order of policies and rules;
    /// `None` if no policy isolates it (rule I1).
    pub(super) fn isolation(&self, local: &Local, direction: Direction) -> Option<Vec<Arc<Rule>>> {
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

    /// The rules of a policy, those for ingress first.
    pub(super) fn rules_of(&self, policy: &ObjectKey) -> impl Iterator<Item = &Arc<Rule>> {
        all_rules(self.policies.get(policy))
    }

    /// All egress rules.
    pub(super) fn egress_rules(&self) -> impl Iterator<Item = &Arc<Rule>> {
        let lists = self.policies.values();
        lists
            .filter_map(|lists| lists[Direction::Egress as usize].as_ref())
            .flatten()
    }

    /// The endpoints that a policy selects.
    pub(super) fn selected_pods(&self, policy: &ObjectKey) -> impl Iterator<Item = &Arc<Pod>> {
        let selected = self.selected.get(policy).into_iter().flatten();
        selected.filter_map(|endpoint| Some(&self.endpoints.get(endpoint)?.pod))
    }
}

fn all_rules(lists: Option<&RuleLists>) -> impl Iterator<Item = &Arc<Rule>> {
    lists.into_iter().flatten().flatten().flatten()
}

/// The 32-bit FNV-1a hash.
pub(super) fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, &byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}
