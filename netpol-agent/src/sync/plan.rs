// SPDX-License-Identifier: Apache-2.0
//! The order of the writes: policies, identities, endpoints, removals; and their stages.

mod assigned;
mod endpoints;
mod entries;
mod forwards;
mod numbers;
mod replacements;

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use netpol_common::abi::{ABI_VERSION, Config, ENDPOINT_PENDING, Endpoint, POLICY_UNRESTRICTED};

use self::{
    assigned::assigned_policies,
    forwards::Forwarding,
    numbers::{first_free, take, take_endpoint},
    replacements::{is_shareable, replacements, unshare},
};
use super::{
    Desired, Last, Meaning, Memory, Put, Remove, Stage, Stages, State, Write,
    identities::{self, Changes, Numbering},
    policies::{self, Expander},
    post_dnat::PostDnatCheck,
};
use crate::{
    compile::{CLOSED, Matches, PolicyId},
    model::Map,
};

/// The writes that turn the kernel's state into the desired one, in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// The snapshot's revision.
    pub revision: u64,
    /// The writes, in order.
    pub stages: Stages,
    /// What to remember once they are made.
    pub memory: Memory,
}

impl Plan {
    /// The writes of all stages, in order.
    pub fn writes(&self) -> impl Iterator<Item = &Write> + Clone {
        self.stages.values().flatten()
    }
}

/// The kernel's number of each desired policy.
type Numbers = BTreeMap<PolicyId, u32>;

/// Compares what the kernel holds with what it should hold.
pub fn plan(state: &State, memory: &Memory, desired: Desired<'_>) -> Plan {
    let compiled = desired.compiled;
    let matches = &Matches::among(&compiled.classes);
    let known = memory.last.as_ref();
    // The difference to the last plan is all there is to do, if the kernel holds what that planned
    // and its numbers are of this compiler.
    let last = known.filter(|last| memory.settled && last.compiled.origin.is_same(&compiled.origin));
    let mut replacements = replacements(state, desired);
    let changes = Changes::new(state, last, compiled);
    let owners = identities::owners(state, known, last.is_some(), compiled, &changes);
    let classes = owners.0.clone();
    let mut numbering = identities::number(state, last, compiled, &changes, owners, |number, class| {
        policies::stable(state, last, (compiled, matches), &replacements, number, class)
    });
    let mut config = next_config(state, desired);
    let mut separate = Vec::new();
    let mut unshared = state.clone();
    if !numbering.fresh.is_empty() {
        unshare(&mut unshared, desired, &mut config.next_policy, &mut separate);
        replacements = self::replacements(&unshared, desired);
    }
    let state = &unshared;
    let used = used_policies(desired);
    // A policy that keeps no number is not expanded here: it is written as a whole below.
    let changing = replacements
        .iter()
        .filter(|replacement| !policies::is_steady(last, replacement));
    let compared = changing.filter_map(|(_, policy)| *policy);
    let all = used.iter().copied().filter(|_| last.is_none());
    let expander = Expander::new((compiled, matches), &classes, compared.chain(all));
    let reused = policies::reusable(state, last, &expander, &replacements, &used);
    let mut number = |policy: &PolicyId| {
        let reused = reused.get(policy).copied();
        reused.unwrap_or_else(|| take(&mut config.next_policy))
    };
    let numbers: Numbers = used.iter().map(|policy| (*policy, number(policy))).collect();
    let forwarding = Forwarding::new(desired);
    let context = (&numbers, &forwarding);
    let endpoints = endpoints::endpoints(state, memory, desired, context, &mut config.next_endpoint);

    let mut writes = Vec::new();
    if config != state.config {
        let first = if separate.is_empty() {
            &mut writes
        } else {
            &mut separate
        };
        first.insert(0, Write::Config(config));
    }
    // Backends are restricted before a frontend defers anything to them.
    let restricted = last.map_or(&state.restricted, |last| &last.compiled.restricted);
    let check = PostDnatCheck::new(desired, restricted, &endpoints);
    check.prepare(state, &mut writes);
    forwarding.prepare(state, &endpoints, &mut writes);
    let policies = (&replacements, &numbers);
    writes.extend(entries::puts(
        state,
        last,
        (compiled, matches),
        policies,
        &numbering,
    ));
    put_identities(&numbering, &mut writes);
    if numbering.moves || !memory.settled {
        config.epoch = config.epoch.wrapping_add(1);
        writes.push(Write::Config(config));
    }
    endpoints::put(state, &endpoints, &mut writes);
    // Connections that other endpoints received were judged by the policy of the pod that opened
    // them, too (rules A5, C2).
    if endpoints::egress_changes(state, &endpoints) {
        config.epoch = config.epoch.wrapping_add(1);
        writes.push(Write::Config(config));
    }
    let prefixes = std::mem::take(&mut numbering.removals);
    let (identities, unused) = entries::sweep(state, last.is_some(), numbering, &endpoints, &writes);
    let mut remove = Vec::new();
    endpoints::remove(state, desired, &endpoints, &mut remove);
    check.clear(state, &mut remove);
    forwarding.clear(state, &endpoints, &mut remove);
    Plan {
        revision: compiled.revision,
        stages: in_stages([separate, writes, remove], &prefixes, unused, config),
        memory: remember(memory, desired, identities, &numbers),
    }
}

