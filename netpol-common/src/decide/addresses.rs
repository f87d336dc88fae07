// SPDX-License-Identifier: Apache-2.0
//! Checks whose addresses a packet has. A pod sends only from its own addresses (rule A6) and
//! receives only for them (rule A9).
//!
//! Nothing is checked at an endpoint that is missing or pending: none of its addresses is known. A
//! missing one denies all but the node (rule L1); a pending one lets everything pass (rule B2).

use super::{Lookups, Place, is_node};
use crate::{
    abi::{Address, Direction, ENDPOINT_FORWARDS, Endpoint},
    parse::{Packet, Parsed},
};

/// Returns true if a frame that a pod sends is not from its own MAC address, or its packet not from
/// an address of its own. Neighbour discovery on the link always passes (rule F1): it may announce
/// addresses that the pod is about to get.
#[inline(always)]
pub(super) fn is_spoofed(
    tables: &impl Lookups,
    endpoint: &Endpoint,
    place: &Place,
    parsed: Parsed,
    packet: &Packet,
) -> bool {
    if is_unknown(endpoint) {
        return false;
    }
    if is_of_another_link(endpoint, packet, Direction::Egress) {
        return true;
    }
    let source = &packet.source;
    let membership = matches!(parsed, Parsed::Membership);
    // A host without an address reports its groups from the unspecified one (RFC 9777, 5.2.13; RFC
    // 9776, 4.2.14). A frame that is no IP packet has no source.
    let no_packet = packet.protocol == 0 && source.octets == [0; 16];
    let nameless = no_packet
        || membership && source.octets == [0; 16]
        || membership && *source == Address::from_ipv4([0; 4]);
    let early = membership && endpoint.link_local == [0; 16] && is_link_local(source);
    let neighbour = matches!(parsed, Parsed::Neighbour) && stays_on_link(tables, packet);
    let passes = neighbour || nameless || early;
    !(passes || is_own(endpoint, source) || is_forwarded_for(tables, endpoint, place, source))
}

/// Returns true if no router forwards this message of neighbour discovery. One that was routed is
/// an ordinary packet (RFC 4861, 7.1: hop limit 255), from whoever its source names.
#[inline(always)]
fn stays_on_link(tables: &impl Lookups, packet: &Packet) -> bool {
    let unrouted = |address: &Address| address.octets == [0; 16] || is_link_local(address);
    let destination = &packet.destination;
    unrouted(&packet.source) || unrouted(destination) || is_group(destination) || is_node(tables, destination)
}

/// Returns true if a packet that comes to a pod is for someone else. A bridge floods frames for
/// unknown receivers, and anyone may put a pod's MAC address on a packet for another. Multicast and
/// broadcast pass here and are judged like any address (rule F5).
#[inline(always)]
pub(super) fn is_for_another(
    tables: &impl Lookups,
    endpoint: &Endpoint,
    place: &Place,
    parsed: Parsed,
    packet: &Packet,
) -> bool {
    if is_unknown(endpoint) {
        return false;
    }
    if is_of_another_link(endpoint, packet, Direction::Ingress) {
        return true;
    }
    let destination = &packet.destination;
    // ARP, and frames without an IP packet, have no destination to check.
    let passes =
        matches!(parsed, Parsed::Neighbour) || destination.octets == [0; 16] || is_group(destination);
    !(passes || is_own(endpoint, destination) || is_forwarded_for(tables, endpoint, place, destination))
}

/// Returns true if the endpoint has no addresses yet to compare a packet with.
#[inline(always)]
const fn is_unknown(endpoint: &Endpoint) -> bool {
    endpoint.id == 0 || endpoint.is_pending()
}

/// Returns true if a frame has another MAC address where the pod's own belongs.
#[inline(always)]
pub(super) fn is_of_another_link(endpoint: &Endpoint, packet: &Packet, direction: Direction) -> bool {
    let mac = match direction {
        Direction::Egress => packet.source_mac(),
        Direction::Ingress => packet.destination_mac(),
    };
    let to_many = matches!(direction, Direction::Ingress) && mac[0] & 1 != 0;
    endpoint.mac != [0; 6] && mac != endpoint.mac && !to_many
}

/// Returns true if the frame's MAC address is that of the multicast group that its packet is for
/// (RFC 1112, 6.4; RFC 2464, 7).
#[inline(always)]
pub(super) fn is_to_group(packet: &Packet) -> bool {
    let [.., a, b, c, d] = packet.destination.octets;
    let mac = if packet.destination.is_ipv4() {
        [0x01, 0x00, 0x5e, b & 0x7f, c, d]
    } else {
        [0x33, 0x33, a, b, c, d]
    };
    packet.destination_mac() == mac
}

/// Returns true if an address is the pod's.
#[inline(always)]
pub(super) fn is_own(endpoint: &Endpoint, address: &Address) -> bool {
    // Zeros stand for an address that the pod does not have.
    if address.is_ipv4() {
        return endpoint.ipv4 != [0; 4] && *address == Address::from_ipv4(endpoint.ipv4);
    }
    let ends = [endpoint.ipv6, endpoint.link_local];
    ends.iter()
        .any(|own| *own != [0; 16] && *address == Address::from_ipv6(*own))
}

/// Returns true if the pod also sends and receives for an address.
#[inline(always)]
fn is_forwarded_for(tables: &impl Lookups, endpoint: &Endpoint, place: &Place, address: &Address) -> bool {
    endpoint.flags & ENDPOINT_FORWARDS != 0 && tables.forwards(place.ifindex, address)
}

/// Returns true for multicast, and for the broadcast addresses of IPv4 that every host has.
#[inline(always)]
fn is_group(address: &Address) -> bool {
    let [first, .., a, b, c, d] = address.octets;
    if address.is_ipv4() {
        a & 0xf0 == 0xe0 || matches!([a, b, c, d], [0, 0, 0, 0] | [255, 255, 255, 255])
    } else {
        first == 0xff
    }
}

#[inline(always)]
fn is_link_local(address: &Address) -> bool {
    address.octets[0] == 0xfe && address.octets[1] & 0xc0 == 0x80
}
