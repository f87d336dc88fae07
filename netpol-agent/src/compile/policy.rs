// SPDX-License-Identifier: Apache-2.0
//! Policies as plain data, and what they say of a class of addresses by protocol and port.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    class::Class,
    peer_set::PeerSet,
    rule::{Action, Ports, Rule},
};
use crate::model::{Direction, PortKey, ProtocolMatch};

/// Number of a policy, given once by a compiler.
pub type PolicyId = u64;

/// Stand-in for a policy that is over budget: denies everything (rule L2).
pub const CLOSED: PolicyId = PolicyId::MAX;

/// What applies to an endpoint in one direction: rules, and what becomes of a packet that none of
/// them matches.
///
/// A pod that NetworkPolicies isolate has the default [`Action::Deny`] and rules that accept
/// (rule I1). The type holds more: a pod that only some denials concern would have the default
/// [`Action::Accept`] and rules that deny; an audited pod would have an action of its own in the
/// place of [`Action::Deny`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Policy {
    /// The direction that it is for.
    pub direction: Direction,
    /// What becomes of a packet that no rule matches.
    pub default_action: Action,
    /// By precedence: of the rules that match a packet, the first decides.
    pub rules: Vec<Arc<Rule>>,
    /// Of ingress: the numbers that the endpoint gives the ports which the rules name (rule T4).
    pub named_ports: BTreeMap<PortKey, u16>,
    /// Number of the rule that accepts everything of everyone, unless one before it denies.
    /// Derived from the rules.
    accepts_all: Option<u32>,
}

/// What a policy says of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// What becomes of the packet.
    pub action: Action,
    /// Number of the rule that says so; 0: no rule, but the policy's default.
    pub rule: u32,
}

/// What a policy says of one class, in normal form, by protocol and port (`None`: all). The longest
/// match decides; what no entry matches is denied.
pub type Entries = BTreeMap<Option<ProtocolMatch>, Entry>;

