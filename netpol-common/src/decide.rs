// SPDX-License-Identifier: Apache-2.0
//! The verdict on a packet, in four steps: `classify` says what kind of packet it is, `connection`
//! looks up what is known of its connection, `judge` asks the policies and changes nothing, `commit`
//! remembers what passes. [`fast_path`] is a short cut past all four.
//!
//! The programs take these steps over the kernel's maps, tests over ordinary ones ([`Tables`]).

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
    /// Nobody knows, or it is a guess.
    #[default]
    Unknown = 0,
    /// The other side; of UDP only if the pod answered.
    Remote = 1,
    /// The pod.
    Pod = 2,
}

/// How a packet came that has the tag of a pod of this node, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Origin {
    /// By that pod's interface or a bridge of pods; or it has no tag, or the pod sends it here.
    Plain = 0,
    /// By another device, from that pod's own address: out of a tunnel, say.
    Unpacked = 1,
    /// The same from an address that is not the pod's, which wrote it there (rule A6).
    Forged = 2,
}

/// Where a packet is met: one of an endpoint's hooks, or where it leaves the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The direction, seen from the pod.
    pub direction: Direction,
    /// Index of the interface: a pod's host-side veth, or the device by which the packet leaves.
    pub ifindex: u32,
    /// Index of the interface that the packet came by; 0 if the node itself made it (rules A2, A3). Not for what a pod sends.
    pub ingress_ifindex: u32,
    /// The packet's [tag]. Not for what a pod sends.
    pub tag: u16,
}

impl Place {
    /// Where a packet of this origin is met: what was unpacked came by no interface that a flow
    /// could know again, so the next one is looked at as well.
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

    /// Whether the node itself made the packet.
    #[inline(always)]
    const fn is_by_node(self) -> bool {
        matches!(self.direction, Direction::Ingress) && self.ingress_ifindex == 0
    }
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
    /// The policy that said so, or [`POLICY_NONE`](crate::abi::POLICY_NONE).
    pub policy: u32,
    /// Identity of the other side, or [`IDENTITY_NONE`](crate::abi::IDENTITY_NONE).
    pub identity: u32,
    /// Whose policy it is.
    pub whose: Whose,
}

/// Whose policy drops a packet, and which way the packet goes in its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whose {
    /// Interface index of the subject's host-side veth; 0 where nothing tells which pod it is.
    pub subject: u32,
    /// The direction of the subject's policy: egress if the subject opened the connection, or, of what was not judged as part of one,
    /// sent the packet.
    pub direction: Direction,
    /// The packet goes from who received the connection to who opened it, as far as the flow table knows.
    pub reply: bool,
}

impl Whose {
    /// The pod whose hook the packet is met at, in the direction of the hook.
    #[inline(always)]
    pub const fn at_hook(place: &Place) -> Self {
        Self {
            subject: place.ifindex,
            direction: place.direction,
            reply: false,
        }
    }

    /// The local pod that sent a packet: [`SENDER_AMBIGUOUS`] is nobody that is known.
    #[inline(always)]
    pub const fn sender(sender: u32) -> Self {
        Self {
            subject: if sender == SENDER_AMBIGUOUS { 0 } else { sender },
            direction: Direction::Egress,
            reply: false,
        }
    }
}

/// The verdict on a frame at one of an endpoint's hooks. `packet` and `quoted` as
/// [`parse`](crate::parse::parse) leaves them; a later fragment gets the ports of the first.
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

/// The same of a packet whose origin is known.
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
    Flow {
        last_seen: tables.now(),
        packets: 1,
        bytes: u64::from(tables.length()),
        policy,
        epoch: tables.epoch(),
        initiator: initiator as u8,
        state: State::Opening as u8,
        ..Flow::default()
    }
}

/// Whether a packet that no interface brought is one that the node only forwards all the same (rule A3). Connection tracking takes IPv6 fragments
/// from their sockets and puts them together; where the kernel must copy what it then takes apart again, it forgets the interface. What the
/// node makes in fragments belongs to the socket that sent it.
#[inline(always)]
fn is_forwarded(tables: &impl Buffer, packet: &Packet) -> bool {
    packet.fragment_header && !tables.has_socket()
}

/// Whether an address is one of the node's.
#[inline(always)]
fn is_node(tables: &impl Lookups, address: &Address) -> bool {
    tables.identity(address).flags & IDENTITY_NODE != 0
}

/// Whether a packet of no known flow may be the first of a connection. Any packet but a TCP segment that continues one.
#[inline(always)]
const fn may_open(packet: &Packet) -> bool {
    packet.protocol != protocol::TCP || flow::is_syn(packet.tcp_flags)
}

/// Whether the flow table may speak for the packet. A SYN opens a connection, whatever the table remembers of an older one.
#[inline(always)]
const fn continues_flow(packet: &Packet) -> bool {
    let syn = packet.protocol == protocol::TCP && flow::is_syn(packet.tcp_flags);
    !syn && has_flow(packet)
}

/// Whether the flow table may know the connection of the packet.
#[inline(always)]
const fn has_flow(packet: &Packet) -> bool {
    !matches!(packet.role, Role::Single | Role::Error)
}

/// Whether packets can follow that belong to this one. To the node no flow is made: that way is open anyway (rule A2), and a flow would let
/// packets that are only forwarded with the node's address pass as its replies (rule A3).
#[inline(always)]
const fn opens_flow(packet: &Packet) -> bool {
    let reset = packet.protocol == protocol::TCP && packet.tcp_flags & RST != 0;
    !reset && matches!(packet.role, Role::Any | Role::EchoRequest)
}

/// The address at the other side.
#[inline(always)]
const fn remote_address(packet: &Packet, direction: Direction) -> &Address {
    match direction {
        Direction::Ingress => &packet.source,
        Direction::Egress => &packet.destination,
    }
}

/// The pod's own address.
#[inline(always)]
const fn own_address(packet: &Packet, direction: Direction) -> &Address {
    remote_address(packet, direction.opposite())
}

/// The flow that a packet belongs to.
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
