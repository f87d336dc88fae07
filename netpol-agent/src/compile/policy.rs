// SPDX-License-Identifier: Apache-2.0
//! Policies: what the rules that isolate an endpoint allow of a class, by protocol and port.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    Class, ClassId, Compiled, Endpoint, Frontend, PolicyId,
    classes::Classes,
    fault::Findings,
    force::{Force, ForceRule, Local},
    frontends::{Frontends, Target},
    peer_set::PeerSet,
    ports::{PortKey, Ports, ProtocolMatch},
};
use crate::model::{Direction, Limits, Map, ObjectKey, Set};

mod matches;

use self::matches::Match;
pub use self::matches::Matches;
#[cfg(test)]
pub(super) use self::matches::{GONE_OVER, MATCHED};

/// What isolates an endpoint for a direction.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Policy {
    direction: Direction,
    /// In the order of policies and rules: of several that allow the same, the first is told.
    rules: Vec<Arc<ForceRule>>,
    /// Of ingress: the numbers that the endpoint gives the ports which the rules name (rule T4).
    named_ports: BTreeMap<PortKey, u16>,
    /// The first rule that allows everything of everyone.
    everything: Option<u32>,
}

/// What a policy says of a frontend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Passage {
    /// All backends are allowed, one of them by the rule of this number (0: none was needed).
    Accept(u32),
    /// Some backends are allowed: the packet is judged again where it is known which one it goes to.
    Defer,
    /// The frontend is closed, also where policy lets pass what nobody translates (rule L2).
    Refuse,
}

/// What a policy allows of one class, in normal form: protocol and port (`None`: all), with the number of the rule that allows it. The
/// longest match decides; no match denies.
pub type Entries = BTreeMap<Option<ProtocolMatch>, u32>;

