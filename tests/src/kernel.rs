// SPDX-License-Identifier: Apache-2.0
//! The programs' decision over the maps, written slowly over [`State`]: every prefix of a plan has
//! a verdict.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netpol_agent::{
    model::{Direction, Frontend, Protocol},
    sync::State,
};
use netpol_common::abi::{
    ACTION_ACCEPT, ACTION_DEFER, IDENTITY_NODE, IDENTITY_REMOTE_NODE, POLICY_UNRESTRICTED,
};

/// A packet that opens a connection at one interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Interface index of the pod's veth.
    pub ifindex: u32,
    /// Direction seen from the pod.
    pub direction: Direction,
    /// Address of the other side.
    pub remote: IpAddr,
    /// IANA protocol number.
    pub protocol: u8,
    /// Destination port; 0 if the protocol has none.
    pub port: u16,
}

/// Returns true if the packet passes; the node did not make it.
pub fn passes(state: &State, probe: &Probe) -> bool {
    if !state.attached.contains(&probe.ifindex) {
        return true;
    }
    let Some(endpoint) = state.endpoints.get(&probe.ifindex) else {
        return false;
    };
    let policy = match probe.direction {
        Direction::Ingress => endpoint.ingress_policy,
        Direction::Egress => endpoint.egress_policy,
    };
    let identity = state
        .identities
        .iter()
        .filter(|(prefix, _)| mapped(**prefix).contains(&mapped(IpNet::from(probe.remote))))
        .max_by_key(|(prefix, _)| mapped(**prefix).prefix_len())
        .map(|(_, identity)| *identity)
        .unwrap_or_default();
    let of = |address: IpAddr| {
        let frontend = Frontend {
            address,
            protocol: probe.protocol,
            port: probe.port,
        };
        state
            .frontends
            .get(&frontend)
            .filter(|_| probe.direction == Direction::Egress)
    };
    let any = match probe.remote {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    if policy == POLICY_UNRESTRICTED {
        return true;
    }
    let entries = state.policies.get(&policy);
    let accepts = |frontend: u32, defers: bool| {
        entries.is_some_and(|entries| {
            entries.iter().any(|(key, value)| {
                key.identity == frontend
                    && (value.action == ACTION_ACCEPT || defers && value.action == ACTION_DEFER)
            })
        })
    };
    if let Some(frontend) = of(probe.remote) {
        return accepts(frontend.identity, true);
    }
    let elsewhere = identity.flags & IDENTITY_REMOTE_NODE != 0;
    let here = identity.flags & IDENTITY_NODE != 0;
    if let Some(frontend) = of(any).filter(|_| here || elsewhere) {
        return accepts(frontend.identity, !elsewhere);
    }
    if here && probe.direction == Direction::Egress {
        return true;
    }
    let Some(entries) = entries else {
        return false;
    };
    entries.keys().any(|key| {
        key.identity == identity.identity
            && key.protocol.is_none_or(|matched| {
                let kept = u32::from(matched.prefix_len);
                let mask = u16::MAX.checked_shl(16 - kept).unwrap_or(0);
                // A protocol without ports has port 0, and only entries for the whole protocol
                // match it.
                let ports = Protocol::ALL
                    .iter()
                    .any(|protocol| protocol.number() == probe.protocol);
                matched.protocol == probe.protocol
                    && (kept == 0 || (ports && matched.port & mask == probe.port & mask))
            })
    })
}

/// Returns the prefix as the map has it: IPv4 mapped into IPv6.
fn mapped(prefix: IpNet) -> ipnet::Ipv6Net {
    match prefix {
        IpNet::V4(net) => {
            ipnet::Ipv6Net::new(net.network().to_ipv6_mapped(), 96 + net.prefix_len()).expect("at most 128")
        }
        IpNet::V6(net) => net.trunc(),
    }
}
