// SPDX-License-Identifier: Apache-2.0
//! Chooses what the demo probes: the ports that policies name, and addresses inside and outside
//! their CIDRs.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use netpol_agent::model::{NetworkPolicy, PortName, Snapshot};

use netpol_tests::{node::Plan, probe::Service};

/// Maximum number of ports with a letter, including the two that no policy needs to name.
const MOST_SERVICES: usize = 10;
/// Maximum number of external addresses, beside the two that the outside always has.
const MOST_EXTERNAL: usize = 6;
/// Ports that stand for all those that no policy names; the first free one is used.
const SPARE: [u16; 3] = [80, 7777, 40404];

/// Returns the services to probe: the ports that policies name (also by name, and both ends of a
/// range), a port that none names, and echo. The second value counts those that were left out.
pub fn services(snapshot: &Snapshot) -> (Vec<Service>, usize) {
    let mut named = BTreeSet::new();
    let ports = snapshot
        .policies
        .values()
        .flat_map(|policy| rules(policy))
        .flat_map(|rule| &rule.ports);
    for port in ports {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let make = |number: u16| match protocol {
            "TCP" => Some(Service::Tcp(number)),
            "UDP" => Some(Service::Udp(number)),
            _ => None,
        };
        let numbers: Vec<u16> = match &port.port {
            Some(PortName::Number(first)) => [Some(*first), port.end_port]
                .into_iter()
                .flatten()
                .filter_map(|n| n.try_into().ok())
                .collect(),
            Some(PortName::Name(name)) => {
                let all = snapshot.pods.values().flat_map(|pod| &pod.named_ports);
                let same = all.filter(|port| port.name == *name && port.protocol.to_string() == protocol);
                same.map(|port| port.number).collect()
            }
            None => Vec::new(),
        };
        named.extend(numbers.into_iter().filter(|number| *number > 0).filter_map(make));
    }
    let spare = SPARE
        .into_iter()
        .map(Service::Tcp)
        .find(|service| !named.contains(service));
    let kept = MOST_SERVICES - 2;
    let left_out = named.len().saturating_sub(kept);
    (
        named
            .into_iter()
            .take(kept)
            .chain(spare)
            .chain([Service::Echo])
            .collect(),
        left_out,
    )
}

/// Returns one address in each CIDR of the policies outside its exceptions, and one in each
/// exception.
pub fn externals(snapshot: &Snapshot, plan: &Plan) -> Vec<IpAddr> {
    let mut chosen = Vec::new();
    let peers = snapshot
        .policies
        .values()
        .flat_map(|policy| rules(policy))
        .flat_map(|rule| &rule.peers);
    for block in peers.filter_map(|peer| peer.ip_block.as_ref()) {
        let Ok(cidr) = block.cidr.parse::<IpNet>() else {
            continue;
        };
        let except: Vec<IpNet> = block.except.iter().filter_map(|text| text.parse().ok()).collect();
        let free = |address: &IpAddr| !except.iter().any(|net| net.contains(address));
        chosen.extend(
            candidates(cidr)
                .into_iter()
                .find(|address| free(address) && usable(*address, plan)),
        );
        for net in &except {
            chosen.extend(
                candidates(*net)
                    .into_iter()
                    .find(|address| usable(*address, plan)),
            );
        }
    }
    let mut seen = BTreeSet::new();
    chosen.retain(|address| seen.insert(*address));
    chosen.truncate(MOST_EXTERNAL);
    chosen
}

fn rules(policy: &NetworkPolicy) -> impl Iterator<Item = &netpol_agent::model::Rule> {
    policy.ingress.iter().chain(&policy.egress)
}

/// Returns addresses spread over a network: near its start, at each quarter, near its end.
fn candidates(net: IpNet) -> Vec<IpAddr> {
    let (bits, base) = match net.network() {
        IpAddr::V4(base) => (32, u128::from(base.to_bits())),
        IpAddr::V6(base) => (128, base.to_bits()),
    };
    let host_bits = bits - u32::from(net.prefix_len());
    let last = 1_u128.checked_shl(host_bits).map_or(u128::MAX, |size| size - 1);
    let offsets = [
        1,
        7,
        last / 4 + 2,
        last / 2 + 2,
        last / 4 * 3 + 2,
        last.saturating_sub(2),
        0,
    ];
    let address = |offset: u128| match net {
        IpNet::V4(_) => u32::try_from(base + offset)
            .ok()
            .map(|bits| IpAddr::from(Ipv4Addr::from_bits(bits))),
        IpNet::V6(_) => base
            .checked_add(offset)
            .map(|bits| IpAddr::from(Ipv6Addr::from_bits(bits))),
    };
    let inside = offsets.into_iter().filter(|offset| *offset <= last);
    inside
        .filter_map(address)
        .filter(|address| net.contains(address))
        .collect()
}

/// Returns true if the outside can have the address.
fn usable(address: IpAddr, plan: &Plan) -> bool {
    let ours = plan.pod_networks().into_iter().chain(plan.uplink_networks());
    let special = match address {
        IpAddr::V4(v4) => {
            v4.is_loopback()
                || v4.is_multicast()
                || v4.is_link_local()
                || v4.octets()[0] == 0
                || v4.octets()[0] >= 240
        }
        IpAddr::V6(v6) => {
            v6.is_loopback() || v6.is_multicast() || v6.is_unicast_link_local() || v6.segments()[0] == 0
        }
    };
    !special && !ours.into_iter().any(|net| net.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_stay_in_their_network() {
        for text in [
            "0.0.0.0/0",
            "203.0.113.128/25",
            "192.0.2.1/32",
            "::/0",
            "2001:db8::/32",
            "2001:db8::1/128",
        ] {
            let net: IpNet = text.parse().unwrap();
            let found = candidates(net);
            assert!(
                !found.is_empty() && found.iter().all(|address| net.contains(address)),
                "{text}: {found:?}"
            );
        }
    }
}
