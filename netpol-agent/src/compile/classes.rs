// SPDX-License-Identifier: Apache-2.0
//! Classes of addresses. All addresses that match the same active peers are one class, and policies
//! have entries per class. So a pod that comes, goes or is relabelled changes one address.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use ipnet::IpNet;

use super::{
    active,
    blocks::{Blocks, NO_BLOCK, RegionId},
    class::{Address, Class, ClassId, NO_PEER},
    fault::Findings,
    profiles::{Held, Host, NO_POD, ProfileId, Profiles},
};
use crate::model::Map;

/// The classes of a node.
#[derive(Debug)]
pub(super) struct Classes {
    blocks: Blocks,
    /// Classes by their key: the profile of their pods, and the region of the `ipBlock` peers
    /// around.
    cells: BTreeMap<(ProfileId, RegionId), Cell>,
    /// The key of each class.
    cell_of: BTreeMap<ClassId, (ProfileId, RegionId)>,
    /// All classes, those of frontends included.
    pub(super) list: Map<ClassId, Arc<Class>>,
    last: ClassId,
    /// The class of each prefix, without prefixes that add nothing to the one around them.
    pub(super) addresses: Map<IpNet, Address>,
}

#[derive(Debug)]
struct Cell {
    class: ClassId,
    /// Number of prefixes that have it.
    prefixes: usize,
}

impl Default for Classes {
    fn default() -> Self {
        let no_peer = Cell {
            class: NO_PEER,
            prefixes: 1,
        };
        Self {
            blocks: Blocks::default(),
            cells: BTreeMap::from([((NO_POD, NO_BLOCK), no_peer)]),
            cell_of: BTreeMap::from([(NO_PEER, (NO_POD, NO_BLOCK))]),
            list: [(NO_PEER, Arc::default())].into_iter().collect(),
            last: NO_PEER,
            addresses: Map::new(),
        }
    }
}

/// An address of neither a pod nor a node.
const NOBODY: Host = Host {
    profile: NO_POD,
    node: false,
    remote_node: false,
    blocks: Held::Itself,
};

impl Classes {
    /// Updates the prefixes whose class may have changed. Returns those whose class has.
    pub(super) fn update(
        &mut self,
        profiles: &mut Profiles,
        active: &active::Changes,
        findings: &mut Findings,
    ) -> Vec<IpNet> {
        let moves = self.blocks.update(&active.added, &active.removed);
        let mut changed = Vec::new();
        for address in profiles.take_touched(&moves.spans) {
            let host = profiles.host(address, findings);
            self.set(IpNet::from(address), host, profiles, &mut changed);
        }
        for net in moves.prefixes {
            let is_host = net.prefix_len() == net.max_prefix_len();
            let host = is_host.then(|| profiles.host(net.addr(), findings)).flatten();
            self.set(net, host, profiles, &mut changed);
        }
        let renamed = profiles.take_renamed();
        let mut say = |(profile, region): (ProfileId, RegionId), cell: &Cell| {
            let class = content(profiles, &self.blocks, profile, region);
            self.list.insert(cell.class, Arc::new(class));
        };
        for profile in &renamed {
            let cells = self
                .cells
                .range((*profile, RegionId::MIN)..=(*profile, RegionId::MAX));
            cells.for_each(|(key, cell)| say(*key, cell));
        }
        if !moves.renamed.is_empty() {
            let cells = self.cells.iter().filter(|((profile, region), _)| {
                moves.renamed.contains(region) && !renamed.contains(profile)
            });
            cells.for_each(|(key, cell)| say(*key, cell));
        }
        profiles.clear();
        changed
    }

    /// What the longest prefix around an address stands for.
    pub(super) fn address_at(&self, address: IpAddr) -> Address {
        let host = IpNet::from(address);
        if let Some(found) = self.addresses.get(&host) {
            return *found;
        }
        let class = self.class_of(NO_POD, self.blocks.region_at(address, host.max_prefix_len()));
        Address {
            class: class.unwrap_or(NO_PEER),
            ..Address::default()
        }
    }

    /// A number that no class had.
    pub(super) fn take_id(&mut self) -> ClassId {
        self.last += 1;
        self.last
    }

    fn class_of(&self, profile: ProfileId, region: RegionId) -> Option<ClassId> {
        Some(self.cells.get(&(profile, region))?.class)
    }

    fn set(&mut self, net: IpNet, host: Option<Host>, profiles: &mut Profiles, changed: &mut Vec<IpNet>) {
        let length = net.prefix_len();
        let region = match host.map_or(Held::Itself, |host| host.blocks) {
            Held::Itself => self.blocks.region_at(net.addr(), length),
            Held::Other(address) => self.blocks.region_at(address, Ipv6Addr::BITS as u8),
            Held::Nothing => NO_BLOCK,
        };
        let around = match length.checked_sub(1) {
            Some(shorter) => self.blocks.region_at(net.addr(), shorter),
            None => NO_BLOCK,
        };
        let is_there = host.is_some() || self.blocks.is_marked(&net);
        let host = host.unwrap_or(NOBODY);
        let before = self.addresses.get(&net).copied();
        let now = if is_there && (host, region) != (NOBODY, around) {
            Some(Address {
                class: self.hold(host.profile, region, profiles),
                node: host.node,
                remote_node: host.remote_node,
            })
        } else {
            None
        };
        if let Some(before) = before {
            self.release(before.class, profiles);
        }
        if now == before {
            return;
        }
        changed.push(net);
        match now {
            Some(address) => self.addresses.insert(net, address),
            None => self.addresses.remove(&net),
        };
    }

    fn hold(&mut self, profile: ProfileId, region: RegionId, profiles: &mut Profiles) -> ClassId {
        if let Some(cell) = self.cells.get_mut(&(profile, region)) {
            cell.prefixes += 1;
            return cell.class;
        }
        let class = self.take_id();
        profiles.hold(profile);
        self.cells.insert((profile, region), Cell { class, prefixes: 1 });
        self.cell_of.insert(class, (profile, region));
        let content = content(profiles, &self.blocks, profile, region);
        self.list.insert(class, Arc::new(content));
        class
    }

    fn release(&mut self, class: ClassId, profiles: &mut Profiles) {
        let Some(key) = self.cell_of.get(&class).copied() else {
            return;
        };
        if let Some(cell) = self.cells.get_mut(&key) {
            cell.prefixes -= 1;
            if cell.prefixes == 0 {
                self.cells.remove(&key);
                self.cell_of.remove(&class);
                self.list.remove(&class);
                profiles.release(key.0);
            }
        }
    }
}

fn content(profiles: &Profiles, blocks: &Blocks, profile: ProfileId, region: RegionId) -> Class {
    let profile = profiles.profile(profile);
    Class {
        peers: profile.peers.union(&blocks.peers(region)),
        named_ports: profile.named_ports.clone(),
        frontend: None,
    }
}
