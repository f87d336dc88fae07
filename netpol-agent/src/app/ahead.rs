// SPDX-License-Identifier: Apache-2.0
//! Interfaces of the pod network whose pod is not known yet (rule B2). Programs are attached as
//! soon as such an interface appears. Attaching waits for the kernel, twice for some milliseconds;
//! the pod's policy is then a single write. Until that write, `open` lets everything pass, by a
//! pending endpoint. `strict` lets only the node's traffic pass, by having no endpoint.

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

/// Treatment of a new pod's traffic before its policy is programmed (rule B2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Startup {
    /// Everything passes.
    #[default]
    Open,
    /// Everything but the node's traffic is dropped.
    Strict,
}

/// An interface that got its programs before its pod was known.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// When it had both.
    pub since: Instant,
    /// True if the kernel's connection tracking must still be asked about earlier connections (rule
    /// C6).
    pub unread: bool,
    /// The addresses inside for which it was asked; zeros if it was not.
    pub read_for: ([u8; 4], [u8; 16]),
}

/// The interfaces that wait for their pod.
#[derive(Debug, Default)]
pub struct Ahead {
    /// How they wait.
    pub startup: Startup,
    /// The node's pod ranges, from the agent's arguments.
    pub given: Vec<IpNet>,
    /// The node's pod ranges, from the Node object.
    pub told: Vec<IpNet>,
    /// By interface index.
    pub waiting: BTreeMap<u32, Waiting>,
    /// True if a pod of this node has had no interface for too long: it may be behind one of these.
    pub astray: bool,
    /// Interfaces left to turns that know all pods: programs do not attach, or another version's
    /// are there.
    pub left: BTreeSet<u32>,
}

impl Ahead {
    /// Returns true if interfaces wait closed.
    pub fn is_strict(&self) -> bool {
        self.startup == Startup::Strict
    }

    /// Returns the pod ranges of this node.
    pub fn cidrs(&self) -> &[IpNet] {
        if self.given.is_empty() {
            &self.told
        } else {
            &self.given
        }
    }

    /// Forgets removed interfaces.
    pub fn retain(&mut self, interfaces: &Interfaces) {
        self.waiting
            .retain(|ifindex, _| interfaces.pods.contains_key(ifindex));
        self.left.retain(|ifindex| interfaces.pods.contains_key(ifindex));
    }

    /// Finds the next interface of the pod network without this agent's programs and without a pod.
    pub fn next(&self, interfaces: &Interfaces, state: &State) -> Option<u32> {
        let mut found = interfaces.pods.iter().filter(|(ifindex, interface)| {
            !state.attached.contains(ifindex)
                && !self.left.contains(ifindex)
                && state.endpoints.get(ifindex).is_none_or(Endpoint::is_pending)
                && interface.is_of(self.cidrs())
        });
        found.next().map(|(ifindex, _)| *ifindex)
    }

    /// Lists the interfaces of the pod network, except those left to turns that know all pods.
    pub fn awaited(&self, interfaces: &Interfaces) -> BTreeSet<u32> {
        let of_pods = interfaces
            .pods
            .iter()
            .filter(|(ifindex, interface)| !self.left.contains(ifindex) && interface.is_of(self.cidrs()));
        of_pods.map(|(ifindex, _)| *ifindex).collect()
    }

    /// Adds an interface about which nothing else is known.
    pub fn wait(&mut self, ifindex: u32) {
        self.waiting.entry(ifindex).or_insert_with(|| Waiting {
            since: Instant::now(),
            unread: true,
            read_for: Default::default(),
        });
    }

