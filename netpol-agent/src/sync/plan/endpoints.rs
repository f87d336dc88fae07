// SPDX-License-Identifier: Apache-2.0
//! The endpoint of each interface, and the writes that put it in place or take it away.

use std::collections::{BTreeMap, BTreeSet};

use netpol_common::abi::{ENDPOINT_FORWARDS, Endpoint, POLICY_DENY, POLICY_UNRESTRICTED};

use super::{Numbers, assigned::assigned_policies, forwards::Forwarding, numbers::take_endpoint};
use crate::{
    compile::{CLOSED, PolicyId},
    sync::{Desired, Link, Memory, Put, Remove, State, Write, endpoint_addresses},
};

/// The endpoint of each interface.
pub(super) fn endpoints(
    state: &State,
    memory: &Memory,
    desired: Desired<'_>,
    (numbers, forwarding): (&Numbers, &Forwarding),
    next_endpoint: &mut u32,
) -> BTreeMap<u32, Endpoint> {
    let number = |policy: Option<PolicyId>| match policy {
        None => POLICY_UNRESTRICTED,
        Some(CLOSED) => POLICY_DENY,
        Some(policy) => numbers[&policy],
    };
    let mut endpoints = BTreeMap::new();
    let mut taken = state.endpoints.values().map(Endpoint::number).collect();
    for (ifindex, key) in desired.pods {
        let (Some(pod), Some(assigned)) = (
            desired.compiled.endpoints.get(key),
            assigned_policies(desired, *ifindex),
        ) else {
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
            // This pod opened what passed before it was known behind the interface (rule C6).
            endpoint.is_pending() || same_pod && endpoint.ipv4 == ipv4 && endpoint.ipv6 == ipv6
        });
        let id = known.map_or_else(
            || take_endpoint(next_endpoint, &mut taken),
            |endpoint| endpoint.id,
        );
        let [ingress_policy, egress_policy] = assigned.map(number);
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
    // Interfaces whose pod is gone: an isolated direction is closed, an open one stays open, and
    // nothing is forwarded.
    let close = |policy| {
        if policy == POLICY_UNRESTRICTED {
            POLICY_UNRESTRICTED
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

/// Whether the egress policy of an endpoint changes.
pub(super) fn egress_changes(state: &State, endpoints: &BTreeMap<u32, Endpoint>) -> bool {
    endpoints.iter().any(|(ifindex, endpoint)| {
        let held = state.endpoints.get(ifindex);
        held.map_or(POLICY_UNRESTRICTED, |held| held.egress_policy) != endpoint.egress_policy
    })
}

/// Puts endpoints in place, each with both policies in one write, and attaches their programs.
pub(super) fn put(state: &State, endpoints: &BTreeMap<u32, Endpoint>, writes: &mut Vec<Write>) {
    for (ifindex, endpoint) in endpoints {
        if state.endpoints.get(ifindex) != Some(endpoint) {
            writes.push(Write::Endpoints(Put(*ifindex, *endpoint)));
        }
        if !state.attached.contains(ifindex) {
            writes.push(Write::Attached(Put(*ifindex, ())));
        }
    }
}

/// Takes away programs and endpoints of interfaces that are gone. Those that are to be closed keep
/// their programs.
pub(super) fn remove(
    state: &State,
    desired: Desired<'_>,
    endpoints: &BTreeMap<u32, Endpoint>,
    writes: &mut Vec<Write>,
) {
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
}
