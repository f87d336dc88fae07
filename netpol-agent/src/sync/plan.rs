// SPDX-License-Identifier: Apache-2.0
//! The order of the writes: policies, identities, endpoints, removals.

mod entries;
mod forwards;
mod sides;
mod slots;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
};

use netpol_common::{
    abi::{ABI_VERSION, Config, ENDPOINT_FORWARDS, ENDPOINT_PENDING, Endpoint, POLICY_DENY, POLICY_NONE},
    tag,
};

use self::{
    forwards::Forwarding,
    sides::sides,
    slots::{is_shareable, slots, unshare},
};
use super::{
    Last, Meaning, Memory, Put, Remove, Settings, State, Write, endpoint_addresses,
    identities::{self, Changes},
    policies::{self, Expander},
    second_look::SecondLook,
};
use crate::{
    compile::{CLOSED, Compiled, Matches, PolicyId},
    model::{Map, ObjectKey},
};

/// What the node must enforce, and on which interfaces.
#[derive(Debug, Clone, Copy)]
pub struct Desired<'a> {
    /// The compiled policies.
    pub compiled: &'a Compiled,
    /// The pod behind each interface; pods whose interface is not known yet are absent.
    pub pods: &'a BTreeMap<u32, ObjectKey>,
    /// Interfaces that exist, whether a pod is known behind them or not.
    pub present: &'a BTreeSet<u32>,
    /// Devices by which packets can leave the node; those of pods may be among them.
    pub devices: &'a BTreeSet<u32>,
    /// Interfaces that have programs and no endpoint, and stay so until their pod is known (rule B2).
    pub closed: &'a BTreeSet<u32>,
    /// The bridge of each interface that is a port of one.
    pub bridges: &'a BTreeMap<u32, u32>,
    /// What each interface was when it was bound; one that is absent keeps what its endpoint has (rule A8).
    pub links: &'a BTreeMap<u32, Link>,
    /// What the programs were told.
    pub settings: Settings,
}

/// The link of a pod, as it was when its interface was bound (rule A8).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Link {
    /// MAC address of the interface in the pod; zeros: not known.
    pub mac: [u8; 6],
    /// The pod's link-local address, once it has one.
    pub link_local: Option<Ipv6Addr>,
    /// The addresses to enforce it with, where they are not the pod's: those of a second network of the pod, or what several pods claim.
    pub addresses: Option<Vec<IpAddr>>,
    /// Pods that may be behind it instead: it gets no more than each of them would.
    pub rivals: Vec<ObjectKey>,
    /// It may be one that only pretends to be the pod's: nothing passes.
    pub closed: bool,
}

/// The writes that turn the kernel's state into the desired one, in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// The snapshot's revision.
    pub revision: u64,
    /// The writes.
    pub writes: Vec<Write>,
    /// What to remember once they are made.
    pub memory: Memory,
}

/// The kernel's number of each desired policy, by the compiler's.
type Numbers = BTreeMap<PolicyId, u32>;

