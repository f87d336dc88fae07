// SPDX-License-Identifier: Apache-2.0
//! What an address is because of the pods that have it: the selector peers it matches, and its named ports.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, btree_map::Entry},
    net::IpAddr,
    sync::Arc,
};

use super::{
    fault::{Fault, Findings},
    force::{Force, PeerId},
    peer::{Namespaces, PeerSpec},
    ports::PortKey,
    selector::Selector,
};
use crate::model::{Direction, Labels, Node, Pod, Snapshot};

/// The label that every namespace carries (rule P4).
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// What an address is by its pods. The default is an address without a pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(super) struct Profile {
    /// Selector peers that it matches.
    pub(super) peers: BTreeSet<PeerId>,
    /// `name/PROTOCOL` and number of the named ports by which egress rules in force reach it.
    pub(super) named_ports: BTreeMap<String, u16>,
}

impl Profile {
    /// What both claim: an address of two pods is only what each of them would be.
    fn intersect(&mut self, other: &Self) {
        self.peers.retain(|peer| other.peers.contains(peer));
        self.named_ports
            .retain(|name, number| other.named_ports.get(name) == Some(number));
    }
}

/// The profile of each pod address and node address.
///
/// Two pods that claim one address have the intersection of their profiles there; a hostNetwork pod matches no selector peer
/// (rule I6), and neither does an address that is on an interface of this node, whatever a pod claims.
pub(super) fn of_addresses(
    snapshot: &Snapshot,
    node: &Node,
    force: &Force<'_>,
    findings: &mut Findings,
) -> BTreeMap<IpAddr, Profile> {
    let mut matcher = Matcher::new(snapshot, force);
    let mut claims: BTreeMap<IpAddr, (&Pod, Profile)> = BTreeMap::new();
    for pod in snapshot
        .pods
        .values()
        .map(Arc::as_ref)
        .filter(|pod| !pod.terminal)
    {
        if pod.addresses.is_empty() {
            continue;
        }
        let profile = matcher.profile(pod);
        for address in super::addresses_of(pod) {
            match claims.entry(address) {
                Entry::Vacant(entry) => {
                    entry.insert((pod, profile.clone()));
                }
                Entry::Occupied(mut entry) => {
                    let (first, claimed) = entry.get_mut();
                    claimed.intersect(&profile);
                    if !(first.host_network && pod.host_network) {
                        let message = format!(
                            "{address} is also an address of pod {}; it matches only the selectors that both match",
                            first.key
                        );
                        findings.add(
                            "Pod",
                            &pod.key,
                            Fault::new("address-conflict", "status.podIPs", message),
                        );
                    }
                }
            }
        }
    }
    let mut profiles: BTreeMap<IpAddr, Profile> = BTreeMap::new();
    for address in node.addresses.iter().map(IpAddr::to_canonical) {
        profiles.insert(address, Profile::default());
    }
    for (address, (pod, profile)) in claims {
        match profiles.entry(address) {
            Entry::Vacant(entry) => {
                entry.insert(profile);
            }
            Entry::Occupied(_) if pod.host_network => {}
            Entry::Occupied(_) => {
                let message = format!("{address} is an address of this node; it matches no selector");
                findings.add(
                    "Pod",
                    &pod.key,
                    Fault::new("address-conflict", "status.podIPs", message),
                );
            }
        }
    }
    profiles
}

/// Pods that no selector in force can tell apart: their namespace, and their labels cut to the keys that selectors use.
type GroupKey<'a> = (&'a str, Vec<(&'a str, &'a str)>);

/// What all pods of a group have in common.
#[derive(Default)]
struct Group {
    peers: BTreeSet<PeerId>,
    /// Named ports by which egress rules in force reach these pods.
    wanted: BTreeSet<PortKey>,
}

struct Matcher<'a> {
    snapshot: &'a Snapshot,
    /// Selector peers in force.
    selectors: Vec<(PeerId, &'a Namespaces, &'a Selector)>,
    /// Label keys that the pod selectors among them use.
    keys: BTreeSet<&'a str>,
    /// Named ports of egress rules in force with an empty `to`.
    wanted_of_all: BTreeSet<PortKey>,
    /// Named ports of egress rules in force, by the peers of the rule.
    wanted: BTreeMap<PeerId, BTreeSet<PortKey>>,
    /// Selector peers that can match in a namespace.
    by_namespace: HashMap<&'a str, Vec<(PeerId, &'a Selector)>>,
    groups: HashMap<GroupKey<'a>, Group>,
}

impl<'a> Matcher<'a> {
    fn new(snapshot: &'a Snapshot, force: &Force<'a>) -> Self {
        let selectors: Vec<_> = force
            .peers
            .iter()
            .enumerate()
            .filter_map(|(id, (_, spec))| match spec {
                PeerSpec::Pods { namespaces, pods } => Some((id, namespaces, pods)),
                PeerSpec::Block { .. } => None,
            })
            .collect();
        let mut wanted_of_all = BTreeSet::new();
        let mut wanted: BTreeMap<PeerId, BTreeSet<PortKey>> = BTreeMap::new();
        for rule in force
            .rules
            .iter()
            .filter(|rule| rule.reference.direction == Direction::Egress)
        {
            let ports = rule.ports.named().iter().map(|(_, port)| port);
            match &rule.peers {
                None => wanted_of_all.extend(ports.cloned()),
                Some(peers) => {
                    for port in ports {
                        for &peer in peers {
                            wanted.entry(peer).or_default().insert(port.clone());
                        }
                    }
                }
            }
        }
        Self {
            snapshot,
            keys: selectors.iter().flat_map(|(_, _, pods)| pods.keys()).collect(),
            selectors,
            wanted_of_all,
            wanted,
            by_namespace: HashMap::new(),
            groups: HashMap::new(),
        }
    }

    /// The profile of a live pod.
    fn profile(&mut self, pod: &'a Pod) -> Profile {
        if pod.host_network {
            return Profile::default();
        }
        let namespace = pod.key.namespace.as_str();
        let labels = pod
            .labels
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()));
        let relevant = labels.filter(|(key, _)| self.keys.contains(key)).collect();
        let candidates = self.by_namespace.entry(namespace).or_insert_with(|| {
            let labels = namespace_labels(self.snapshot, namespace);
            let matching = self
                .selectors
                .iter()
                .filter(|(_, namespaces, _)| match namespaces {
                    Namespaces::Named(name) => name == namespace,
                    Namespaces::Selected(selector) => selector.matches(&labels),
                });
            matching.map(|&(id, _, pods)| (id, pods)).collect()
        });
        let group = self.groups.entry((namespace, relevant)).or_insert_with(|| {
            let matching = candidates
                .iter()
                .filter(|(_, selector)| selector.matches(&pod.labels));
            let peers: BTreeSet<PeerId> = matching.map(|&(id, _)| id).collect();
            let by_peer = peers.iter().filter_map(|peer| self.wanted.get(peer)).flatten();
            let wanted = by_peer.chain(&self.wanted_of_all).cloned().collect();
            Group { peers, wanted }
        });
        let resolve = |port: &PortKey| Some((port.to_string(), port.resolve(pod)?));
        Profile {
            peers: group.peers.clone(),
            named_ports: group.wanted.iter().filter_map(resolve).collect(),
        }
    }
}

/// Labels of a namespace; one that the snapshot does not know has just its name (rule P4).
fn namespace_labels(snapshot: &Snapshot, name: &str) -> Labels {
    match snapshot.namespaces.get(name) {
        Some(namespace) => namespace.labels.clone(),
        None => Labels::from([(NAMESPACE_NAME.to_owned(), name.to_owned())]),
    }
}
