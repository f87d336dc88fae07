// SPDX-License-Identifier: Apache-2.0
//! Interfaces of the pod network before it is known which pod is behind them (rule B2): programs are attached as soon as such an interface
//! shows. Attaching waits for the kernel, twice for some milliseconds; the pod's policy is then one write. Until that write, `open` lets all
//! pass, by an endpoint that says so, and `strict` lets nothing pass but the node's traffic, by having none.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Instant,
};

use ipnet::IpNet;
use netpol_common::abi::Endpoint;

use crate::{
    compile::Compiled,
    datapath::interfaces::Interfaces,
    model::ObjectKey,
    observe::status::GRACE,
    sync::{State, endpoint_addresses},
};

/// What a new pod's traffic gets before its policy is programmed (rule B2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Startup {
    /// It passes.
    #[default]
    Open,
    /// All but the node's is dropped.
    Strict,
}

/// An interface that got programs before its pod was known.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// When it had both.
    pub since: Instant,
    /// What was opened before is not known: the kernel's connection tracking is still to be asked (rule C6).
    pub unread: bool,
    /// The addresses inside for which it was asked; zeros: none.
    pub read_for: ([u8; 4], [u8; 16]),
}

/// The interfaces that wait.
#[derive(Debug, Default)]
pub struct Ahead {
    /// What they wait as.
    pub startup: Startup,
    /// What the node's pods have addresses of, as the agent was told by its arguments.
    pub given: Vec<IpNet>,
    /// As the node's object says.
    pub told: Vec<IpNet>,
    /// By interface index.
    pub waiting: BTreeMap<u32, Waiting>,
    /// A pod of this node is on no interface, although it has had the time: it may be on one of these.
    pub astray: bool,
    /// Left to the turns that know all pods: programs do not attach, or those of another version are there.
    pub left: BTreeSet<u32>,
}

impl Ahead {
    /// Whether interfaces wait closed.
    pub fn is_strict(&self) -> bool {
        self.startup == Startup::Strict
    }

    /// What the pods of this node have addresses of.
    pub fn cidrs(&self) -> &[IpNet] {
        if self.given.is_empty() {
            &self.told
        } else {
            &self.given
        }
    }

    /// Forgets interfaces that are gone.
    pub fn retain(&mut self, interfaces: &Interfaces) {
        self.waiting
            .retain(|ifindex, _| interfaces.pods.contains_key(ifindex));
        self.left.retain(|ifindex| interfaces.pods.contains_key(ifindex));
    }

    /// The next interface of the pod network without this agent's programs and without a pod.
    pub fn next(&self, interfaces: &Interfaces, state: &State) -> Option<u32> {
        let mut found = interfaces.pods.iter().filter(|(ifindex, interface)| {
            !state.attached.contains(ifindex)
                && !self.left.contains(ifindex)
                && state.endpoints.get(ifindex).is_none_or(Endpoint::is_pending)
                && interface.is_of(self.cidrs())
        });
        found.next().map(|(ifindex, _)| *ifindex)
    }

    /// Interfaces of the pod network, but those that are left to turns that know all pods.
    pub fn awaited(&self, interfaces: &Interfaces) -> BTreeSet<u32> {
        let of_pods = interfaces
            .pods
            .iter()
            .filter(|(ifindex, interface)| !self.left.contains(ifindex) && interface.is_of(self.cidrs()));
        of_pods.map(|(ifindex, _)| *ifindex).collect()
    }

    /// Interfaces that have programs, and are to have no endpoint: those that wait closed, and, while a pod is astray, those that nobody was
    /// found behind for as long (rule A8). Else a pod that hides its address from the node would be open for its life.
    pub fn closed(&self, state: &State) -> BTreeSet<u32> {
        let found_nobody = |ifindex: &u32| {
            let waiting = self.waiting.get(ifindex);
            self.astray && waiting.is_none_or(|waiting| waiting.since.elapsed() >= GRACE)
        };
        let waits = self.waiting.keys().filter(|ifindex| {
            !state.endpoints.contains_key(ifindex) && (self.is_strict() || found_nobody(ifindex))
        });
        let open = state.endpoints.iter();
        let hidden = open.filter(|(ifindex, endpoint)| endpoint.is_pending() && found_nobody(ifindex));
        waits.chain(hidden.map(|(ifindex, _)| ifindex)).copied().collect()
    }

