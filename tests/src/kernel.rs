// SPDX-License-Identifier: Apache-2.0
//! The programs' decision over the maps, written slowly over [`State`]: every prefix of a plan has
//! a verdict.

use std::{
    error::Error,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use netpol_agent::{
    model::{Direction, Frontend, Protocol},
    sync::{Kernel, Stage, State, Write},
};
use netpol_common::abi::{
    ACTION_ACCEPT, ACTION_DEFER, IDENTITY_NODE, IDENTITY_REMOTE_NODE, Identity, POLICY_UNRESTRICTED,
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

/// A kernel in which no program runs: a closure makes the writes.
pub struct Idle<W>(pub W);

impl<W, E> Kernel for Idle<W>
where
    W: FnMut(&Write) -> Result<(), E>,
    E: Error + 'static,
{
    type Error = E;

    fn write(&mut self, write: &Write) -> Result<(), E> {
        (self.0)(write)
    }

    fn wait(&mut self, _: Stage) {}
}

/// The policy that a probe is judged by; `None` without an endpoint.
pub fn policy(state: &State, probe: &Probe) -> Option<u32> {
    let endpoint = state.endpoints.get(&probe.ifindex)?;
    Some(match probe.direction {
        Direction::Ingress => endpoint.ingress_policy,
        Direction::Egress => endpoint.egress_policy,
    })
}

/// The identity of the frontend at an address that a pod sends a probe to.
pub fn frontend(state: &State, probe: &Probe, address: IpAddr) -> Option<u32> {
    let frontend = Frontend {
        address,
        protocol: probe.protocol,
        port: probe.port,
    };
    let found = state.frontends.get(&frontend);
    let identity = found.filter(|_| probe.direction == Direction::Egress)?;
    Some(identity.identity)
}

/// The identity of the other side.
pub fn identity(state: &State, probe: &Probe) -> Identity {
    let around = state.identities.iter();
    let longest = around
        .filter(|(prefix, _)| covers(**prefix, probe.remote))
        .max_by_key(|(prefix, _)| mapped(**prefix).prefix_len());
    longest.map(|(_, identity)| *identity).unwrap_or_default()
}

/// The address of map `frontends` that stands for all of a node.
pub fn any(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// The lookups that a program makes for a packet, in this order. Those of [`Lookup::Class`] count
/// as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lookup {
    /// The interface's endpoint.
    Endpoint,
    /// The Service's frontend at the address, the address, and the NodePort at every address of a
    /// node.
    Class,
    /// The policy's entry for the frontend, or else for the NodePort or the address.
    Entry,
}

impl Lookup {
    /// All lookups, in order.
    pub const ALL: [Self; 3] = [Self::Endpoint, Self::Class, Self::Entry];
}

/// Returns true if the packet passes; the node did not make it.
pub fn passes(state: &State, probe: &Probe) -> bool {
    passes_meanwhile(|_| state, probe)
}

/// The same while the maps are written to: `at` has them at each lookup.
pub fn passes_meanwhile<'a>(at: impl Fn(Lookup) -> &'a State, probe: &Probe) -> bool {
    let found = at(Lookup::Endpoint);
    if !found.attached.contains(&probe.ifindex) {
        return true;
    }
    let Some(policy) = policy(found, probe) else {
        return false;
    };
    if policy == POLICY_UNRESTRICTED {
        return true;
    }
    let accepts = |lookup, frontend: u32, defers: bool| {
        let mut entries = at(lookup).policies.get(&policy).into_iter().flatten();
        entries.any(|(key, value)| {
            key.identity == frontend
                && (value.action == ACTION_ACCEPT || defers && value.action == ACTION_DEFER)
        })
    };
    if let Some(frontend) = frontend(at(Lookup::Class), probe, probe.remote) {
        return accepts(Lookup::Entry, frontend, true);
    }
    let identity = identity(at(Lookup::Class), probe);
    let elsewhere = identity.flags & IDENTITY_REMOTE_NODE != 0;
    let here = identity.flags & IDENTITY_NODE != 0;
    let node_port = frontend(at(Lookup::Class), probe, any(probe.remote));
    if let Some(node_port) = node_port.filter(|_| here || elsewhere) {
        return accepts(Lookup::Entry, node_port, !elsewhere);
    }
    if here && probe.direction == Direction::Egress {
        return true;
    }
    let mut entries = at(Lookup::Entry).policies.get(&policy).into_iter().flatten();
    entries.any(|(key, _)| {
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

/// Returns true if a prefix contains an address, in the map that has all of them.
pub fn covers(prefix: IpNet, address: IpAddr) -> bool {
    mapped(prefix).contains(&mapped(IpNet::from(address)))
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