/// Compares what the kernel holds with what it should hold.
pub fn plan(state: &State, memory: &Memory, desired: Desired<'_>) -> Plan {
    let compiled = desired.compiled;
    let matches = &Matches::among(&compiled.classes);
    let known = memory.last.as_ref();
    // What differs from the last plan is all there is to do, if the kernel holds that and it has the numbers of this compiler.
    let last = known.filter(|last| memory.settled && last.compiled.origin.is_same(&compiled.origin));
    let mut slots = slots(state, desired);
    let changes = Changes::new(state, last, compiled);
    let owners = identities::owners(state, known, last.is_some(), compiled, &changes);
    let classes = owners.0.clone();
    let numbering = identities::number(state, last, compiled, &changes, owners, |number, class| {
        policies::stable(state, last, (compiled, matches), &slots, number, class)
    });
    let mut config = desired.settings.applied_to(Config {
        next_endpoint: first_free(
            state.config.next_endpoint,
            state.endpoints.values().map(|endpoint| endpoint.id),
        ),
        next_policy: first_free(state.config.next_policy, policy_numbers(state)),
        ..state.config
    });
    let mut writes = Vec::new();
    let mut unshared = state.clone();
    if !numbering.fresh.is_empty() {
        unshare(&mut unshared, desired, &mut config.next_policy, &mut writes);
        slots = self::slots(&unshared, desired);
    }
    let state = &unshared;
    let used = used_policies(desired);
    // Without a number that would go on for it, a policy is written out once only, below.
    let changing = slots.iter().filter(|slot| !policies::is_steady(last, slot));
    let compared = changing.filter_map(|(_, policy)| *policy);
    let all = used.iter().copied().filter(|_| last.is_none());
    let expander = Expander::new((compiled, matches), &classes, compared.chain(all));
    let reused = policies::reusable(state, last, &expander, &slots, &used);
    let numbers: Numbers = used
        .into_iter()
        .map(|policy| {
            (
                policy,
                reused
                    .get(&policy)
                    .copied()
                    .unwrap_or_else(|| take(&mut config.next_policy)),
            )
        })
        .collect();
    let forwarding = Forwarding::new(desired);
    let endpoints = endpoints(
        state,
        memory,
        desired,
        (&numbers, &forwarding),
        &mut config.next_endpoint,
    );

    if config != state.config {
        writes.insert(0, Write::Config(config));
    }
    // Before anything leaves to them what a frontend leaves open.
    let guarded = last.map_or(&state.guarded, |last| &last.compiled.guarded);
    let second = SecondLook::new(desired, guarded, &endpoints);
    second.prepare(state, &mut writes);
    forwarding.prepare(state, &endpoints, &mut writes);
    writes.extend(entries::puts(
        state,
        last,
        (compiled, matches),
        &slots,
        &numbering,
        &numbers,
    ));
    for (prefix, identity) in &numbering.puts {
        writes.push(Write::Identities(Put(*prefix, *identity)));
    }
    for (frontend, identity) in &numbering.frontend_puts {
        writes.push(Write::Frontends(Put(*frontend, *identity)));
    }
    let frontend_removals = numbering.frontend_removals.iter().copied();
    writes.extend(frontend_removals.map(|frontend| Write::Frontends(Remove(frontend))));
    let early_removals = numbering.early_removals.iter().copied();
    writes.extend(early_removals.map(|prefix| Write::Identities(Remove(prefix))));
    if numbering.moves || !memory.settled {
        config.epoch = config.epoch.wrapping_add(1);
        writes.push(Write::Config(config));
    }
    for (ifindex, endpoint) in &endpoints {
        if state.endpoints.get(ifindex) != Some(endpoint) {
            writes.push(Write::Endpoints(Put(*ifindex, *endpoint)));
        }
        if !state.attached.contains(ifindex) {
            writes.push(Write::Attached(Put(*ifindex, ())));
        }
    }
    // Connections that other endpoints received were judged under the policy of the pod that opened them, too (rules A5, C2).
    if egress_changes(state, &endpoints) {
        config.epoch = config.epoch.wrapping_add(1);
        writes.push(Write::Config(config));
    }
    let gone = state
        .endpoints
        .keys()
        .chain(&state.attached)
        .filter(|ifindex| !endpoints.contains_key(ifindex) && !desired.closed.contains(ifindex));
    for ifindex in gone.collect::<BTreeSet<_>>() {
        writes.push(Write::Attached(Remove(*ifindex)));
        writes.push(Write::Endpoints(Remove(*ifindex)));
    }
    for ifindex in desired.closed {
        if state.endpoints.contains_key(ifindex) && !endpoints.contains_key(ifindex) {
            writes.push(Write::Endpoints(Remove(*ifindex)));
        }
    }
    second.clear(state, &mut writes);
    forwarding.clear(state, &endpoints, &mut writes);
    if !numbering.removals.is_empty() {
        let removals = numbering.removals.iter().copied();
        writes.extend(removals.map(|prefix| Write::Identities(Remove(prefix))));
        config.epoch = config.epoch.wrapping_add(1);
        writes.push(Write::Config(config));
    }
    let identities = entries::sweep(state, last.is_some(), numbering, &endpoints, &mut writes);
    Plan {
        revision: compiled.revision,
        writes,
        memory: remember(memory, desired, identities, &numbers),
    }
}

/// Whether an endpoint gets another egress policy than it has.
fn egress_changes(state: &State, endpoints: &BTreeMap<u32, Endpoint>) -> bool {
    endpoints.iter().any(|(ifindex, endpoint)| {
        let held = state.endpoints.get(ifindex);
        held.map_or(POLICY_NONE, |held| held.egress_policy) != endpoint.egress_policy
    })
}

impl Link {
    /// As an endpoint in the kernel has it.
    fn of(endpoint: &Endpoint) -> Self {
        let link_local = Ipv6Addr::from(endpoint.link_local);
        Self {
            mac: endpoint.mac,
            link_local: (!link_local.is_unspecified()).then_some(link_local),
            ..Self::default()
        }
    }
}

/// The writes that attach programs to an interface before it is known which pod is behind it (rule B2): with an endpoint that lets everything
/// pass, or without one, which closes it to all but the node.
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
            ingress_policy: POLICY_NONE,
            egress_policy: POLICY_NONE,
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

