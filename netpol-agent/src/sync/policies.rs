// SPDX-License-Identifier: Apache-2.0
//! Policy numbers: the entries that each needs, and which one stands for which policy.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
};

use netpol_common::abi::{ACTION_ACCEPT, ACTION_DEFER, ACTION_DENY, PolicyValue};

use super::{EntryKey, Last, Meaning, State};
use crate::{
    compile::{Action, ClassId, Compiled, Entry, Matches, Passage, PeerSet, PolicyId},
    model::Map,
};

/// Entries, ascending.
pub type EntryList = Vec<(EntryKey, PolicyValue)>;

/// What a policy says of a class, as entries for an identity of that class. `None`, no policy,
/// accepts everything. `matches` is of the same classes.
pub fn entries_for<'a>(
    compiled: &'a Compiled,
    matches: &Matches<'a>,
    policy: Option<PolicyId>,
    class: ClassId,
    identity: u32,
) -> EntryList {
    let all = |action, rule| {
        let protocol = None;
        vec![(EntryKey { identity, protocol }, PolicyValue { action, rule })]
    };
    let Some(policy) = policy else {
        return all(ACTION_ACCEPT, 0);
    };
    let (Some(policy), Some(class)) = (compiled.policies.get(&policy), compiled.classes.get(&class)) else {
        return EntryList::new();
    };
    if class.frontend.is_some() {
        return match policy.passage(class, matches) {
            Some(Passage::Accept(rule)) => all(ACTION_ACCEPT, rule),
            Some(Passage::Defer) => all(ACTION_DEFER, 0),
            None => EntryList::new(),
        };
    }
    let entry = |(protocol, entry): (_, Entry)| {
        let value = PolicyValue {
            action: match entry.action {
                Action::Accept => ACTION_ACCEPT,
                Action::Deny => ACTION_DENY,
            },
            rule: entry.rule,
        };
        (EntryKey { identity, protocol }, value)
    };
    policy.entries(class).into_iter().map(entry).collect()
}

/// The entries of a policy number for an identity.
pub fn entries_of(state: &State, policy: u32, identity: u32) -> EntryList {
    let Some(entries) = state.policies.get(&policy) else {
        return EntryList::new();
    };
    entries
        .behind(|key| key.identity < identity)
        .take_while(|(key, _)| key.identity == identity)
        .map(|(key, value)| (*key, *value))
        .collect()
}

/// Expands policies into entries for all identities.
pub struct Expander<'a> {
    compiled: &'a Compiled,
    matches: &'a Matches<'a>,
    numbers: &'a Map<u32, Meaning>,
    /// Peers of the policies that may be expanded.
    peers: PeerSet,
    index: OnceCell<Index>,
}

/// Identities by what they stand for.
#[derive(Default)]
struct Index {
    /// By the set of peers that they match. There are as many lists as such sets, not as pairs of
    /// an identity and a peer.
    by_peers: BTreeMap<PeerSet, Vec<u32>>,
    frontends: Vec<u32>,
}