    /// Of the pods behind interfaces that wait: those whose open connections are all known, and those for which they are to be looked up.
    pub fn known(
        &self,
        pods: &BTreeMap<u32, ObjectKey>,
        compiled: &Compiled,
    ) -> (BTreeSet<u32>, BTreeSet<u32>) {
        let waits = pods.iter().filter_map(|(ifindex, key)| {
            let (waiting, pod) = (self.waiting.get(ifindex)?, compiled.endpoints.get(key)?);
            let for_it = waiting.read_for == endpoint_addresses(&pod.addresses);
            Some((
                ifindex,
                !waiting.unread && (waiting.read_for == ([0; 4], [0; 16]) || for_it),
            ))
        });
        let (kept, asked): (Vec<_>, Vec<_>) = waits.partition(|(_, known)| *known);
        let only = |found: Vec<(&u32, bool)>| found.into_iter().map(|(ifindex, _)| *ifindex).collect();
        (only(kept), only(asked))
    }

    /// Takes those whose pod is known by now, with the time that they waited.
    pub fn take_known(&mut self, state: &State) -> Vec<(u32, Waiting)> {
        let is_known = |ifindex: &u32| {
            let held = state.endpoints.get(ifindex);
            held.is_some_and(|endpoint| !endpoint.is_pending())
        };
        self.waiting
            .extract_if(.., |ifindex, _| is_known(ifindex))
            .collect()
    }
}

/// The endpoint of an interface that waits, with the addresses inside it, if those are plain: one of a family.
pub fn with_addresses(endpoint: &Endpoint, addresses: &BTreeSet<IpAddr>) -> Option<Endpoint> {
    let all: Vec<IpAddr> = addresses.iter().copied().collect();
    let ipv4 = all.iter().filter(|address| address.is_ipv4()).count();
    if ipv4 > 1 || all.len() - ipv4 > 1 {
        return None;
    }
    let (ipv4, ipv6) = endpoint_addresses(&all);
    Some(Endpoint {
        ipv4,
        ipv6,
        ..*endpoint
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::interfaces::PodInterface;

    fn interface(gateways: &[&str], routed: &[&str]) -> PodInterface {
        PodInterface {
            gateways: gateways.iter().map(|text| text.parse().unwrap()).collect(),
            routed: routed.iter().map(|text| text.parse().unwrap()).collect(),
            ..PodInterface::default()
        }
    }

    /// Whose interface it is goes by the node's pod ranges alone.
    #[test]
    fn b2_only_interfaces_of_the_pod_network_count() {
        let cidrs: Vec<IpNet> = ["10.244.1.0/24", "fd00:244:1::/64"]
            .map(|text| text.parse().unwrap())
            .into();
        /// What it is, addresses of its bridge, routes to it, whether it counts.
        type Row = (
            &'static str,
            &'static [&'static str],
            &'static [&'static str],
            bool,
        );
        const TABLE: [Row; 9] = [
            ("Flannel's bridge", &["10.244.1.1"], &[], true),
            ("one family is enough", &["192.0.2.1", "fd00:244:1::1"], &[], true),
            ("Docker's bridge", &["172.17.0.1"], &[], false),
            ("a bridge without an address", &[], &[], false),
            ("another node's range", &["10.244.2.1"], &[], false),
            ("a route to a pod", &[], &["10.244.1.7/32"], true),
            ("a route to all pods of the node", &[], &["10.244.1.0/24"], true),
            ("a route to the whole cluster", &[], &["10.244.0.0/16"], false),
            (
                "a route elsewhere",
                &[],
                &["198.51.100.0/24", "fd00:9::/64"],
                false,
            ),
        ];
        for (what, gateways, routed, counts) in TABLE {
            assert_eq!(interface(gateways, routed).is_of(&cidrs), counts, "{what}");
            assert!(
                !interface(gateways, routed).is_of(&[]),
                "{what}: no range, no interface"
            );
        }
    }

    #[test]
    fn c6_only_plain_addresses_are_looked_up() {
        let set = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let endpoint = Endpoint::default();
        let found = with_addresses(&endpoint, &set(&["10.244.1.7", "fd00::7"])).unwrap();
        assert_eq!((found.ipv4, found.ipv6[15]), ([10, 244, 1, 7], 7));
        assert!(with_addresses(&endpoint, &set(&["10.244.1.7", "10.244.1.8"])).is_none());
        assert!(with_addresses(&endpoint, &set(&["fd00::7", "fd00::8"])).is_none());
    }
}
