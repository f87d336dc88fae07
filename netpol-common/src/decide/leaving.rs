// SPDX-License-Identifier: Apache-2.0
//! The verdict on a packet that leaves the node, after kube-proxy chose a backend (rule A5). The
//! steps are those at a pod's hooks.

use super::{
    FlowEntry as _, Place, Tables, Verdict, Whose, continues_flow, flow_key, fragments, is_forwarded,
    judge::{self, Judgement},
    may_open, new_flow, opens_flow,
    sender::{is_unpacked, sender},
};
use crate::{
    abi::{
        ACTION_ACCEPT, Direction, DropReason, Endpoint, Flow, FlowKey, POLICY_UNRESTRICTED, SENDER_AMBIGUOUS,
    },
    flow,
    parse::{Packet, Parsed, Role},
    tag,
};

/// Returns true if a packet leaves without a look at its headers: the node made it, or it already
/// left by another device and was encapsulated since. For IPv6, only the headers tell that the node
/// made a packet.
#[inline(always)]
pub const fn leaves_unread(place: &Place, is_ipv6: bool) -> bool {
    let by_node = place.ingress_ifindex == 0 && tag::number(place.tag) == 0 && !is_ipv6;
    by_node || place.tag == tag::LEFT
}

/// Returns the verdict on a packet that leaves the node and is not [left unread](leaves_unread).
/// Only packets that a policy of a pod of this node must still judge are examined. Writes that
/// pod's endpoint to `endpoint`.
#[inline(always)]
pub fn decide_leaving<T: Tables>(
    tables: &T,
    place: &Place,
    parsed: Parsed,
    packet: &mut Packet,
    endpoint: &mut Endpoint,
) -> Verdict {
    // An isolated pod's malformed packets were dropped where they left the pod (rule F2). A packet
    // that was readable there and is not here does not leave unjudged.
    let mut unreadable = match parsed {
        Parsed::Packet => None,
        Parsed::Unreadable(reason) if tag::number(place.tag) != 0 => Some(reason),
        Parsed::Unreadable(_) | Parsed::Neighbour | Parsed::Membership => return Verdict::Forward,
    };
    let sender = sender_to_judge(tables, place, packet);
    if sender == 0 {
        return Judgement::passes(Whose::sender(0)).enforce(|_| put_tag(tables, place));
    }
    tables.endpoint(sender, endpoint);
    if sender == SENDER_AMBIGUOUS {
        unreadable = Some(DropReason::UnknownSender);
    }
    of_pod(tables, endpoint, place, unreadable, packet)
}

/// Returns the verdict on a packet that the endpoint's pod sent. `unreadable` tells why policy
/// cannot be asked.
#[inline(always)]
pub(super) fn of_pod(
    tables: &impl Tables,
    endpoint: &Endpoint,
    place: &Place,
    mut unreadable: Option<DropReason>,
    packet: &mut Packet,
) -> Verdict {
    let whose = Whose::sender(endpoint.ifindex);
    if endpoint.egress_policy == POLICY_UNRESTRICTED {
        return Judgement::passes(whose).enforce(|_| put_tag(tables, place));
    }
    if unreadable.is_none() && !fragments::restore(tables, endpoint, Direction::Egress, packet) {
        unreadable = Some(DropReason::Fragment);
    }
    if let Some(reason) = unreadable {
        return Judgement::denied(whose, reason).enforce(|_| ());
    }
    let connection = look_up(tables, endpoint, place, packet);
    let judgement = judge(tables, endpoint, packet, &connection);
    judgement.enforce(|judgement| {
        if !connection.is_settled {
            keep_flow(tables, endpoint, packet, &connection, judgement);
        }
        fragments::remember(tables, endpoint, Direction::Egress, packet);
        put_tag(tables, place);
    })
}

/// Lets a packet leave without a pod's tag: if this node unpacks it, the inner packet is not that
/// pod's (rule A6).
#[inline(always)]
fn put_tag(tables: &impl Tables, place: &Place) {
    if tag::number(place.tag) != 0 {
        tables.put_tag(tag::LEFT);
    }
}

