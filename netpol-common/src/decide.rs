// SPDX-License-Identifier: Apache-2.0
//! The verdict on a packet, over a trait of lookups: the kernel's maps there, ordinary maps in tests.

#[cfg(test)]
mod tests;

use crate::{
    abi::{
        ACTION_ACCEPT, Address, Direction, DropReason, Endpoint, Flow, FlowKey, IDENTITY_NODE, IDENTITY_NONE,
        Identity, POLICY_NONE, PolicyMatch, PolicyValue,
    },
    flow::{self, ACK, RST, SYN, State},
    parse::{Packet, Parsed, Role, protocol},
};

/// What a decision looks up and writes.
pub trait Tables {
    /// A place in the flow table.
    type FlowEntry: FlowEntry;

    /// Nanoseconds of the monotonic clock.
    fn now(&self) -> u64;
    /// The current epoch.
    fn epoch(&self) -> u32;
    /// The class of an address by longest prefix; [`IDENTITY_NONE`] where no prefix covers it.
    fn identity(&self, address: &Address) -> Identity;
    /// The longest match of a policy.
    fn policy(&self, key: &PolicyMatch) -> Option<PolicyValue>;
    /// The entry of a flow, valid or not.
    fn flow(&self, key: &FlowKey) -> Option<Self::FlowEntry>;
    /// Writes a new flow or replaces one.
    fn insert_flow(&self, key: &FlowKey, flow: &Flow);
}

/// A place in the flow table.
pub trait FlowEntry {
    /// Reads and changes the flow in place.
    fn with<R>(&self, change: impl FnOnce(&mut Flow) -> R) -> R;
}

/// What happens to a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It passes.
    Forward,
    /// It is dropped, and nobody is told (rule A7).
    Drop(Drop),
}

/// Why, for the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drop {
    /// The reason.
    pub reason: DropReason,
    /// The policy that said so, or [`POLICY_NONE`].
    pub policy: u32,
    /// Identity of the other side, or [`IDENTITY_NONE`].
    pub identity: u32,
}

/// The verdict on a frame at one of an endpoint's hooks. `from_node`: the node itself made it (rule A2).
#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "a structure of them would take room on a program's stack of 512 bytes"
)]
pub fn decide(
    tables: &impl Tables,
    endpoint: &Endpoint,
    direction: Direction,
    parsed: Parsed,
    packet: &Packet,
    length: u32,
    from_node: bool,
) -> Verdict {
    match parsed {
        Parsed::Neighbour => return Verdict::Forward,
        Parsed::Unjudged(reason) => {
            let isolated = endpoint.policy(direction) != POLICY_NONE;
            if !isolated || from_node {
                return Verdict::Forward;
            }
            return Verdict::Drop(Drop {
                reason,
                policy: POLICY_NONE,
                identity: IDENTITY_NONE,
            });
        }
        Parsed::Packet => {}
    }
    if from_node {
        return Verdict::Forward;
    }
    let key = flow_key(endpoint, direction, packet);
    let entry = if continues_flow(packet) {
        tables.flow(&key)
    } else {
        None
    };
    // Plain variables, all set on every path: the verifier refuses to follow the unset half of an Option.
    let mut known = false;
    let mut current = false;
    let mut initiator = direction;
    if let Some(entry) = &entry {
        entry.with(|flow| {
            if flow::alive(flow, packet.protocol, tables.now()) {
                known = true;
                initiator = Direction::from_u8(flow.initiator);
                current = flow.policy == endpoint.policy(initiator) && flow.epoch == tables.epoch();
            }
        });
    }

    // What is known of the connection is judged in the direction that opened it, its replies too (rules C1, C2). A flow that is no
    // longer allowed stays in the table and is denied at each packet: without it a reply would open a connection of the other direction.
    let policy = endpoint.policy(initiator);
    let reply = initiator as u8 != direction as u8;
    let mut node = false;
    if !current {
        let identity = tables.identity(&key.remote);
        node = identity.flags & IDENTITY_NODE != 0;
        let port = if reply {
            packet.source_port
        } else {
            packet.destination_port
        };
        if !allowed(tables, policy, initiator, &identity, packet.protocol, port) {
            return Verdict::Drop(Drop {
                reason: DropReason::Policy,
                policy,
                identity: identity.identity,
            });
        }
    }

    if let Some(entry) = &entry
        && known
    {
        entry.with(|flow| {
            flow.policy = policy;
            flow.epoch = tables.epoch();
            flow.last_seen = tables.now();
            flow.packets += 1;
            flow.bytes += u64::from(length);
            flow.state = flow::next_state(flow.state, packet.protocol, packet.tcp_flags, reply);
        });
    } else if opens_flow(packet) && !node {
        tables.insert_flow(
            &key,
            &Flow {
                last_seen: tables.now(),
                packets: 1,
                bytes: u64::from(length),
                policy,
                epoch: tables.epoch(),
                initiator: direction as u8,
                state: State::Opening as u8,
                pad: [0; 6],
            },
        );
    }
    Verdict::Forward
}