#[cfg(test)]
thread_local! {
    /// How often this thread built the entries of a policy for a class: what the number of
    /// frontends must not come into.
    pub(super) static BUILT: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

impl Policy {
    /// The peers that it allows anything; `None`: everyone.
    pub fn peers(&self) -> Option<PeerSet> {
        let sets: Option<Vec<&PeerSet>> = self.rules.iter().map(|rule| rule.peers.as_ref()).collect();
        Some(PeerSet::union_of(sets?))
    }

    /// The namespace of its rules; one without rules has none.
    pub(super) fn namespace(&self) -> &str {
        let first = self.rules.first();
        first.map_or("", |rule| rule.reference.policy.namespace.as_str())
    }

    /// A number that another policy hardly has: by where its rules stand.
    pub(super) fn fingerprint(&self) -> u32 {
        let numbers = self.rules.iter().flat_map(|rule| rule.number.to_be_bytes());
        let own = self.named_ports.values().flat_map(|port| port.to_be_bytes());
        let all: Vec<u8> = numbers.chain(own).chain([self.direction as u8]).collect();
        super::force::fnv1a(&all)
    }

    /// The most entries that it has for one class.
    pub(super) fn most_entries(&self) -> usize {
        self.rules.iter().map(|rule| rule.ports.count()).sum()
    }

    /// No less than the entries that it has for a class, without making them.
    pub(super) fn count<'a>(&'a self, class: &Class, matches: &Matches<'a>) -> usize {
        if class.frontend.is_some() {
            return usize::from(self.passage_of(class, matches).is_some());
        }
        let matching = self.rules.iter().filter(|rule| {
            let peers = rule.peers.as_ref();
            peers.is_none_or(|peers| peers.intersects(&class.peers))
        });
        matching.map(|rule| rule.ports.count()).sum()
    }

    /// What it allows of a class of addresses.
    pub fn entries(&self, class: &Class) -> Entries {
        self.entries_by(&self.matching(class), class)
    }

    /// The same where the rules that match it are known.
    fn entries_by(&self, matching: &[Match], class: &Class) -> Entries {
        #[cfg(test)]
        BUILT.set(BUILT.get() + 1);
        let numbers = self.numbers(class);
        let mut entries = Entries::new();
        for Match { rule, by_name } in matching {
            let rule = &self.rules[*rule];
            let mut allow = |protocol| {
                entries.entry(protocol).or_insert(rule.number);
            };
            let (blocks, named) = match &rule.ports {
                Ports::All => {
                    allow(None);
                    continue;
                }
                Ports::Listed { blocks, named } => (blocks, named),
            };
            blocks.iter().for_each(|block| allow(Some(*block)));
            for (_, port) in named.iter().filter(|_| *by_name) {
                if let Some(number) = numbers.get(port) {
                    allow(Some(port.at(*number)));
                }
            }
        }
        without_redundant(entries)
    }

    /// The numbers of the ports that its rules name, for what is sent to or by a class.
    fn numbers<'a>(&'a self, class: &'a Class) -> &'a BTreeMap<PortKey, u16> {
        match self.direction {
            Direction::Ingress => &self.named_ports,
            Direction::Egress => &class.named_ports,
        }
    }

    /// Whether a rule that matches a class does so for its named ports too (rule T4).
    fn is_by_name(&self, rule: &ForceRule, class: &Class) -> bool {
        self.direction == Direction::Ingress || rule.reaches(class)
    }

    /// What it says of a frontend with these backends (rule A5); `None`: nothing of it is allowed. Where some backends are allowed, a second look
    /// follows where the backend is known. Without backends there is nothing to reach, and what kube-proxy answers may come.
    pub fn passage<'a>(&'a self, targets: &BTreeSet<Target>, matches: &Matches<'a>) -> Option<Passage> {
        if self.direction == Direction::Ingress {
            return None;
        }
        if let Some(rule) = self.everything {
            return Some(Passage::Accept(rule));
        }
        let mut allowed = None;
        let mut denied = false;
        for target in targets {
            let rule = matches.rule_for(self, target);
            denied |= rule.is_none();
            // Its own node the pod reaches anyway (rule A2). That is no reason to let the packet go
            // where another node chooses the backend.
            allowed = allowed.max(rule.or(target.node.then_some(0)));
        }
        match (allowed, denied) {
            (Some(rule), false) => Some(Passage::Accept(rule)),
            (None, true) => None,
            (Some(_), true) | (None, false) => Some(Passage::Defer),
        }
    }
}

impl Policy {
    /// What it says of a class of frontends; `None` also for a class of addresses.
    pub fn passage_of<'a>(&'a self, class: &Class, matches: &Matches<'a>) -> Option<Passage> {
        let said = self.passage(class.frontend.as_ref()?, matches);
        if !class.closed || self.direction == Direction::Ingress {
            return said;
        }
        match said {
            Some(Passage::Accept(rule)) => Some(Passage::Accept(rule)),
            _ => Some(Passage::Refuse),
        }
    }

    /// Whether an egress policy, or rule A2, lets pass what is sent to an address itself.
    pub(super) fn reaches<'a>(&'a self, target: &Target, matches: &Matches<'a>) -> bool {
        self.direction == Direction::Egress && (target.node || matches.rule_for(self, target).is_some())
    }
}

impl Compiled {
    /// What a policy allows of a class of addresses.
    pub fn entries(&self, policy: PolicyId, class: ClassId) -> Entries {
        let known = self.policies.get(&policy).zip(self.classes.get(&class));
        known
            .map(|(policy, class)| policy.entries(class))
            .unwrap_or_default()
    }

    /// What an egress policy says of a class of frontends.
    pub fn passage(&self, policy: PolicyId, class: ClassId) -> Option<Passage> {
        let class = self.classes.get(&class)?;
        self.policies
            .get(&policy)?
            .passage_of(class, &Matches::among(&self.classes))
    }
}

/// The block that a port is in, of disjoint and ascending ones.
fn block_around(blocks: &[ProtocolMatch], port: ProtocolMatch) -> Option<ProtocolMatch> {
    let behind = blocks.partition_point(|block| (block.protocol, block.port) <= (port.protocol, port.port));
    let block = *blocks.get(behind.checked_sub(1)?)?;
    covers(Some(block), Some(port)).then_some(block)
}

