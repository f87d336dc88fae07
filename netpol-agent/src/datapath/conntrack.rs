// SPDX-License-Identifier: Apache-2.0
//! Connections that were open before a pod's programs were there (rule C6). The kernel's own connection tracking says who opened them: its
//! table is read over netlink (ctnetlink, of this network namespace), and those of the pod become entries of map `flows`, before its
//! programs are attached. A second reading, after all programs are attached, finds those that were opened meanwhile.
//!
//! A seed lets nothing pass by itself: the next packet of its connection is judged, in the direction that opened it. A pod whose programs
//! were there all the time gets none. Neither does a connection of a pod that had the address before (rule C3), as far as this agent saw
//! that pod go. Zones and marks of the connection tracking are not looked at.

#[cfg(test)]
mod captured;
mod message;
mod seed;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netpol_common::{
    abi::{Endpoint, FlowKey, Lifetimes},
    flow::State,
};
use nix::time::{ClockId, clock_gettime};
use tracing::{debug, info, warn};

use self::seed::{Places, Seed};
use super::{
    maps::{FlowTable, MapError},
    netlink::{Requests, attributes, u32_at},
    shares::Shares,
};

/// Subsystem `NFNL_SUBSYS_CTNETLINK` with message `IPCTNL_MSG_CT_GET`.
const GET: u16 = 1 << 8 | 1;
/// The same with `IPCTNL_MSG_CT_NEW`.
const NEW: u16 = 1 << 8;
const INTERFACE_MESSAGE_BYTES: usize = 16;
const IFLA_MASTER: u16 = 10;

/// What became of the seeding since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seeded {
    /// Flow entries made.
    pub flows: u64,
    /// Times that the kernel's table could not be read, or could not hold all connections of the pods.
    pub incomplete: u64,
}

/// Connections of pods, and what must not become flows of theirs.
#[derive(Debug, Default)]
pub(super) struct Seeder {
    places: Places,
    endpoints: BTreeMap<u32, Endpoint>,
    /// Read before the first program of this turn was attached.
    before: Option<BTreeMap<IpAddr, Vec<Seed>>>,
    /// Interfaces that had no programs before this turn.
    gaps: BTreeSet<u32>,
    /// Addresses of endpoints that went in this turn.
    gone: BTreeSet<IpAddr>,
    /// Connections of pods that are gone, by address and without an endpoint, as long as the kernel has them.
    former: BTreeMap<IpAddr, HashSet<FlowKey>>,
    room: usize,
    left_out: usize,
    seeded: Seeded,
    told: BTreeSet<&'static str>,
    /// Addresses that an earlier agent doubted, until their pods go.
    unsure: BTreeSet<IpAddr>,
}

impl Seeder {
    /// A turn begins: with the endpoints that there are, and those that will be written. `node`: the node's addresses; `lifetimes`: those of
    /// flows.
    pub(super) fn begin(
        &mut self,
        held: &BTreeMap<u32, Endpoint>,
        planned: &BTreeMap<u32, Endpoint>,
        node: &BTreeSet<IpAddr>,
        lifetimes: Lifetimes,
    ) {
        self.endpoints.clone_from(held);
        self.before = None;
        self.gaps.clear();
        self.gone.clear();
        for (ifindex, endpoint) in planned {
            let old = self.endpoints.insert(*ifindex, *endpoint);
            let other = old.filter(|old| old.id != endpoint.id);
            self.gone.extend(other.iter().flat_map(addresses));
        }
        self.places = Places {
            pods: claims(&self.endpoints),
            node: node.clone(),
            lifetimes,
        };
    }

    /// An earlier agent doubted whose the connections of these addresses are.
    pub(super) fn doubt(&mut self, addresses: BTreeSet<IpAddr>) {
        self.unsure = addresses;
    }

    /// Addresses of endpoints whose connections in the kernel's table may be of a pod that had the
    /// address before, or of another that claims it: about these the programs do not ask (rule C3).
    pub(super) fn doubtful(&self) -> BTreeSet<IpAddr> {
        let claims = claims(&self.endpoints);
        let doubted = |address: &IpAddr| {
            self.former.contains_key(address) || self.gone.contains(address) || self.unsure.contains(address)
        };
        let claims = claims.into_iter();
        claims
            .filter(|(address, by)| by.is_none() || doubted(address))
            .map(|(address, _)| address)
            .collect()
    }

    /// Ids of the endpoints that there are.
    pub(super) fn ids(&self) -> BTreeSet<u32> {
        self.endpoints.values().map(|endpoint| endpoint.id).collect()
    }

