// SPDX-License-Identifier: Apache-2.0
//! The verdict on what continues a connection that was judged before and need not be again: what [`decide`](super::decide) says of it, with one
//! lookup and without what only others need.

use super::{
    FlowEntry, Place, Tables,
    addresses::{is_of_another_link, is_own},
    flow_key, own_address,
};
use crate::{
    abi::{Direction, Endpoint},
    flow::{self, ACK, FIN, RST, SYN, State},
    parse::Packet,
    tag,
};

/// Whether a packet may continue a connection as it is: what opens or ends one changes its state, and is none of these.
#[inline(always)]
pub const fn may_continue(packet: &Packet) -> bool {
    packet.tcp_flags & (SYN | FIN | RST) == 0
}

/// Whether a [plain](crate::parse::plain::plain) packet at one of an endpoint's hooks passes as part of an open connection that is judged under the
/// current policy and epoch; it is counted there, then. False says nothing: [`decide`](super::decide) has the verdict.
#[inline(always)]
pub fn continues(tables: &impl Tables, endpoint: &Endpoint, place: &Place, packet: &Packet) -> bool {
    let direction = place.direction;
    let receives = matches!(direction, Direction::Ingress);
    // What the node itself sends passes without a flow (rule A2).
    if place.is_by_node() || !may_continue(packet) {
        return false;
    }
    // Else it is forged (rule A6), another's (rule A9), or something special like a group.
    if is_of_another_link(endpoint, packet, direction) || !is_own(endpoint, own_address(packet, direction)) {
        return false;
    }
    let Some(entry) = tables.flow(&flow_key(endpoint, direction, packet)) else {
        return false;
    };
    entry.with(|flow| {
        let now = tables.now();
        let initiator = Direction::from_u8(flow.initiator);
        let current = flow.policy == endpoint.policy(initiator) && flow.epoch == tables.epoch();
        let reply = initiator as u8 != direction as u8;
        // Only what the next packet of this kind leaves as it is.
        let open = flow.state == State::Established as u8
            || matches!(flow::after(flow, packet, reply), Some(State::Established));
        if !current || !open || !flow::alive(flow, packet.protocol, now, tables.lifetimes()) {
            return false;
        }
        if receives && reply {
            // By another way what the node unpacked may come (rule A6).
            if tag::number(place.tag) != 0 && flow.sender != place.ingress_ifindex {
                return false;
            }
        } else if receives {
            let has = tag::judged(place.tag);
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
