// SPDX-License-Identifier: Apache-2.0
//! The addresses of nodes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::model::{Node, Snapshot};

/// The addresses of all nodes.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    /// Addresses on interfaces of this node.
    own: BTreeSet<IpAddr>,
    /// Addresses in Node objects, and how many have each.
    told: BTreeMap<IpAddr, usize>,
}

impl Nodes {
    /// Goes from one node and snapshot to the next. Adds the addresses whose meaning may have
    /// changed to `touched`.
    pub(super) fn update(
        &mut self,
        own: (&Node, &Node),
        before: &Snapshot,
        after: &Snapshot,
        touched: &mut BTreeSet<IpAddr>,
    ) {
        if own.0.addresses != own.1.addresses || self.own.is_empty() {
            let now: BTreeSet<IpAddr> = addresses_of(own.1).collect();
            touched.extend(now.symmetric_difference(&self.own));
            self.own = now;
        }
        for (_, old, new) in before.nodes.diff(&after.nodes) {
            for address in new.into_iter().flat_map(|node| addresses_of(node)) {
                *self.told.entry(address).or_default() += 1;
                touched.insert(address);
            }
            for address in old.into_iter().flat_map(|node| addresses_of(node)) {
                touched.insert(address);
                if let Some(count) = self.told.get_mut(&address) {
                    *count -= 1;
                    if *count == 0 {
                        self.told.remove(&address);
                    }
                }
            }
        }
    }

    /// Whether an address is on an interface of this node.
    pub(super) fn is_own(&self, address: IpAddr) -> bool {
        self.own.contains(&address)
    }

    /// Whether a Node object has an address.
    pub(super) fn is_other(&self, address: IpAddr) -> bool {
        self.told.contains_key(&address)
    }

    /// Addresses of nodes within a span.
    pub(super) fn within(&self, (first, last): (IpAddr, IpAddr)) -> impl Iterator<Item = IpAddr> {
        let told = self.told.range(first..=last).map(|(address, _)| *address);
        self.own.range(first..=last).copied().chain(told)
    }
}

fn addresses_of(node: &Node) -> impl Iterator<Item = IpAddr> {
    node.addresses.iter().map(IpAddr::to_canonical)
}