/// Leaves out what a shorter match allows too. Blocks of ports nest or are disjoint and sort after the
/// block around them, so only the last entry kept can cover the next.
fn without_redundant(mut entries: Entries) -> Entries {
    let mut last: Option<Option<ProtocolMatch>> = None;
    entries.retain(|next, _| {
        if last.is_some_and(|last| covers(last, *next)) {
            return false;
        }
        last = Some(*next);
        true
    });
    entries
}

fn covers(outer: Option<ProtocolMatch>, inner: Option<ProtocolMatch>) -> bool {
    match (outer, inner) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(outer), Some(inner)) => {
            let differing = (outer.port ^ inner.port).leading_zeros();
            outer.protocol == inner.protocol
                && outer.prefix_len <= inner.prefix_len
                && u32::from(outer.prefix_len) <= differing
        }
    }
}

/// The policies of the endpoints, each distinct one once.
#[derive(Debug)]
pub(super) struct Policies {
    /// By number.
    pub(super) list: Map<PolicyId, Arc<Policy>>,
    /// The endpoints, with their policies.
    pub(super) endpoints: BTreeMap<ObjectKey, Endpoint>,
    ids: BTreeMap<Arc<Policy>, PolicyId>,
    next: PolicyId,
    guards: super::frontends::Guards,
}

impl Policies {
    /// None yet.
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            list: Map::new(),
            endpoints: BTreeMap::new(),
            ids: BTreeMap::new(),
            next: 0,
            guards: super::frontends::Guards::new(limits),
        }
    }

    /// Goes over the endpoints again.
    pub(super) fn update(&mut self, force: &Force) {
        let mut before = std::mem::take(&mut self.ids);
        let mut endpoints = BTreeMap::new();
        for (key, local) in &force.endpoints {
            let mut number = |direction| Some(self.number(policy_of(force, local, direction)?, &mut before));
            let endpoint = Endpoint {
                uid: local.pod.uid.to_string(),
                ingress: number(Direction::Ingress),
                egress: number(Direction::Egress),
                addresses: super::addresses_of(&local.pod).into_iter().collect(),
                forwards: Arc::default(),
            };
            endpoints.insert(key.clone(), endpoint);
        }
        for gone in before.into_values() {
            self.list.remove(&gone);
        }
        self.endpoints = endpoints;
    }

    fn number(&mut self, policy: Policy, before: &mut BTreeMap<Arc<Policy>, PolicyId>) -> PolicyId {
        if let Some(id) = self.ids.get(&policy) {
            return *id;
        }
        let (policy, id) = match before.remove_entry(&policy) {
            Some(known) => known,
            None => {
                let (policy, id) = (Arc::new(policy), self.next);
                self.next += 1;
                self.list.insert(id, policy.clone());
                (policy, id)
            }
        };
        self.ids.insert(policy, id);
        id
    }

    /// The backends of frontends that some policy lets pass in part.
    pub(super) fn guard(
        &mut self,
        frontends: &mut Frontends,
        classes: &mut Classes,
        findings: &mut Findings,
    ) -> Set<Frontend> {
        self.guards.update(&self.list, frontends, classes, findings);
        self.guards.backends.clone()
    }
}

fn policy_of(force: &Force, local: &Local, direction: Direction) -> Option<Policy> {
    let rules = force.isolation(local, direction)?;
    let mut named_ports = BTreeMap::new();
    if direction == Direction::Ingress {
        let named = rules.iter().flat_map(|rule| rule.ports.named());
        let given = PortKey::of(&local.pod);
        named_ports.extend(named.filter_map(|(_, port)| Some((port.clone(), *given.get(port)?))));
    }
    let everything = |rule: &&Arc<ForceRule>| rule.peers.is_none() && rule.ports == Ports::All;
    let everything = rules.iter().find(everything).map(|rule| rule.number);
    Some(Policy {
        direction,
        rules,
        named_ports,
        everything,
    })
}
