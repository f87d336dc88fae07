// SPDX-License-Identifier: Apache-2.0
//! Finds a packet's path: the addresses that a node sends with, where a node's port leads, and what
//! masquerading may write.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    ends::{self, Candidate},
    held::World,
    request::{Family, Port},
};
use crate::model::{HostPort, Node, Pod};

/// flanneld's backends without a tunnel: nodes send with the address of their uplink.
const WITHOUT_TUNNEL: [&str; 2] = ["host-gw", "alloc"];

/// The path of a packet from one end to the other.
#[derive(Debug, Clone, Default)]
pub(super) struct Way {
    /// The address that the packet is sent to, if it is not the destination's own: a Service's, or
    /// a node's with a host port.
    pub(super) frontend: Option<IpAddr>,
    /// True if the node of the source or of the destination translates the packet there: a pod can
    /// be its own peer (rule A1).
    pub(super) translated: bool,
    /// What the source's node judges the packet by, if another node translates it.
    pub(super) judged_at: Option<Candidate>,
    /// Addresses that the destination may see instead of the source's own.
    pub(super) seen_as: Vec<Seen>,
}

/// A source address that a packet may arrive with.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) address: IpAddr,
    /// Describes the owner of the address.
    pub(super) whose: String,
}

/// Returns the path of an untranslated packet.
pub(super) fn direct(world: World<'_>, source: &Candidate, destination: &Candidate) -> Way {
    let to = destination
        .pod(world.snapshot)
        .filter(|pod| has_own_network(pod))
        .and_then(|pod| pod.node.as_deref());
    let seen_as = match (to, node_of(world, source)) {
        (Some(to), Some(from)) if to != from => sent_by(world, from, source.address),
        _ => Vec::new(),
    };
    Way {
        seen_as,
        ..Way::default()
    }
}

/// Returns the path through a Service's frontend to one of its backends. Unless the frontend is a
/// ClusterIP, kube-proxy may replace the source by a node's address (rule A3). A pod that reaches
/// itself counts as itself (rule A1).
pub(super) fn by_service(world: World<'_>, source: &Candidate, frontend: IpAddr, backend: &Candidate) -> Way {
    let mut services = world.snapshot.services.values();
    let is_cluster_ip = services.any(|service| service.cluster_ips.contains(&frontend));
    let to_itself = source.name.is_some() && source.name == backend.name;
    let seen_as = if is_cluster_ip || to_itself {
        direct(world, source, backend).seen_as
    } else {
        masqueraded(world, source)
    };
    Way {
        frontend: Some(frontend),
        translated: true,
        seen_as,
        ..Way::default()
    }
}

/// Returns the pods that a node's port leads to, each with the path there: the packet is judged
/// where it ends. `None` if the port leads nowhere.
pub(super) fn by_host_port(
    world: World<'_>,
    source: &Candidate,
    destination: &Candidate,
    family: Family,
) -> Option<Vec<(Candidate, Way)>> {
    let Port::Transport(protocol, number) = destination.port else {
        return None;
    };
    let has = |node: &&Node| node.addresses.contains(&destination.address);
    let node = world.nodes.iter().find(has)?;
    let leads = |port: &&HostPort| {
        port.protocol == protocol
            && port.number == number
            && port.address.is_none_or(|only| only == destination.address)
    };
    let mut ways = Vec::new();
    let pods = world.snapshot.pods.values();
    for pod in pods.filter(|pod| has_own_network(pod) && pod.node.as_deref() == Some(node.name.as_str())) {
        let address = pod
            .addresses
            .iter()
            .find(|address| Family::of(**address) == family);
        let (Some(port), Some(address)) = (pod.host_ports.iter().find(leads), address) else {
            continue;
        };
        let end = Candidate {
            name: Some(pod.key.clone()),
            ..ends::at(
                world.snapshot,
                world.nodes,
                *address,
                Port::Transport(protocol, port.container_port),
            )
        };
        ways.push((end, to_host_port(world, source, destination, node, pod)));
    }
    (!ways.is_empty()).then_some(ways)
}

