// SPDX-License-Identifier: Apache-2.0
//! Which pods have which address.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    slice,
    sync::Arc,
};

use super::GroupId;
use crate::{
    compile::fault::{Fault, diagnostic},
    model::{Diagnostic, Pod},
};

/// A pod that has an address, and its group; a hostNetwork pod has none.
pub(super) type Claim = (Arc<Pod>, Option<GroupId>);

/// The pods of an address, sorted by name. Almost always it is one.
#[derive(Debug)]
enum Claimed {
    One(Claim),
    Many(Vec<Claim>),
}

/// The pods by address.
#[derive(Debug, Default)]
pub(super) struct Claims {
    of: BTreeMap<IpAddr, Claimed>,
    /// Addresses that more than one pod has.
    shared: BTreeSet<IpAddr>,
}

impl Claims {
    /// A pod has an address.
    pub(super) fn add(&mut self, address: IpAddr, pod: &Arc<Pod>, group: Option<GroupId>) {
        let claim = (pod.clone(), group);
        let claimed = match self.of.remove(&address) {
            None => Claimed::One(claim),
            Some(claimed) => {
                let mut claims = match claimed {
                    Claimed::One(first) => vec![first],
                    Claimed::Many(claims) => claims,
                };
                let place = claims.partition_point(|(other, _)| other.key < pod.key);
                claims.insert(place, claim);
                self.shared.insert(address);
                Claimed::Many(claims)
            }
        };
        self.of.insert(address, claimed);
    }

    /// A pod no longer has it.
    pub(super) fn remove(&mut self, address: IpAddr, pod: &Pod) {
        let Some(Claimed::Many(mut claims)) = self.of.remove(&address) else {
            return;
        };
        claims.retain(|(other, _)| other.key != pod.key);
        let claimed = match claims.pop() {
            Some(last) if claims.is_empty() => {
                self.shared.remove(&address);
                Claimed::One(last)
            }
            last => {
                claims.extend(last);
                Claimed::Many(claims)
            }
        };
        self.of.insert(address, claimed);
    }

    /// The pods of an address.
    pub(super) fn at(&self, address: IpAddr) -> &[Claim] {
        match self.of.get(&address) {
            None => &[],
            Some(Claimed::One(claim)) => slice::from_ref(claim),
            Some(Claimed::Many(claims)) => claims,
        }
    }

    /// Addresses that more than one pod has.
    pub(super) fn shared(&self) -> impl Iterator<Item = IpAddr> {
        self.shared.iter().copied()
    }

    /// Addresses of pods, from a first to a last one.
    pub(super) fn within(&self, (first, last): (IpAddr, IpAddr)) -> impl Iterator<Item = IpAddr> {
        self.of.range(first..=last).map(|(address, _)| *address)
    }

    /// What is wrong with an address that several pods have, or that is on an interface of this node, too.
    pub(super) fn faults(&self, address: IpAddr, is_node: bool) -> Vec<Diagnostic> {
        let [(first, _), others @ ..] = self.at(address) else {
            return Vec::new();
        };
        let conflict = |pod: &Pod, message| {
            let fault = Fault::new("address-conflict", "status.podIPs", message);
            diagnostic("Pod", &pod.key, fault)
        };
        let twice = others
            .iter()
            .filter(|(pod, _)| !(first.host_network && pod.host_network));
        let twice = twice.map(|(pod, _)| {
            let message = format!(
                "{address} is also an address of pod {}; it matches only the selectors that both match",
                first.key
            );
            conflict(pod, message)
        });
        let on_node = (is_node && !first.host_network).then(|| {
            let message = format!("{address} is an address of this node; it matches no selector");
            conflict(first, message)
        });
        twice.chain(on_node).collect()
    }
}
