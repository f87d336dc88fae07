// SPDX-License-Identifier: Apache-2.0
//! The named ports by which egress rules in force reach pods (rule T4).

use std::collections::{BTreeMap, BTreeSet};

use super::Force;
use crate::{
    compile::{peer_set::PeerSet, ports::PortKey},
    model::{Direction, Pod},
};

/// The ports, by who is reached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::compile) struct Wanted {
    /// Of rules with an empty `to`.
    of_all: BTreeSet<PortKey>,
    /// Of the others: the selector peers of all rules that have the port.
    of_peers: BTreeMap<PortKey, PeerSet>,
}

/// Of which pods other ports are wanted than before.
#[derive(Debug, Default)]
pub(in crate::compile) struct Moved {
    all: bool,
    peers: PeerSet,
}

impl Moved {
    /// Whether nothing has moved.
    pub(in crate::compile) fn is_nothing(&self) -> bool {
        !self.all && self.peers.is_empty()
    }

    /// Whether it is about pods that match these peers.
    pub(in crate::compile) fn concerns(&self, peers: &PeerSet) -> bool {
        self.all || self.peers.intersects(peers)
    }
}

impl Wanted {
    /// What is other in the later one.
    pub(in crate::compile) fn moved(&self, later: &Self) -> Moved {
        let none = PeerSet::default();
        let ports: BTreeSet<&PortKey> = self.of_peers.keys().chain(later.of_peers.keys()).collect();
        let at = |wanted: &Self, port| wanted.of_peers.get(port).unwrap_or(&none).clone();
        let moved = ports
            .into_iter()
            .map(|port| at(self, port).difference(&at(later, port)));
        Moved {
            all: self.of_all != later.of_all,
            peers: PeerSet::union_of(&moved.collect::<Vec<_>>()),
        }
    }

    /// The numbers of those of a pod's ports that are wanted of pods which match any of these
    /// peers.
    pub(in crate::compile) fn ports_of(&self, pod: &Pod, peers: [&PeerSet; 2]) -> BTreeMap<PortKey, u16> {
        // A pod has few ports, whatever there is in rules.
        let mut ports = PortKey::of(pod);
        ports.retain(|port, _| {
            let by_peers = self.of_peers.get(port);
            self.of_all.contains(port)
                || by_peers.is_some_and(|wanted| peers.iter().any(|peers| wanted.intersects(peers)))
        });
        ports
    }
}

impl Force {
    /// Named ports by which egress rules in force reach pods.
    pub(in crate::compile) fn wanted_ports(&self) -> Wanted {
        let mut of_all = BTreeSet::new();
        let mut of_peers: BTreeMap<&PortKey, Vec<&PeerSet>> = BTreeMap::new();
        let lists = self
            .policies
            .values()
            .filter_map(|lists| lists[Direction::Egress as usize].as_ref());
        for rule in lists.flatten() {
            for (_, port) in rule.ports.named() {
                match &rule.peers {
                    None => drop(of_all.insert(port.clone())),
                    Some(_) => of_peers.entry(port).or_default().push(&rule.selectors),
                }
            }
        }
        let of_peers = of_peers.into_iter();
        let of_peers = of_peers.map(|(port, sets)| (port.clone(), PeerSet::union_of(sets)));
        Wanted {
            of_all,
            of_peers: of_peers.filter(|(_, peers)| !peers.is_empty()).collect(),
        }
    }
}
