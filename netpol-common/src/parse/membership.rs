// SPDX-License-Identifier: Apache-2.0
//! Recognises messages about multicast groups between hosts and routers of a link (rule F1): MLD
//! (RFC 2710, RFC 9777) and IGMP (RFC 2236, RFC 9776).
//!
//! The check is exact. A packet that has one of their types, but another form or another
//! destination than such a message, is judged like any packet.

use super::{Buffer, Frame, Packet, protocol};

/// Length of the hop-by-hop header: a router-alert option and padding.
pub(super) const HOP_BY_HOP_LENGTH: usize = 8;
/// Length of an IPv4 header with a router-alert option.
pub(super) const IPV4_LENGTH: usize = 24;

/// Router-alert option with the value for MLD (RFC 2711).
const ALERT_V6: [u8; 4] = [5, 2, 0, 0];
/// Router-alert option of IPv4 (RFC 2113).
const ALERT_V4: [u8; 4] = [0x94, 4, 0, 0];

/// Lengths in bytes: a message about one group, a query of the newer version without sources, an
/// address.
const MLD_LENGTH: usize = 24;
const MLD_QUERY_LENGTH: usize = 28;
const MLD_ADDRESS: usize = 16;
const IGMP_LENGTH: usize = 8;
const IGMP_QUERY_LENGTH: usize = 12;
const IGMP_ADDRESS: usize = 4;

const ALL_NODES_V6: [u8; 16] = link_scope(1);
const ALL_ROUTERS_V6: [u8; 16] = link_scope(2);
const MLD_ROUTERS: [u8; 16] = link_scope(0x16);
const ALL_SYSTEMS_V4: [u8; 4] = [224, 0, 0, 1];
const ALL_ROUTERS_V4: [u8; 4] = [224, 0, 0, 2];
const IGMP_ROUTERS: [u8; 4] = [224, 0, 0, 22];

const fn link_scope(group: u8) -> [u8; 16] {
    [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, group]
}

/// Returns true if an ICMPv6 message is MLD. `header` begins with its first eight bytes, which
/// follow a hop-by-hop header at `options`. Its hop limit is 1.
#[inline(always)]
pub(super) fn is_mld(frame: &impl Frame, options: usize, header: &mut Buffer, packet: &Packet) -> bool {
    let (kind, code) = (header[0], header[1]);
    let records = usize::from(u16::from_be_bytes([header[6], header[7]]));
    let offset = options + HOP_BY_HOP_LENGTH;
    let length = frame.length() - offset;
    if code != 0 || !matches!(kind, 130..=132 | 143) || !frame.read(options, &mut header[..8]) {
        return false;
    }
    let option = [header[2], header[3], header[4], header[5]];
    let rest = [header[6], header[7]];
    // Padding is PadN without data or Pad1 twice (RFC 8200, 4.2), before or after the alert.
    let first = option == ALERT_V6 && is_padding(rest);
    let last = [option[2], option[3], rest[0], rest[1]] == ALERT_V6 && is_padding([option[0], option[1]]);
    let source = &packet.source.octets;
    let local = source[0] == 0xfe && source[1] & 0xc0 == 0x80 || *source == [0; 16];
    let destination = &packet.destination.octets;
    if header[0] != protocol::ICMPV6 || !(first || last) || !local || destination[0] != 0xff {
        return false;
    }
    if kind == 143 {
        return *destination == MLD_ROUTERS && length >= 8 + records * (4 + MLD_ADDRESS);
    }
    let mut query = length == MLD_LENGTH;
    if length >= MLD_QUERY_LENGTH {
        if kind != 130 || !frame.read(offset + MLD_QUERY_LENGTH - 2, &mut header[..2]) {
            return false;
        }
        let sources = usize::from(u16::from_be_bytes([header[0], header[1]]));
        query = length == MLD_QUERY_LENGTH + sources * MLD_ADDRESS;
    }
    if !query || !frame.read(offset + 8, &mut header[..MLD_ADDRESS]) {
        return false;
    }
    let to_group = header[..MLD_ADDRESS] == destination[..];
    match kind {
        130 => to_group || *destination == ALL_NODES_V6,
        131 => to_group,
        _ => *destination == ALL_ROUTERS_V6,
    }
}

#[inline(always)]
fn is_padding(bytes: [u8; 2]) -> bool {
    matches!(bytes, [0, 0] | [1, 0])
}

/// Returns true if a whole packet of protocol 2 at `offset` is IGMP. It follows an IPv4 header with
/// four bytes of options and a TTL of 1.
#[inline(always)]
pub(super) fn is_igmp(frame: &impl Frame, offset: usize, header: &mut Buffer, packet: &Packet) -> bool {
    let length = frame.length() - offset;
    if !frame.read(offset - 4, &mut header[..12]) {
        return false;
    }
    let [.., a, b, c, d] = packet.destination.octets;
    let destination = [a, b, c, d];
    if [header[0], header[1], header[2], header[3]] != ALERT_V4 || a & 0xf0 != 0xe0 {
        return false;
    }
    let kind = header[4];
    let records = usize::from(u16::from_be_bytes([header[10], header[11]]));
    let to_group = [header[8], header[9], header[10], header[11]] == destination;
    match kind {
        0x22 => return destination == IGMP_ROUTERS && length >= 8 + records * (4 + IGMP_ADDRESS),
        0x11 if length >= IGMP_QUERY_LENGTH => {
            if !frame.read(offset + IGMP_QUERY_LENGTH - 2, &mut header[..2]) {
                return false;
            }
            let sources = usize::from(u16::from_be_bytes([header[0], header[1]]));
            if length != IGMP_QUERY_LENGTH + sources * IGMP_ADDRESS {
                return false;
            }
        }
        0x11 | 0x12 | 0x16 | 0x17 if length == IGMP_LENGTH => {}
        _ => return false,
    }
    match kind {
        0x11 => to_group || destination == ALL_SYSTEMS_V4,
        0x17 => destination == ALL_ROUTERS_V4,
        _ => to_group,
    }
}
