// SPDX-License-Identifier: Apache-2.0
//! Identities: the class that each number stands for, and the number that each prefix and frontend
//! carries.
//!
//! A class may have several numbers, a number has one class. An address takes a number in use only
//! if every active policy says of it what it will say after the plan. Otherwise it takes a new
//! number, which no packet has met before.

use std::{
    collections::{BTreeMap, BTreeSet},
    iter,
};

use ipnet::IpNet;
use netpol_common::abi::{IDENTITY_NODE, IDENTITY_NONE, IDENTITY_REMOTE_NODE, Identity};

use self::{agree::Agreement, allocator::Allocator};
pub use self::{changes::Changes, lengths::Lengths};
use super::{Last, Meaning, State};
use crate::{
    compile::{Address, ClassId, Compiled, NO_PEER},
    model::{Frontend, Map},
};

mod agree;
mod allocator;
mod changes;
mod lengths;

/// Prefix length in the map.
fn mapped_length(prefix: &IpNet) -> u8 {
    prefix.prefix_len() + if prefix.addr().is_ipv4() { 96 } else { 0 }
}

/// The numbers of a plan.
pub struct Numbering {
    /// What each number stands for: those that addresses carry now, and new ones. Carriers are
    /// counted as of after the plan.
    pub numbers: Map<u32, Meaning>,
    /// Numbers that this plan adds.
    pub fresh: BTreeSet<u32>,
    /// Numbers that may have lost their last carrier.
    pub left: BTreeSet<u32>,
    /// Prefixes to write, most specific first.
    pub puts: Vec<(IpNet, Identity)>,
    /// Prefixes to be removed once endpoints have their new policies, least specific first.
    pub removals: Vec<IpNet>,
    /// Prefixes whose removal changes their identity: removed before endpoints change, least
    /// specific first.
    pub early_removals: Vec<IpNet>,
    /// Frontends to write.
    pub frontend_puts: Vec<(Frontend, Identity)>,
    /// Frontends to remove.
    pub frontend_removals: Vec<Frontend>,
    /// An address that had an identity gets another, or a frontend comes, changes or goes.
    pub moves: bool,
}

/// What the numbers that addresses carry now stand for, with the carriers that are not in
/// `changes`.
///
/// A number that has such carriers keeps its class. Another gets the class that most of its
/// prefixes will have, among those that say the same of every peer that was active and still is.
/// Without such a class it has none, and its addresses leave it.
///
/// `last` is what the numbers stood for, if that is known. It is `same` if its classes are those of
/// `compiled` and the kernel holds it.
pub fn owners(
    state: &State,
    last: Option<&Last>,
    same: bool,
    compiled: &Compiled,
    changes: &Changes,
) -> (Map<u32, Meaning>, BTreeSet<u32>) {
    let lengths = Lengths::new(state, compiled, changes);
    let mut votes: BTreeMap<u32, BTreeMap<ClassId, usize>> = BTreeMap::new();
    let mut lost: BTreeMap<u32, usize> = BTreeMap::new();
    let mut vote = |number: u32, class: Option<ClassId>| {
        *lost.entry(number).or_default() += 1;
        if let Some(class) = class {
            *votes.entry(number).or_default().entry(class).or_default() += 1;
        }
    };
    for (prefix, address) in &changes.prefixes {
        if let Some(identity) = state.identities.get(prefix) {
            let class = address.map_or_else(
                || lengths.desired_class(compiled, *prefix),
                |address| address.class,
            );
            vote(identity.identity, Some(class));
        }
    }
    for (frontend, class) in &changes.frontends {
        if let Some(identity) = state.frontends.get(frontend) {
            vote(identity.identity, *class);
        }
    }
    let agreement = last.map(|last| Agreement::new(&last.compiled, compiled));
    let mut numbers = last
        .filter(|_| same)
        .map(|last| last.identities.clone())
        .unwrap_or_default();
    for (&number, &lost) in &lost {
        let stays = numbers
            .get(&number)
            .filter(|held| held.carriers > lost || number == IDENTITY_NONE);
        if let Some(held) = stays {
            let carriers = held.carriers - lost;
            numbers.insert(number, Meaning { carriers, ..*held });
            continue;
        }
        let meaning = last.and_then(|last| last.compiled.classes.get(&last.identities.get(&number)?.class));
        let agrees = |class: ClassId| match (&agreement, meaning) {
            (Some(agreement), Some(meaning)) => agreement.holds(meaning, class),
            _ => true,
        };
        let votes = votes.remove(&number).unwrap_or_default().into_iter();
        let class = votes
            .filter(|(class, _)| agrees(*class))
            .max_by_key(|(class, count)| (*count, std::cmp::Reverse(*class)));
        match class {
            Some((class, _)) => numbers.insert(number, Meaning { class, carriers: 0 }),
            None => numbers.remove(&number),
        };
    }
    let none = Meaning {
        class: NO_PEER,
        carriers: numbers.get(&IDENTITY_NONE).map_or(0, |held| held.carriers),
    };
    numbers.insert(IDENTITY_NONE, none);
    (numbers, lost.into_keys().collect())
}

