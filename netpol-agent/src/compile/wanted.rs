// SPDX-License-Identifier: Apache-2.0
//! The named ports by which active egress rules reach pods (rule T4).

use std::collections::{BTreeMap, BTreeSet};

use super::{active::ActivePolicies, peer_set::PeerSet};
use crate::model::{Pod, PortKey};

/// The ports, by the pods that are reached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Wanted {
    /// Ports that rules with an empty `to` name.
    of_all: BTreeSet<PortKey>,
    /// Ports that other rules name, with the selector peers of all these rules.
    of_peers: BTreeMap<PortKey, PeerSet>,
}

/// The pods of which other ports are wanted than before.
#[derive(Debug, Default)]
pub(super) struct Moved {
    all: bool,
    peers: PeerSet,
}

impl Moved {
    /// Whether nothing has changed.
    pub(super) fn is_nothing(&self) -> bool {
        !self.all && self.peers.is_empty()
    }

    /// Whether pods that match these peers are concerned.
    pub(super) fn concerns(&self, peers: &PeerSet) -> bool {
        self.all || self.peers.intersects(peers)
    }
}

impl Wanted {
    /// The named ports by which active egress rules reach pods.
    pub(super) fn of(active: &ActivePolicies) -> Self {
        let mut of_all = BTreeSet::new();
        let mut of_peers: BTreeMap<&PortKey, Vec<&PeerSet>> = BTreeMap::new();
        for rule in active.egress_rules() {
            for (_, port) in rule.ports.named() {
                match &rule.peers {
                    None => drop(of_all.insert(port.clone())),
                    Some(_) => of_peers.entry(port).or_default().push(&rule.selectors),
                }
            }
        }
        let of_peers = of_peers.into_iter();
        let of_peers = of_peers.map(|(port, sets)| (port.clone(), PeerSet::union_of(sets)));
        Self {
            of_all,
            of_peers: of_peers.filter(|(_, peers)| !peers.is_empty()).collect(),
        }
    }

    /// What has changed in the later one.
    pub(super) fn moved(&self, later: &Self) -> Moved {
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

    /// The numbers of those ports of a pod that are wanted of pods which match any of these peers.
    pub(super) fn ports_of(&self, pod: &Pod, peers: [&PeerSet; 2]) -> BTreeMap<PortKey, u16> {
        // A pod has few ports, however many the rules name.
        let mut ports = PortKey::numbers_of(pod);
        ports.retain(|port, _| {
            let by_peers = self.of_peers.get(port);
            self.of_all.contains(port)
                || by_peers.is_some_and(|wanted| peers.iter().any(|peers| wanted.intersects(peers)))
        });
        ports
    }
}
