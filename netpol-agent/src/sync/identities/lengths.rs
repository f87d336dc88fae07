// SPDX-License-Identifier: Apache-2.0
//! Finds the prefixes around another one, by the prefix lengths in use.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::changes::Changes;
use crate::{
    compile::{ClassId, Compiled, NO_PEER},
    model::Map,
    sync::State,
};

/// From so many changes on, the lengths in use are collected; below, all are tried.
const MANY: usize = 16;

/// Prefix lengths, by family (IPv4: true), that prefixes may have.
pub struct Lengths(BTreeSet<(bool, u8)>);

impl Lengths {
    /// The lengths that the prefixes of a plan may have.
    pub fn new(state: &State, compiled: &Compiled, changes: &Changes) -> Self {
        if changes.prefixes.len() < MANY {
            let all = (0..=32).map(|length| (true, length));
            return Self(all.chain((0..=128).map(|length| (false, length))).collect());
        }
        let prefixes = state.identities.keys().chain(compiled.addresses.keys());
        let wide = prefixes.filter(|net| net.prefix_len() < net.max_prefix_len());
        let wide = wide.map(|net| (net.addr().is_ipv4(), net.prefix_len()));
        // All of IPv4, and single addresses.
        Self(wide.chain([(true, 0), (true, 32), (false, 128)]).collect())
    }

    /// The lengths in these maps.
    pub fn of<V>(maps: &[&Map<IpNet, V>]) -> Self {
        let prefixes = maps.iter().flat_map(|map| map.keys());
        let all = prefixes.map(|net| (net.addr().is_ipv4(), net.prefix_len()));
        Self(all.chain([(true, 0)]).collect())
    }

    /// The prefixes around one, itself included, longest first.
    pub fn around(&self, prefix: IpNet) -> impl Iterator<Item = IpNet> {
        let is_ipv4 = prefix.addr().is_ipv4();
        let lengths = self.0.range((is_ipv4, 0)..=(is_ipv4, prefix.prefix_len())).rev();
        lengths.filter_map(move |(_, length)| Some(IpNet::new(prefix.addr(), *length).ok()?.trunc()))
    }

    /// The value of the longest prefix of a map that covers `prefix`, itself included.
    pub fn longest_match<V: Copy>(&self, map: &Map<IpNet, V>, prefix: IpNet) -> Option<V> {
        self.around(prefix).find_map(|net| map.get(&net).copied())
    }

    /// The class that a prefix, or the region it leaves behind, will have.
    pub fn desired_class(&self, compiled: &Compiled, prefix: IpNet) -> ClassId {
        let found = self.longest_match(&compiled.addresses, prefix);
        found.map_or(NO_PEER, |address| address.class)
    }
}
