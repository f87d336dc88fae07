// SPDX-License-Identifier: Apache-2.0
//! The prefixes of `ipBlock` peers. The region of a prefix is its addresses that are in no longer
//! prefix; it matches a set of the peers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Bound,
    sync::Arc,
};

use ipnet::IpNet;

use super::{
    peer::PeerSpec,
    peer_set::{PeerId, PeerSet},
};

/// Number of a region: all prefixes that match the same `ipBlock` peers have one. A region that
/// keeps its number says the same of every peer that stays active.
pub(super) type RegionId = u64;

/// What no `ipBlock` peer matches.
pub(super) const NO_BLOCK: RegionId = 0;

/// How the set of matching peers changes at a prefix.
#[derive(Debug, Default)]
struct Mark {
    /// Peers with this CIDR.
    opens: Vec<PeerId>,
    /// Peers with this `except`.
    closes: Vec<PeerId>,
    /// Its region, if it has one by now.
    region: Option<RegionId>,
}

/// All prefixes.
#[derive(Debug)]
pub(super) struct Blocks {
    marks: BTreeMap<IpNet, Mark>,
    /// Prefix lengths in use, longest last, with the number of prefixes.
    lengths: BTreeMap<(bool, u8), usize>,
    /// Peers of each region.
    peers: BTreeMap<RegionId, PeerSet>,
    ids: BTreeMap<PeerSet, RegionId>,
    last: RegionId,
}

impl Default for Blocks {
    fn default() -> Self {
        Self {
            marks: BTreeMap::new(),
            lengths: BTreeMap::new(),
            peers: BTreeMap::from([(NO_BLOCK, PeerSet::default())]),
            ids: BTreeMap::from([(PeerSet::default(), NO_BLOCK)]),
            last: NO_BLOCK,
        }
    }
}

/// What an update changed.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// Prefixes that peers mark, or did before.
    pub(super) prefixes: BTreeSet<IpNet>,
    /// First and last address of spans whose region has changed.
    pub(super) spans: Vec<(IpAddr, IpAddr)>,
    /// Regions that match other peers than before.
    pub(super) renamed: BTreeSet<RegionId>,
}

impl Blocks {
    /// Adds and removes peers.
    pub(super) fn update(
        &mut self,
        added: &[(PeerId, Arc<PeerSpec>)],
        removed: &[(PeerId, Arc<PeerSpec>)],
    ) -> Moves {
        let mut moves = Moves::default();
        let is_block = |(_, spec): &&(PeerId, Arc<PeerSpec>)| matches!(**spec, PeerSpec::Block { .. });
        if !added.iter().chain(removed).any(|peer| is_block(&peer)) {
            return moves;
        }
        for (id, spec) in added {
            if let PeerSpec::Block { cidr, except } = &**spec {
                self.mark(*cidr).opens.push(*id);
                except.iter().for_each(|net| self.mark(*net).closes.push(*id));
            }
        }
        let new = self.marks.iter().filter(|(_, mark)| mark.region.is_none());
        // The region that a new prefix was part of. Prefixes without a region do not count.
        let mut before: BTreeMap<IpNet, RegionId> = new
            .map(|(net, _)| (*net, self.region_at(net.addr(), net.prefix_len())))
            .collect();
        for (id, spec) in removed {
            if let PeerSpec::Block { cidr, except } = &**spec {
                for net in except.iter().chain([cidr]) {
                    if let Some(region) = self.unmark(*net, *id) {
                        before.insert(*net, region);
                    }
                }
            }
        }
        let found = self.walk();
        self.rename(&found, &mut moves);
        for (net, peers) in found {
            let region = self.region_of(peers);
            moves.prefixes.insert(net);
            if let Some(known) = self
                .marks
                .get_mut(&net)
                .and_then(|mark| mark.region.replace(region))
            {
                before.insert(net, known);
            }
        }
        for (net, region) in before {
            moves.prefixes.insert(net);
            if self.region_at(net.addr(), net.prefix_len()) != region {
                self.own_addresses(&net, &mut moves.spans);
            }
        }
        self.clear();
        moves
    }

    /// The peers of a region.
    pub(super) fn peers(&self, region: RegionId) -> PeerSet {
        self.peers.get(&region).cloned().unwrap_or_default()
    }

    /// The region of the longest prefix around an address that is at most `longest` long.
    pub(super) fn region_at(&self, address: IpAddr, longest: u8) -> RegionId {
        let is_ipv4 = address.is_ipv4();
        let lengths = self.lengths.range((is_ipv4, 0)..=(is_ipv4, longest)).rev();
        lengths
            .filter_map(|((_, length), _)| IpNet::new(address, *length).ok())
            .find_map(|net| self.marks.get(&net.trunc())?.region)
            .unwrap_or(NO_BLOCK)
    }

