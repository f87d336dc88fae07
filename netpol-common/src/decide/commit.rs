// SPDX-License-Identifier: Apache-2.0
//! Last step: remembers a packet that passes, and writes the tag that it goes on with.

use super::{
    FlowEntry as _, Flows, Place, Tables, begin, connection::Connection, flow_key, fragments,
    judge::Judgement, may_open, new_flow, opens_flow,
};
use crate::{
    abi::{Direction, Endpoint, Flow},
    flow::{self, State},
    parse::{Packet, protocol},
};

/// Commits a packet of no known connection. What a pod sends gets a tag that has it judged again if
/// it turns up in another form: the node may forward it, or what hides it may be gone later (a
/// priority tag, a tunnel).
#[inline(always)]
pub(super) fn no_connection(tables: &impl Tables, endpoint: &Endpoint, place: &Place) {
    if matches!(place.direction, Direction::Egress) {
        tables.put_tag(endpoint.tag(true));
    }
}

/// Commits a packet that the node made. It may open a connection on the ports of one that the node
/// forwarded before. That flow, which may be denied, must not judge the replies (rule A2).
#[inline(always)]
pub(super) fn from_node(tables: &impl Flows, endpoint: &Endpoint, place: &Place, packet: &Packet) {
    if packet.protocol == protocol::TCP
        && may_open(packet)
        && let Some(entry) = tables.flow(&flow_key(endpoint, place.direction, packet))
    {
        entry.with(|flow| {
            flow.last_seen = 0;
            flow.state = State::Closed as u8;
        });
    }
}

/// Commits a packet of a connection: its flow, its ports if it is a first fragment, and its tag.
#[inline(always)]
pub(super) fn connection<T: Tables>(
    tables: &T,
    endpoint: &Endpoint,
    place: &Place,
    packet: &Packet,
    connection: &Connection<T::Entry>,
    judgement: &Judgement,
) {
    let sends = matches!(place.direction, Direction::Egress);
    // An ICMP error keeps no flow alive: anyone can send one.
    if connection.is_error {
        if sends {
            tables.put_tag(endpoint.tag(false));
        }
        return;
    }
    keep_flow(tables, endpoint, place, packet, connection, judgement);
    fragments::remember(tables, endpoint, place.direction, packet);
    if sends {
        tables.put_tag(if connection.reply {
            endpoint.tag(judgement.deferred)
        } else {
            judgement.tag
        });
    }
}

/// Updates the flow of a connection, or makes one.
#[inline(always)]
fn keep_flow<T: Tables>(
    tables: &T,
    endpoint: &Endpoint,
    place: &Place,
    packet: &Packet,
    connection: &Connection<T::Entry>,
    judgement: &Judgement,
) {
    let policy = endpoint.policy(connection.initiator);
    let (sender, tag) = (judgement.sender, judgement.tag);
    // No flow is made for a connection to the node: it is open anyway (rule A2), and with a flow,
    // packets that are only forwarded with the node's address would pass as its replies (rule A3).
    let opens = opens_flow(packet) && !judgement.to_node && (connection.known || !connection.mid_stream);
    if let Some(entry) = &connection.entry {
        entry.with(|flow| {
            if connection.known && !connection.with_node {
                flow.policy = policy;
                flow.epoch = tables.epoch();
                flow.packets += 1;
                flow.bytes += u64::from(tables.length());
                flow.sender = sender;
                flow.tag = tag;
                flow::advance(flow, packet, place.direction);
            } else if opens && !flow::alive(flow, packet.protocol, tables.now(), tables.lifetimes()) {
                begin(tables, flow, policy, connection.initiator);
                (flow.sender, flow.tag) = (sender, tag);
            }
        });
    } else if opens {
        let found = new_flow(tables, policy, connection.initiator);
        let state = match (connection.reply, packet.protocol) {
            (false, _) => State::Opening,
            (true, protocol::TCP) => State::Answered,
            (true, _) => State::Established,
        } as u8;
        let flow = Flow {
            sender,
            tag,
            state,
            ..found
        };
        tables.insert_flow(&connection.key, &flow);
    }
}
