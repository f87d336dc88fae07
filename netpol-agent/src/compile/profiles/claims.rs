// SPDX-License-Identifier: Apache-2.0
//! The pods of each address.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    slice,
    sync::Arc,
};

use super::groups::GroupId;
use crate::{
    compile::fault::{Fault, diagnostic},
    model::{Diagnostic, Pod},
};

/// A pod that has an address, and its group. A hostNetwork pod has no group.
pub(super) type Claim = (Arc<Pod>, Option<GroupId>);

/// The pods of an address: those that are being deleted last, then by name. Almost always one.
#[derive(Debug)]
enum Claimed {
    One(Claim),
    Many(Vec<Claim>),
}

/// The pods by address.
#[derive(Debug, Default)]
pub(super) struct Claims {
    of: BTreeMap<IpAddr, Claimed>,
    /// Addresses of more than one pod, none of them a hostNetwork one.
    shared: BTreeSet<IpAddr>,
}

impl Claims {
    /// Adds an address of a pod.
    pub(super) fn add(&mut self, address: IpAddr, pod: &Arc<Pod>, group: Option<GroupId>) {
        let claim = (pod.clone(), group);
        let claimed = match self.of.remove(&address) {
            None => Claimed::One(claim),
            Some(claimed) => {
                let mut claims = match claimed {
                    Claimed::One(first) => vec![first],
                    Claimed::Many(claims) => claims,
                };
                let order = |pod: &Pod| (pod.terminating, pod.key.clone());
                let place = claims.partition_point(|(other, _)| order(other) < order(pod));
                claims.insert(place, claim);
                Claimed::Many(claims)
            }
        };
        self.set(address, claimed);
    }

    /// Removes an address of a pod.
    pub(super) fn remove(&mut self, address: IpAddr, pod: &Pod) {
        let Some(Claimed::Many(mut claims)) = self.of.remove(&address) else {
            return;
        };
        claims.retain(|(other, _)| other.key != pod.key);
        let claimed = match claims.pop() {
            Some(last) if claims.is_empty() => Claimed::One(last),
            last => {
                claims.extend(last);
                Claimed::Many(claims)
            }
        };
        self.set(address, claimed);
    }

    fn set(&mut self, address: IpAddr, claimed: Claimed) {
        match &claimed {
            Claimed::Many(claims) if claims.iter().all(|(_, group)| group.is_some()) => {
                self.shared.insert(address);
            }
            _ => {
                self.shared.remove(&address);
            }
        }
        self.of.insert(address, claimed);
    }

    /// The pods of an address. A pod that is being deleted does not count if another has the
    /// address: it has given it back (rule A8).
    pub(super) fn at(&self, address: IpAddr) -> &[Claim] {
        match self.of.get(&address) {
            None => &[],
            Some(Claimed::One(claim)) => slice::from_ref(claim),
            Some(Claimed::Many(claims)) => {
                let live = claims.partition_point(|(pod, _)| !pod.terminating);
                if live > 0 { &claims[..live] } else { claims }
            }
        }
    }

    /// Addresses that depend on the groups of more than one pod. With a hostNetwork pod among them,
    /// as on most nodes, an address matches no selector, whatever the other pods are.
    pub(super) fn shared(&self) -> impl Iterator<Item = IpAddr> {
        self.shared.iter().copied()
    }

    /// Addresses of pods within a span.
    pub(super) fn within(&self, (first, last): (IpAddr, IpAddr)) -> impl Iterator<Item = IpAddr> {
        self.of.range(first..=last).map(|(address, _)| *address)
    }

    /// What is wrong with an address of several pods, or of a pod and of this node.
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

/// Returns true if the addresses of a pod are its own (rules I7, P6).
pub(super) fn is_peer(pod: &Pod) -> bool {
    !pod.terminal && !pod.addresses.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Labels, ObjectKey};

    #[test]
    fn an_address_of_host_network_pods_depends_on_no_group() {
        let pod = |name: &str, host_network| {
            Arc::new(Pod {
                key: ObjectKey::new("ns", name),
                uid: String::new(),
                labels: Labels::new(),
                node: None,
                host_network,
                terminal: false,
                terminating: false,
                static_uid: None,
                addresses: Vec::new(),
                named_ports: Vec::new(),
                host_ports: Vec::new(),
            })
        };
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let (first, second, third) = (pod("a", false), pod("b", false), pod("c", true));
        let mut claims = Claims::default();
        let mut shared = Vec::new();
        claims.add(address, &first, Some(1));
        shared.push(claims.shared().count());
        claims.add(address, &second, Some(2));
        shared.push(claims.shared().count());
        claims.add(address, &third, None);
        shared.push(claims.shared().count());
        claims.remove(address, &third);
        shared.push(claims.shared().count());
        claims.remove(address, &first);
        shared.push(claims.shared().count());
        assert_eq!(shared, [0, 1, 0, 1, 0]);
        assert_eq!(claims.at(address).len(), 1);
    }
}