#[cfg(test)]
thread_local! {
    /// How often this thread built the entries of a policy for a class. The number of frontends
    /// must not matter.
    pub(super) static BUILT: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// A rule of a policy that matches a class.
#[derive(Debug, Clone, Copy)]
pub(super) struct Match {
    /// Its place in the policy.
    pub(super) rule: usize,
    /// Whether its named ports can be ports of the class.
    pub(super) by_name: bool,
}

impl Policy {
    /// A policy of these rules, first the one that decides first.
    pub fn new(
        direction: Direction,
        default_action: Action,
        rules: Vec<Arc<Rule>>,
        named_ports: BTreeMap<PortKey, u16>,
    ) -> Self {
        let mut accepting = rules.iter().take_while(|rule| rule.action == Action::Accept);
        let all = accepting.find(|rule| rule.peers.is_none() && rule.ports == Ports::All);
        Self {
            direction,
            default_action,
            accepts_all: all.map(|rule| rule.number),
            rules,
            named_ports,
        }
    }

    /// The number of the rule that accepts everything of everyone, if there is one.
    pub(super) fn accepts_all(&self) -> Option<u32> {
        self.accepts_all
    }

    /// What no rule says.
    pub(super) fn default_entry(&self) -> Entry {
        Entry {
            action: self.default_action,
            rule: 0,
        }
    }

    /// The peers that it has entries for; `None`: it has entries for everyone.
    pub fn peers(&self) -> Option<PeerSet> {
        if self.default_action == Action::Accept {
            return None;
        }
        let sets: Option<Vec<&PeerSet>> = self.rules.iter().map(|rule| rule.peers.as_ref()).collect();
        Some(PeerSet::union_of(sets?))
    }

    /// What it says of a class of addresses.
    pub fn entries(&self, class: &Class) -> Entries {
        self.entries_by(&self.matching(class), class)
    }

    /// The same where the rules that match the class are known.
    pub(super) fn entries_by(&self, matching: &[Match], class: &Class) -> Entries {
        #[cfg(test)]
        BUILT.set(BUILT.get() + 1);
        let numbers = self.numbers(class);
        let mut found = Vec::new();
        for Match { rule: place, by_name } in matching {
            let rule = &self.rules[*place];
            let entry = Entry {
                action: rule.action,
                rule: rule.number,
            };
            let mut add = |protocol| found.push((protocol, *place, entry));
            let (blocks, named) = match &rule.ports {
                Ports::All => {
                    add(None);
                    continue;
                }
                Ports::Listed { blocks, named } => (blocks, named),
            };
            blocks.iter().for_each(|block| add(Some(*block)));
            for (_, port) in named.iter().filter(|_| *by_name) {
                if let Some(number) = numbers.get(port) {
                    add(Some(port.at(*number)));
                }
            }
        }
        if self.default_action == Action::Accept {
            found.push((None, self.rules.len(), self.default_entry()));
        }
        normal_form(found)
    }

    /// The rules that match a class, by precedence. Without those that a rule for all ports covers.
    pub(super) fn matching(&self, class: &Class) -> Vec<Match> {
        let numbers = self.numbers(class);
        let mut matching: Vec<Match> = Vec::new();
        for (place, rule) in self.rules.iter().enumerate() {
            let peers = rule.peers.as_ref();
            if peers.is_some_and(|peers| !peers.intersects(&class.peers)) {
                continue;
            }
            let named = rule.ports.named();
            let by_name = !named.is_empty() && !numbers.is_empty() && self.is_by_name(rule, class);
            matching.push(Match { rule: place, by_name });
            if rule.ports == Ports::All {
                if !self.is_mixed(&matching) {
                    matching.drain(..matching.len() - 1);
                }
                break;
            }
        }
        matching
    }

    /// Whether some of these rules accept and others deny.
    pub(super) fn is_mixed(&self, rules: &[Match]) -> bool {
        let action = |found: &Match| self.rules[found.rule].action;
        let mut actions = rules.iter().map(action);
        let first = actions.next();
        actions.any(|action| Some(action) != first)
    }

    /// The numbers of the ports that its rules name, for packets from or to a class.
    pub(super) fn numbers<'a>(&'a self, class: &'a Class) -> &'a BTreeMap<PortKey, u16> {
        match self.direction {
            Direction::Ingress => &self.named_ports,
            Direction::Egress => &class.named_ports,
        }
    }

    /// Whether a rule that matches a class matches its named ports too (rule T4).
    fn is_by_name(&self, rule: &Rule, class: &Class) -> bool {
        self.direction == Direction::Ingress || rule.selects(class)
    }
}

impl Rule {
    /// Whether an egress rule matches a class by the pods that it selects (rule T4).
    pub(super) fn selects(&self, class: &Class) -> bool {
        self.peers.is_none() || self.selectors.intersects(&class.peers)
    }
}

/// The entries of a class, from what each rule says: match, place of the rule, entry. Of equal
/// matches the first rule decides. An entry is left out if a rule of higher precedence says
/// something of all that it matches, or if the entry around it says the same.
fn normal_form(mut found: Vec<(Option<ProtocolMatch>, usize, Entry)>) -> Entries {
    found.sort_unstable_by_key(|(matched, place, _)| (*matched, *place));
    found.dedup_by_key(|(matched, ..)| *matched);
    // Blocks of ports nest or are disjoint, and sort after the block around them. So this is a
    // stack of those around the current one, each of higher precedence than those around it.
    let mut around: Vec<(Option<ProtocolMatch>, usize, Action)> = Vec::new();
    found.retain(|(matched, place, entry)| {
        while around
            .last()
            .is_some_and(|(outer, ..)| !ProtocolMatch::covers(*outer, *matched))
        {
            around.pop();
        }
        let outer = around.last().copied();
        if outer.is_some_and(|(_, before, _)| before < *place) {
            return false;
        }
        around.push((*matched, *place, entry.action));
        outer.is_none_or(|(.., action)| action != entry.action)
    });
    let entries = found.into_iter();
    entries.map(|(matched, _, entry)| (matched, entry)).collect()
}
