// SPDX-License-Identifier: Apache-2.0
//! The order in which pods may send and receive for others, and no longer (rules A6, B4). Map
//! `forwards` gets new ranges before an endpoint has the flag that makes them count. It loses those
//! of an endpoint after the flag is gone.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use netpol_common::abi::{ENDPOINT_FORWARDS, Endpoint};

use crate::sync::{Desired, Put, Remove, State, Write};

/// The desired entries of map `forwards`.
pub(super) struct Forwarding(BTreeSet<(u32, IpNet)>);

impl Forwarding {
    /// The ranges of these pods. An interface that may be another pod's gets none (rule A8).
    pub(super) fn new(desired: Desired<'_>) -> Self {
        let certain = |ifindex: &u32| {
            let link = desired.links.get(ifindex);
            link.is_none_or(|link| !link.closed && link.rivals.is_empty())
        };
        let pods = desired.pods.iter().filter(|(ifindex, _)| certain(ifindex));
        let of_each = pods.flat_map(|(ifindex, key)| {
            let pod = desired.compiled.endpoints.get(key);
            let ranges = pod.into_iter().flat_map(|pod| pod.forwards.iter());
            ranges.map(|range| (*ifindex, *range))
        });
        Self(of_each.collect())
    }

    /// The flags of an endpoint.
    pub(super) fn flags(&self, ifindex: u32) -> u16 {
        let mut ranges = self.0.range((ifindex, IpNet::default())..);
        match ranges.next() {
            Some((of, _)) if *of == ifindex => ENDPOINT_FORWARDS,
            _ => 0,
        }
    }

    /// The writes before the endpoints. They remove ranges of an earlier pod of the interface, and
    /// ranges that a flag which stays would let pass.
    pub(super) fn prepare(
        &self,
        state: &State,
        endpoints: &BTreeMap<u32, Endpoint>,
        writes: &mut Vec<Write>,
    ) {
        let missing = self.0.difference(&state.forwards);
        writes.extend(missing.map(|range| Write::Forwards(Put(*range, ()))));
        let early = self
            .gone(state)
            .filter(|(ifindex, _)| !waits(state, endpoints, *ifindex));
        writes.extend(early.map(|range| Write::Forwards(Remove(*range))));
    }

    /// The writes after the endpoints.
    pub(super) fn clear(&self, state: &State, endpoints: &BTreeMap<u32, Endpoint>, writes: &mut Vec<Write>) {
        let late = self
            .gone(state)
            .filter(|(ifindex, _)| waits(state, endpoints, *ifindex));
        writes.extend(late.map(|range| Write::Forwards(Remove(*range))));
    }

    fn gone<'a>(&'a self, state: &'a State) -> impl Iterator<Item = &'a (u32, IpNet)> {
        state.forwards.difference(&self.0)
    }
}

/// Whether an endpoint that stays loses all its ranges at once, with its flag.
fn waits(state: &State, endpoints: &BTreeMap<u32, Endpoint>, ifindex: u32) -> bool {
    let flag = |endpoint: &Endpoint| endpoint.flags & ENDPOINT_FORWARDS != 0;
    let held = state.endpoints.get(&ifindex).filter(|held| flag(held));
    held.is_some_and(|held| {
        let next = endpoints.get(&ifindex);
        next.is_none_or(|next| next.id == held.id && !flag(next))
    })
}