/// Returns the interface index of the pod whose egress policy must still judge a packet,
/// [`SENDER_AMBIGUOUS`], or 0 for none. The tag of a reply, and of a judged packet, tells that,
/// whatever headers the packet has meanwhile. But a packet that the node unpacked has the tag of
/// the packet around it.
#[inline(always)]
pub(super) fn sender_to_judge(tables: &impl Tables, place: &Place, packet: &Packet) -> u32 {
    let judged = tag::number(place.tag) != 0 && !tag::is_deferred(place.tag);
    let by_node = place.ingress_ifindex == 0 && !is_forwarded(tables, packet);
    if by_node || judged && !is_unpacked(tables, place) {
        0
    } else {
        sender(tables, place, packet)
    }
}

/// What is known of the connection of a packet that leaves.
struct Leaving<E> {
    key: FlowKey,
    entry: Option<E>,
    /// The connection was opened before this packet.
    known: bool,
    /// The packet need not be judged: its connection already was, or it is a reply to one that the
    /// pod let in.
    is_settled: bool,
}

#[inline(always)]
fn look_up<T: Tables>(tables: &T, endpoint: &Endpoint, place: &Place, packet: &Packet) -> Leaving<T::Entry> {
    let mut key = flow_key(endpoint, Direction::Egress, packet);
    let mut is_settled = false;
    // A packet without a deferred tag may be a reply that from_pod let through a moment ago.
    if !tag::is_deferred(place.tag)
        && continues_flow(packet)
        && let Some(entry) = tables.flow(&key)
    {
        entry.with(|flow| {
            is_settled = flow::alive(flow, packet.protocol, tables.now(), tables.lifetimes())
                && matches!(Direction::from_u8(flow.initiator), Direction::Ingress);
        });
    }
    // The flow has an entry of its own. The packet may be a translation of one that from_pod judged
    // under these addresses, and its port may come from masquerade.
    key.pad[0] = FlowKey::LEAVING;
    let entry = if is_settled || matches!(packet.role, Role::Single | Role::Error) {
        None
    } else {
        tables.flow(&key)
    };
    let mut known = false;
    if let Some(entry) = &entry {
        entry.with(|flow| {
            if flow::alive(flow, packet.protocol, tables.now(), tables.lifetimes()) {
                known = true;
                is_settled = flow::is_current(flow, endpoint.egress_policy, tables.epoch());
                if is_settled {
                    flow.last_seen = tables.now();
                }
            }
        });
    }
    Leaving {
        key,
        entry,
        known,
        is_settled,
    }
}

/// Judges a packet by the backend's address. No Service is asked: a packet that a Service would
/// have translated still has its address here, and goes to the owner of that address (rule A9).
#[inline(always)]
fn judge<T: Tables>(
    tables: &T,
    endpoint: &Endpoint,
    packet: &Packet,
    connection: &Leaving<T::Entry>,
) -> Judgement {
    let whose = Whose::sender(endpoint.ifindex);
    if connection.is_settled {
        return Judgement::passes(whose);
    }
    let policy = endpoint.egress_policy;
    let egress = judge::by_address(
        tables,
        policy,
        &packet.destination,
        packet.protocol,
        packet.destination_port,
        connection.known || may_open(packet),
    );
    Judgement {
        denied: (egress.action != ACTION_ACCEPT).then_some(DropReason::EgressBackend),
        policy,
        identity: egress.identity,
        to_node: egress.to_node,
        ..Judgement::passes(whose)
    }
}

/// Remembers the judgement in the flow table, apart from the pod's own flows.
#[inline(always)]
fn keep_flow<T: Tables>(
    tables: &T,
    endpoint: &Endpoint,
    packet: &Packet,
    connection: &Leaving<T::Entry>,
    judgement: &Judgement,
) {
    if let Some(entry) = &connection.entry
        && connection.known
    {
        entry.with(|flow| {
            flow.policy = judgement.policy;
            flow.epoch = tables.epoch();
            flow.last_seen = tables.now();
        });
    } else if opens_flow(packet) && !judgement.to_node {
        let flow = new_flow(tables, judgement.policy, Direction::Egress);
        let tag = endpoint.tag(false);
        tables.insert_flow(&connection.key, &Flow { tag, ..flow });
    }
}
