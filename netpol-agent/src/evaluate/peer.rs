// SPDX-License-Identifier: Apache-2.0
//! Matches peers: pods by labels and namespaces (rules P2, P4), addresses by CIDR (rule P5).

use std::net::IpAddr;

use super::selector::selects;
use crate::model::{IpBlock, Labels, Node, ObjectKey, Peer, Pod, Snapshot, parse_cidr};

/// Returns true if a peer without `ipBlock`, in a policy of `namespace`, selects a pod (rule P2). A
/// peer without any field selects none.
pub(super) fn selects_pod(snapshot: &Snapshot, namespace: &str, peer: &Peer, pod: &Pod) -> bool {
    match (&peer.namespace_selector, &peer.pod_selector) {
        (None, None) => false,
        (None, Some(pods)) => pod.key.namespace == *namespace && selects(pods, &pod.labels),
        (Some(namespaces), None) => selects(namespaces, &namespace_labels(snapshot, &pod.key.namespace)),
        (Some(namespaces), Some(pods)) => {
            selects(namespaces, &namespace_labels(snapshot, &pod.key.namespace)) && selects(pods, &pod.labels)
        }
    }
}

/// Returns the labels of a namespace, known or not, with the label that every namespace carries
/// (rule P4).
pub(super) fn namespace_labels(snapshot: &Snapshot, name: &str) -> Labels {
    let mut labels = snapshot
        .namespaces
        .get(name)
        .map(|namespace| namespace.labels.clone())
        .unwrap_or_default();
    if !labels.contains_key("kubernetes.io/metadata.name") {
        labels.insert("kubernetes.io/metadata.name", name);
    }
    labels
}

/// Finds the live pods that a link-local address is bound to (rule A9). Finds none if it is an
/// address of their node's own interfaces.
pub(super) fn bound<'a>(snapshot: &Snapshot, nodes: &'a [Node], address: IpAddr) -> Vec<&'a ObjectKey> {
    let lives = |key: &ObjectKey| {
        let pod = snapshot.pods.get(key);
        pod.is_some_and(|pod| !pod.host_network && !pod.terminal && !pod.addresses.is_empty())
    };
    let IpAddr::V6(link_local) = address else {
        return Vec::new();
    };
    let bound = nodes.iter().filter(|node| !node.addresses.contains(&address));
    let bound = bound.flat_map(|node| &node.link_locals);
    bound
        .filter(|(key, addresses)| addresses.contains(&link_local) && lives(key))
        .map(|(key, _)| key)
        .collect()
}

/// Returns the address to match `ipBlock` peers with. Under a link-local address, that is the pod's
/// IPv6 address, if it has one; `None` if two pods share the link-local address.
pub(super) fn blocks_hold(
    snapshot: &Snapshot,
    nodes: &[Node],
    remotes: &[&Pod],
    address: IpAddr,
) -> Option<IpAddr> {
    if bound(snapshot, nodes, address).is_empty() {
        return Some(address);
    }
    let [pod] = remotes else { return None };
    pod.addresses
        .iter()
        .map(IpAddr::to_canonical)
        .filter(IpAddr::is_ipv6)
        .min()
}

/// Returns true if an address is in the block's CIDR and in none of its exceptions (rule P5). A
/// block holds no address if a CIDR or exception does not parse, or an exception is outside its
/// CIDR.
pub(super) fn block_holds(block: &IpBlock, address: IpAddr) -> bool {
    let Some(cidr) = Cidr::parse(&block.cidr) else {
        return false;
    };
    let mut excepted = false;
    for text in &block.except {
        match Cidr::parse(text) {
            Some(except) if cidr.contains(&except) => excepted |= except.holds(address),
            _ => return false,
        }
    }
    cidr.holds(address) && !excepted
}

/// An address and its prefix length in bits.
pub(super) struct Cidr {
    address: IpAddr,
    length: u32,
}

impl Cidr {
    /// Parses `ADDRESS/LENGTH`; `None` if it matches nothing.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let net = parse_cidr(text).ok()?;
        Some(Self {
            address: net.addr(),
            length: net.prefix_len().into(),
        })
    }

    /// Returns whether it is IPv4, its first address, and the address after its last, if there is
    /// one.
    pub(super) fn span(&self) -> (bool, u128, Option<u128>) {
        let (own, width) = bits(self.address);
        let ignored = width - self.length;
        let first = own
            .checked_shr(ignored)
            .and_then(|kept| kept.checked_shl(ignored));
        let size = 1_u128.checked_shl(ignored);
        let first = first.unwrap_or(0);
        (
            self.address.is_ipv4(),
            first,
            size.and_then(|size| first.checked_add(size)),
        )
    }

    /// Returns true if `inner` lies within it.
    pub(super) fn contains(&self, inner: &Self) -> bool {
        inner.length >= self.length && self.holds(inner.address)
    }

    /// Returns true if it holds the address. Families never match each other.
    pub(super) fn holds(&self, address: IpAddr) -> bool {
        let ((own, width), (other, other_width)) = (bits(self.address), bits(address));
        let ignored = width - self.length;
        width == other_width
            && own.checked_shr(ignored).unwrap_or(0) == other.checked_shr(ignored).unwrap_or(0)
    }
}

/// Returns an address as a number, and its width in bits.
fn bits(address: IpAddr) -> (u128, u32) {
    match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()), 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    }
}
