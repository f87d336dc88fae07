// SPDX-License-Identifier: Apache-2.0
//! What policies say of backends. Backends are many more than classes, so the rules that match a
//! class are found once for all backends that have it.

use std::{
    cell::RefCell,
    collections::{BTreeMap, btree_map::Entry as Slot},
    ptr,
    sync::Arc,
};

use super::{
    class::{Class, ClassId, Target},
    policy::{Entries, Entry, Match, Policy},
    rule::{Action, Ports},
};
use crate::model::{Map, ProtocolMatch};

/// Rules and entries that are remembered, about 16 to 40 bytes each; beyond, all are forgotten.
const MOST: usize = 1 << 20;

#[cfg(test)]
thread_local! {
    /// How often this thread compared the rules of a policy with a class of backends. The number
    /// of backends must not matter.
    pub(super) static MATCHED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
    /// How many rules and ports it looked at for all that: it must not be backends times rules.
    pub(super) static GONE_OVER: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Remembers what policies say of classes, as far as it was asked. It lives for one turn: it
/// borrows both.
pub struct Matches<'a> {
    classes: &'a Map<ClassId, Arc<Class>>,
    memo: RefCell<Memo>,
}

#[derive(Default)]
struct Memo {
    /// By the address of the policy, which stays where it is as it is borrowed.
    of: BTreeMap<(*const Policy, ClassId), OfClass>,
    /// Rules and entries in all.
    held: usize,
}

/// What a policy says of a class.
struct OfClass {
    rules: Vec<Match>,
    /// Rules and names that one question looks at.
    each: usize,
    /// How many more may be looked at before it costs less to make the entries.
    left: usize,
    /// Made only for a class of many backends: classes times ports would be more than any object
    /// may cost (rule L2).
    entries: Option<Entries>,
    /// Whether entries may lie within others.
    nested: bool,
}

impl<'a> Matches<'a> {
    /// Of these classes.
    pub fn among(classes: &'a Map<ClassId, Arc<Class>>) -> Self {
        Self {
            classes,
            memo: RefCell::default(),
        }
    }

    /// What a policy says of a backend: the entry that [`Policy::entries`] has for it, or the
    /// policy's default.
    pub(super) fn entry_for(&self, policy: &'a Policy, target: &Target) -> Entry {
        let class = self.classes.get(&target.class);
        class
            .and_then(|class| self.find(policy, class, target))
            .unwrap_or_else(|| policy.default_entry())
    }

    fn find(&self, policy: &'a Policy, class: &Class, target: &Target) -> Option<Entry> {
        let exact = ProtocolMatch {
            protocol: target.protocol,
            port: target.port,
            prefix_len: 16,
        };
        let Memo { of, held } = &mut *self.memo.borrow_mut();
        if *held > MOST {
            of.clear();
            *held = 0;
        }
        let known = match of.entry((ptr::from_ref(policy), target.class)) {
            Slot::Occupied(known) => known.into_mut(),
            Slot::Vacant(place) => {
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
                    return policy.entry_among(&known.rules, class, exact);
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
        longest_match(known.entries.as_ref()?, exact, known.nested)
    }
}

impl OfClass {
    fn new(policy: &Policy, class: &Class) -> Self {
        #[cfg(test)]
        MATCHED.set(MATCHED.get() + 1);
        let rules = policy.matching(class);
        let ports = |found: &Match| &policy.rules[found.rule].ports;
        let looked_at = |found: &Match| {
            1 + if found.by_name {
                ports(found).named().len()
            } else {
                0
            }
        };
        let mixed = policy.is_mixed(&rules);
        // Where rules differ in their action, only the entries tell which one decides.
        let left = match mixed {
            true => 0,
            false => rules.iter().map(|found| ports(found).count()).sum(),
        };
        Self {
            each: rules.iter().map(looked_at).sum(),
            left,
            nested: mixed || policy.default_action == Action::Accept,
            rules,
            entries: None,
        }
    }
}

impl Policy {
    /// The entry of the widest block around a port, and of several the first. The rules have one
    /// action.
    fn entry_among(&self, rules: &[Match], class: &Class, exact: ProtocolMatch) -> Option<Entry> {
        let mut found: Option<(u8, Entry)> = None;
        for Match { rule, by_name } in rules {
            let rule = &self.rules[*rule];
            let entry = Entry {
                action: rule.action,
                rule: rule.number,
            };
            let Ports::Listed { blocks, named } = &rule.ports else {
                return Some(entry);
            };
            let names = || named.iter().filter(|_| *by_name);
            let at = |port: ProtocolMatch| (port == exact).then_some(port);
            let number = |port| self.numbers(class).get(port);
            let block = block_around(blocks, exact)
                .or_else(|| names().find_map(|(_, port)| at(port.at(*number(port)?))));
            if let Some(block) = block
                && found.is_none_or(|(widest, _)| block.prefix_len < widest)
            {
                found = Some((block.prefix_len, entry));
            }
        }
        found.map(|(_, entry)| entry)
    }
}

/// The block that a port is in, of disjoint and ascending ones.
fn block_around(blocks: &[ProtocolMatch], port: ProtocolMatch) -> Option<ProtocolMatch> {
    let behind = blocks.partition_point(|block| (block.protocol, block.port) <= (port.protocol, port.port));
    let block = *blocks.get(behind.checked_sub(1)?)?;
    ProtocolMatch::covers(Some(block), Some(port)).then_some(block)
}

/// The entry of the longest match for a port. Entries that are not `nested` are disjoint.
fn longest_match(entries: &Entries, exact: ProtocolMatch, nested: bool) -> Option<Entry> {
    let (matched, entry) = entries.range(..=Some(exact)).next_back()?;
    if ProtocolMatch::covers(*matched, Some(exact)) {
        return Some(*entry);
    }
    if !nested {
        return None;
    }
    let block = |prefix_len: u8| ProtocolMatch {
        port: exact.port & u16::MAX.checked_shl(u32::from(16 - prefix_len)).unwrap_or(0),
        prefix_len,
        ..exact
    };
    let mut around = (0..16).rev().map(block).map(Some).chain([None]);
    around.find_map(|matched| entries.get(&matched)).copied()
}