impl<'a> Expander<'a> {
    /// Expands these policies for these identities.
    pub fn new(
        (compiled, matches): (&'a Compiled, &'a Matches<'a>),
        numbers: &'a Map<u32, Meaning>,
        policies: impl Iterator<Item = PolicyId>,
    ) -> Self {
        let peers = policies.filter_map(|policy| compiled.policies.get(&policy)?.peers());
        Self {
            compiled,
            matches,
            numbers,
            peers: PeerSet::union_of(&peers.collect::<Vec<_>>()),
            index: OnceCell::new(),
        }
    }

    /// All entries of a policy. One that concerns its peers only has entries for identities that
    /// match one of them, and for frontends.
    pub fn expand(&self, policy: PolicyId) -> EntryList {
        let entries =
            |number: u32, class| entries_for(self.compiled, self.matches, Some(policy), class, number);
        let Some(peers) = self
            .compiled
            .policies
            .get(&policy)
            .and_then(|policy| policy.peers())
        else {
            let all = self.numbers.iter();
            return all
                .flat_map(|(number, meaning)| entries(*number, meaning.class))
                .collect();
        };
        let Index { by_peers, frontends } = self.index.get_or_init(|| self.index());
        let matching = by_peers.iter().filter(|(matched, _)| matched.intersects(&peers));
        let numbers = matching.flat_map(|(_, numbers)| numbers).chain(frontends);
        let numbers: BTreeSet<u32> = numbers.copied().collect();
        let meant = numbers
            .into_iter()
            .filter_map(|number| Some((number, self.numbers.get(&number)?.class)));
        meant.flat_map(|(number, class)| entries(number, class)).collect()
    }

    fn index(&self) -> Index {
        let mut index = Index::default();
        for (number, meaning) in self.numbers {
            let Some(class) = self.compiled.classes.get(&meaning.class) else {
                continue;
            };
            if class.frontend.is_some() {
                index.frontends.push(*number);
            } else if class.peers.intersects(&self.peers) {
                let matched = class.peers.intersection(&self.peers);
                index.by_peers.entry(matched).or_default().push(*number);
            }
        }
        index
    }
}

/// Policy numbers in use in the kernel, each with the desired policy that replaces it; `None`: the
/// endpoint is no longer isolated.
pub type Replacements = BTreeSet<(u32, Option<PolicyId>)>;

/// Whether a number in use stands for the policy that replaces it, by the last plan. Then it says
/// already what it will say of every identity that keeps its class or gets an equal one.
pub fn is_steady(last: Option<&Last>, (number, target): &(u32, Option<PolicyId>)) -> bool {
    last.is_some_and(|last| target.is_some() && last.policies.get(number) == target.as_ref())
}

/// Whether every policy number in use says of an identity now what it will say after the plan. The
/// verdicts count, not the rules that give them.
pub fn stable<'a>(
    state: &State,
    last: Option<&Last>,
    (compiled, matches): (&'a Compiled, &Matches<'a>),
    replacements: &Replacements,
    number: u32,
    class: ClassId,
) -> bool {
    let mut changing = replacements
        .iter()
        .filter(|replacement| !is_steady(last, replacement));
    changing.all(|(policy, desired)| {
        let says = |entries: EntryList| -> Vec<_> {
            let entries = entries.into_iter();
            entries.map(|(key, value)| (key, value.action)).collect()
        };
        let then = entries_for(compiled, matches, *desired, class, number);
        says(entries_of(state, *policy, number)) == says(then)
    })
}

/// For each of these policies, the number in the kernel that already says the same of all
/// identities that addresses carry: one that its endpoints have, or one that no endpoint has. A
/// number that endpoints are about to leave is not taken: it will get entries of another policy,
/// for identities that no address carries yet.
pub fn reusable(
    state: &State,
    last: Option<&Last>,
    expander: &Expander<'_>,
    replacements: &Replacements,
    policies: &BTreeSet<PolicyId>,
) -> BTreeMap<PolicyId, u32> {
    type Content = Vec<(EntryKey, (u32, u32))>;
    let content = |entries: &mut dyn Iterator<Item = (EntryKey, PolicyValue)>| -> Content {
        entries
            .map(|(key, value)| (key, (value.action, value.rule)))
            .collect()
    };
    let content_of = |number: u32| -> Content {
        let entries = state.policies.get(&number).into_iter().flatten();
        let mut known = entries
            .filter(|(key, _)| expander.numbers.contains_key(&key.identity))
            .map(|(key, value)| (*key, *value));
        content(&mut known)
    };
    let mut unused: BTreeMap<Content, u32> = BTreeMap::new();
    // After a plan that was written, all numbers are in use.
    if last.is_none() {
        let in_use: BTreeSet<u32> = state.policies_in_use().collect();
        for number in state.policies.keys().filter(|number| !in_use.contains(number)) {
            unused.entry(content_of(*number)).or_insert(*number);
        }
    }
    let mut reusable = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for policy in policies {
        let mut held = replacements.iter().filter(|(_, target)| *target == Some(*policy));
        let steady = held.clone().find(|replacement| is_steady(last, replacement));
        let number = steady.map(|(number, _)| *number).or_else(|| {
            if held.clone().next().is_none() && unused.is_empty() {
                return None;
            }
            let wanted = content(&mut expander.expand(*policy).into_iter());
            let held = held.find(|(number, _)| !taken.contains(number) && content_of(*number) == wanted);
            held.map(|(number, _)| *number).or_else(|| unused.remove(&wanted))
        });
        if let Some(number) = number {
            taken.insert(number);
            reusable.insert(*policy, number);
        }
    }
    reusable
}
