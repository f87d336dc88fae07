// SPDX-License-Identifier: Apache-2.0
//! Which number stands for which class, and which prefix and frontend carries which number.
//!
//! A class may have several numbers, a number has one class. An address only takes a number that is in use where every policy in
//! force says of that number what it will say after the plan; otherwise it takes a new one, which no packet has met before.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use netpol_common::abi::{IDENTITY_NODE, IDENTITY_NONE, IDENTITY_REMOTE_NODE, Identity};

use super::{Memory, State, longest_match};
use crate::compile::{Address, Backend, Class, Compiled, Frontend};

/// What each prefix shall stand for. The map holds IPv4 mapped into IPv6, where a wide IPv6 prefix would cover it: so IPv4 as a whole
/// always has an entry of its own.
pub fn desired_addresses(compiled: &Compiled) -> BTreeMap<IpNet, Address> {
    let mut addresses = compiled.addresses.clone();
    let all_of_ipv4 = IpNet::from(ipnet::Ipv4Net::default());
    addresses.entry(all_of_ipv4).or_default();
    addresses
}

/// Prefix length in the map.
fn mapped_length(prefix: &IpNet) -> u8 {
    prefix.prefix_len() + if prefix.addr().is_ipv4() { 96 } else { 0 }
}

/// The numbers of a plan.
pub struct Numbering {
    /// Class of each number: those that addresses carry now, and new ones.
    pub classes: BTreeMap<u32, usize>,
    /// Numbers that this plan brings in.
    pub fresh: BTreeSet<u32>,
    /// What each prefix shall carry, most specific first: those to be written.
    pub puts: Vec<(IpNet, Identity)>,
    /// Prefixes to be removed once endpoints have their new policies, least specific first.
    pub removals: Vec<IpNet>,
    /// Prefixes whose removal is the change of their identity: removed before, least specific first.
    pub early_removals: Vec<IpNet>,
    /// What each frontend shall carry: those to be written.
    pub frontend_puts: Vec<(Frontend, Identity)>,
    /// Frontends that are no more.
    pub frontend_removals: Vec<Frontend>,
    /// An address that had an identity gets another, or a frontend comes, changes or goes.
    pub moves: bool,
}

/// Classes of the numbers that addresses carry now: for each the class that most of its prefixes will have, among those that say the
/// same of every peer that was in force and still is. A number without such a class has none, and its addresses leave it.
pub fn owners(state: &State, memory: &Memory, compiled: &Compiled) -> BTreeMap<u32, usize> {
    let mut votes: BTreeMap<u32, BTreeMap<usize, usize>> = BTreeMap::new();
    for (prefix, identity) in &state.identities {
        *votes
            .entry(identity.identity)
            .or_default()
            .entry(desired_class(compiled, *prefix))
            .or_default() += 1;
    }
    for (frontend, identity) in &state.frontends {
        if let Some(class) = compiled.frontends.get(frontend) {
            *votes
                .entry(identity.identity)
                .or_default()
                .entry(*class)
                .or_default() += 1;
        }
    }
    let mut owners: BTreeMap<u32, usize> = votes
        .into_iter()
        .filter_map(|(number, votes)| {
            let meaning = memory.meanings.get(&number);
            votes
                .into_iter()
                .filter(|(class, _)| meaning.is_none_or(|meaning| agree(meaning, memory, compiled, *class)))
                .max_by_key(|(class, count)| (*count, std::cmp::Reverse(*class)))
                .map(|(class, _)| (number, class))
        })
        .collect();
    owners.insert(IDENTITY_NONE, 0);
    owners
}

/// Whether a class says what a number's former class said, as far as the same peers are in force.
fn agree(meaning: &Class, memory: &Memory, compiled: &Compiled, class: usize) -> bool {
    let class = &compiled.classes[class];
    let same = |then: &BTreeSet<String>, now: &BTreeSet<String>| {
        let then = then.iter().filter(|peer| compiled.peers.contains(*peer));
        let now = now.iter().filter(|peer| memory.peers.contains(*peer));
        then.eq(now)
    };
    match (&meaning.frontend, &class.frontend) {
        (None, None) => same(&meaning.peers, &class.peers) && meaning.named_ports == class.named_ports,
        (Some(then), Some(now)) => {
            let alike = |then: &Backend, now: &Backend| {
                (then.node, then.protocol, then.port, &then.named_ports)
                    == (now.node, now.protocol, now.port, &now.named_ports)
                    && same(&then.peers, &now.peers)
            };
            let known = |then: &Backend| now.iter().any(|now| alike(then, now));
            let held = |now: &Backend| then.iter().any(|then| alike(then, now));
            then.iter().all(known) && now.iter().all(held)
        }
        _ => false,
    }
}

