// SPDX-License-Identifier: Apache-2.0
//! Policy entries: what the rules that isolate an endpoint allow, by class, protocol and port.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Range,
};

use super::{
    Match, Passage, Policy, ProtocolMatch,
    classes::Classes,
    fault::Findings,
    force::{Force, ForceRule},
    frontends::{Frontends, Target, Targets},
    peer::PeerSpec,
    ports::{PortKey, Ports},
};
use crate::model::{Direction, Pod};

/// What decides the entries of a policy: the direction, the rules, and the numbers that the endpoint gives named ports.
type Inputs<'a> = (Direction, &'a [Range<usize>], BTreeMap<&'a PortKey, u16>);

/// Makes policies, each distinct one once.
pub(super) struct Writer<'a> {
    force: &'a Force<'a>,
    classes: &'a Classes,
    frontends: &'a Frontends,
    /// Number of each rule in force.
    numbers: &'a [u32],
    made: HashMap<Inputs<'a>, usize>,
    by_content: BTreeMap<Policy, usize>,
}

impl<'a> Writer<'a> {
    /// Of the rules in force, `numbers` has the number of each.
    pub(super) fn new(
        force: &'a Force<'a>,
        classes: &'a Classes,
        frontends: &'a Frontends,
        numbers: &'a [u32],
    ) -> Self {
        Self {
            force,
            classes,
            frontends,
            numbers,
            made: HashMap::new(),
            by_content: BTreeMap::new(),
        }
    }

    /// Index of the policy that isolates an endpoint for a direction by these lists of rules.
    pub(super) fn policy(
        &mut self,
        direction: Direction,
        lists: &'a [Range<usize>],
        endpoint: &Pod,
    ) -> usize {
        let mut resolved = BTreeMap::new();
        if direction == Direction::Ingress {
            for rule in lists.iter().cloned().flatten() {
                let named = self.force.rules[rule].ports.named().iter();
                resolved.extend(named.filter_map(|(_, port)| Some((port, port.resolve(endpoint)?))));
            }
        }
        let inputs = (direction, lists, resolved);
        if let Some(&index) = self.made.get(&inputs) {
            return index;
        }
        let policy = self.entries(&inputs);
        let next = self.by_content.len();
        let index = *self.by_content.entry(policy).or_insert(next);
        self.made.insert(inputs, index);
        index
    }

    /// The policies by index.
    pub(super) fn into_policies(self) -> Vec<Policy> {
        let mut policies: Vec<_> = self.by_content.into_iter().collect();
        policies.sort_unstable_by_key(|(_, index)| *index);
        policies.into_iter().map(|(policy, _)| policy).collect()
    }

    /// The union of the rules. Where several rules give one entry, the first has it.
    fn entries(&self, (direction, lists, resolved): &Inputs<'_>) -> Policy {
        let mut entries = BTreeMap::new();
        for index in lists.iter().cloned().flatten() {
            let rule = &self.force.rules[index];
            let mut allow = |class, protocol| {
                entries
                    .entry(Match { class, protocol })
                    .or_insert(self.numbers[index]);
            };
            let (blocks, named) = match rule.ports {
                Ports::All => {
                    self.classes_of(rule)
                        .into_iter()
                        .for_each(|class| allow(class, None));
                    continue;
                }
                Ports::Listed { blocks, named } => (blocks, named),
            };
            let mut matches: Vec<ProtocolMatch> = blocks.clone();
            if *direction == Direction::Ingress {
                let known = named
                    .iter()
                    .filter_map(|(_, port)| Some(port.at(*resolved.get(port)?)));
                matches.extend(known);
            }
            if !matches.is_empty() {
                for class in self.classes_of(rule) {
                    matches.iter().for_each(|protocol| allow(class, Some(*protocol)));
                }
            }
            if *direction == Direction::Egress {
                for (_, port) in named {
                    for (class, number) in on_peers(self.force, self.classes, rule, port) {
                        allow(class, Some(port.at(number)));
                    }
                }
            }
        }
        let entries = without_redundant(entries);
        let mut frontends = BTreeMap::new();
        if *direction == Direction::Egress {
            let everything = lists.iter().cloned().flatten().find(|&rule| {
                let rule = &self.force.rules[rule];
                rule.peers.is_none() && *rule.ports == Ports::All
            });
            for (index, targets) in self.frontends.list.iter().enumerate() {
                let passage = match everything {
                    Some(rule) => Some(Passage::Accept(self.numbers[rule])),
                    None => passage(&entries, targets),
                };
                frontends.extend(passage.map(|passage| (self.frontends.first + index, passage)));
            }
        }
        Policy { entries, frontends }
    }

