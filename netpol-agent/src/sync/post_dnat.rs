// SPDX-License-Identifier: Apache-2.0
//! What the post-DNAT check of a Service's backend needs (rule A5): the sender by the tag of its
//! packets, the interface of each pod's address, the restricted backends, and the program on the
//! devices by which packets leave the node.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use netpol_common::abi::{Endpoint, NO_INTERFACE, POLICY_UNRESTRICTED, SENDER_AMBIGUOUS};

use super::{Desired, Put, Remove, State, Write};
use crate::model::{Frontend, Set};

/// The entries that the check needs.
pub(super) struct PostDnatCheck<'a> {
    local_pods: BTreeMap<IpAddr, u32>,
    senders: BTreeMap<(u32, u32), u32>,
    /// Backends that become restricted (true) or stop being so.
    restricted: Vec<(&'a Frontend, bool)>,
    devices: BTreeSet<u32>,
}

impl<'a> PostDnatCheck<'a> {
    /// For these endpoints; `held` are the backends that are restricted now.
    ///
    /// Of two pods that claim an address, an isolated one has it. Devices get the program only
    /// while a pod is isolated for egress: connections outlive the Service by which they were
    /// opened. Veths into another namespace that are no port of a bridge always get it: another
    /// node may be behind, and tags of this one must not reach it.
    pub(super) fn new(
        desired: Desired<'a>,
        held: &'a Set<Frontend>,
        endpoints: &BTreeMap<u32, Endpoint>,
    ) -> Self {
        let live = |isolated: bool| {
            endpoints.iter().filter(move |(ifindex, endpoint)| {
                desired.pods.contains_key(ifindex)
                    && (endpoint.egress_policy != POLICY_UNRESTRICTED) == isolated
            })
        };
        let mut local_pods = BTreeMap::new();
        for (ifindex, endpoint) in live(true).chain(live(false)) {
            let addresses = [
                IpAddr::from(endpoint.ipv4),
                IpAddr::from(endpoint.ipv6),
                IpAddr::from(endpoint.link_local),
            ];
            for address in addresses.into_iter().filter(|address| !address.is_unspecified()) {
                local_pods.entry(address).or_insert(*ifindex);
            }
        }
        let mut senders = BTreeMap::new();
        for (ifindex, endpoint) in endpoints {
            for bridge in desired.bridges.get(ifindex).into_iter().chain([&NO_INTERFACE]) {
                senders.insert((*bridge, 0), SENDER_AMBIGUOUS);
                senders.insert((*bridge, endpoint.number().into()), *ifindex);
            }
        }
        let needed = live(true).next().is_some();
        let devices = desired.devices.iter().copied();
        Self {
            local_pods,
            senders,
            restricted: held
                .diff(&desired.compiled.restricted)
                .into_iter()
                .map(|(backend, _, now)| (backend, now.is_some()))
                .collect(),
            devices: devices
                .filter(|device| {
                    let leads_on = desired.present.contains(device) && !desired.bridges.contains_key(device);
                    (needed || leads_on)
                        && !endpoints.contains_key(device)
                        && !desired.closed.contains(device)
                })
                .collect(),
        }
    }

    /// The writes that come before policies, identities and endpoints.
    pub(super) fn prepare(&self, state: &State, writes: &mut Vec<Write>) {
        for (address, ifindex) in &self.local_pods {
            if state.local_pods.get(address) != Some(ifindex) {
                writes.push(Write::LocalPods(Put(*address, *ifindex)));
            }
        }
        for (sender, ifindex) in &self.senders {
            if state.senders.get(sender) != Some(ifindex) {
                writes.push(Write::Senders(Put(*sender, *ifindex)));
            }
        }
        let more = self.restricted.iter().filter(|(_, now)| *now);
        writes.extend(more.map(|(backend, _)| Write::Restricted(Put(**backend, ()))));
        let missing = self.devices.difference(&state.attached_devices);
        writes.extend(missing.map(|device| Write::AttachedDevices(Put(*device, ()))));
    }

    /// The writes that come after endpoints.
    pub(super) fn clear(&self, state: &State, writes: &mut Vec<Write>) {
        for address in state.local_pods.keys() {
            if !self.local_pods.contains_key(address) {
                writes.push(Write::LocalPods(Remove(*address)));
            }
        }
        let senders = state.senders.keys();
        let gone = senders.filter(|sender| !self.senders.contains_key(sender));
        writes.extend(gone.map(|sender| Write::Senders(Remove(*sender))));
        let less = self.restricted.iter().filter(|(_, now)| !*now);
        writes.extend(less.map(|(backend, _)| Write::Restricted(Remove(**backend))));
        let superfluous = state.attached_devices.difference(&self.devices);
        writes.extend(superfluous.map(|device| Write::AttachedDevices(Remove(*device))));
    }
}
