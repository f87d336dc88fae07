// SPDX-License-Identifier: Apache-2.0
//! What an address is because of its pods.

use std::collections::BTreeMap;

use crate::{compile::peer_set::PeerSet, model::PortKey};

/// Number of a profile. A profile that keeps it says the same of every peer that stays active, and
/// has the same ports.
pub(in crate::compile) type ProfileId = u64;

/// The profile of addresses without a pod.
pub(in crate::compile) const NO_POD: ProfileId = 0;

/// What pods make of their address. The default is an address without a pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(in crate::compile) struct Profile {
    /// Selector peers that it matches.
    pub(in crate::compile) peers: PeerSet,
    /// Number of each named port by which active egress rules reach it.
    pub(in crate::compile) named_ports: BTreeMap<PortKey, u16>,
}

impl Profile {
    /// Keeps what both say: an address of two pods gets no more than each of them would.
    pub(super) fn intersect(&mut self, other: &Self) {
        self.peers = self.peers.intersection(&other.peers);
        self.named_ports
            .retain(|name, number| other.named_ports.get(name) == Some(number));
    }
}