    /// Whether a prefix is marked.
    pub(super) fn is_marked(&self, net: &IpNet) -> bool {
        self.marks.contains_key(net)
    }

    fn mark(&mut self, net: IpNet) -> &mut Mark {
        let lengths = &mut self.lengths;
        self.marks.entry(net).or_insert_with(|| {
            *lengths.entry(length(&net)).or_default() += 1;
            Mark::default()
        })
    }

    /// Returns the region of a prefix that no peer marks any more.
    fn unmark(&mut self, net: IpNet, peer: PeerId) -> Option<RegionId> {
        let mark = self.marks.get_mut(&net)?;
        mark.opens.retain(|other| *other != peer);
        mark.closes.retain(|other| *other != peer);
        if !mark.opens.is_empty() || !mark.closes.is_empty() {
            return None;
        }
        if let Some(count) = self.lengths.get_mut(&length(&net)) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&length(&net));
            }
        }
        self.marks.remove(&net)?.region
    }

    /// Adds the addresses of a prefix that are in no longer one.
    fn own_addresses(&self, net: &IpNet, spans: &mut Vec<(IpAddr, IpAddr)>) {
        let within = self.marks.range((Bound::Excluded(*net), Bound::Unbounded));
        let mut next = Some(net.network());
        for (inner, _) in within.take_while(|(inner, _)| net.contains(*inner)) {
            let Some(first) = next else { return };
            // Else it is within the one before.
            if inner.network() >= first {
                if let Some(last) = beside(inner.network(), -1).filter(|last| *last >= first) {
                    spans.push((first, last));
                }
                next = beside(inner.broadcast(), 1);
            }
        }
        spans.extend(
            next.filter(|first| net.contains(first))
                .map(|first| (first, net.broadcast())),
        );
    }

    /// The peers that each prefix matches. Sorted prefixes come parents first, so the prefixes
    /// around the current one are a stack.
    fn walk(&self) -> Vec<(IpNet, PeerSet)> {
        let mut found = Vec::with_capacity(self.marks.len());
        let mut around: Vec<(IpNet, PeerSet)> = Vec::new();
        for (net, mark) in &self.marks {
            while around.last().is_some_and(|(outer, _)| !outer.contains(net)) {
                around.pop();
            }
            let outer = around.last().map(|(_, peers)| peers.clone()).unwrap_or_default();
            let [opens, closes] = [&mark.opens, &mark.closes].map(|peers| peers.iter().copied().collect());
            let peers = outer.union(&opens).minus(&closes);
            around.push((*net, peers.clone()));
            found.push((*net, peers));
        }
        found
    }

    /// A region keeps its number if all its prefixes get the same new set of peers.
    fn rename(&mut self, found: &[(IpNet, PeerSet)], moves: &mut Moves) {
        let mut to: BTreeMap<RegionId, Option<&PeerSet>> = BTreeMap::new();
        for (net, peers) in found {
            if let Some(region) = self.marks.get(net).and_then(|mark| mark.region) {
                let same = to.entry(region).or_insert(Some(peers));
                *same = same.filter(|first| *first == peers);
            }
        }
        to.remove(&NO_BLOCK);
        to.retain(|region, peers| peers.is_some_and(|peers| self.peers.get(region) != Some(peers)));
        for region in to.keys() {
            let before = &self.peers[region];
            self.ids.remove(before);
        }
        for (region, peers) in to {
            if let Some(peers) = peers.filter(|peers| !self.ids.contains_key(*peers)) {
                self.ids.insert(peers.clone(), region);
                self.peers.insert(region, peers.clone());
                moves.renamed.insert(region);
            }
        }
    }

    fn region_of(&mut self, peers: PeerSet) -> RegionId {
        if let Some(region) = self.ids.get(&peers) {
            return *region;
        }
        self.last += 1;
        self.ids.insert(peers.clone(), self.last);
        self.peers.insert(self.last, peers);
        self.last
    }

    /// Forgets regions without prefixes.
    fn clear(&mut self) {
        let used: BTreeSet<RegionId> = self
            .marks
            .values()
            .filter_map(|mark| mark.region)
            .chain([NO_BLOCK])
            .collect();
        self.ids.retain(|_, region| used.contains(region));
        self.peers.retain(|region, _| used.contains(region));
    }
}

/// The address one before or after.
fn beside(address: IpAddr, step: i8) -> Option<IpAddr> {
    Some(match address {
        IpAddr::V4(address) => u32::from(address)
            .checked_add_signed(step.into())
            .map(Ipv4Addr::from)?
            .into(),
        IpAddr::V6(address) => u128::from(address)
            .checked_add_signed(step.into())
            .map(Ipv6Addr::from)?
            .into(),
    })
}

fn length(net: &IpNet) -> (bool, u8) {
    (net.addr().is_ipv4(), net.prefix_len())
}
