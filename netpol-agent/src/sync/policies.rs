// SPDX-License-Identifier: Apache-2.0
//! Which number stands for which policy, and the entries that each number needs.

use std::collections::{BTreeMap, BTreeSet};

use netpol_common::abi::{ACTION_ACCEPT, POLICY_DENY, POLICY_NONE, PolicyValue};

use super::{Entries, EntryKey, State};
use crate::compile::{Compiled, Match};

/// What a policy says of a class, for a number of that class. `None`, no policy, allows everything.
pub fn entries_for(compiled: &Compiled, policy: Option<usize>, class: usize, identity: u32) -> Entries {
    let Some(policy) = policy else {
        let everything = EntryKey {
            identity,
            protocol: None,
        };
        return Entries::from([(
            everything,
            PolicyValue {
                action: ACTION_ACCEPT,
                rule: 0,
            },
        )]);
    };
    compiled.policies[policy]
        .entries
        .range(
            Match {
                class,
                protocol: None,
            }..,
        )
        .take_while(|(matched, _)| matched.class == class)
        .map(|(matched, rule)| {
            (
                EntryKey {
                    identity,
                    protocol: matched.protocol,
                },
                PolicyValue {
                    action: ACTION_ACCEPT,
                    rule: *rule,
                },
            )
        })
        .collect()
}

/// What a policy number says of an identity now.
pub fn entries_of(state: &State, policy: u32, identity: u32) -> Entries {
    let Some(entries) = state.policies.get(&policy) else {
        return Entries::new();
    };
    entries
        .range(
            EntryKey {
                identity,
                protocol: None,
            }..,
        )
        .take_while(|(key, _)| key.identity == identity)
        .map(|(key, value)| (*key, *value))
        .collect()
}

/// The whole of a policy over all numbers.
pub fn expand(compiled: &Compiled, policy: usize, classes: &BTreeMap<u32, usize>) -> Entries {
    classes
        .iter()
        .flat_map(|(identity, class)| entries_for(compiled, Some(policy), *class, *identity))
        .collect()
}

/// A policy number in use in the kernel and the desired policy that takes its place; `None`: no longer isolated.
pub type Slots = BTreeSet<(u32, Option<usize>)>;

/// Whether every slot says of a number now what it will say then. The verdicts count, not the rules that give them.
pub fn stable(state: &State, compiled: &Compiled, slots: &Slots, number: u32, class: usize) -> bool {
    slots.iter().all(|(policy, desired)| {
        let then = entries_for(compiled, *desired, class, number);
        entries_of(state, *policy, number).keys().eq(then.keys())
    })
}

/// The number in the kernel that already says what each desired policy says, over the numbers that addresses carry now.
pub fn reusable(state: &State, compiled: &Compiled, classes: &BTreeMap<u32, usize>) -> BTreeMap<usize, u32> {
    let in_use = state
        .endpoints
        .values()
        .flat_map(|endpoint| [endpoint.ingress_policy, endpoint.egress_policy]);
    let numbers: BTreeSet<u32> = state.policies.keys().copied().chain(in_use).collect();
    let mut by_content: BTreeMap<Vec<(EntryKey, u32)>, u32> = BTreeMap::new();
    for number in numbers
        .into_iter()
        .filter(|number| ![POLICY_NONE, POLICY_DENY].contains(number))
    {
        let entries = state.policies.get(&number).into_iter().flatten();
        let content = entries
            .filter(|(key, _)| classes.contains_key(&key.identity))
            .map(|(key, value)| (*key, value.rule))
            .collect();
        by_content.entry(content).or_insert(number);
    }
    (0..compiled.policies.len())
        .filter_map(|policy| {
            let entries = expand(compiled, policy, classes);
            let content: Vec<_> = entries
                .into_iter()
                .map(|(key, value)| (key, value.rule))
                .collect();
            // Taken, so that two policies that differ only in what no address meets never share a number.
            by_content.remove(&content).map(|number| (policy, number))
        })
        .collect()
}

/// What a policy number that is about to be left must say of a number that no address carries yet: what all that take its
/// place will say.
pub fn extension(
    compiled: &Compiled,
    targets: impl Iterator<Item = Option<usize>>,
    class: usize,
    number: u32,
) -> Entries {
    targets
        .map(|target| entries_for(compiled, target, class, number))
        .reduce(|mut all, entries| {
            all.retain(|key, _| entries.contains_key(key));
            all
        })
        .unwrap_or_default()
}
