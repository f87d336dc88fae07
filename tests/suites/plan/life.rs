// SPDX-License-Identifier: Apache-2.0
//! Whatever happened to an agent, its state in the kernel is what a fresh start makes.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use netpol_agent::{
    model::Snapshot,
    sync::{EntryKey, Memory, Plan, Remove, Stages, State, Write},
};
use netpol_common::abi::{IDENTITY_NONE, Identity, SENDER_AMBIGUOUS};
use netpol_tests::random::{Random, any_change, batch, cluster, little_restricted_room};
use proptest::prelude::*;

use super::{Bench, cut_off, interface, run};

/// Returns a state that does not depend on history: numbers are replaced by their meaning.
fn canonical(state: &State) -> impl PartialEq + std::fmt::Debug {
    let identities: BTreeMap<_, _> = state
        .identities
        .iter()
        .map(|(prefix, identity)| (*prefix, identity.flags))
        .collect();
    let says = |policy: u32| {
        let entries = state.policies.get(&policy).into_iter().flatten();
        let by_prefix: BTreeSet<_> = entries
            .flat_map(|(key, value)| {
                let prefixes = state
                    .identities
                    .iter()
                    .filter(|(_, identity)| identity.identity == key.identity);
                let world = (key.identity == IDENTITY_NONE).then_some(None);
                let frontends = state
                    .frontends
                    .iter()
                    .filter(|(_, identity)| identity.identity == key.identity);
                let prefixes: Vec<_> = prefixes
                    .map(|(prefix, _)| Some(prefix.to_string()))
                    .chain(world)
                    .chain(frontends.map(|(frontend, _)| Some(format!("{frontend:?}"))))
                    .collect();
                prefixes
                    .into_iter()
                    .map(|prefix| (prefix, key.protocol, value.action, value.rule))
            })
            .collect();
        (policy == 0, by_prefix)
    };
    let endpoints: BTreeMap<_, _> = state
        .endpoints
        .iter()
        .map(|(ifindex, endpoint)| {
            (
                *ifindex,
                (
                    endpoint.ipv4,
                    endpoint.ipv6,
                    endpoint.flags,
                    says(endpoint.ingress_policy),
                    says(endpoint.egress_policy),
                ),
            )
        })
        .collect();
    let frontends: Vec<_> = state.frontends.keys().copied().collect();
    let attached = (state.attached.clone(), state.attached_devices.clone());
    let senders: BTreeSet<u32> = state.senders.values().copied().collect();
    (
        identities,
        (frontends, state.restricted.clone()),
        endpoints,
        (state.local_pods.clone(), senders),
        (attached, state.forwards.clone()),
    )
}

/// Checks that a bench has what a fresh start makes of a snapshot, and nothing unused.
pub(super) fn is_as_fresh(bench: &Bench, snapshot: &Snapshot) -> Result<(), TestCaseError> {
    let mut fresh = Bench::new(false);
    fresh.node.clone_from(&bench.node);
    fresh.unknown.clone_from(&bench.unknown);
    let (compiled, plan) = fresh.plan(snapshot);
    fresh.apply(plan);
    let mut state = bench.state.clone();
    // Interfaces of deleted pods are closed if they were isolated; a fresh start does not know
    // them.
    let known = compiled.endpoints.keys().map(interface);
    let known: BTreeSet<u32> = known.filter(|ifindex| !bench.unknown.contains(ifindex)).collect();
    state.endpoints.retain(|ifindex, _| known.contains(ifindex));
    state.attached.retain(|ifindex| known.contains(ifindex));
    state
        .senders
        .retain(|_, ifindex| *ifindex == SENDER_AMBIGUOUS && !known.is_empty() || known.contains(ifindex));
    prop_assert!(
        canonical(&state) == canonical(&fresh.state),
        "{:#?}\n{:#?}",
        state,
        fresh.state
    );
    let policies = bench.state.endpoints.values();
    let policies: BTreeSet<u32> = policies
        .flat_map(|endpoint| [endpoint.ingress_policy, endpoint.egress_policy])
        .collect();
    let identities = bench
        .state
        .identities
        .values()
        .chain(bench.state.frontends.values());
    let identities: BTreeSet<u32> = identities.map(|identity| identity.identity).collect();
    for (policy, entries) in &bench.state.policies {
        prop_assert!(policies.contains(policy), "policy {policy} is nobody's");
        for key in entries.keys() {
            prop_assert!(
                key.identity == IDENTITY_NONE || identities.contains(&key.identity),
                "policy {policy}: identity {} is nobody's",
                key.identity
            );
        }
    }
    Ok(())
}

