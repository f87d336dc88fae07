// SPDX-License-Identifier: Apache-2.0
//! The verdict on a packet, in four steps:
//!
//! 1. `classify` tells what kind of packet it is.
//! 2. `connection` looks up its connection.
//! 3. `judge` asks the policies and changes nothing.
//! 4. `commit` remembers what passes.
//!
//! [`fast_path`] is a short cut past all four. The programs take these steps over the kernel's
//! maps, tests over maps in memory ([`Tables`]).

mod addresses;
mod classify;
mod commit;
mod connection;
pub mod fast_path;
mod fragments;
mod judge;
mod leaving;
mod sender;
mod tables;
#[cfg(test)]
mod tests;

pub use leaving::{decide_leaving, leaves_unread};
pub use sender::origin;
pub use tables::{Buffer, FlowEntry, Flows, Lookups, Tables};

use crate::{
    abi::{Address, Direction, DropReason, Endpoint, Flow, FlowKey, IDENTITY_NODE, SENDER_AMBIGUOUS},
    flow::{self, RST, State},
    parse::{Packet, Parsed, Role, protocol},
};
use classify::{Class, classify};
use judge::Judgement;

/// Who opened a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Opener {
    /// Not known, or only a guess.
    #[default]
    Unknown = 0,
    /// The other side opened it. For UDP this is certain only if the pod answered.
    Remote = 1,
    /// The pod opened it.
    Pod = 2,
}

/// How a packet came to a hook, by its tag and the device that brought it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Origin {
    /// It came by the interface of the pod whose tag it has, or by a bridge of pods. Also: it has
    /// no tag, or the pod sends it here.
    Plain = 0,
    /// It came by another device, from the address of the pod whose tag it has: out of a tunnel,
    /// say.
    Unpacked = 1,
    /// It came by another device, from an address that is not that pod's. The pod wrote that
    /// address (rule A6).
    Forged = 2,
}

/// Where a packet is met: at one of an endpoint's hooks, or where it leaves the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Direction, seen from the pod.
    pub direction: Direction,
    /// Index of the interface: a pod's host-side veth, or the device that the packet leaves by.
    pub ifindex: u32,
    /// Index of the interface that the packet came by; 0 if the node itself made it (rules A2, A3).
    /// Not used at `from_pod`.
    pub ingress_ifindex: u32,
    /// The packet's [tag](crate::tag). Not used at `from_pod`.
    pub tag: u16,
}

impl Place {
    /// Returns the place of a packet with this origin. An unpacked packet came by no interface that
    /// a flow could recognise, so its next packet is judged as well.
    #[inline(always)]
    const fn of(self, origin: Origin) -> Self {
        let ingress_ifindex = match origin {
            Origin::Unpacked => u32::MAX,
            Origin::Plain | Origin::Forged => self.ingress_ifindex,
        };
        Self {
            ingress_ifindex,
            ..self
        }
    }

    /// Returns true if the node itself made the packet.
    #[inline(always)]
    const fn is_by_node(self) -> bool {
        matches!(self.direction, Direction::Ingress) && self.ingress_ifindex == 0
    }
}

/// What happens to a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The packet passes.
    Forward,
    /// The packet is dropped, and nobody is told (rule A7).
    Drop(Drop),
}

/// Why a packet is dropped, for the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drop {
    /// The reason.
    pub reason: DropReason,
    /// The policy that denied it, or [`NO_POLICY`](crate::abi::NO_POLICY).
    pub policy: u32,
    /// Identity of the other side, or [`IDENTITY_NONE`](crate::abi::IDENTITY_NONE).
    pub identity: u32,
    /// The pod whose policy it is.
    pub whose: Whose,
}

/// Whose policy drops a packet, and which way the packet goes in its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whose {
    /// Interface index of the subject's host-side veth; 0 if nothing tells which pod it is.
    pub subject: u32,
    /// Direction of the subject's policy: egress if the subject opened the connection. For a packet
    /// that was not judged as part of a connection: egress if the subject sent it.
    pub direction: Direction,
    /// True if the packet goes from the receiver of the connection to its opener, as far as the
    /// flow table knows.
    pub reply: bool,
}

impl Whose {
    /// The pod whose hook meets the packet, in the direction of the hook.
    #[inline(always)]
    pub const fn at_hook(place: &Place) -> Self {
        Self {
            subject: place.ifindex,
            direction: place.direction,
            reply: false,
        }
    }

    /// The local pod that sent a packet. [`SENDER_AMBIGUOUS`] names no pod.
    #[inline(always)]
    pub const fn sender(sender: u32) -> Self {
        Self {
            subject: if sender == SENDER_AMBIGUOUS { 0 } else { sender },
            direction: Direction::Egress,
            reply: false,
        }
    }
}

/// Returns the verdict on a frame at one of an endpoint's hooks. `packet` and `quoted` come from
/// [`parse`](crate::parse::parse). A later fragment gets the ports of the first.
#[inline(always)]
pub fn decide(
    tables: &impl Tables,
    endpoint: &Endpoint,
    place: Place,
    parsed: Parsed,
    packet: &mut Packet,
    quoted: &Packet,
) -> Verdict {
    let origin = origin(tables, &place, packet);
    decide_from(tables, endpoint, (place, origin), parsed, packet, quoted)
}