fn flags(address: &Address) -> u32 {
    match address {
        Address { node: true, .. } => IDENTITY_NODE,
        Address {
            remote_node: true, ..
        } => IDENTITY_REMOTE_NODE,
        _ => 0,
    }
}

/// Numbers that nothing in the kernel has, and that the last plan did not know: first those above
/// all in use, then those between them.
fn fresh<'a>(state: &'a State, last: Option<&'a Last>) -> impl Iterator<Item = u32> + 'a {
    let of_entries = state
        .policies
        .values()
        .filter_map(|entries| Some(entries.last()?.0.identity));
    let carried = match last {
        Some(last) => last.identities.last().map(|(number, _)| *number),
        None => read(state).max(),
    };
    let most = of_entries.chain(carried).max().unwrap_or(IDENTITY_NONE);
    let between = move || {
        let of_entries = state.policies.values().flatten().map(|(key, _)| key.identity);
        let planned = last.into_iter().flat_map(|last| last.identities.iter());
        let carried = planned.map(|(number, _)| *number).chain(read(state));
        let held: BTreeSet<u32> = of_entries.chain(carried).collect();
        (1..most).filter(move |number| !held.contains(number))
    };
    // Numbers between are looked up only when needed.
    (most..=u32::MAX)
        .skip(1)
        .chain(iter::once_with(between).flatten())
}

/// The numbers that prefixes and frontends carry in the kernel.
fn read(state: &State) -> impl Iterator<Item = u32> {
    let identities = state.identities.values().chain(state.frontends.values());
    identities.map(|identity| identity.identity)
}

/// Gives every prefix and every frontend of `changes` its number. `numbers` are the owners, and
/// those that lost carriers. `stable` says whether all active policies say the same of a number in
/// use before and after.
pub fn number(
    state: &State,
    last: Option<&Last>,
    compiled: &Compiled,
    changes: &Changes,
    (numbers, left): (Map<u32, Meaning>, BTreeSet<u32>),
    stable: impl Fn(u32, ClassId) -> bool,
) -> Numbering {
    let mut turn = Turn {
        state,
        changes,
        lengths: Lengths::new(state, compiled, changes),
        allocator: Allocator::new(fresh(state, last), numbers.clone(), stable),
        numbering: Numbering {
            numbers,
            fresh: BTreeSet::new(),
            left,
            puts: Vec::new(),
            removals: Vec::new(),
            early_removals: Vec::new(),
            frontend_puts: Vec::new(),
            frontend_removals: Vec::new(),
            moves: false,
        },
        carriers: BTreeMap::new(),
    };
    let labels = turn.put_prefixes();
    turn.remove_prefixes(compiled, &labels);
    turn.frontends();
    turn.finish()
}

/// One turn of numbering.
struct Turn<'a, F, S> {
    state: &'a State,
    changes: &'a Changes,
    lengths: Lengths,
    allocator: Allocator<F, S>,
    numbering: Numbering,
    /// New carriers of each number.
    carriers: BTreeMap<u32, usize>,
}