    /// Programs are about to be attached to an interface that has none.
    pub(super) fn attaching(
        &mut self,
        ifindex: u32,
        table: &mut FlowTable<'_>,
        shares: &Shares,
    ) -> Result<(), MapError> {
        let Some(endpoint) = self.endpoints.get(&ifindex).copied() else {
            return Ok(());
        };
        if self.before.is_none() {
            // Half of the table at most, so that connections of the pods that have their programs keep their place.
            self.room = table.capacity()? as usize / 2;
            self.left_out = 0;
            self.before = Some(self.read());
        }
        self.gaps.insert(ifindex);
        let before = self.before.take().unwrap_or_default();
        let written = self.write(&endpoint, &before, table, shares);
        self.before = Some(before);
        written
    }

    /// Programs that let everything pass are on these interfaces: what was opened before becomes their flows. Returns those whose addresses are
    /// theirs alone, of which all is known then.
    pub(super) fn read_for(
        &mut self,
        interfaces: &BTreeSet<u32>,
        table: &mut FlowTable<'_>,
        shares: &Shares,
    ) -> Result<BTreeSet<u32>, MapError> {
        self.room = table.capacity()? as usize / 2;
        self.left_out = 0;
        self.gaps.clone_from(interfaces);
        self.finish(table, shares)?;
        let alone = |ifindex: &u32| {
            let endpoint = self.endpoints.get(ifindex)?;
            let claimed =
                addresses(endpoint).map(|address| self.places.pods.get(&address).copied().flatten());
            claimed
                .into_iter()
                .all(|by| by == Some(*ifindex))
                .then_some(*ifindex)
        };
        Ok(interfaces.iter().filter_map(alone).collect())
    }

    /// An interface's endpoint is removed.
    pub(super) fn removing(&mut self, ifindex: u32) {
        if let Some(endpoint) = self.endpoints.remove(&ifindex) {
            self.gone.extend(addresses(&endpoint));
        }
    }

    /// The turn's writes are made.
    pub(super) fn finish(&mut self, table: &mut FlowTable<'_>, shares: &Shares) -> Result<(), MapError> {
        if self.gaps.is_empty() && self.gone.is_empty() {
            return Ok(());
        }
        let flows = self.seeded.flows;
        // Those that went claim nothing any more, but their connections are looked for.
        self.places.pods = claims(&self.endpoints);
        for address in &self.gone {
            self.places.pods.entry(*address).or_insert(Some(0));
        }
        let found = self.read();
        self.forget(&found);
        for ifindex in std::mem::take(&mut self.gaps) {
            if let Some(endpoint) = self.endpoints.get(&ifindex).copied() {
                self.write(&endpoint, &found, table, shares)?;
            }
        }
        self.before = None;
        if self.left_out > 0 {
            self.seeded.incomplete += 1;
            warn!(
                left_out = self.left_out,
                "more connections were open than half of the flow table holds; --flow-capacity makes it larger"
            );
            self.left_out = 0;
        }
        debug!(flows = self.seeded.flows - flows, "flows of the second reading");
        Ok(())
    }

    /// What became of it since the start.
    pub(super) fn seeded(&self) -> Seeded {
        self.seeded
    }

    /// Remembers the connections of the pods that went, and forgets those that the kernel forgot.
    fn forget(&mut self, found: &BTreeMap<IpAddr, Vec<Seed>>) {
        let keys = |address: &IpAddr| {
            let seeds = found.get(address).into_iter().flatten();
            seeds.map(|seed| seed.key).collect::<HashSet<_>>()
        };
        self.former.retain(|address, former| {
            let now = keys(address);
            former.retain(|key| now.contains(key));
            !former.is_empty()
        });
        for address in std::mem::take(&mut self.gone) {
            let now = keys(&address);
            self.unsure.remove(&address);
            if !now.is_empty() {
                self.former.entry(address).or_default().extend(now);
            }
        }
    }

    fn write(
        &mut self,
        endpoint: &Endpoint,
        found: &BTreeMap<IpAddr, Vec<Seed>>,
        table: &mut FlowTable<'_>,
        shares: &Shares,
    ) -> Result<(), MapError> {
        let mut flows = 0;
        for address in addresses(endpoint) {
            // Two claim it: whose connections these are cannot be told.
            if self.places.pods.get(&address).copied().flatten().is_none() {
                continue;
            }
            let former = self.former.get(&address);
            for seed in found.get(&address).into_iter().flatten() {
                if former.is_some_and(|former| former.contains(&seed.key)) {
                    continue;
                }
                if self.room == 0 {
                    self.left_out += 1;
                    continue;
                }
                let key = FlowKey {
                    endpoint: endpoint.id,
                    ..seed.key
                };
                if table.add(shares, &key, &seed.flow, now(), &self.places.lifetimes)? {
                    self.room -= 1;
                    flows += 1;
                }
            }
        }
        if flows > 0 {
            info!(
                endpoint = endpoint.id,
                flows, "connections that were open go on as the policy says of who opened them"
            );
        }
        self.seeded.flows += flows;
        Ok(())
    }