#[test]
fn changes_one_by_one_end_where_a_fresh_start_does() {
    run(250, |seed, keeps, change| {
        let mut random = Random(seed);
        let mut bench = Bench::new(keeps);
        let mut snapshot = little_restricted_room(cluster(&mut random), seed);
        for _ in 0..6 {
            let (_, plan) = bench.plan(&snapshot);
            bench.apply(plan);
            let (_, again) = bench.plan(&snapshot);
            prop_assert_eq!(again.stages, Stages::new(), "a second plan changes something");
            snapshot = change(&mut random, &snapshot);
        }
        let (_, plan) = bench.plan(&snapshot);
        bench.apply(plan);
        is_as_fresh(&bench, &snapshot)
    });
}

/// Applies writes of which some fail: any, or only removals.
fn apply_in_part(bench: &mut Bench, random: &mut Random, plan: Plan) {
    let every = 1 + random.below(8);
    let removals = random.below(2) == 0;
    bench.apply_with(plan, |write| {
        let takes_away = matches!(
            write,
            Write::Policies(Remove(_))
                | Write::Identities(Remove(_))
                | Write::Frontends(Remove(_))
                | Write::Endpoints(Remove(_))
        );
        if (takes_away || !removals) && random.below(every) == 0 {
            Err(io::Error::from_raw_os_error(28))
        } else {
            Ok(())
        }
    });
}

/// Changes the maps as another program would; the agent reads them back.
fn drift(bench: &mut Bench, random: &mut Random) {
    let state = &mut bench.state;
    let nth = |random: &mut Random, len: usize| random.below(len.max(1));
    match random.below(5) {
        0 => {
            let prefix = state.identities.keys().nth(nth(random, state.identities.len()));
            prefix.copied().map(|prefix| state.identities.remove(&prefix));
        }
        1 => {
            let prefix = state.identities.keys().nth(nth(random, state.identities.len()));
            let other = state.identities.values().nth(nth(random, state.identities.len()));
            if let Some((prefix, other)) = prefix.copied().zip(other.copied()) {
                state.identities.insert(prefix, other);
            }
        }
        2 => {
            let policy = state.policies.keys().nth(nth(random, state.policies.len()));
            policy.copied().map(|policy| state.policies.remove(&policy));
        }
        3 => {
            let frontend = state.frontends.keys().nth(nth(random, state.frontends.len()));
            frontend
                .copied()
                .map(|frontend| state.frontends.remove(&frontend));
        }
        _ => {
            let ifindex = state.endpoints.keys().nth(nth(random, state.endpoints.len()));
            ifindex.copied().map(|ifindex| state.endpoints.remove(&ifindex));
        }
    }
    bench.memory.last = None;
}

