// SPDX-License-Identifier: Apache-2.0
//! Second step: looks up the connection that a packet belongs to. What it writes into the flow
//! table lets nothing pass: when a packet was seen, what each end claims, who opened the
//! connection.

use super::{
    FlowEntry as _, Opener, Place, Tables, addresses, begin, flow_key, has_flow, is_node, own_address,
};
use crate::{
    abi::{Direction, Endpoint, FlowKey, NO_POLICY, POLICY_UNRESTRICTED},
    flow,
    parse::{Packet, Role, protocol},
    tag,
};

/// What is known of a connection. All fields are plain values that are always set, because the
/// verifier does not accept the unset half of an `Option`.
pub(super) struct Connection<E> {
    /// Key of its flow.
    pub(super) key: FlowKey,
    /// Entry at that key, alive or not.
    pub(super) entry: Option<E>,
    /// The connection was opened before this packet.
    pub(super) known: bool,
    /// The connection need not be judged again: neither its policies nor its sender changed since.
    pub(super) current: bool,
    /// The packet is an ICMP error about this connection, which is known.
    pub(super) is_error: bool,
    /// The packet goes from the receiver of the connection to its opener.
    pub(super) reply: bool,
    /// The packet is a TCP segment that opens nothing.
    pub(super) mid_stream: bool,
    /// Direction in which the connection was opened, as the pod sees it.
    pub(super) initiator: Direction,
    /// See [`Flow::sender`].
    pub(super) sender: u32,
    /// See [`Flow::tag`].
    pub(super) tag: u16,
    /// The other end is the node. No flow is kept for such a connection (rules A2, A3), except a
    /// NodePort's.
    pub(super) with_node: bool,
}

impl<E> Connection<E> {
    /// Returns true if the packet comes from the other side, and that side opened the connection.
    #[inline(always)]
    pub(super) const fn is_from_opener(&self) -> bool {
        matches!(self.initiator, Direction::Ingress) && !self.reply && !self.is_error
    }
}

/// Looks up the connection of a packet in the flow table. If the packet may be in the middle of
/// one, it then asks the kernel's connection tracking.
#[inline(always)]
pub(super) fn look_up<T: Tables>(
    tables: &T,
    endpoint: &Endpoint,
    place: &Place,
    packet: &Packet,
    quoted: &Packet,
) -> Connection<T::Entry> {
    let direction = place.direction;
    // An ICMP error belongs to the connection of the packet that it quotes, which went the other
    // way (rule C1).
    let quotes = matches!(packet.role, Role::Error) && is_about(endpoint, packet, quoted, direction);
    let key = if quotes {
        flow_key(endpoint, direction.opposite(), quoted)
    } else {
        flow_key(endpoint, direction, packet)
    };
    let syn = packet.protocol == protocol::TCP && flow::is_syn(packet.tcp_flags);
    let mut connection = Connection {
        key,
        entry: if quotes || has_flow(packet) {
            tables.flow(&key)
        } else {
            None
        },
        known: false,
        current: false,
        is_error: false,
        reply: false,
        mid_stream: packet.protocol == protocol::TCP && !syn,
        initiator: direction,
        sender: 0,
        tag: 0,
        with_node: false,
    };
    if let Some(entry) = &connection.entry {
        entry.with(|flow| {
            if !flow::alive(flow, key.protocol, tables.now(), tables.lifetimes()) {
                return;
            }
            if syn && !quotes {
                // The SYN is judged as new. It does not end the open connection: neither side can
                // do that alone.
                flow::asks_anew(flow, packet, direction, tables.now());
                return;
            }
            if !quotes {
                // A denied packet keeps its flow alive as well. Otherwise the flow would end by the
                // silence that policy made, and a reply would open a new one.
                flow.last_seen = tables.now();
                flow::agree(flow, packet, direction);
            }
            connection.known = true;
            connection.initiator = Direction::from_u8(flow.initiator);
            let policy = endpoint.policy(connection.initiator);
            connection.current = flow::is_current(flow, policy, tables.epoch());
            connection.sender = flow.sender;
            connection.tag = flow.tag;
        });
    }
    if !connection.known {
        ask_tracking(tables, endpoint, place, packet, &mut connection);
    }
    connection.is_error = quotes && connection.known;
    connection.reply = (connection.initiator as u8 != direction as u8) != connection.is_error;
    hold_against(tables, place, &mut connection);
    connection
}

