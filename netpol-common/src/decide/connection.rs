// SPDX-License-Identifier: Apache-2.0
//! Second step: what is known of the connection that a packet belongs to. The flow table notes here
//! that a packet was seen, whatever becomes of it; nothing else changes.

use super::{
    FlowEntry as _, Opener, Place, Tables, addresses, flow_key, has_flow, is_node, new_flow, own_address,
};
use crate::{
    abi::{Direction, Endpoint, Flow, FlowKey, POLICY_NONE},
    flow,
    parse::{Packet, Role, protocol},
    tag,
};

/// A connection as far as it is known. Plain fields that are always set: the verifier refuses to
/// follow the unset half of an `Option`.
pub(super) struct Connection<E> {
    /// Key of its flow.
    pub(super) key: FlowKey,
    /// Entry at that key, alive or not.
    pub(super) entry: Option<E>,
    /// It was opened before this packet.
    pub(super) known: bool,
    /// It need not be judged again: neither policies nor who sends changed since.
    pub(super) current: bool,
    /// The packet is an ICMP error about it, and it is known.
    pub(super) is_error: bool,
    /// The packet goes from who received the connection to who opened it.
    pub(super) reply: bool,
    /// The packet is a TCP segment that opens nothing.
    pub(super) mid_stream: bool,
    /// Direction in which it was opened, as the pod sees it.
    pub(super) initiator: Direction,
    /// See [`Flow::sender`].
    pub(super) sender: u32,
    /// See [`Flow::tag`].
    pub(super) tag: u16,
    /// Its other end is the node, to which no flow is kept (rules A2, A3).
    pub(super) with_node: bool,
}

impl<E> Connection<E> {
    /// True if another sends, and opened it.
    #[inline(always)]
    pub(super) const fn is_from_opener(&self) -> bool {
        matches!(self.initiator, Direction::Ingress) && !self.reply && !self.is_error
    }
}

/// Looks the connection of a packet up: in the flow table, then, where the packet may be in the
/// middle of one, in the kernel's connection tracking.
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
                // It is judged as new. It does not end the open connection: no end does that alone.
                flow::asks_anew(flow, packet, direction, tables.now());
                return;
            }
            if !quotes {
                // What is denied keeps a flow alive as well: silence by policy must not end it, or a
                // reply would open a new one.
                flow.last_seen = tables.now();
                flow::agree(flow, packet, direction);
            }
            connection.known = true;
            connection.initiator = Direction::from_u8(flow.initiator);
            connection.current =
                flow.policy == endpoint.policy(connection.initiator) && flow.epoch == tables.epoch();
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

/// The first packet seen need not be the first of its connection (rule C4): of TCP it is not, without
/// SYN; of UDP it may be a reply as far as this pod's other direction is isolated, or as it comes
/// from the node, to which no flow is made.
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
    // Also asked for what may enter where others may not: its own flow may have had to make room for
    // theirs.
    let may_enter = !sends && (from_node || endpoint.ingress_policy != POLICY_NONE);
    let may_answer = is_udp && (endpoint.policy(direction.opposite()) != POLICY_NONE || may_enter);
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
    if let Some(entry) = &connection.entry
        && !connection.with_node
    {
        entry.with(|flow| {
            let found = new_flow(tables, POLICY_NONE, connection.initiator);
            *flow = Flow { epoch: 0, ..found };
        });
    }
}

/// Holds a connection against the way by which this packet came. Behind masquerade one address and
/// port may be one pod's today and another's tomorrow; and answers that came another way than those
/// before are looked at again (rule A6).
#[inline(always)]
fn hold_against<T: Tables>(tables: &T, place: &Place, connection: &mut Connection<T::Entry>) {
    let came_by = place.ingress_ifindex;
    if connection.is_from_opener() {
        let has = tag::judged(place.tag);
        if connection.tag != has {
            connection.tag = has;
            connection.current = false;
        } else if connection.current && has == 0 && connection.sender != came_by {
            // Not as one condition: the verifier refuses to see what a lookup found merged with another.
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

/// True if an ICMP error is about a packet of its receiver's, or sender's, own: its quote names the
/// same pod, and an error that the pod sends goes to whom it is about. A router on the way sends with
/// an address of its own.
#[inline(always)]
fn is_about(endpoint: &Endpoint, packet: &Packet, quoted: &Packet, direction: Direction) -> bool {
    match direction {
        Direction::Ingress => {
            packet.destination == quoted.source && addresses::is_own(endpoint, &quoted.source)
        }
        Direction::Egress => packet.source == quoted.destination && packet.destination == quoted.source,
    }
}
