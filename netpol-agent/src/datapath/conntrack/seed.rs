// SPDX-License-Identifier: Apache-2.0
//! Converts a connection to entries of map `flows`, one for each end that is a local pod (rule C6).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use netpol_common::{
    abi::{Direction, Flow, FlowKey, Lifetimes, NO_POLICY},
    flow::{self, State},
    parse::protocol,
};

use super::message::{Connection, Tcp, Tuple};
use crate::datapath::maps::mapped;

/// An epoch that is never current: the first plan of the first agent raises the epoch to 1. So the
/// next packet of the flow is judged, in the direction that opened it (rule C2), and a seed alone
/// allows nothing.
pub(super) const NEVER: u32 = 0;
const NANOSECONDS: u64 = 1_000_000_000;
const ECHO_REQUEST: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;

/// Facts about pods and node.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// Interface of the pod with an address; `None` if several claim it.
    pub pods: BTreeMap<IpAddr, Option<u32>>,
    /// The node's own addresses.
    pub node: BTreeSet<IpAddr>,
    /// Idle lifetimes of flows.
    pub lifetimes: Lifetimes,
}

/// A flow for the pod with `address`. The key lacks the endpoint's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seed {
    pub address: IpAddr,
    pub key: FlowKey,
    pub flow: Flow,
}

/// Returns the flows of a connection; `now` is on the programs' clock.
///
/// The pod that opened it sees the original tuple, before a Service is translated. The other pod
/// sees the reply tuple, after translation. The node itself gets no flow, as in the programs (rules
/// A2, A3). A TCP connection without an answer makes a flow only for the pod that waits for the
/// answer: the other pod is asked again.
pub(super) fn seeds(connection: &Connection, places: &Places, now: u64) -> Vec<Seed> {
    let Connection { original, reply, .. } = connection;
    let Some(state) = state(connection) else {
        return Vec::new();
    };
    let (Some(opener), Some(opened)) = (end(original, Direction::Egress), end(reply, Direction::Ingress))
    else {
        return Vec::new();
    };
    let by_node = places.node.contains(&original.source);
    let translated = original.destination != reply.source;
    let to_node = places.node.contains(&original.destination) && !translated;
    // Two pods claim the sender's address, so its interface is unknown.
    let Some(sender) = places.pods.get(&original.source).copied().unwrap_or(Some(0)) else {
        return Vec::new();
    };
    let flow = |initiator: Direction| {
        let lifetime = flow::lifetime(original.protocol, state as u8, &places.lifetimes);
        let left = connection
            .timeout
            .map_or(lifetime, |seconds| u64::from(seconds) * NANOSECONDS);
        Flow {
            // It expires no later than the kernel's entry, unless packets come.
            last_seen: now.saturating_sub(lifetime - left.min(lifetime)),
            packets: 0,
            bytes: 0,
            policy: NO_POLICY,
            epoch: NEVER,
            initiator: initiator as u8,
            state: state as u8,
            // The first packet sets it.
            tag: 0,
            sender: match initiator {
                Direction::Ingress => sender,
                Direction::Egress => 0,
            },
            ..Flow::default()
        }
    };
    let is_pod = |address: &IpAddr| matches!(places.pods.get(address), Some(Some(_)));
    let mut found = Vec::new();
    if is_pod(&original.source) && !to_node {
        found.push(Seed {
            address: original.source,
            key: opener,
            flow: flow(Direction::Egress),
        });
    }
    if is_pod(&reply.source) && !by_node && (connection.answered || connection.tcp.is_none()) {
        found.push(Seed {
            address: reply.source,
            key: opened,
            flow: flow(Direction::Ingress),
        });
    }
    found
}

/// Returns the flow's state; `None` if it makes no flow.
fn state(connection: &Connection) -> Option<State> {
    if connection.dying || connection.picked_up {
        return None;
    }
    match connection.tcp {
        Some(Tcp::Closed) => None,
        Some(Tcp::Closing) => Some(State::Closing),
        Some(Tcp::Opening) => Some(State::Opening),
        Some(Tcp::Established) | None if connection.answered => Some(State::Established),
        Some(Tcp::Established) | None => Some(State::Opening),
    }
}

/// Returns the key at the pod that sends the packets of `tuple`. `initiator` is the direction, from
/// this pod's side, that opened the connection. `None` for ICMP other than echo.
fn end(tuple: &Tuple, initiator: Direction) -> Option<FlowKey> {
    let icmp = if tuple.source.is_ipv4() {
        protocol::ICMP
    } else {
        protocol::ICMPV6
    };
    let (local_port, remote_port) = if tuple.protocol == icmp {
        // The ICMP type of the original direction decides. The reply's type is the answer's.
        let request = [ECHO_REQUEST, ECHO_REQUEST_V6]
            .map(Some)
            .contains(&tuple.icmp_type);
        let reply = [Some(0), Some(129)].contains(&tuple.icmp_type);
        if !(matches!(initiator, Direction::Egress) && request
            || matches!(initiator, Direction::Ingress) && reply)
        {
            return None;
        }
        (tuple.source_port, [0, initiator as u8])
    } else if [protocol::TCP, protocol::UDP, protocol::SCTP].contains(&tuple.protocol) {
        (tuple.source_port, tuple.destination_port)
    } else {
        ([0; 2], [0; 2])
    };
    Some(FlowKey {
        endpoint: 0,
        remote: mapped(tuple.destination),
        local_port,
        remote_port,
        protocol: tuple.protocol,
        pad: [0; 3],
    })
}

#[cfg(test)]
mod tests;