impl<F: Iterator<Item = u32>, S: Fn(u32, ClassId) -> bool> Turn<'_, F, S> {
    /// Gives numbers to the prefixes that are wanted, and returns them.
    fn put_prefixes(&mut self) -> BTreeMap<IpNet, u32> {
        let mut labels = BTreeMap::new();
        let wanted = |(prefix, address): (&IpNet, &Option<Address>)| Some((*prefix, (*address)?));
        for (prefix, address) in self.changes.prefixes.iter().filter_map(wanted) {
            let current = self.state.identities.get(&prefix);
            let number = self
                .allocator
                .allocate(address.class, current.map(|identity| identity.identity));
            let identity = Identity {
                identity: number,
                flags: flags(&address),
            };
            labels.insert(prefix, number);
            *self.carriers.entry(number).or_default() += 1;
            if current != Some(&identity) {
                // The identity that the address had: its own, or that of the prefix around it.
                let before = current
                    .copied()
                    .or_else(|| self.lengths.longest_match(&self.state.identities, prefix));
                self.numbering.moves |=
                    before.is_some_and(|before| current.is_some() || before.identity != IDENTITY_NONE);
                self.numbering.puts.push((prefix, identity));
            }
        }
        labels
    }

    /// Takes away the prefixes that are not wanted. Where the prefix around one has another number,
    /// it is renumbered first.
    fn remove_prefixes(&mut self, compiled: &Compiled, labels: &BTreeMap<IpNet, u32>) {
        let label_of = |prefix: &IpNet| match self.changes.prefixes.get(prefix) {
            Some(None) => None,
            Some(Some(_)) => labels.get(prefix).copied(),
            None => Some(self.state.identities.get(prefix)?.identity),
        };
        let unwanted = self.changes.prefixes.iter();
        for (prefix, _) in unwanted.filter(|(_, address)| address.is_none()) {
            let Some(current) = self.state.identities.get(prefix) else {
                continue;
            };
            self.numbering.moves = true;
            let class = self.lengths.desired_class(compiled, *prefix);
            let cover = self
                .lengths
                .around(*prefix)
                .find_map(|net| label_of(&net))
                .unwrap_or(IDENTITY_NONE);
            if self.allocator.allocate(class, None) == cover {
                self.numbering.early_removals.push(*prefix);
                continue;
            }
            let number = self.allocator.allocate(class, Some(current.identity));
            if number != current.identity {
                let identity = Identity {
                    identity: number,
                    flags: current.flags,
                };
                self.numbering.puts.push((*prefix, identity));
            }
            self.numbering.removals.push(*prefix);
        }
    }

    fn frontends(&mut self) {
        for (frontend, class) in &self.changes.frontends {
            let current = self.state.frontends.get(frontend);
            let Some(class) = class else {
                if current.is_some() {
                    self.numbering.moves = true;
                    self.numbering.frontend_removals.push(*frontend);
                }
                continue;
            };
            let number = self
                .allocator
                .allocate(*class, current.map(|identity| identity.identity));
            let identity = Identity {
                identity: number,
                flags: 0,
            };
            *self.carriers.entry(number).or_default() += 1;
            if current != Some(&identity) {
                self.numbering.moves = true;
                self.numbering.frontend_puts.push((*frontend, identity));
            }
        }
    }

    /// Counts carriers, and sorts: what is put by long prefixes first, what is removed by short
    /// ones.
    fn finish(self) -> Numbering {
        let mut numbering = self.numbering;
        for (class, number) in self.allocator.fresh_of {
            numbering.fresh.insert(number);
            numbering.numbers.insert(number, Meaning { class, carriers: 0 });
        }
        for (number, more) in self.carriers {
            numbering
                .numbers
                .change(&number, |meaning| meaning.carriers += more);
        }
        numbering
            .puts
            .sort_by_key(|(prefix, _)| (std::cmp::Reverse(mapped_length(prefix)), *prefix));
        let removals = [&mut numbering.early_removals, &mut numbering.removals];
        for removals in removals {
            removals.sort_by_key(|prefix| (mapped_length(prefix), *prefix));
        }
        numbering
    }
}