/// Asks connection tracking, because the first packet seen need not be the first of its connection
/// (rule C4). A TCP segment without SYN is not. A UDP packet may be a reply if the pod's other
/// direction is isolated, or if it comes from the node, for which no flow is kept.
#[inline(always)]
fn ask_tracking<T: Tables>(
    tables: &T,
    endpoint: &Endpoint,
    place: &Place,
    packet: &Packet,
    connection: &mut Connection<T::Entry>,
) {
    let direction = place.direction;
    let sends = matches!(direction, Direction::Egress);
    let is_udp = packet.protocol == protocol::UDP;
    if !(connection.mid_stream || is_udp)
        || !matches!(packet.role, Role::Any)
        || !addresses::is_own(endpoint, own_address(packet, direction))
    {
        return;
    }
    let from_node = !sends && is_node(tables, &packet.source);
    // Also asked for packets that may enter where others may not: their own flow may have been
    // evicted for those of others.
    let may_enter = !sends && (from_node || endpoint.ingress_policy != POLICY_UNRESTRICTED);
    let may_answer = is_udp && (endpoint.policy(direction.opposite()) != POLICY_UNRESTRICTED || may_enter);
    if !(connection.mid_stream || may_answer) {
        return;
    }
    let opener = tables.opener(&connection.key, own_address(packet, direction));
    if matches!(opener, Opener::Unknown) {
        return;
    }
    connection.known = true;
    connection.initiator = match opener {
        Opener::Pod => Direction::Egress,
        _ => Direction::Ingress,
    };
    connection.with_node = from_node && matches!(opener, Opener::Pod)
        || sends && matches!(opener, Opener::Remote) && is_node(tables, &packet.destination);
    let (with_node, initiator) = (connection.with_node, connection.initiator);
    if let Some(entry) = &connection.entry {
        entry.with(|flow| {
            if with_node {
                return;
            }
            begin(tables, flow, NO_POLICY, initiator);
            // Nothing passed yet: `commit` counts this packet, if it passes.
            (flow.epoch, flow.packets, flow.bytes) = (0, 0, 0);
        });
    }
}

/// Compares a connection with the way by which this packet came. Behind masquerade, one address and
/// port may belong to one pod today and to another tomorrow. Answers that came another way than
/// those before are judged again (rule A6).
#[inline(always)]
fn hold_against<T: Tables>(tables: &T, place: &Place, connection: &mut Connection<T::Entry>) {
    let came_by = place.ingress_ifindex;
    if connection.is_from_opener() {
        let has = tag::without_deferral(place.tag);
        if connection.tag != has {
            connection.tag = has;
            connection.current = false;
        } else if connection.current && has == 0 && connection.sender != came_by {
            // Not one condition: the verifier does not accept the result of a lookup merged with
            // another value.
            connection.current = connection.sender == 0;
            if connection.current && tables.is_endpoint(came_by) {
                connection.current = false;
            }
        }
    }
    let answers = matches!(connection.initiator, Direction::Egress)
        && matches!(place.direction, Direction::Ingress)
        && !connection.is_error;
    if answers && tag::number(place.tag) != 0 {
        connection.sender = came_by;
    }
}

/// Returns true if an ICMP error is about a packet of its receiver or sender. An error for the pod
/// must quote a packet of that pod. An error from the pod must go to the sender of the packet that
/// it quotes. A router on the way sends errors from its own address.
#[inline(always)]
fn is_about(endpoint: &Endpoint, packet: &Packet, quoted: &Packet, direction: Direction) -> bool {
    match direction {
        Direction::Ingress => {
            packet.destination == quoted.source && addresses::is_own(endpoint, &quoted.source)
        }
        Direction::Egress => packet.source == quoted.destination && packet.destination == quoted.source,
    }
}
