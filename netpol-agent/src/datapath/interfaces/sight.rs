// SPDX-License-Identifier: Apache-2.0
//! Remembers what was seen first behind an interface.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
};

use super::{Mac, PodInterface, Settled};

/// What was seen first behind an interface, before the pod's containers could change it (rule A8).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sight {
    /// MAC address of the interface on the node. With its index it distinguishes the interface from
    /// a later one.
    pub mac: Mac,
    /// The first addresses; empty until there were some.
    pub addresses: BTreeSet<IpAddr>,
    /// MAC address of the peer in the last reading.
    pub peer_mac: Option<Mac>,
    /// Link-local addresses of the peer in the last reading.
    pub link_locals: BTreeSet<Ipv6Addr>,
}

/// What was seen first behind each existing interface.
#[derive(Debug, Default)]
pub(super) struct Sights(BTreeMap<u32, Sight>);

impl Sights {
    pub(super) fn new(known: BTreeMap<u32, Sight>) -> Self {
        Self(known)
    }

    /// Returns the facts about an interface whose inside is no longer read.
    pub(super) fn settled(&self, index: u32, mac: Mac, settled: &Settled) -> Option<&Sight> {
        let sight = self.0.get(&index).filter(|sight| sight.mac == mac)?;
        settled.contains(&index).then_some(sight)
    }

    /// Keeps the first addresses of each interface and puts them in place of the current ones.
    /// Forgets removed interfaces.
    pub(super) fn keep(&mut self, pods: &mut BTreeMap<u32, PodInterface>) {
        self.0
            .retain(|index, sight| pods.get(index).is_some_and(|pod| pod.mac == sight.mac));
        for (index, pod) in pods {
            let sight = self.0.entry(*index).or_default();
            sight.mac = pod.mac;
            if sight.addresses.is_empty() {
                sight.addresses.clone_from(&pod.addresses);
                sight.peer_mac = pod.peer_mac.or(sight.peer_mac);
            } else {
                pod.addresses.clone_from(&sight.addresses);
                sight.peer_mac = sight.peer_mac.or(pod.peer_mac);
                pod.peer_mac = sight.peer_mac;
            }
            sight.link_locals.clone_from(&pod.link_locals);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(mac: u8, addresses: &[&str]) -> PodInterface {
        PodInterface {
            index: 7,
            name: "veth7".to_owned(),
            mac: [mac; 6],
            namespace: 1,
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            peer_mac: None,
            link_locals: BTreeSet::new(),
            ..PodInterface::default()
        }
    }

    /// Returns the addresses that count after a reading.
    fn read(sights: &mut Sights, pod: PodInterface) -> Vec<String> {
        let mut pods = BTreeMap::from([(pod.index, pod)]);
        sights.keep(&mut pods);
        pods[&7].addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a8_the_first_addresses_count() {
        let mut sights = Sights::default();
        assert!(read(&mut sights, pod(1, &[])).is_empty());
        assert_eq!(read(&mut sights, pod(1, &["10.0.0.1"])), ["10.0.0.1"]);
        for later in [&["10.0.0.2"][..], &["10.0.0.1", "10.0.0.2"], &[]] {
            assert_eq!(read(&mut sights, pod(1, later)), ["10.0.0.1"]);
        }
        // The index now belongs to another interface.
        assert_eq!(read(&mut sights, pod(2, &["10.0.0.3"])), ["10.0.0.3"]);
        sights.keep(&mut BTreeMap::new());
        assert_eq!(read(&mut sights, pod(2, &["10.0.0.4"])), ["10.0.0.4"]);
    }

    #[test]
    fn a8_what_an_earlier_agent_saw_counts() {
        let earlier = Sight {
            mac: [1; 6],
            addresses: BTreeSet::from(["10.0.0.1".parse().unwrap()]),
            ..Sight::default()
        };
        let mut sights = Sights::new(BTreeMap::from([(7, earlier)]));
        assert_eq!(read(&mut sights, pod(1, &["10.0.0.2"])), ["10.0.0.1"]);
    }
}