/// The class that a prefix, or the region it leaves behind, will have.
fn desired_class(compiled: &Compiled, prefix: IpNet) -> usize {
    longest_match(&compiled.addresses, prefix).map_or(0, |address| address.class)
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

/// Gives every prefix and every frontend its number. `stable` says whether all policies in force agree, before and after, on a number in use.
pub fn number(
    state: &State,
    compiled: &Compiled,
    addresses: &BTreeMap<IpNet, Address>,
    owners: BTreeMap<u32, usize>,
    mut stable: impl FnMut(u32) -> bool,
) -> Numbering {
    let first_fresh = 1 + state
        .identities
        .values()
        .chain(state.frontends.values())
        .map(|identity| identity.identity)
        .chain(
            state
                .policies
                .values()
                .flat_map(|entries| entries.keys().map(|key| key.identity)),
        )
        .max()
        .unwrap_or(IDENTITY_NONE);
    let mut joinable: BTreeMap<usize, Option<u32>> = BTreeMap::new();
    let mut numbering = Numbering {
        classes: owners,
        fresh: BTreeSet::new(),
        puts: Vec::new(),
        removals: Vec::new(),
        early_removals: Vec::new(),
        frontend_puts: Vec::new(),
        frontend_removals: Vec::new(),
        moves: false,
    };
    let mut fresh_of: BTreeMap<usize, u32> = BTreeMap::new();
    let mut number_for = |class: usize, current: Option<u32>, numbering: &mut Numbering| {
        if let Some(current) = current
            && numbering.classes.get(&current) == Some(&class)
        {
            return current;
        }
        let join = *joinable.entry(class).or_insert_with(|| {
            let mut numbers = numbering
                .classes
                .iter()
                .filter(|(_, owner)| **owner == class)
                .map(|(number, _)| *number);
            numbers.find(|number| stable(*number))
        });
        join.unwrap_or_else(|| {
            *fresh_of.entry(class).or_insert_with(|| {
                let number = first_fresh + numbering.fresh.len() as u32;
                numbering.fresh.insert(number);
                number
            })
        })
    };

    let mut labels = BTreeMap::new();
    for (prefix, address) in addresses {
        let current = state.identities.get(prefix);
        let number = number_for(
            address.class,
            current.map(|identity| identity.identity),
            &mut numbering,
        );
        let identity = Identity {
            identity: number,
            flags: flags(address),
        };
        labels.insert(*prefix, number);
        if current != Some(&identity) {
            // What the address had: an entry of its own, or that of the prefix around it.
            let before = current
                .copied()
                .or_else(|| longest_match(&state.identities, *prefix));
            numbering.moves |=
                before.is_some_and(|before| current.is_some() || before.identity != IDENTITY_NONE);
            numbering.puts.push((*prefix, identity));
        }
    }
    for (prefix, current) in &state.identities {
        if addresses.contains_key(prefix) {
            continue;
        }
        numbering.moves = true;
        let class = desired_class(compiled, *prefix);
        let cover = longest_match(&labels, *prefix).unwrap_or(IDENTITY_NONE);
        if number_for(class, None, &mut numbering) == cover {
            numbering.early_removals.push(*prefix);
            continue;
        }
        let number = number_for(class, Some(current.identity), &mut numbering);
        if number != current.identity {
            numbering.puts.push((
                *prefix,
                Identity {
                    identity: number,
                    flags: current.flags,
                },
            ));
        }
        numbering.removals.push(*prefix);
    }
    for (frontend, class) in &compiled.frontends {
        let current = state.frontends.get(frontend);
        let current_number = current.map(|identity| identity.identity);
        let identity = Identity {
            identity: number_for(*class, current_number, &mut numbering),
            flags: 0,
        };
        if current != Some(&identity) {
            numbering.moves = true;
            numbering.frontend_puts.push((*frontend, identity));
        }
    }
    for frontend in state.frontends.keys() {
        if !compiled.frontends.contains_key(frontend) {
            numbering.moves = true;
            numbering.frontend_removals.push(*frontend);
        }
    }
    for (class, number) in fresh_of {
        numbering.classes.insert(number, class);
    }
    numbering
        .puts
        .sort_by_key(|(prefix, _)| (std::cmp::Reverse(mapped_length(prefix)), *prefix));
    numbering
        .early_removals
        .sort_by_key(|prefix| (mapped_length(prefix), *prefix));
    numbering
        .removals
        .sort_by_key(|prefix| (mapped_length(prefix), *prefix));
    numbering
}