    /// The classes that the peers of a rule match; all of them, class 0 too, for everyone (rule P1).
    fn classes_of(&self, rule: &ForceRule<'_>) -> BTreeSet<usize> {
        match &rule.peers {
            None => (0..self.classes.list.len()).collect(),
            Some(peers) => peers
                .iter()
                .flat_map(|&peer| &self.classes.by_peer[peer])
                .copied()
                .collect(),
        }
    }
}

/// What these entries say of a frontend (rule A5). Where some backends are allowed, a second look follows where the backend is known. Without
/// backends there is nothing to reach, and what kube-proxy answers may come.
fn passage(entries: &BTreeMap<Match, u32>, targets: &Targets) -> Option<Passage> {
    let mut allowed = None;
    let mut denied = false;
    for target in targets {
        let rule = if target.node {
            Some(0)
        } else {
            rule_for(entries, target)
        };
        allowed = allowed.max(rule);
        denied |= rule.is_none();
    }
    match (allowed, denied) {
        (Some(rule), false) => Some(Passage::Accept(rule)),
        (None, true) => None,
        (Some(_), true) | (None, false) => Some(Passage::Defer),
    }
}

/// The rule that allows a backend, if any.
fn rule_for(entries: &BTreeMap<Match, u32>, target: &Target) -> Option<u32> {
    let block = |prefix_len: u8| ProtocolMatch {
        protocol: target.protocol,
        port: target.port & u16::MAX.checked_shl(16 - u32::from(prefix_len)).unwrap_or(0),
        prefix_len,
    };
    let shorter = (0..=16).rev().map(|prefix_len| Some(block(prefix_len)));
    shorter.chain([None]).find_map(|protocol| {
        let class = target.class;
        entries.get(&Match { class, protocol }).copied()
    })
}

/// The classes that an egress rule matches by what pods they are, with the number that each gives a named port (rule T4).
fn on_peers(force: &Force<'_>, classes: &Classes, rule: &ForceRule<'_>, port: &PortKey) -> Vec<(usize, u16)> {
    let name = port.to_string();
    let number = |class: usize| Some((class, *classes.list[class].named_ports.get(&name)?));
    match &rule.peers {
        None => (0..classes.list.len()).filter_map(number).collect(),
        Some(peers) => {
            let selectors = peers
                .iter()
                .filter(|&&peer| matches!(force.peers[peer].1, PeerSpec::Pods { .. }));
            let matching: BTreeSet<usize> = selectors
                .flat_map(|&peer| &classes.by_peer[peer])
                .copied()
                .collect();
            matching.into_iter().filter_map(number).collect()
        }
    }
}

/// Reports the named ports of egress rules in force that no pod gives which the rule reaches (rule T4).
pub(super) fn report_unresolved_egress(force: &Force<'_>, classes: &Classes, findings: &mut Findings) {
    for rule in force
        .rules
        .iter()
        .filter(|rule| rule.reference.direction == Direction::Egress)
    {
        for (index, port) in rule.ports.named() {
            if on_peers(force, classes, rule, port).is_empty() {
                rule.report_unresolved(*index, port, "no pod that the rule reaches", findings);
            }
        }
    }
}

/// Leaves out what a shorter match of the same class allows too. Blocks of ports nest or are disjoint and sort after the
/// block around them, so only the last entry kept can cover the next.
fn without_redundant(entries: BTreeMap<Match, u32>) -> BTreeMap<Match, u32> {
    let mut last: Option<Match> = None;
    let keep = |(next, _): &(Match, u32)| {
        if last.is_some_and(|last| covers(&last, next)) {
            return false;
        }
        last = Some(*next);
        true
    };
    entries.into_iter().filter(keep).collect()
}

fn covers(outer: &Match, inner: &Match) -> bool {
    if outer.class != inner.class {
        return false;
    }
    match (outer.protocol, inner.protocol) {
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
