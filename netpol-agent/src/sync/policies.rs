// SPDX-License-Identifier: Apache-2.0
//! Which number stands for which policy, and the entries that each number needs.

use std::collections::{BTreeMap, BTreeSet};

use netpol_common::abi::{ACTION_ACCEPT, ACTION_DEFER, PolicyValue};

use super::{Entries, EntryKey, State};
use crate::compile::{Compiled, Match, Passage};

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
    let policy = &compiled.policies[policy];
    if let Some(passage) = policy.frontends.get(&class) {
        let (action, rule) = match passage {
            Passage::Accept(rule) => (ACTION_ACCEPT, *rule),
            Passage::Defer => (ACTION_DEFER, 0),
        };
        let protocol = None;
        return Entries::from([(EntryKey { identity, protocol }, PolicyValue { action, rule })]);
    }
    policy
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
        let says = |entries: Entries| -> Vec<_> {
            let entries = entries.into_iter();
            entries.map(|(key, value)| (key, value.action)).collect()
        };
        let then = entries_for(compiled, *desired, class, number);
        says(entries_of(state, *policy, number)) == says(then)
    })
}

/// The number in the kernel that already says what each desired policy says, over the numbers that addresses carry now: the one that
/// its endpoints have, or one that no endpoint has. A number that endpoints are about to leave is not taken: it will be told other
/// things of identities that no address carries yet.
pub fn reusable(
    state: &State,
    compiled: &Compiled,
    slots: &Slots,
    classes: &BTreeMap<u32, usize>,
) -> BTreeMap<usize, u32> {
    type Content = Vec<(EntryKey, (u32, u32))>;
    let content_of = |number: u32| -> Content {
        let entries = state.policies.get(&number).into_iter().flatten();
        let known = entries.filter(|(key, _)| classes.contains_key(&key.identity));
        known
            .map(|(key, value)| (*key, (value.action, value.rule)))
            .collect()
    };
    let mut unused: BTreeMap<Content, u32> = BTreeMap::new();
    for number in state.policies.keys() {
        let in_use = state
            .endpoints
            .values()
            .any(|endpoint| [endpoint.ingress_policy, endpoint.egress_policy].contains(number));
        if !in_use {
            unused.entry(content_of(*number)).or_insert(*number);
        }
    }
    let mut reusable = BTreeMap::new();
    for policy in 0..compiled.policies.len() {
        let wanted: Content = expand(compiled, policy, classes)
            .into_iter()
            .map(|(key, value)| (key, (value.action, value.rule)))
            .collect();
        let held = slots
            .iter()
            .filter(|(_, target)| *target == Some(policy))
            .map(|(number, _)| *number)
            .find(|number| content_of(*number) == wanted && !reusable.values().any(|taken| taken == number));
        if let Some(number) = held.or_else(|| unused.remove(&wanted)) {
            reusable.insert(policy, number);
        }
    }
    reusable
}