/// All kinds of changes, several at once and with skipped revisions, while writes fail, plans are
/// cut off, the agent restarts, maps drift, and interfaces and addresses of the node come and go.
#[test]
fn whatever_happens_ends_where_a_fresh_start_does() {
    run(500, |seed, keeps, _| {
        let mut random = Random(seed);
        let mut bench = Bench::new(keeps);
        let mut snapshot = little_restricted_room(cluster(&mut random), seed);
        for _ in 0..20 {
            match random.below(12) {
                0 | 1 => {
                    snapshot = any_change(&mut random, &snapshot);
                    let (_, plan) = bench.plan(&snapshot);
                    apply_in_part(&mut bench, &mut random, plan);
                }
                2 => {
                    snapshot = any_change(&mut random, &snapshot);
                    let (_, mut plan) = bench.plan(&snapshot);
                    let made = random.below(plan.writes().count() + 1);
                    cut_off(&mut plan, made);
                    bench.apply(plan);
                    bench.memory = Memory::default();
                    bench.compiler = keeps.then(Default::default);
                }
                3 => drift(&mut bench, &mut random),
                4 => {
                    let address = ["10.244.0.8", "10.244.1.9", "fd00:10:244::a"][random.below(3)];
                    let address = address.parse().expect("an address");
                    if !bench.node.addresses.remove(&address) {
                        bench.node.addresses.insert(address);
                    }
                }
                5 => {
                    let ifindex = 100 + random.below(10) as u32;
                    if !bench.unknown.remove(&ifindex) {
                        bench.unknown.insert(ifindex);
                    }
                }
                _ => {}
            }
            for _ in 0..[1, 1, 1, 0, 2, 5][random.below(6)] {
                snapshot = any_change(&mut random, &snapshot);
            }
            if random.below(3) > 0 {
                let (_, plan) = bench.plan(&snapshot);
                bench.apply(plan);
                is_as_fresh(&bench, &snapshot)?;
            }
        }
        Ok(())
    });
}

/// Turns in which many policies with common peers come, go and change, and some writes fail.
#[test]
fn l2_many_changes_at_once_end_where_a_fresh_start_does() {
    for seed in 0..100 {
        let mut random = Random(seed);
        let mut bench = Bench::new(true);
        let mut snapshot = cluster(&mut random);
        for _ in 0..6 {
            snapshot = batch(&mut random, &snapshot);
            if random.below(4) == 0 {
                let (_, plan) = bench.plan(&snapshot);
                apply_in_part(&mut bench, &mut random, plan);
                snapshot = batch(&mut random, &snapshot);
            }
            let (_, plan) = bench.plan(&snapshot);
            bench.apply(plan);
            is_as_fresh(&bench, &snapshot).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        }
    }
}

/// Identity numbers outlive agents, and run out one day: the next ones are unused numbers between
/// those in use.
#[test]
fn l2_after_the_last_number_of_an_identity_come_those_that_are_free() {
    for seed in 0..40 {
        let mut random = Random(seed);
        let mut bench = Bench::new(true);
        let mut snapshot = cluster(&mut random);
        let (_, plan) = bench.plan(&snapshot);
        bench.apply(plan);
        let state = &mut bench.state;
        let identities = state.identities.values().chain(state.frontends.values());
        let most = identities.map(|identity| identity.identity).max().unwrap();
        let renamed = |number: u32| if number == most { u32::MAX - 1 } else { number };
        let carried = |identity: &Identity| Identity {
            identity: renamed(identity.identity),
            ..*identity
        };
        let identities = state.identities.iter();
        state.identities = identities.map(|(net, held)| (*net, carried(held))).collect();
        let frontends = state.frontends.iter();
        state.frontends = frontends.map(|(at, held)| (*at, carried(held))).collect();
        let policies = state.policies.iter().map(|(policy, entries)| {
            let entries = entries.iter().map(|(key, value)| {
                let identity = renamed(key.identity);
                (EntryKey { identity, ..*key }, *value)
            });
            (*policy, entries.collect())
        });
        state.policies = policies.collect();
        // An agent that starts with what an earlier one left.
        bench.memory = Memory::default();
        for _ in 0..6 {
            snapshot = batch(&mut random, &snapshot);
            let (_, plan) = bench.plan(&snapshot);
            bench.apply(plan);
            is_as_fresh(&bench, &snapshot).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        }
    }
}