/// Whether the flow table may speak for the packet. A SYN opens a connection, whatever the table remembers of an older one.
#[inline(always)]
const fn continues_flow(packet: &Packet) -> bool {
    let syn = packet.protocol == protocol::TCP && packet.tcp_flags & (SYN | ACK | RST) == SYN;
    !syn && !matches!(packet.role, Role::Single)
}

/// Whether packets can follow that belong to this one. To the node no flow is made: that way is open anyway (rule A2), and a flow would let
/// packets that are only forwarded with the node's address pass as its replies (rule A3).
#[inline(always)]
const fn opens_flow(packet: &Packet) -> bool {
    let reset = packet.protocol == protocol::TCP && packet.tcp_flags & RST != 0;
    !reset && matches!(packet.role, Role::Any | Role::EchoRequest)
}

/// What the endpoint's policy for one direction says about a connection opened in that direction.
#[inline(always)]
fn allowed(
    tables: &impl Tables,
    policy: u32,
    direction: Direction,
    identity: &Identity,
    protocol: u8,
    port: [u8; 2],
) -> bool {
    // To the node that it runs on: rule A2. From there it is told by where the packet was made, never by its address (rule A3).
    let to_node = identity.flags & IDENTITY_NODE != 0 && matches!(direction, Direction::Egress);
    if policy == POLICY_NONE || to_node {
        return true;
    }
    let key = PolicyMatch {
        policy,
        identity: identity.identity,
        protocol,
        port,
        pad: 0,
    };
    matches!(
        tables.policy(&key),
        Some(PolicyValue {
            action: ACTION_ACCEPT,
            ..
        })
    )
}

/// The address at the other side.
#[inline(always)]
fn remote_address(packet: &Packet, direction: Direction) -> Address {
    match direction {
        Direction::Ingress => packet.source,
        Direction::Egress => packet.destination,
    }
}

/// The flow that a packet belongs to.
#[inline(always)]
pub fn flow_key(endpoint: &Endpoint, direction: Direction, packet: &Packet) -> FlowKey {
    let requests = match packet.role {
        Role::EchoRequest => Some(direction),
        Role::EchoReply => Some(direction.opposite()),
        Role::Any | Role::Single => None,
    };
    let (local_port, remote_port) = match (requests, direction) {
        (Some(requests), _) => (packet.source_port, [0, requests as u8]),
        (None, Direction::Ingress) => (packet.destination_port, packet.source_port),
        (None, Direction::Egress) => (packet.source_port, packet.destination_port),
    };
    FlowKey {
        endpoint: endpoint.id,
        remote: remote_address(packet, direction),
        local_port,
        remote_port,
        protocol: packet.protocol,
        pad: [0; 3],
    }
}
