// SPDX-License-Identifier: Apache-2.0
//! The entries of policy numbers: those to write, and those that nothing needs any more.

use std::collections::{BTreeMap, BTreeSet};

use netpol_common::abi::{Endpoint, IDENTITY_NONE};

use super::{Numbers, replacements::is_shareable};
use crate::{
    compile::{Compiled, Matches},
    model::Map,
    sync::{
        EntryKey, Last, Meaning, Put, Remove, State, Write,
        identities::Numbering,
        policies::{self, EntryList, Expander, Replacements},
    },
};

/// Writes new policies as a whole, and extends those in use by the identities that no address
/// carries yet.
pub(super) fn puts<'a>(
    state: &State,
    last: Option<&Last>,
    (compiled, matches): (&'a Compiled, &'a Matches<'a>),
    (replacements, numbers): (&Replacements, &Numbers),
    numbering: &'a Numbering,
) -> Vec<Write> {
    let mut writes = Vec::new();
    let mut put = |policy: u32, entries: EntryList| {
        let held = state.policies.get(&policy);
        for (key, value) in entries {
            if held.and_then(|held| held.get(&key)) != Some(&value) {
                writes.push(Write::Policies(Put((policy, key), value)));
            }
        }
    };
    let fresh = |policy| {
        let identities = numbering.fresh.iter();
        identities.flat_map(move |identity| {
            let class = numbering.numbers[identity].class;
            policies::entries_for(compiled, matches, policy, class, *identity)
        })
    };
    let is_steady = |policy, number| policies::is_steady(last, &(number, Some(policy)));
    let whole = numbers
        .iter()
        .filter(|(policy, number)| !is_steady(**policy, **number));
    let expander = Expander::new(
        (compiled, matches),
        &numbering.numbers,
        whole.map(|(policy, _)| *policy),
    );
    for (policy, number) in numbers.iter().filter(|(_, number)| is_shareable(**number)) {
        if is_steady(*policy, *number) {
            put(*number, fresh(Some(*policy)).collect());
        } else {
            put(*number, expander.expand(*policy));
        }
    }
    let written: BTreeSet<u32> = numbers.values().copied().collect();
    for (policy, target) in replacements
        .iter()
        .filter(|(policy, _)| !written.contains(policy))
    {
        put(*policy, fresh(*target).collect());
    }
    writes
}

/// Returns the identities that stay, and the writes that remove policies which no endpoint has and
/// entries for identities which no address carries. `writes` are those before. Unless `all_known`,
/// there may be identities that the last plan does not remember.
pub(super) fn sweep(
    state: &State,
    all_known: bool,
    numbering: Numbering,
    endpoints: &BTreeMap<u32, Endpoint>,
    writes: &[Write],
) -> (Map<u32, Meaning>, Vec<Write>) {
    let Numbering {
        mut numbers,
        fresh,
        left,
        ..
    } = numbering;
    let looked_at: Vec<u32> = if all_known {
        left.union(&fresh).copied().collect()
    } else {
        numbers.keys().copied().collect()
    };
    let is_dead = |number: &u32| {
        *number != IDENTITY_NONE && numbers.get(number).is_none_or(|meaning| meaning.carriers == 0)
    };
    let dead: BTreeSet<u32> = looked_at.into_iter().filter(is_dead).collect();
    for number in &dead {
        numbers.remove(number);
    }
    let used: BTreeSet<u32> = endpoints
        .values()
        .flat_map(|endpoint| [endpoint.ingress_policy, endpoint.egress_policy])
        .collect();
    let mut after = state.clone();
    for write in writes {
        if let Write::Policies(Put(..)) = write {
            after.record(write);
        }
    }
    let mut removals = Vec::new();
    for (policy, entries) in &after.policies {
        let mut remove = |key: &EntryKey| {
            removals.push(Write::Policies(Remove((*policy, *key))));
        };
        if !used.contains(policy) {
            entries.keys().for_each(&mut remove);
        } else if all_known {
            for number in &dead {
                let of_number = policies::entries_of(&after, *policy, *number);
                of_number.iter().for_each(|(key, _)| remove(key));
            }
        } else {
            let gone = entries.keys().filter(|key| !numbers.contains_key(&key.identity));
            gone.for_each(&mut remove);
        }
    }
    (numbers, removals)
}
