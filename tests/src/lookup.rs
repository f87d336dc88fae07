// SPDX-License-Identifier: Apache-2.0
//! The kernel's decision over a compiled node, written slowly: longest prefix to a class, longest
//! match in a policy.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netpol_agent::{
    compile::{Action, Address, ClassId, Compiled, Endpoint, PolicyId},
    evaluate::Packet,
    model::{Direction, Frontend, ProtocolMatch},
};

/// Returns true if the node's endpoints let a packet pass in one direction; `None` if the packet's
/// end is no endpoint of the node. An address that two endpoints claim is allowed what both are.
pub fn allows(compiled: &Compiled, direction: Direction, packet: &Packet) -> Option<bool> {
    let (own, remote) = match direction {
        Direction::Ingress => (packet.destination, packet.source),
        Direction::Egress => (packet.source, packet.destination),
    };
    let endpoints = endpoints_at(compiled, own);
    if endpoints.is_empty() {
        return None;
    }
    let address = longest_prefix(compiled, remote);
    Some(endpoints.iter().all(|endpoint| {
        if endpoint.addresses.contains(&remote) {
            return true; // A1: such a packet never leaves the pod.
        }
        let policy = match direction {
            Direction::Ingress => endpoint.ingress,
            Direction::Egress => endpoint.egress,
        };
        match policy {
            None => true,
            Some(_) if address.node => true,
            Some(index) => longest_match(compiled, index, address.class, packet).is_some(),
        }
    }))
}

fn endpoints_at(compiled: &Compiled, address: IpAddr) -> Vec<&Endpoint> {
    let all = compiled.endpoints.values();
    all.filter(|endpoint| endpoint.addresses.contains(&address))
        .collect()
}

/// The check before translation (rule A5): returns the verdict of the sender's egress policy on the
/// frontend; `None` if the sender is no endpoint of the node.
pub fn passes_frontend(compiled: &Compiled, packet: &Packet) -> Option<bool> {
    let senders = endpoints_at(compiled, packet.source);
    let class = frontend(compiled, packet);
    let passes = |endpoint: &&Endpoint| match (endpoint.egress, class) {
        (None, _) => true,
        (Some(policy), Some(class)) => compiled.passage(policy, class).is_some(),
        (Some(_), None) => false,
    };
    (!senders.is_empty()).then(|| senders.iter().all(passes))
}

/// The post-DNAT check of the packet to the backend (rule A5): the sender's egress policy on the
/// backend, and the backend's ingress policy. The latter sees the source address `seen`, or the pod
/// itself if it reaches itself (rule A1). `None` if neither is an endpoint of the node.
pub fn passes_backend(compiled: &Compiled, packet: &Packet, seen: IpAddr) -> Option<bool> {
    let own = packet.destination;
    let seen = if packet.source == own { own } else { seen };
    let (senders, receivers) = (endpoints_at(compiled, packet.source), endpoints_at(compiled, own));
    let backend = longest_prefix(compiled, own);
    let accepts = |policy: Option<PolicyId>, address: Address| {
        policy.is_none_or(|policy| longest_match(compiled, policy, address.class, packet).is_some())
    };
    let sent = |endpoint: &&Endpoint| backend.node || accepts(endpoint.egress, backend);
    let received = |endpoint: &&Endpoint| accepts(endpoint.ingress, longest_prefix(compiled, seen));
    let judged = !senders.is_empty() || !receivers.is_empty();
    judged.then(|| senders.iter().all(sent) && receivers.iter().all(received))
}

/// Returns true if a packet is for a virtual address. Policy may allow it to that address itself,
/// because perhaps nobody translates it (rule A9).
pub fn is_virtual(compiled: &Compiled, packet: &Packet) -> bool {
    let frontend = packet.port.map(|port| Frontend {
        address: packet.destination,
        protocol: packet.protocol,
        port,
    });
    frontend.is_some_and(|frontend| compiled.frontends.contains_key(&frontend))
}

/// Returns the frontend that a packet is for, if any: by its destination, or by its NodePort at a
/// node's address.
pub fn frontend(compiled: &Compiled, packet: &Packet) -> Option<ClassId> {
    let address = longest_prefix(compiled, packet.destination);
    let of = |destination: IpAddr| {
        let frontend = Frontend {
            address: destination,
            protocol: packet.protocol,
            port: packet.port?,
        };
        compiled.frontends.get(&frontend).copied()
    };
    let any = match packet.destination {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    of(packet.destination).or_else(|| of(any).filter(|_| address.node || address.remote_node))
}

/// Returns what the longest prefix of an address stands for; class 0 without one.
pub fn longest_prefix(compiled: &Compiled, address: IpAddr) -> Address {
    let covering = compiled
        .addresses
        .iter()
        .filter(|(prefix, _)| covers(prefix, address));
    let longest = covering.max_by_key(|(prefix, _)| prefix.prefix_len());
    longest.map(|(_, &address)| address).unwrap_or_default()
}

/// Families never cover each other.
fn covers(prefix: &IpNet, address: IpAddr) -> bool {
    match (prefix, address) {
        (IpNet::V4(prefix), IpAddr::V4(address)) => {
            prefix.network() <= address && address <= prefix.broadcast()
        }
        (IpNet::V6(prefix), IpAddr::V6(address)) => {
            prefix.network() <= address && address <= prefix.broadcast()
        }
        _ => false,
    }
}

/// Returns the rule of the longest matching entry, if there is one and it accepts.
pub fn longest_match(compiled: &Compiled, policy: PolicyId, class: ClassId, packet: &Packet) -> Option<u32> {
    let entries = compiled.entries(policy, class);
    let matching = entries
        .iter()
        .filter(|(matched, _)| covers_port(**matched, packet));
    matching
        .max_by_key(|(matched, _)| matched.map(|part| part.prefix_len))
        .filter(|(_, entry)| entry.action == Action::Accept)
        .map(|(_, entry)| entry.rule)
}

fn covers_port(entry: Option<ProtocolMatch>, packet: &Packet) -> bool {
    let Some(part) = entry else {
        return true;
    };
    if part.protocol != packet.protocol {
        return false;
    }
    let ignored = u32::from(16 - part.prefix_len);
    let block = |port: u16| u32::from(port) >> ignored;
    part.prefix_len == 0 || packet.port.is_some_and(|port| block(port) == block(part.port))
}
