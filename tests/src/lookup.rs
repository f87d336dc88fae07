// SPDX-License-Identifier: Apache-2.0
//! What the kernel makes of a compiled node, done slowly: longest prefix to a class, longest match in a policy.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netpol_agent::{
    compile::{Address, Compiled, Frontend, Match, Policy},
    evaluate::Packet,
    model::Direction,
};

/// Whether the node's endpoints let a packet pass in one direction; `None` where the packet's end is no endpoint of the
/// node, which has then nothing to say. An address that two endpoints claim is allowed what both of them are.
pub fn allows(compiled: &Compiled, direction: Direction, packet: &Packet) -> Option<bool> {
    let (own, remote) = match direction {
        Direction::Ingress => (packet.destination, packet.source),
        Direction::Egress => (packet.source, packet.destination),
    };
    let endpoints: Vec<_> = compiled
        .endpoints
        .values()
        .filter(|endpoint| endpoint.addresses.contains(&own))
        .collect();
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
            Some(index) => longest_match(&compiled.policies[index], address.class, packet).is_some(),
        }
    }))
}

/// Which frontend of a Service a packet is for, if any: by its destination, or by a NodePort where that is an address of a node.
pub fn frontend(compiled: &Compiled, packet: &Packet) -> Option<usize> {
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

/// What the longest prefix that covers an address stands for; class 0 if none does.
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

/// The rule of the longest entry that matches, if any.
pub fn longest_match(policy: &Policy, class: usize, packet: &Packet) -> Option<u32> {
    let matching = policy
        .entries
        .iter()
        .filter(|(entry, _)| entry.class == class && covers_port(entry, packet));
    matching
        .max_by_key(|(entry, _)| entry.protocol.map(|part| part.prefix_len))
        .map(|(_, &rule)| rule)
}

fn covers_port(entry: &Match, packet: &Packet) -> bool {
    let Some(part) = entry.protocol else {
        return true;
    };
    if part.protocol != packet.protocol {
        return false;
    }
    let ignored = u32::from(16 - part.prefix_len);
    let block = |port: u16| u32::from(port) >> ignored;
    part.prefix_len == 0 || packet.port.is_some_and(|port| block(port) == block(part.port))
}