    /// The flows of all endpoints' connections, by address. A table that cannot be read is an empty one: it is told once, and counted.
    fn read(&mut self) -> BTreeMap<IpAddr, Vec<Seed>> {
        let mut found: BTreeMap<IpAddr, Vec<Seed>> = BTreeMap::new();
        let places = &self.places;
        let now = now();
        match read(|connection| {
            for seed in seed::seeds(connection, places, now) {
                found.entry(seed.address).or_default().push(seed);
            }
        }) {
            Ok(()) if bridged(&self.gaps) => self.tell(
                "connections between pods on one bridge are not tracked (net.bridge.bridge-nf-call-iptables, \
                 -ip6tables): those that were open are judged by the next packet of either side",
            ),
            Ok(()) => {}
            Err(error) => {
                debug!(%error, "reading the kernel's connection table");
                self.tell(
                    "the kernel's connection table cannot be read (ctnetlink): connections that were open are judged by \
                     the next packet of either side",
                );
            }
        }
        // Should there be too many: those that were answered are worth more.
        for seeds in found.values_mut() {
            seeds.sort_by_key(|seed| seed.flow.state == State::Opening as u8);
        }
        found
    }

    fn tell(&mut self, what: &'static str) {
        self.seeded.incomplete += 1;
        if self.told.insert(what) {
            warn!("{what}");
        }
    }
}

/// The interface of the endpoint that has an address; `None` where two claim it.
fn claims(endpoints: &BTreeMap<u32, Endpoint>) -> BTreeMap<IpAddr, Option<u32>> {
    let mut claims = BTreeMap::new();
    for (ifindex, endpoint) in endpoints {
        for address in addresses(endpoint) {
            claims
                .entry(address)
                .and_modify(|known| *known = None)
                .or_insert(Some(*ifindex));
        }
    }
    claims
}

/// The addresses that an endpoint has.
fn addresses(endpoint: &Endpoint) -> impl Iterator<Item = IpAddr> + use<> {
    let ipv4 = Ipv4Addr::from(endpoint.ipv4);
    let ipv6 = Ipv6Addr::from(endpoint.ipv6);
    let ipv4 = (!ipv4.is_unspecified()).then_some(IpAddr::V4(ipv4));
    let ipv6 = (!ipv6.is_unspecified()).then_some(IpAddr::V6(ipv6));
    ipv4.into_iter().chain(ipv6)
}

/// The clock of the programs: nanoseconds.
pub(super) fn now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from);
    now.map_or(0, |now| now.as_nanos() as u64)
}

/// Gives each entry of the kernel's table, of both families.
fn read(mut each: impl FnMut(&message::Connection)) -> io::Result<()> {
    // `struct nfgenmsg`: any family, version 0, resource 0.
    let request = [libc::AF_UNSPEC as u8, 0, 0, 0];
    Requests::open(NETLINK_NETFILTER)?
        .dump(GET, &request, |kind, message| {
            if kind == NEW
                && let Some(connection) = message::connection(message)
            {
                each(&connection);
            }
        })
        .map(drop)
}

/// Whether one of the interfaces is a port of a bridge whose frames pass the connection tracking by.
fn bridged(interfaces: &BTreeSet<u32>) -> bool {
    let called = ["iptables", "ip6tables"].into_iter().all(|family| {
        let path = format!("/proc/sys/net/bridge/bridge-nf-call-{family}");
        std::fs::read_to_string(path).is_ok_and(|text| text.trim() != "0")
    });
    if called {
        return false;
    }
    let mut found = false;
    let listed = Requests::open(NETLINK_ROUTE).and_then(|mut requests| {
        requests.dump(libc::RTM_GETLINK, &[0; INTERFACE_MESSAGE_BYTES], |_, message| {
            let port = attributes(message.get(INTERFACE_MESSAGE_BYTES..).unwrap_or_default())
                .any(|(kind, _)| kind == IFLA_MASTER);
            found |= port && u32_at(message, 4).is_some_and(|index| interfaces.contains(&index));
        })
    });
    if let Err(error) = listed {
        debug!(%error, "listing the ports of bridges");
    }
    found
}
