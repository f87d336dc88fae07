// SPDX-License-Identifier: Apache-2.0
//! Fragments (rule C5). Only the first fragment has the ports, so they are remembered, and the
//! other fragments are judged with them.

use super::Flows;
use crate::{
    abi::{Direction, Endpoint, Fragment, FragmentKey},
    flow::ACK,
    parse::{Packet, Part, Role},
};

/// How long the first fragment counts for the others, in nanoseconds. Receivers wait 30 seconds
/// (IPv4) or 60 (RFC 8200, 4.5).
const LIFETIME: u64 = 60_000_000_000;

/// Gives a later fragment the ports, protocol and role of its first. Returns false if the first is
/// not known.
#[inline(always)]
pub(super) fn restore(
    tables: &impl Flows,
    endpoint: &Endpoint,
    direction: Direction,
    packet: &mut Packet,
) -> bool {
    if !matches!(packet.part, Part::Later) {
        return true;
    }
    let Some(first) = tables.fragment(&key(endpoint, direction, packet)) else {
        return false;
    };
    // A fragment that would overwrite a header that was judged does not count (RFC 5722).
    if !is_alive(tables, &first) || packet.eighths < first.least {
        return false;
    }
    packet.source_port = first.source_port;
    packet.destination_port = first.destination_port;
    packet.protocol = first.protocol;
    packet.role = Role::from_u8(first.role);
    // Flags belong to the first fragment only: a later one never opens, ends or resets a
    // connection.
    packet.tcp_flags = ACK;
    true
}

/// Remembers a first fragment that passed. If the first did not pass, the others do not either.
#[inline(always)]
pub(super) fn remember(tables: &impl Flows, endpoint: &Endpoint, direction: Direction, packet: &Packet) {
    if !matches!(packet.part, Part::First) {
        return;
    }
    let key = key(endpoint, direction, packet);
    // The receiver may reassemble another first fragment of the same number, with a longer chain of
    // headers.
    let mut least = packet.eighths;
    if let Some(before) = tables.fragment(&key)
        && is_alive(tables, &before)
        && before.least > least
    {
        least = before.least;
    }
    let first = Fragment {
        seen: tables.now(),
        source_port: packet.source_port,
        destination_port: packet.destination_port,
        protocol: packet.protocol,
        role: packet.role as u8,
        least,
    };
    tables.insert_fragment(&key, &first);
}

#[inline(always)]
fn is_alive(tables: &impl Flows, first: &Fragment) -> bool {
    tables.now().saturating_sub(first.seen) <= LIFETIME
}

#[inline(always)]
fn key(endpoint: &Endpoint, direction: Direction, packet: &Packet) -> FragmentKey {
    FragmentKey {
        endpoint: endpoint.id,
        identification: packet.identification,
        source: packet.source,
        destination: packet.destination,
        protocol: packet.fragment_protocol,
        direction: direction as u8,
        pad: [0; 2],
    }
}