    /// Lists the interfaces that have programs and must not have an endpoint. While a pod is
    /// astray, these include every interface that has waited long enough. Otherwise a pod that
    /// hides its address from the node would stay open for its life (rule A8). An interface that is
    /// closed already stays closed until it is known whether a pod is astray, also after a restart.
    pub fn closed(&self, state: &State) -> BTreeSet<u32> {
        let closed = self.waiting.iter().filter(|(ifindex, waiting)| {
            let waited = waiting.since.elapsed();
            let astray = self.astray && waited >= GRACE;
            match state.endpoints.get(ifindex) {
                None => self.is_strict() || astray || waited < 2 * GRACE,
                Some(endpoint) => endpoint.is_pending() && astray,
            }
        });
        closed.map(|(ifindex, _)| *ifindex).collect()
    }

    /// Returns since when each waiting interface lets its unknown pod's traffic pass.
    pub fn open<'a>(&'a self, state: &'a State) -> impl Iterator<Item = Instant> + 'a {
        let is_open = |ifindex: &u32| state.endpoints.get(ifindex).is_some_and(Endpoint::is_pending);
        let waiting = self.waiting.iter();
        waiting
            .filter(move |(ifindex, _)| is_open(ifindex))
            .map(|(_, waiting)| waiting.since)
    }

    /// Lists the waiting interfaces with a known pod for which the kernel's connection tracking
    /// must still be asked.
    pub fn unread(&self, pods: &BTreeMap<u32, ObjectKey>, compiled: &Compiled) -> BTreeSet<u32> {
        let is_unread = |(ifindex, key): (&u32, &ObjectKey)| {
            let (waiting, pod) = (self.waiting.get(ifindex)?, compiled.endpoints.get(key)?);
            let never = ([0; 4], [0; 16]);
            let for_other = ![never, endpoint_addresses(&pod.addresses)].contains(&waiting.read_for);
            (waiting.unread || for_other).then_some(*ifindex)
        };
        pods.iter().filter_map(is_unread).collect()
    }

    /// Removes and returns the waiting interfaces whose pod is now known.
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

/// Returns the endpoint with the addresses inside its interface, if there is at most one of each
/// family.
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

    /// Only the node's pod ranges decide whether an interface counts.
    #[test]
    fn b2_only_interfaces_of_the_pod_network_count() {
        let cidrs: Vec<IpNet> = ["10.244.1.0/24", "fd00:244:1::/64"]
            .map(|text| text.parse().unwrap())
            .into();
        /// Columns: description, addresses of its bridge, routes to it, whether it counts.
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

    /// Columns: what an interface has, how many seconds it has waited, whether a pod is astray, and
    /// whether it is then closed in open mode.
    #[test]
    fn a8_what_nobody_is_found_behind_is_closed_while_a_pod_is_astray() {
        let now = Instant::now();
        let pending = Endpoint {
            flags: netpol_common::abi::ENDPOINT_PENDING,
            ..Endpoint::default()
        };
        for (endpoint, waited, astray, closed) in [
            (Some(pending), 0, true, false),
            (Some(pending), 11, false, false),
            (Some(pending), 11, true, true),
            (
                Some(Endpoint {
                    id: 7,
                    ..Endpoint::default()
                }),
                11,
                true,
                false,
            ),
            // Closed by an earlier turn or agent.
            (None, 0, false, true),
            (None, 11, false, true),
            (None, 11, true, true),
            (None, 60, true, true),
            (None, 21, false, false),
        ] {
            let mut state = State::default();
            state.attached.insert(7);
            state.endpoints.extend(endpoint.map(|endpoint| (7, endpoint)));
            let mut ahead = Ahead {
                astray,
                ..Ahead::default()
            };
            let since = now.checked_sub(std::time::Duration::from_secs(waited)).unwrap();
            let waiting = Waiting {
                since,
                unread: false,
                read_for: Default::default(),
            };
            ahead.waiting.insert(7, waiting);
            let found = ahead.closed(&state).contains(&7);
            assert_eq!(found, closed, "{endpoint:?}, {waited} s, astray: {astray}");
            ahead.startup = Startup::Strict;
            let strict = ahead.closed(&state).contains(&7);
            assert_eq!(strict, closed || endpoint.is_none(), "{endpoint:?}, {waited} s");
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
