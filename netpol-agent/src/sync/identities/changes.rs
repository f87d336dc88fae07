// SPDX-License-Identifier: Apache-2.0
//! The prefixes and frontends that a plan is about.

use std::collections::BTreeMap;

use ipnet::IpNet;

use crate::{
    compile::{Address, ClassId, Compiled},
    model::Frontend,
    sync::{Last, State},
};

/// The prefixes and frontends that a plan is about, each with what it shall stand for; `None`: it
/// is to be removed.
#[derive(Debug, Default)]
pub struct Changes {
    /// Prefixes.
    pub prefixes: BTreeMap<IpNet, Option<Address>>,
    /// Frontends, with their classes.
    pub frontends: BTreeMap<Frontend, Option<ClassId>>,
}

impl Changes {
    /// What has changed since the last plan; without one, everything that is there or shall be. The
    /// map holds IPv4 mapped into IPv6, where a wide IPv6 prefix would cover it: so IPv4 as a whole
    /// always has an entry of its own.
    pub fn new(state: &State, last: Option<&Last>, compiled: &Compiled) -> Self {
        let all_of_ipv4 = IpNet::from(ipnet::Ipv4Net::default());
        let mut changes = Self::default();
        if let Some(last) = last {
            for (net, _, address) in last.compiled.addresses.diff(&compiled.addresses) {
                changes.prefixes.insert(*net, address.copied());
            }
            for (frontend, _, class) in last.compiled.frontends.diff(&compiled.frontends) {
                changes.frontends.insert(*frontend, class.copied());
            }
            if let Some(address) = changes.prefixes.get_mut(&all_of_ipv4) {
                address.get_or_insert_default();
            }
            return changes;
        }
        changes
            .prefixes
            .extend(state.identities.keys().map(|net| (*net, None)));
        let addresses = compiled.addresses.iter();
        changes
            .prefixes
            .extend(addresses.map(|(net, address)| (*net, Some(*address))));
        changes
            .prefixes
            .entry(all_of_ipv4)
            .or_default()
            .get_or_insert_default();
        changes
            .frontends
            .extend(state.frontends.keys().map(|frontend| (*frontend, None)));
        let frontends = compiled.frontends.iter();
        changes
            .frontends
            .extend(frontends.map(|(frontend, class)| (*frontend, Some(*class))));
        changes
    }
}
