// SPDX-License-Identifier: Apache-2.0
//! Which pod is behind which interface: the one whose addresses are there.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use netpol_common::abi;

use crate::{
    compile::{Compiled, Endpoint},
    datapath::interfaces::{Interfaces, PodInterface},
    model::ObjectKey,
    sync::endpoint_addresses,
};

/// The pod of each interface. A pod that was behind an interface (`before`; after a restart: that has the addresses of the endpoint that
/// the kernel `holds` for it) stays there while it has an address there: another pod that takes the address on its own interface
/// does not become it.
pub fn bind(
    compiled: &Compiled,
    interfaces: &Interfaces,
    before: &BTreeMap<u32, (ObjectKey, String)>,
    holds: &BTreeMap<u32, abi::Endpoint>,
) -> BTreeMap<u32, ObjectKey> {
    let mut bound = BTreeMap::new();
    let mut placed = BTreeSet::new();
    for (ifindex, interface) in &interfaces.pods {
        let Some((key, uid)) = before.get(ifindex) else {
            continue;
        };
        let stays = compiled
            .endpoints
            .get(key)
            .is_some_and(|pod| pod.uid == *uid && shared(pod, interface) > 0);
        if stays {
            bound.insert(*ifindex, key.clone());
            placed.insert(key);
        }
    }
    for (key, pod) in &compiled.endpoints {
        if placed.contains(key) {
            continue;
        }
        let best = interfaces
            .pods
            .iter()
            .filter(|(ifindex, interface)| !bound.contains_key(ifindex) && shared(pod, interface) > 0)
            .min_by_key(|(ifindex, interface)| {
                let held = holds.get(ifindex).map(|endpoint| (endpoint.ipv4, endpoint.ipv6));
                (
                    held != Some(endpoint_addresses(&pod.addresses)),
                    Reverse(shared(pod, interface)),
                    interface.addresses.len(),
                    **ifindex,
                )
            });
        if let Some((ifindex, _)) = best {
            bound.insert(*ifindex, key.clone());
        }
    }
    bound
}

fn shared(pod: &Endpoint, interface: &PodInterface) -> usize {
    pod.addresses
        .iter()
        .filter(|address| interface.addresses.contains(address))
        .count()
}
