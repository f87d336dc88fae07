// SPDX-License-Identifier: Apache-2.0
//! The verdict on a packet that leaves the node (rule A5).

use super::{
    FlowEntry, Place, Tables, Verdict, Whose, continues_flow, denied, flow_key, fragments, is_forwarded,
    judge, may_open, new_flow, opens_flow,
};
use crate::{
    abi::{ACTION_ACCEPT, Direction, DropReason, Endpoint, Flow, FlowKey, IDENTITY_NONE, POLICY_NONE},
    flow,
    parse::{Packet, Role},
    tag,
};

/// Whose egress policy a packet that leaves the node is still to be judged by: the interface index
/// of a pod, [`judge::UNKNOWN`] or 0 for nobody's. Replies, and what is judged, have a tag that
/// says so, whatever headers they have meanwhile; but what the node unpacked has the tag of the
/// packet around it.
#[inline(always)]
pub fn sender_leaving(tables: &impl Tables, place: &Place, packet: &Packet) -> u32 {
    let by_node = place.ingress_ifindex == 0 && !is_forwarded(tables, packet);
    let judged = tag::number(place.tag) != 0 && !tag::is_deferred(place.tag);
    if by_node || judged && !judge::is_unpacked(tables, place) {
        0
    } else {
        judge::sender(tables, place, packet)
    }
}

/// The verdict on a packet that leaves the node, with the endpoint of its [sender](sender_leaving), isolated for egress: what a Service
/// translated is judged here, on the backend (rule A5). What was judged is remembered in the flow table, apart from the pod's own flows.
#[inline(always)]
pub fn decide_leaving(
    tables: &impl Tables,
    endpoint: &Endpoint,
    place: &Place,
    packet: &mut Packet,
) -> Verdict {
    let policy = endpoint.policy(Direction::Egress);
    let sender = Whose::sender(endpoint.ifindex);
    if !fragments::restore(tables, endpoint, Direction::Egress, packet) {
        return denied(sender, DropReason::Fragment, POLICY_NONE, IDENTITY_NONE);
    }
    let mut key = flow_key(endpoint, Direction::Egress, packet);
    // Without a tag that says otherwise it may be a reply, which was let through a moment ago.
    if !tag::is_deferred(place.tag)
        && continues_flow(packet)
        && let Some(entry) = tables.flow(&key)
    {
        let mut reply = false;
        entry.with(|flow| {
            reply = flow::alive(flow, packet.protocol, tables.now(), tables.lifetimes())
                && matches!(Direction::from_u8(flow.initiator), Direction::Ingress);
        });
        if reply {
            fragments::remember(tables, endpoint, Direction::Egress, packet);
            return Verdict::Forward;
        }
    }
    // An entry of its own: of what from_pod judged under these addresses it may be a translation, and its port may be masquerade's.
    key.pad[0] = FlowKey::LEAVING;
    let entry = if matches!(packet.role, Role::Single | Role::Error) {
        None
    } else {
        tables.flow(&key)
    };
    let mut known = false;
    let mut judged = false;
    if let Some(entry) = &entry {
        entry.with(|flow| {
            if flow::alive(flow, packet.protocol, tables.now(), tables.lifetimes()) {
                known = true;
                judged = flow.policy == policy && flow.epoch == tables.epoch();
                if judged {
                    flow.last_seen = tables.now();
                }
            }
        });
    }
    if judged {
        fragments::remember(tables, endpoint, Direction::Egress, packet);
        return Verdict::Forward;
    }
    // No Service is asked: what it would have translated still has its address here, and goes to whoever has that (rule A9).
    let egress = judge::by_address(
        tables,
        policy,
        &packet.destination,
        packet.protocol,
        packet.destination_port,
        known || may_open(packet),
    );
    if egress.action != ACTION_ACCEPT {
        return denied(sender, DropReason::EgressBackend, policy, egress.identity);
    }
    if let Some(entry) = &entry
        && known
    {
        entry.with(|flow| {
            flow.policy = policy;
            flow.epoch = tables.epoch();
            flow.last_seen = tables.now();
        });
    } else if opens_flow(packet) && !egress.to_node {
        let flow = new_flow(tables, policy, Direction::Egress);
        let tag = endpoint.tag(false);
        tables.insert_flow(&key, &Flow { tag, ..flow });
    }
    fragments::remember(tables, endpoint, Direction::Egress, packet);
    Verdict::Forward
}
