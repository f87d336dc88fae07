// SPDX-License-Identifier: Apache-2.0
//! First step: tells what kind of packet it is, before any policy is asked.

use super::{Origin, Place, Tables, Whose, addresses, fragments, is_forwarded};
use crate::{
    abi::{Direction, DropReason, Endpoint, SENDER_AMBIGUOUS},
    parse::{Packet, Parsed},
};

/// Kind of a packet.
pub(super) enum Class {
    /// Its addresses are not what they must be: no policy lets it pass (rules A6, A9).
    Refused(Whose, DropReason),
    /// Neighbour discovery, and reports about groups on the link: always passes (rule F1).
    Link,
    /// The pod's own node made it: always passes (rule A2).
    FromNode,
    /// Its headers do not tell what policies ask about.
    Unreadable(DropReason),
    /// It belongs to a connection, or may open one.
    Connection,
}

/// Classifies a packet. A later fragment gets the ports of the first.
#[inline(always)]
pub(super) fn classify(
    tables: &impl Tables,
    endpoint: &Endpoint,
    place: &Place,
    origin: Origin,
    parsed: Parsed,
    packet: &mut Packet,
) -> Class {
    let parsed = match parsed {
        Parsed::Membership if !addresses::is_to_group(packet) => Parsed::Packet,
        parsed => parsed,
    };
    let at_hook = Whose::at_hook(place);
    if matches!(place.direction, Direction::Egress) {
        if addresses::is_spoofed(tables, endpoint, place, parsed, packet) {
            return Class::Refused(at_hook, DropReason::Spoofed);
        }
    } else if addresses::is_for_another(tables, endpoint, place, parsed, packet) {
        return Class::Refused(at_hook, DropReason::NotOwnAddress);
    }
    if matches!(parsed, Parsed::Neighbour | Parsed::Membership) {
        return Class::Link;
    }
    // This applies even to an open connection: the pod that wrote the packet may know of others'
    // (rule A6).
    if matches!(origin, Origin::Forged) {
        return Class::Refused(Whose::sender(SENDER_AMBIGUOUS), DropReason::UnknownSender);
    }
    if place.is_by_node() && !is_forwarded(tables, packet) {
        return Class::FromNode;
    }
    match parsed {
        Parsed::Unreadable(reason) => Class::Unreadable(reason),
        _ if !fragments::restore(tables, endpoint, place.direction, packet) => {
            Class::Unreadable(DropReason::Fragment)
        }
        _ => Class::Connection,
    }
}
