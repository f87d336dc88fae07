// SPDX-License-Identifier: Apache-2.0
//! The link-local addresses of this node's pods (rule A9): such an address means what the pod's own
//! address means.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use super::claims::is_peer;
use crate::{
    compile::fault::{Fault, diagnostic},
    model::{Diagnostic, ObjectKey, Pod, Snapshot},
};

/// The pods by link-local address; almost always one.
#[derive(Debug, Default)]
pub(super) struct LinkLocals {
    of: BTreeMap<IpAddr, Vec<Arc<Pod>>>,
}

impl LinkLocals {
    /// Takes the addresses of the pods as bound. Adds those whose meaning may have changed to
    /// `touched`.
    pub(super) fn update(
        &mut self,
        bound: &BTreeMap<ObjectKey, BTreeSet<Ipv6Addr>>,
        snapshot: &Snapshot,
        touched: &mut BTreeSet<IpAddr>,
    ) {
        let mut now: BTreeMap<IpAddr, Vec<Arc<Pod>>> = BTreeMap::new();
        for (key, addresses) in bound {
            let Some(pod) = snapshot.pods.get(key).filter(|pod| is_peer(pod)) else {
                continue;
            };
            for address in addresses.iter().filter(|address| address.is_unicast_link_local()) {
                now.entry((*address).into()).or_default().push(pod.clone());
            }
        }
        let all = self.of.keys().chain(now.keys());
        let moved = all.filter(|address| self.of.get(address) != now.get(address));
        touched.extend(moved);
        self.of = now;
    }

    /// Adds the link-local addresses of pods that have a touched address, and those within `spans`.
    pub(super) fn follow(&self, touched: &mut BTreeSet<IpAddr>, spans: &[(IpAddr, IpAddr)]) {
        let moved = self.of.iter().filter(|(address, pods)| {
            let mut ends = pods.iter().flat_map(|pod| pod.distinct_addresses());
            spans.iter().any(|(first, last)| (first..=last).contains(address))
                || ends.any(|end| touched.contains(&end))
        });
        let moved: Vec<IpAddr> = moved.map(|(address, _)| *address).collect();
        touched.extend(moved);
    }

    /// Addresses of more than one pod.
    pub(super) fn shared(&self) -> impl Iterator<Item = IpAddr> {
        let shared = self.of.iter().filter(|(_, pods)| pods.len() > 1);
        shared.map(|(address, _)| *address)
    }

    /// The pods of an address.
    pub(super) fn at(&self, address: IpAddr) -> &[Arc<Pod>] {
        self.of.get(&address).map_or(&[], Vec::as_slice)
    }

    /// What is wrong with an address of several pods, or of this node.
    pub(super) fn faults(&self, address: IpAddr, is_node: bool) -> Vec<Diagnostic> {
        let [first, others @ ..] = self.at(address) else {
            return Vec::new();
        };
        let conflict = |pod: &Pod, message| {
            let fault = Fault::new("address-conflict", "", message);
            diagnostic("Pod", &pod.key, fault)
        };
        let twice = others.iter().map(|pod| {
            let message = format!(
                "link-local address {address} is also that of pod {}; it matches only what both match by selector",
                first.key
            );
            conflict(pod, message)
        });
        let on_node = is_node.then(|| {
            let message = format!("link-local address {address} is this node's; it matches no selector");
            conflict(first, message)
        });
        twice.chain(on_node).collect()
    }
}
