// SPDX-License-Identifier: Apache-2.0
//! Classes of addresses: all that match the same peers in force are one, so that a policy is written per class, and a pod
//! that comes, goes or is relabelled changes one address.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    hash::Hash,
    net::IpAddr,
};

use ipnet::IpNet;

use super::{
    Address, Class,
    fault::Findings,
    force::{Force, PeerId},
    peer::PeerSpec,
    profiles::{self, Profile},
};
use crate::model::{Node, Snapshot};

/// The classes of a compilation.
#[derive(Debug)]
pub(super) struct Classes {
    /// Sorted; index 0 is the class that matches nothing.
    pub(super) list: Vec<Class>,
    /// The classes that match each peer, ascending.
    pub(super) by_peer: Vec<Vec<usize>>,
    /// The class of each prefix, without those that add nothing to the prefix around them.
    pub(super) addresses: BTreeMap<IpNet, Address>,
}

/// What happens to the set of matching `ipBlock` peers at a prefix, and what is there besides.
#[derive(Default)]
struct Mark {
    /// Peers with this CIDR.
    opens: Vec<PeerId>,
    /// Peers with this `except`.
    closes: Vec<PeerId>,
    /// Index of the profile.
    profile: usize,
    /// An address of this node.
    node: bool,
    /// An address of another node.
    remote_node: bool,
}

/// A class before it has its number: indices of the `ipBlock` peers (region) and of the profile.
type Key = (usize, usize);

/// A prefix with what was found for it.
struct Found {
    net: IpNet,
    region: usize,
    key: Key,
    node: bool,
    remote_node: bool,
}

impl Classes {
    /// The classes of all addresses of the cluster, by the peers in force.
    pub(super) fn new(snapshot: &Snapshot, node: &Node, force: &Force<'_>, findings: &mut Findings) -> Self {
        let mut profiles = Interner::<Profile>::default();
        let mut marks: BTreeMap<IpNet, Mark> = BTreeMap::new();
        for (address, profile) in profiles::of_addresses(snapshot, node, force, findings) {
            marks.entry(IpNet::from(address)).or_default().profile = profiles.intern(profile);
        }
        for address in node.addresses.iter().map(IpAddr::to_canonical) {
            marks.entry(IpNet::from(address)).or_default().node = true;
        }
        let of_nodes = snapshot.nodes.values().flat_map(|node| &node.addresses);
        for address in of_nodes.map(IpAddr::to_canonical) {
            let mark = marks.entry(IpNet::from(address)).or_default();
            mark.remote_node = !mark.node;
        }
        for (id, (_, spec)) in force.peers.iter().enumerate() {
            if let PeerSpec::Block { cidr, except } = spec {
                marks.entry(*cidr).or_default().opens.push(id);
                for net in except {
                    marks.entry(*net).or_default().closes.push(id);
                }
            }
        }
        let mut regions = Interner::<BTreeSet<PeerId>>::default();
        let found = walk(&marks, &mut regions);
        number(force, &found, &regions, &profiles)
    }
}

/// Gives each prefix that differs from the longest one around it its region and class. Sorted prefixes come parents first,
/// so the prefixes around the current one are a stack.
fn walk(marks: &BTreeMap<IpNet, Mark>, regions: &mut Interner<BTreeSet<PeerId>>) -> Vec<Found> {
    let mut kept = Vec::new();
    let mut around: Vec<Found> = Vec::new();
    for (&net, mark) in marks {
        while around.last().is_some_and(|outer| !outer.net.contains(&net)) {
            around.pop();
        }
        let (outer_region, outer_key, outer_is) =
            around.last().map_or((0, (0, 0), (false, false)), |outer| {
                (outer.region, outer.key, (outer.node, outer.remote_node))
            });
        let region = if mark.opens.is_empty() && mark.closes.is_empty() {
            outer_region
        } else {
            let mut peers = regions.values[outer_region].clone();
            peers.extend(&mark.opens);
            for peer in &mark.closes {
                peers.remove(peer);
            }
            regions.intern(peers)
        };
        let key = (region, mark.profile);
        if (key, (mark.node, mark.remote_node)) != (outer_key, outer_is) {
            kept.push(Found {
                net,
                region,
                key,
                node: mark.node,
                remote_node: mark.remote_node,
            });
        }
        around.push(Found {
            net,
            region,
            key,
            node: mark.node,
            remote_node: mark.remote_node,
        });
    }
    kept
}

/// Numbers the classes by their content.
fn number(
    force: &Force<'_>,
    found: &[Found],
    regions: &Interner<BTreeSet<PeerId>>,
    profiles: &Interner<Profile>,
) -> Classes {
    let keys: HashSet<Key> = found.iter().map(|found| found.key).chain([(0, 0)]).collect();
    let peers_of = |(region, profile): Key| {
        regions.values[region]
            .iter()
            .chain(&profiles.values[profile].peers)
    };
    let mut sorted: Vec<(Class, Key)> = keys
        .into_iter()
        .map(|key| {
            let class = Class {
                peers: peers_of(key).map(|&peer| force.peers[peer].0.clone()).collect(),
                named_ports: profiles.values[key.1].named_ports.clone(),
                frontend: None,
            };
            (class, key)
        })
        .collect();
    sorted.sort_unstable();
    let mut by_peer = vec![Vec::new(); force.peers.len()];
    let mut index_of = HashMap::new();
    let mut list = Vec::with_capacity(sorted.len());
    for (index, (class, key)) in sorted.into_iter().enumerate() {
        for &peer in peers_of(key) {
            by_peer[peer].push(index);
        }
        index_of.insert(key, index);
        list.push(class);
    }
    let address = |found: &Found| {
        let class = index_of[&found.key];
        (
            found.net,
            Address {
                class,
                node: found.node,
                remote_node: found.remote_node,
            },
        )
    };
    Classes {
        addresses: found.iter().map(address).collect(),
        list,
        by_peer,
    }
}

/// Distinct values by index, in the order they came. Index 0 is the default value.
struct Interner<T> {
    values: Vec<T>,
    index: HashMap<T, usize>,
}

impl<T: Default + Clone + Eq + Hash> Default for Interner<T> {
    fn default() -> Self {
        Self {
            values: vec![T::default()],
            index: HashMap::from([(T::default(), 0)]),
        }
    }
}

impl<T: Clone + Eq + Hash> Interner<T> {
    fn intern(&mut self, value: T) -> usize {
        if let Some(&index) = self.index.get(&value) {
            return index;
        }
        self.values.push(value.clone());
        self.index.insert(value, self.values.len() - 1);
        self.values.len() - 1
    }
}