/// Like [`decide`], for a packet whose origin is known.
#[inline(always)]
pub fn decide_from(
    tables: &impl Tables,
    endpoint: &Endpoint,
    (place, origin): (Place, Origin),
    parsed: Parsed,
    packet: &mut Packet,
    quoted: &Packet,
) -> Verdict {
    let place = &place.of(origin);
    match classify(tables, endpoint, place, origin, parsed, packet) {
        Class::Refused(whose, reason) => Judgement::denied(whose, reason).enforce(|_| ()),
        Class::Link => Judgement::passes(Whose::at_hook(place))
            .enforce(|_| commit::no_connection(tables, endpoint, place)),
        Class::FromNode => Judgement::passes(Whose::at_hook(place))
            .enforce(|_| commit::from_node(tables, endpoint, place, packet)),
        Class::Unreadable(reason) => judge::unreadable(tables, endpoint, place, packet, reason)
            .enforce(|_| commit::no_connection(tables, endpoint, place)),
        Class::Connection => {
            let connection = connection::look_up(tables, endpoint, place, packet, quoted);
            judge::connection(tables, endpoint, place, packet, quoted, &connection).enforce(|judgement| {
                commit::connection(tables, endpoint, place, packet, &connection, judgement);
            })
        }
    }
}

#[inline(always)]
fn new_flow(tables: &(impl Flows + Buffer), policy: u32, initiator: Direction) -> Flow {
    let mut flow = Flow::default();
    begin(tables, &mut flow, policy, initiator);
    flow
}

/// Makes a flow of an entry, field by field: a copy of a whole one would need room on the stack.
#[inline(always)]
fn begin(tables: &(impl Flows + Buffer), flow: &mut Flow, policy: u32, initiator: Direction) {
    *flow = Flow::default();
    flow.last_seen = tables.now();
    flow.packets = 1;
    flow.bytes = u64::from(tables.length());
    flow.policy = policy;
    flow.epoch = tables.epoch();
    flow.initiator = initiator as u8;
    flow.state = State::Opening as u8;
}

/// Returns true if the node only forwards a packet although no interface brought it (rule A3).
/// Connection tracking reassembles IPv6 fragments. When the kernel must copy a packet to fragment
/// it again, it forgets the interface. Fragments that the node itself makes belong to the socket
/// that sent them.
#[inline(always)]
fn is_forwarded(tables: &impl Buffer, packet: &Packet) -> bool {
    packet.fragment_header && !tables.has_socket()
}

/// Returns true if an address is one of the node's.
#[inline(always)]
fn is_node(tables: &impl Lookups, address: &Address) -> bool {
    tables.identity(address).flags & IDENTITY_NODE != 0
}

/// Returns true if a packet of no known flow may open a connection: any packet except a TCP segment
/// that continues one.
#[inline(always)]
const fn may_open(packet: &Packet) -> bool {
    packet.protocol != protocol::TCP || flow::is_syn(packet.tcp_flags)
}

/// Returns true if the flow table may decide for the packet. A SYN opens a connection, whatever the
/// table remembers of an older one.
#[inline(always)]
const fn continues_flow(packet: &Packet) -> bool {
    let syn = packet.protocol == protocol::TCP && flow::is_syn(packet.tcp_flags);
    !syn && has_flow(packet)
}

/// Returns true if the flow table may know the connection of the packet.
#[inline(always)]
const fn has_flow(packet: &Packet) -> bool {
    !matches!(packet.role, Role::Single | Role::Error)
}

/// Returns true if packets can follow that belong to this one.
#[inline(always)]
const fn opens_flow(packet: &Packet) -> bool {
    let reset = packet.protocol == protocol::TCP && packet.tcp_flags & RST != 0;
    !reset && matches!(packet.role, Role::Any | Role::EchoRequest)
}

/// Returns the address of the other side.
#[inline(always)]
const fn remote_address(packet: &Packet, direction: Direction) -> &Address {
    match direction {
        Direction::Ingress => &packet.source,
        Direction::Egress => &packet.destination,
    }
}

/// Returns the pod's own address.
#[inline(always)]
const fn own_address(packet: &Packet, direction: Direction) -> &Address {
    remote_address(packet, direction.opposite())
}

/// Returns the key of the flow that a packet belongs to.
#[inline(always)]
pub fn flow_key(endpoint: &Endpoint, direction: Direction, packet: &Packet) -> FlowKey {
    let requests = match packet.role {
        Role::EchoRequest => Some(direction),
        Role::EchoReply => Some(direction.opposite()),
        Role::Any | Role::Single | Role::Error => None,
    };
    let (local_port, remote_port) = match (requests, direction) {
        (Some(requests), _) => (packet.source_port, [0, requests as u8]),
        (None, Direction::Ingress) => (packet.destination_port, packet.source_port),
        (None, Direction::Egress) => (packet.source_port, packet.destination_port),
    };
    FlowKey {
        endpoint: endpoint.id,
        remote: *remote_address(packet, direction),
        local_port,
        remote_port,
        protocol: packet.protocol,
        pad: [0; 3],
    }
}
