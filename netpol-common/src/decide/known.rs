// SPDX-License-Identifier: Apache-2.0
//! The verdict on what continues a connection that was judged before and need not be again: what [`decide`](super::decide) says of it, with one
//! lookup and without what only others need.

use super::{FlowEntry, Place, Tables};
use crate::{
    abi::{Address, Direction, Endpoint, FlowKey},
    flow::{self, State},
    parse::plain::{Ends, Plain},
    tag,
};

/// Whether a packet at one of an endpoint's hooks passes as part of an open connection that is judged under the current policy and epoch; it is
/// counted there, then. False says nothing: [`decide`](super::decide) has the verdict.
#[inline(always)]
pub fn continues(tables: &impl Tables, endpoint: &Endpoint, place: &Place, packet: &Plain) -> bool {
    // What the node itself sends passes without a flow (rule A2).
    if place.is_by_node() {
        return false;
    }
    let receives = matches!(place.direction, Direction::Ingress);
    let (local_port, remote_port) = if receives {
        (packet.destination_port, packet.source_port)
    } else {
        (packet.source_port, packet.destination_port)
    };
    // The pod's own address, or it is forged (rule A6), or something special like a group.
    let remote = match packet.ends {
        Ends::V4(source, destination) => {
            let (own, remote) = if receives {
                (destination, source)
            } else {
                (source, destination)
            };
            if u32::from_ne_bytes(own) != u32::from_ne_bytes(endpoint.ipv4) || u32::from_ne_bytes(own) == 0 {
                return false;
            }
            Address::from_ipv4(remote)
        }
        Ends::V6(source, destination) => {
            let (own, remote) = if receives {
                (destination, source)
            } else {
                (source, destination)
            };
            if u128::from_ne_bytes(own) != u128::from_ne_bytes(endpoint.ipv6) || u128::from_ne_bytes(own) == 0
            {
                return false;
            }
            Address::from_ipv6(remote)
        }
    };
    let key = FlowKey {
        endpoint: endpoint.id,
        remote,
        local_port,
        remote_port,
        protocol: packet.protocol,
        pad: [0; 3],
    };
    let Some(entry) = tables.flow(&key) else {
        return false;
    };
    entry.with(|flow| {
        let now = tables.now();
        let initiator = Direction::from_u8(flow.initiator);
        let current = flow.policy == endpoint.policy(initiator) && flow.epoch == tables.epoch();
        // Only what the next packet of this kind leaves as it is.
        let open = flow.state == State::Established as u8;
        if !current || !open || !flow::alive(flow, packet.protocol, now, tables.lifetimes()) {
            return false;
        }
        let reply = initiator as u8 != place.direction as u8;
        if receives && !reply {
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
        flow.last_seen = now;
        flow.packets += 1;
        flow.bytes += u64::from(tables.length());
        if !receives {
            tables.put_tag(if reply { endpoint.tag(false) } else { flow.tag });
        }
        true
    })
}