fn to_host_port(
    world: World<'_>,
    source: &Candidate,
    destination: &Candidate,
    node: &Node,
    pod: &Pod,
) -> Way {
    let sender = source.pod(world.snapshot).filter(|pod| has_own_network(pod));
    let local = sender.is_some_and(|sender| sender.node == pod.node);
    let seen_as = match sender {
        Some(sender) if sender.key == pod.key => Vec::new(),
        Some(_) if local => seen(node, "an address of the node, if the CNI masquerades"),
        Some(_) => masqueraded(world, source),
        None => Vec::new(),
    };
    Way {
        frontend: Some(destination.address),
        translated: true,
        // Another node does not know who sent the packet, so its address is judged as any other
        // (rule A4).
        judged_at: (sender.is_some() && !local).then(|| destination.clone()),
        seen_as,
    }
}

/// Returns the addresses that masquerading on the source's node may write over the packet's.
fn masqueraded(world: World<'_>, source: &Candidate) -> Vec<Seen> {
    let name = match source.pod(world.snapshot) {
        Some(pod) => pod.node.as_deref(),
        None => node_of(world, source),
    };
    let Some(name) = name else {
        return vec![unknown(
            source,
            "an address of the node that it comes by".to_owned(),
        )];
    };
    let mut found = sent_by(world, name, source.address);
    let node = world.nodes.iter().find(|node| node.name == name);
    found.extend(
        node.into_iter()
            .flat_map(|node| seen(node, "an address of its node, by masquerade")),
    );
    if found
        .iter()
        .all(|seen| seen.address.is_ipv4() != source.address.is_ipv4())
    {
        let whose = format!("an address of node {name}, which is not known here");
        found.push(unknown(source, whose));
    }
    found.retain(|seen| seen.address.is_ipv4() == source.address.is_ipv4());
    found
}

/// Stands for an unknown address.
fn unknown(source: &Candidate, whose: String) -> Seen {
    let address = match source.address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    Seen { address, whose }
}

fn seen(node: &Node, whose: &str) -> Vec<Seen> {
    let whose = format!("{whose}: {}", node.name);
    let addresses = node.addresses.iter().copied();
    addresses
        .filter(|address| !address.is_loopback())
        .map(|address| Seen {
            address,
            whose: whose.clone(),
        })
        .collect()
}

/// Returns the addresses that a node may use towards other nodes' pods: its own, and those of its
/// tunnel and its bridge, which are the first two of its pod range. Empty if the node is known to
/// have no tunnel, or if `asked` is in its pod range.
fn sent_by(world: World<'_>, name: &str, asked: IpAddr) -> Vec<Seen> {
    let Some(node) = world.snapshot.nodes.get(name) else {
        return Vec::new();
    };
    if WITHOUT_TUNNEL.contains(&node.backend.as_str()) {
        return Vec::new();
    }
    let ranges = || node.pod_cidrs.iter().map(ipnet::IpNet::trunc);
    if ranges().any(|range| range.contains(&asked)) {
        return Vec::new(); // It is asked about what is on the packet.
    }
    let own = node.addresses.iter().map(|address| (*address, "an address"));
    let of_ranges = ranges().flat_map(|range| {
        let first = match range.network() {
            IpAddr::V4(address) => IpAddr::V4((address.to_bits().wrapping_add(1)).into()),
            IpAddr::V6(address) => IpAddr::V6((address.to_bits().wrapping_add(1)).into()),
        };
        [
            (range.network(), "the tunnel's address"),
            (first, "the bridge's address"),
        ]
    });
    own.chain(of_ranges)
        .filter(|(address, _)| address.is_ipv4() == asked.is_ipv4())
        .map(|(address, what)| Seen {
            address,
            whose: format!("{what} of node {name}"),
        })
        .collect()
}

/// Looks up the node that has an address, or whose network a pod shares.
fn node_of<'a>(world: World<'a>, end: &Candidate) -> Option<&'a str> {
    match end.pod(world.snapshot) {
        Some(pod) if pod.host_network && !pod.terminal => pod.node.as_deref(),
        Some(_) => None,
        None => {
            let mut nodes = world.nodes.iter();
            let found = nodes.find(|node| node.addresses.contains(&end.address))?;
            Some(&found.name)
        }
    }
}

fn has_own_network(pod: &Pod) -> bool {
    !pod.host_network && !pod.terminal
}
