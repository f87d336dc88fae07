// SPDX-License-Identifier: Apache-2.0
//! What policies allow of backends, of which there are many more than classes: the rules that match
//! a class are found once for all backends that have it.

use std::{
    cell::RefCell,
    collections::{BTreeMap, btree_map::Entry},
    ptr,
    sync::Arc,
};

use super::{Entries, Policy, block_around, covers};
use crate::{
    compile::{Class, ClassId, Target, ports::Ports, ports::ProtocolMatch},
    model::Map,
};

/// Rules and entries that are remembered, about 16 to 40 bytes each; beyond, all are forgotten.
const MOST: usize = 1 << 20;

#[cfg(test)]
thread_local! {
    /// How often this thread held the rules of a policy against a class of backends: what the
    /// number of backends must not come into.
    pub(in crate::compile) static MATCHED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
    /// How many rules and ports it went over for all that: what must not be backends times rules.
    pub(in crate::compile) static GONE_OVER: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// What policies say of classes, as far as it was asked. It is for one turn: it borrows both.
pub struct Matches<'a> {
    /// The classes.
    pub(super) classes: &'a Map<ClassId, Arc<Class>>,
    known: RefCell<Known>,
}

#[derive(Default)]
struct Known {
    /// By the policy, which stays where it is as it is borrowed.
    of: BTreeMap<(*const Policy, ClassId), OfClass>,
    /// Rules and entries in all.
    held: usize,
}

/// What a policy says of a class.
struct OfClass {
    rules: Vec<Match>,
    /// Rules and names that each question goes over.
    each: usize,
    /// How many more may be gone over before it costs less to make the entries.
    left: usize,
    /// Made only for a class of many backends: classes times ports would be more than any object
    /// may cost (rule L2).
    entries: Option<Entries>,
}

/// A rule that matches a class.
#[derive(Debug, Clone, Copy)]
pub(super) struct Match {
    /// Its place in the policy.
    pub(super) rule: usize,
    /// Whether its named ports may be ports there.
    pub(super) by_name: bool,
}

impl<'a> Matches<'a> {
    /// Of these classes.
    pub fn among(classes: &'a Map<ClassId, Arc<Class>>) -> Self {
        Self {
            classes,
            known: RefCell::default(),
        }
    }

    /// The rule that allows a backend, if any: that of the entry which [`Policy::entries`] has for
    /// it.
    pub(super) fn rule_for(&self, policy: &'a Policy, target: &Target) -> Option<u32> {
        let class = self.classes.get(&target.class)?;
        let exact = ProtocolMatch {
            protocol: target.protocol,
            port: target.port,
            prefix_len: 16,
        };
        let Known { of, held } = &mut *self.known.borrow_mut();
        if *held > MOST {
            of.clear();
            *held = 0;
        }
        let known = match of.entry((ptr::from_ref(policy), target.class)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let known = place.insert(OfClass::new(policy, class));
                *held += 1 + known.rules.len();
                known
            }
        };
        if known.entries.is_none() {
            match known.left.checked_sub(known.each) {
                Some(left) => {
                    known.left = left;
                    #[cfg(test)]
                    GONE_OVER.set(GONE_OVER.get() + known.each);
                    return policy.rule_among(&known.rules, class, exact);
                }
                None => {
                    let entries = policy.entries_by(&known.rules, class);
                    #[cfg(test)]
                    GONE_OVER.set(GONE_OVER.get() + entries.len());
                    *held += entries.len();
                    known.entries = Some(entries);
                }
            }
        }
        // They are disjoint.
        let (around, rule) = known.entries.as_ref()?.range(..=Some(exact)).next_back()?;
        covers(*around, Some(exact)).then_some(*rule)
    }
}

impl OfClass {
    fn new(policy: &Policy, class: &Class) -> Self {
        #[cfg(test)]
        MATCHED.set(MATCHED.get() + 1);
        let rules = policy.matching(class);
        let ports = |found: &Match| &policy.rules[found.rule].ports;
        let gone_over = |found: &Match| {
            1 + if found.by_name {
                ports(found).named().len()
            } else {
                0
            }
        };
        Self {
            each: rules.iter().map(gone_over).sum(),
            left: rules.iter().map(|found| ports(found).count()).sum(),
            rules,
            entries: None,
        }
    }
}

impl Policy {
    /// The rules that allow something of a class, in their order; the first that allows everything
    /// alone, if there is one.
    pub(super) fn matching(&self, class: &Class) -> Vec<Match> {
        let numbers = self.numbers(class);
        let mut matching = Vec::new();
        for (place, rule) in self.rules.iter().enumerate() {
            let peers = rule.peers.as_ref();
            if peers.is_some_and(|peers| !peers.intersects(&class.peers)) {
                continue;
            }
            let named = rule.ports.named();
            let by_name = !named.is_empty() && !numbers.is_empty() && self.is_by_name(rule, class);
            let found = Match { rule: place, by_name };
            match &rule.ports {
                Ports::All => return vec![found],
                Ports::Listed { .. } => matching.push(found),
            }
        }
        matching
    }

    /// The rule of the widest block around a port, and of several the first.
    fn rule_among(&self, rules: &[Match], class: &Class, exact: ProtocolMatch) -> Option<u32> {
        let mut found: Option<(u8, u32)> = None;
        for Match { rule, by_name } in rules {
            let rule = &self.rules[*rule];
            let Ports::Listed { blocks, named } = &rule.ports else {
                return Some(rule.number);
            };
            let names = || named.iter().filter(|_| *by_name);
            let at = |port: ProtocolMatch| (port == exact).then_some(port);
            let number = |port| self.numbers(class).get(port);
            let block = block_around(blocks, exact)
                .or_else(|| names().find_map(|(_, port)| at(port.at(*number(port)?))));
            if let Some(block) = block
                && found.is_none_or(|(widest, _)| block.prefix_len < widest)
            {
                found = Some((block.prefix_len, rule.number));
            }
        }
        found.map(|(_, number)| number)
    }
}
