// SPDX-License-Identifier: Apache-2.0
//! Parses IPv4 (RFC 791), and what its ICMP errors quote (RFC 792).

use super::{
    Bounded, Buffer, ETHERNET_LENGTH, Frame, ICMP_LENGTH, IPV4_SOURCE_END, Packet, Parsed, Part, Role,
    fragment, membership,
    numbers::{icmp, protocol},
    read,
    upper::{quoted_ports, upper_layer},
};
use crate::abi::{Address, DropReason};

#[inline(always)]
pub(super) fn ipv4(
    frame: &impl Frame,
    header: &mut Buffer,
    packet: &mut Packet,
    quoted: &mut Packet,
) -> Result<Parsed, DropReason> {
    read(frame, ETHERNET_LENGTH, &mut header[..20])?;
    let header_length = usize::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || header_length < 20 {
        return Err(DropReason::Malformed);
    }
    let frame = &Bounded::new(frame, ETHERNET_LENGTH, u16::from_be_bytes([header[2], header[3]]))?;
    if frame.length() < ETHERNET_LENGTH + header_length {
        return Err(DropReason::Malformed);
    }
    let continued = header[6] & 0x20 != 0;
    let time_to_live = header[8];
    packet.source = Address::from_ipv4([header[12], header[13], header[14], header[15]]);
    packet.destination = Address::from_ipv4([header[16], header[17], header[18], header[19]]);
    packet.protocol = header[9];
    packet.source_end = (ETHERNET_LENGTH + IPV4_SOURCE_END) as u16;
    packet.upper = (ETHERNET_LENGTH + header_length) as u16;
    // This address is nobody's, and stands for every NodePort in map `frontends`.
    if header[16] | header[17] | header[18] | header[19] == 0 {
        return Err(DropReason::Malformed);
    }
    let eighths = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
    fragment(packet, eighths, continued, [0, 0, header[4], header[5]])?;
    if eighths != 0 {
        return Ok(Parsed::Packet);
    }
    let offset = ETHERNET_LENGTH + header_length;
    upper_layer(frame, offset, protocol::ICMP, header, packet)?;
    if packet.protocol == protocol::IGMP
        && time_to_live == 1
        && header_length == membership::IPV4_LENGTH
        && packet.part == Part::Whole
        && membership::is_igmp(frame, offset, header, packet)
    {
        return Ok(Parsed::Membership);
    }
    if packet.role == Role::Single && is_error(header[0]) {
        let is_quoted = quoted_ipv4(frame, offset + ICMP_LENGTH, header, quoted).is_ok();
        if is_quoted {
            packet.role = Role::Error;
        }
    }
    Ok(Parsed::Packet)
}

/// Reads what an ICMP error quotes: the IP header, and the first eight bytes after it (RFC 792).
#[inline(always)]
fn quoted_ipv4(
    frame: &impl Frame,
    offset: usize,
    header: &mut Buffer,
    quoted: &mut Packet,
) -> Result<(), DropReason> {
    read(frame, offset, &mut header[..20])?;
    let header_length = usize::from(header[0] & 0x0f) * 4;
    let later = u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0;
    if header[0] >> 4 != 4 || header_length < 20 || later {
        return Err(DropReason::Malformed);
    }
    *quoted = Packet::default();
    quoted.source = Address::from_ipv4([header[12], header[13], header[14], header[15]]);
    quoted.destination = Address::from_ipv4([header[16], header[17], header[18], header[19]]);
    quoted.protocol = header[9];
    quoted_ports(frame, offset + header_length, protocol::ICMP, header, quoted)
}

/// Returns true if an ICMP message of this type quotes the packet that it is about.
#[inline(always)]
const fn is_error(kind: u8) -> bool {
    matches!(
        kind,
        icmp::DESTINATION_UNREACHABLE | icmp::SOURCE_QUENCH | icmp::TIME_EXCEEDED | icmp::PARAMETER_PROBLEM
    )
}