/// The next number. After four billion there is none left: then every policy is POLICY_DENY, which closes.
fn take(next: &mut u32) -> u32 {
    let number = *next;
    *next = next.saturating_add(1);
    number
}

/// The next number of an endpoint, whose part that tags carry is no living endpoint's.
fn take_endpoint(next: &mut u32, taken: &mut BTreeSet<u16>) -> u32 {
    loop {
        let id = take(next);
        let number = Endpoint {
            id,
            ..Endpoint::default()
        }
        .number();
        // There are more numbers than map `endpoints` has places; the last id of all is given for ever.
        if taken.insert(number) || taken.len() >= tag::MAX_NUMBER.into() || id == u32::MAX {
            return id;
        }
    }
}

/// The next number by the counter in the kernel, or, should that have been lost, behind those in use.
fn first_free(counter: u32, in_use: impl Iterator<Item = u32>) -> u32 {
    in_use
        .map(|number| number.saturating_add(1))
        .fold(counter.max(1), u32::max)
}

/// Policy numbers that an endpoint has.
pub(super) fn policies_in_use(state: &State) -> impl Iterator<Item = u32> {
    state
        .endpoints
        .values()
        .flat_map(|endpoint| [endpoint.ingress_policy, endpoint.egress_policy])
}

/// Policy numbers that have entries or that an endpoint has.
fn policy_numbers(state: &State) -> impl Iterator<Item = u32> {
    state
        .policies
        .keys()
        .copied()
        .chain(policies_in_use(state))
        .filter(|number| is_shareable(*number))
}

/// Policies that a pod with an interface has.
fn used_policies(desired: Desired<'_>) -> BTreeSet<PolicyId> {
    let sides = desired.pods.keys().filter_map(|ifindex| sides(desired, *ifindex));
    let used = sides.flatten().flatten();
    used.filter(|policy| *policy != CLOSED).collect()
}

/// The endpoint of each interface.
fn endpoints(
    state: &State,
    memory: &Memory,
    desired: Desired<'_>,
    (numbers, forwarding): (&Numbers, &Forwarding),
    next_endpoint: &mut u32,
) -> BTreeMap<u32, Endpoint> {
    let number = |policy: Option<PolicyId>| match policy {
        None => POLICY_NONE,
        Some(CLOSED) => POLICY_DENY,
        Some(policy) => numbers[&policy],
    };
    let mut endpoints = BTreeMap::new();
    let mut taken = state.endpoints.values().map(Endpoint::number).collect();
    for (ifindex, key) in desired.pods {
        let (Some(pod), Some(sides)) = (desired.compiled.endpoints.get(key), sides(desired, *ifindex)) else {
            continue;
        };
        let link = desired.links.get(ifindex);
        let addresses = link.and_then(|link| link.addresses.as_ref());
        let (ipv4, ipv6) = endpoint_addresses(addresses.unwrap_or(&pod.addresses));
        let known = state.endpoints.get(ifindex).filter(|endpoint| {
            let same_pod = memory
                .pods
                .get(ifindex)
                .is_none_or(|(k, uid)| k == key && *uid == pod.uid);
            // What passed while nobody was known behind the interface, this pod opened (rule C6).
            endpoint.is_pending() || same_pod && endpoint.ipv4 == ipv4 && endpoint.ipv6 == ipv6
        });
        let id = known.map_or_else(
            || take_endpoint(next_endpoint, &mut taken),
            |endpoint| endpoint.id,
        );
        let [ingress_policy, egress_policy] = sides.map(number);
        let kept = known.map_or_else(Link::default, Link::of);
        let link = link.unwrap_or(&kept);
        endpoints.insert(
            *ifindex,
            Endpoint {
                ifindex: *ifindex,
                id,
                ingress_policy,
                egress_policy,
                ipv4,
                ipv6,
                mac: link.mac,
                flags: forwarding.flags(*ifindex),
                link_local: link.link_local.map_or([0; 16], |address| address.octets()),
                ..Endpoint::default()
            },
        );
    }
    // A pod that is gone while its interface is not: what was isolated is closed, what was open
    // stays open; for others it sends no more.
    let close = |policy| {
        if policy == POLICY_NONE {
            POLICY_NONE
        } else {
            POLICY_DENY
        }
    };
    for (ifindex, endpoint) in &state.endpoints {
        let hidden = endpoint.is_pending() && desired.closed.contains(ifindex);
        if desired.present.contains(ifindex) && !hidden {
            endpoints.entry(*ifindex).or_insert(Endpoint {
                ingress_policy: close(endpoint.ingress_policy),
                egress_policy: close(endpoint.egress_policy),
                flags: endpoint.flags & !ENDPOINT_FORWARDS,
                ..*endpoint
            });
        }
    }
    endpoints
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
