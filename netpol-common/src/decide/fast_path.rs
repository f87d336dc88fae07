// SPDX-License-Identifier: Apache-2.0
//! The fast path: one flow lookup for a packet of an open connection that is still allowed. It
//! gives the verdict that [`decide`](super::decide) would give, and skips what only other packets
//! need.

use super::{
    FlowEntry as _, Place, Tables,
    addresses::{is_of_another_link, is_own},
    flow_key, own_address,
};
use crate::{
    abi::{Direction, Endpoint},
    flow::{self, ACK, FIN, RST, SYN, State},
    parse::Packet,
    tag,
};

/// Returns true if a packet may take the fast path. SYN, FIN and RST may not: they change the state
/// of a connection.
#[inline(always)]
pub const fn may_pass(packet: &Packet) -> bool {
    packet.tcp_flags & (SYN | FIN | RST) == 0
}

/// Fast path: returns true if a [simple](crate::parse::simple) packet at one of an endpoint's hooks
/// belongs to an open connection that is still allowed, and counts it in its flow. False decides
/// nothing: the packet goes to [`decide`](super::decide).
#[inline(always)]
pub fn passes(tables: &impl Tables, endpoint: &Endpoint, place: &Place, packet: &Packet) -> bool {
    let direction = place.direction;
    let receives = matches!(direction, Direction::Ingress);
    // What the node itself sends passes without a flow (rule A2).
    if place.is_by_node() || !may_pass(packet) {
        return false;
    }
    // Otherwise the packet is forged (rule A6), for another (rule A9), or special, like multicast.
    if is_of_another_link(endpoint, packet, direction) || !is_own(endpoint, own_address(packet, direction)) {
        return false;
    }
    let Some(entry) = tables.flow(&flow_key(endpoint, direction, packet)) else {
        return false;
    };
    entry.with(|flow| {
        let now = tables.now();
        let initiator = Direction::from_u8(flow.initiator);
        let current = flow::is_current(flow, endpoint.policy(initiator), tables.epoch());
        let reply = initiator as u8 != direction as u8;
        // Only if the next packet of this kind leaves the state as it is.
        let open = flow.state == State::Established as u8
            || matches!(flow::after(flow, packet, reply), Some(State::Established));
        if !current || !open || !flow::alive(flow, packet.protocol, now, tables.lifetimes()) {
            return false;
        }
        if receives && reply {
            // A packet that the node unpacked may come by another way (rule A6).
            if tag::number(place.tag) != 0 && flow.sender != place.ingress_ifindex {
                return false;
            }
        } else if receives {
            let has = tag::without_deferral(place.tag);
            if flow.tag != has {
                return false;
            }
            if has == 0
                && flow.sender != place.ingress_ifindex
                && (flow.sender != 0 || tables.is_endpoint(place.ingress_ifindex))
            {
                return false;
            }
        }
        flow.state = State::Established as u8;
        flow.last_seen = now;
        if packet.tcp_flags & ACK != 0 {
            flow.acknowledged[(direction as u8 & 1) as usize] = packet.acknowledgement;
        }
        flow.packets += 1;
        flow.bytes += u64::from(tables.length());
        if !receives {
            tables.put_tag(if reply { endpoint.tag(false) } else { flow.tag });
        }
        true
    })
}