/// Puts the writes into stages: those of the first three, `prefixes` that are removed from map
/// `identities`, and `unused` entries.
fn in_stages(
    [separate, enforce, mut remove]: [Vec<Write>; 3],
    prefixes: &[IpNet],
    mut unused: Vec<Write>,
    mut config: Config,
) -> Stages {
    if prefixes.is_empty() {
        remove.append(&mut unused);
    } else {
        // A program may have read the class of an address before its prefix was removed: the
        // entries are a stage of their own.
        remove.extend(prefixes.iter().map(|prefix| Write::Identities(Remove(*prefix))));
        config.epoch = config.epoch.wrapping_add(1);
        remove.push(Write::Config(config));
    }
    let stages = [
        (Stage::Separate, separate),
        (Stage::Enforce, enforce),
        (Stage::Remove, remove),
        (Stage::Sweep, unused),
    ];
    let filled = stages.into_iter().filter(|(_, writes)| !writes.is_empty());
    filled.collect()
}

/// The config with the desired settings, and with its counters behind all numbers in use.
fn next_config(state: &State, desired: Desired<'_>) -> Config {
    desired.settings.applied_to(Config {
        next_endpoint: first_free(
            state.config.next_endpoint,
            state.endpoints.values().map(|endpoint| endpoint.id),
        ),
        next_policy: first_free(state.config.next_policy, policy_numbers(state)),
        ..state.config
    })
}

/// Gives addresses and frontends their identities, but for removals that wait for endpoints.
///
/// A packet to a frontend is judged by that alone. So a frontend that is new comes before its
/// address changes, and one that goes leaves after.
fn put_identities(numbering: &Numbering, writes: &mut Vec<Write>) {
    for (frontend, identity) in &numbering.frontend_puts {
        writes.push(Write::Frontends(Put(*frontend, *identity)));
    }
    for (prefix, identity) in &numbering.puts {
        writes.push(Write::Identities(Put(*prefix, *identity)));
    }
    let early = numbering.early_removals.iter().copied();
    writes.extend(early.map(|prefix| Write::Identities(Remove(prefix))));
    let frontends = numbering.frontend_removals.iter().copied();
    writes.extend(frontends.map(|frontend| Write::Frontends(Remove(frontend))));
}

/// The writes that attach programs to an interface before its pod is known (rule B2). With `open`
/// they give it an endpoint that lets everything pass; else it has none, which closes it to all but
/// the node.
pub fn ahead(state: &State, ifindex: u32, open: bool) -> Vec<Write> {
    let held = state.endpoints.get(&ifindex);
    let mut writes = Vec::new();
    if open && held.is_none() {
        let mut next = first_free(
            state.config.next_endpoint,
            state.endpoints.values().map(|endpoint| endpoint.id),
        );
        let mut taken = state.endpoints.values().map(Endpoint::number).collect();
        let id = take_endpoint(&mut next, &mut taken);
        writes.push(Write::Config(Config {
            abi_version: ABI_VERSION,
            next_endpoint: next,
            ..state.config
        }));
        let endpoint = Endpoint {
            ifindex,
            id,
            ingress_policy: POLICY_UNRESTRICTED,
            egress_policy: POLICY_UNRESTRICTED,
            flags: ENDPOINT_PENDING,
            ..Endpoint::default()
        };
        writes.push(Write::Endpoints(Put(ifindex, endpoint)));
    }
    if !open && held.is_some() {
        writes.push(Write::Endpoints(Remove(ifindex)));
    }
    writes.push(Write::Attached(Put(ifindex, ())));
    writes
}

/// Policy numbers that have entries or that an endpoint has.
fn policy_numbers(state: &State) -> impl Iterator<Item = u32> {
    state
        .policies
        .keys()
        .copied()
        .chain(state.policies_in_use())
        .filter(|number| is_shareable(*number))
}

/// Policies that a pod with an interface has.
fn used_policies(desired: Desired<'_>) -> BTreeSet<PolicyId> {
    let assigned = desired
        .pods
        .keys()
        .filter_map(|ifindex| assigned_policies(desired, *ifindex));
    let used = assigned.flatten().flatten();
    used.filter(|policy| *policy != CLOSED).collect()
}

fn remember(
    memory: &Memory,
    desired: Desired<'_>,
    identities: Map<u32, Meaning>,
    numbers: &Numbers,
) -> Memory {
    let compiled = desired.compiled;
    let mut pods: BTreeMap<_, _> = desired
        .pods
        .iter()
        .filter_map(|(ifindex, key)| {
            Some((*ifindex, (key.clone(), compiled.endpoints.get(key)?.uid.clone())))
        })
        .collect();
    for (ifindex, pod) in &memory.pods {
        if desired.present.contains(ifindex) {
            pods.entry(*ifindex).or_insert_with(|| pod.clone());
        }
    }
    let policies = numbers.iter().map(|(policy, number)| (*number, *policy));
    Memory {
        last: Some(Last {
            compiled: compiled.clone(),
            identities,
            policies: policies.collect(),
        }),
        settled: true,
        pods,
    }
}
