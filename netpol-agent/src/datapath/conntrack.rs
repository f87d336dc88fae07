// SPDX-License-Identifier: Apache-2.0
//! Seeds flows for connections that are older than a pod's programs (rule C6). The kernel's
//! connection tracking knows who opened them. Its table is read over netlink (ctnetlink, in this
//! network namespace), and the pod's connections become entries of map `flows` before its programs
//! are attached. A second reading, after all programs are attached, finds connections that were
//! opened meanwhile. Flows of another version that are not kept become seeds, too (`earlier`).
//!
//! A seed allows nothing by itself: the next packet of its connection is judged, in the direction
//! that opened it. A pod whose programs were always there gets no seeds. Neither does a connection
//! of a pod that had the address before (rule C3), as far as this agent saw that pod go. Zones and
//! marks of connection tracking are ignored.

#[cfg(test)]
mod captured;
mod earlier;
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

pub(super) use self::earlier::Earlier;
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

/// Counts of seeding since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seeded {
    /// Flow entries that were made.
    pub flows: u64,
    /// Times that the kernel's table could not be read, or had more connections of the pods than
    /// fit.
    pub incomplete: u64,
}

/// Makes seeds of connections, and remembers which connections must not become flows.
#[derive(Debug, Default)]
pub(super) struct Seeder {
    places: Places,
    endpoints: BTreeMap<u32, Endpoint>,
    /// The reading from before the first program of this turn was attached.
    before: Option<BTreeMap<IpAddr, Vec<Seed>>>,
    /// Interfaces that had no programs before this turn.
    gaps: BTreeSet<u32>,
    /// Addresses of endpoints that were removed in this turn.
    gone: BTreeSet<IpAddr>,
    /// Connections of removed pods by address, with keys that name no endpoint, for as long as the
    /// kernel has them.
    former: BTreeMap<IpAddr, HashSet<FlowKey>>,
    room: usize,
    left_out: usize,
    seeded: Seeded,
    told: BTreeSet<&'static str>,
    /// Addresses that an earlier agent doubted, until their pods are removed.
    unsure: BTreeSet<IpAddr>,
    /// What another version remembers, until it is removed.
    earlier: Option<Earlier>,
}

impl Seeder {
    /// Begins a turn with the current endpoints and those that will be written. `node` has the
    /// node's addresses, `lifetimes` those of flows.
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

    /// Takes the addresses for which an earlier agent doubted the owner of the connections.
    pub(super) fn doubt(&mut self, addresses: BTreeSet<IpAddr>) {
        self.unsure = addresses;
    }

    /// Takes what another version remembers of connections; `None` when that is removed.
    pub(super) fn set_earlier(&mut self, earlier: Option<Earlier>) {
        self.earlier = earlier;
    }

    /// Returns the endpoint addresses whose connections in the kernel's table may belong to an
    /// earlier pod with the address, or to another claimant. The programs do not look up these
    /// (rule C3).
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

    /// Returns the ids of the current endpoints.
    pub(super) fn ids(&self) -> BTreeSet<u32> {
        self.endpoints.values().map(|endpoint| endpoint.id).collect()
    }

    /// Call it before programs are attached to an interface that has none.
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
            // Use at most half of the table, so that the connections of pods with programs keep
            // their entries.
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

    /// Seeds the earlier connections of interfaces whose programs let everything pass. Returns the
    /// interfaces whose addresses nobody else claims: these are complete.
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

    /// Records that an interface's endpoint is removed.
    pub(super) fn removing(&mut self, ifindex: u32) {
        if let Some(endpoint) = self.endpoints.remove(&ifindex) {
            self.gone.extend(addresses(&endpoint));
        }
    }

    /// Looks again for connections that were opened while programs were attached, before writes
    /// that take a while to come.
    pub(super) fn read_again(&mut self, table: &mut FlowTable<'_>, shares: &Shares) -> Result<(), MapError> {
        if self.gaps.is_empty() {
            return Ok(());
        }
        let found = self.read();
        for ifindex in self.gaps.clone() {
            if let Some(endpoint) = self.endpoints.get(&ifindex).copied() {
                self.write(&endpoint, &found, table, shares)?;
            }
        }
        Ok(())
    }

    /// Ends the turn, after its writes.
    pub(super) fn finish(&mut self, table: &mut FlowTable<'_>, shares: &Shares) -> Result<(), MapError> {
        if self.gaps.is_empty() && self.gone.is_empty() {
            return Ok(());
        }
        let flows = self.seeded.flows;
        // Removed endpoints no longer claim addresses, but their connections are still looked up.
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

    /// Returns the counts since the start.
    pub(super) fn seeded(&self) -> Seeded {
        self.seeded
    }

    /// Remembers the connections of removed pods, and forgets those that the kernel has forgotten.
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
            // Two endpoints claim the address, so the owner of these connections is unknown.
            if self.places.pods.get(&address).copied().flatten().is_none() {
                continue;
            }
            // An earlier agent saw another pod with it, and which connections are whose is unknown.
            if self.unsure.contains(&address) {
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

    /// Reads the flows of all endpoints' connections, by address. A table that cannot be read
    /// counts as empty; this is logged once, and counted.
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
        if let Some(earlier) = &self.earlier {
            let each = |seed: Seed| found.entry(seed.address).or_default().push(seed);
            if let Err(error) = earlier.seeds(&self.places, now, each) {
                warn!(%error, "reading the flows of another version");
            }
        }
        // If there are too many, answered connections are worth more.
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

/// Maps each address to the interface of its endpoint; `None` if two claim it.
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

/// Returns the addresses of an endpoint.
fn addresses(endpoint: &Endpoint) -> impl Iterator<Item = IpAddr> + use<> {
    let ipv4 = Ipv4Addr::from(endpoint.ipv4);
    let ipv6 = Ipv6Addr::from(endpoint.ipv6);
    let ipv4 = (!ipv4.is_unspecified()).then_some(IpAddr::V4(ipv4));
    let ipv6 = (!ipv6.is_unspecified()).then_some(IpAddr::V6(ipv6));
    ipv4.into_iter().chain(ipv6)
}

/// Returns the time of the programs' clock, nanoseconds.
pub(super) fn now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from);
    now.map_or(0, |now| now.as_nanos() as u64)
}

/// Calls `each` for every entry of the kernel's table, of both families.
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

/// Returns true if one of the interfaces is a port of a bridge whose frames bypass connection
/// tracking.
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
