// SPDX-License-Identifier: Apache-2.0
//! Finds the pod of this node that sent a packet, by the interface that it came by or by its tag.
//! Masquerade changes neither.

use super::{Lookups, Origin, Place};
use crate::{
    abi::{Direction, IDENTITY_NODE, NO_INTERFACE, SENDER_AMBIGUOUS},
    parse::Packet,
    tag,
};

/// Returns true if a packet has a pod's tag, but came neither from a pod's interface nor by a
/// bridge of pods: the end of a tunnel on this node, say, unpacked it from a packet of that pod.
/// Packets that left the node have no pod's tag any more, see [`tag::LEFT`].
#[inline(always)]
pub(super) fn is_unpacked(tables: &impl Lookups, place: &Place) -> bool {
    let (came_by, number) = (place.ingress_ifindex, tag::number(place.tag));
    number != 0
        && !tables.is_endpoint(came_by)
        && tables.sender(came_by, number) == 0
        && tables.sender(came_by, 0) == 0
}

/// Tells how a packet came.
#[inline(always)]
pub fn origin(tables: &impl Lookups, place: &Place, packet: &Packet) -> Origin {
    if matches!(place.direction, Direction::Egress) || !is_unpacked(tables, place) {
        Origin::Plain
    } else if is_own(tables, place, tables.local_pod(&packet.source)) {
        Origin::Unpacked
    } else {
        Origin::Forged
    }
}

/// Returns true if a packet is from the address of the pod whose tag it has. In a packet that was
/// [unpacked](is_unpacked), the pod itself wrote the addresses (rule A6).
#[inline(always)]
fn is_own(tables: &impl Lookups, place: &Place, by_address: u32) -> bool {
    by_address != 0 && by_address == tables.sender(NO_INTERFACE, tag::number(place.tag))
}

/// Returns the interface index of the local pod that sent a packet; 0 for any other sender. If the
/// tag was overwritten, the source address decides, or the result is [`SENDER_AMBIGUOUS`] where the
/// sender matters.
#[inline(always)]
pub(super) fn sender(tables: &impl Lookups, place: &Place, packet: &Packet) -> u32 {
    let came_by = place.ingress_ifindex;
    if tables.is_endpoint(came_by) {
        return came_by;
    }
    let number = tag::number(place.tag);
    let sender = tables.sender(came_by, number);
    if sender != SENDER_AMBIGUOUS && (sender != 0 || number == 0) {
        return sender;
    }
    let by_address = tables.local_pod(&packet.source);
    // A packet out of a tunnel of the node has the addresses that the pod wrote inside. A pod's
    // packet that must still be judged may also come by a device that is no bridge of pods (a VLAN
    // of one, a VRF), or be of a pod that is gone.
    let untrusted = number != 0 && (tag::is_deferred(place.tag) || tables.sender(came_by, 0) == 0);
    if untrusted && !is_own(tables, place, by_address) {
        return SENDER_AMBIGUOUS;
    }
    if by_address != 0 {
        return by_address;
    }
    let masqueraded = tables.identity(&packet.source).flags & IDENTITY_NODE != 0;
    if masqueraded && tables.is_restricted(&packet.destination, packet.protocol, packet.destination_port) {
        SENDER_AMBIGUOUS
    } else {
        0
    }
}
