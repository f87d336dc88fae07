// SPDX-License-Identifier: Apache-2.0
//! Parses IPv6 (RFC 8200) with its extension headers, and what its ICMPv6 errors quote (RFC 4443).

use super::{
    Bounded, Buffer, ETHERNET_LENGTH, Frame, ICMP_LENGTH, IPV6_LENGTH, IPV6_SOURCE_END,
    MAX_EXTENSION_HEADERS, Packet, Parsed, Part, Role, fragment, is_nobody, membership,
    numbers::{icmpv6, protocol},
    read,
    upper::{quoted_ports, upper_layer},
};
use crate::abi::DropReason;

#[inline(always)]
pub(super) fn ipv6(
    frame: &impl Frame,
    header: &mut Buffer,
    packet: &mut Packet,
    quoted: &mut Packet,
) -> Result<Parsed, DropReason> {
    read(frame, ETHERNET_LENGTH, &mut header[..IPV6_LENGTH])?;
    if header[0] >> 4 != 6 {
        return Err(DropReason::Malformed);
    }
    let first = ETHERNET_LENGTH + IPV6_LENGTH;
    let frame = &Bounded::new(frame, first, u16::from_be_bytes([header[4], header[5]]))?;
    let (next_header, hop_limit) = (header[6], header[7]);
    packet.protocol = header[6];
    packet.source.octets.copy_from_slice(&header[8..24]);
    packet.destination.octets.copy_from_slice(&header[24..40]);
    packet.source_end = (ETHERNET_LENGTH + IPV6_SOURCE_END) as u16;
    // In the maps, such an address stands for the IPv4 address in it, whose identity and flows are
    // not this packet's.
    if packet.source.is_ipv4() || packet.destination.is_ipv4() || is_nobody(&packet.destination) {
        packet.fragment_header = true;
        return Err(DropReason::Malformed);
    }
    let offset = match skip_extension_headers(frame, first, header, packet) {
        Ok(offset) => offset,
        Err(reason) => {
            packet.fragment_header = true;
            return Err(reason);
        }
    };
    packet.upper = offset as u16;
    if packet.part == Part::Later {
        return Ok(Parsed::Packet);
    }
    let neighbour_discovery = upper_layer(frame, offset, protocol::ICMPV6, header, packet)?;
    if hop_limit == 1
        && next_header == protocol::HOP_BY_HOP
        && offset == first + membership::HOP_BY_HOP_LENGTH
        && packet.protocol == protocol::ICMPV6
        && membership::is_mld(frame, first, header, packet)
    {
        return Ok(Parsed::Membership);
    }
    // Neighbour discovery is never forwarded (hop limit 255; RFC 4861), and no extension header
    // comes before it.
    if neighbour_discovery && hop_limit == 255 && offset == first {
        return Ok(Parsed::Neighbour);
    }
    if packet.role == Role::Single
        && matches!(
            header[0],
            icmpv6::DESTINATION_UNREACHABLE..=icmpv6::PARAMETER_PROBLEM
        )
    {
        let is_quoted = quoted_ipv6(frame, offset + ICMP_LENGTH, header, quoted).is_ok();
        if is_quoted {
            packet.role = Role::Error;
        }
    }
    Ok(Parsed::Packet)
}

/// Like [`quoted_ipv4`]. A quote with extension headers counts as none.
#[inline(always)]
fn quoted_ipv6(
    frame: &impl Frame,
    offset: usize,
    header: &mut Buffer,
    quoted: &mut Packet,
) -> Result<(), DropReason> {
    read(frame, offset, &mut header[..IPV6_LENGTH])?;
    if header[0] >> 4 != 6 {
        return Err(DropReason::Malformed);
    }
    *quoted = Packet::default();
    quoted.protocol = header[6];
    quoted.source.octets.copy_from_slice(&header[8..24]);
    quoted.destination.octets.copy_from_slice(&header[24..40]);
    quoted_ports(frame, offset + IPV6_LENGTH, protocol::ICMPV6, header, quoted)
}

/// Walks from `packet.protocol` to the upper layer, or to the fragment header of a later fragment,
/// and returns the offset of that. It walks only headers that receivers walk, too. Mobility, HIP
/// and Shim6 have the shape of an extension header, but are protocols of their own (rule F4).
#[inline(always)]
fn skip_extension_headers(
    frame: &impl Frame,
    mut offset: usize,
    header: &mut Buffer,
    packet: &mut Packet,
) -> Result<usize, DropReason> {
    // Start of the part of the packet that is cut into fragments.
    let mut behind = offset;
    for _ in 0..=MAX_EXTENSION_HEADERS {
        match packet.protocol {
            protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS => {
                read(frame, offset, &mut header[..2])?;
                offset += (usize::from(header[1]) + 1) * 8;
            }
            protocol::AH => {
                read(frame, offset, &mut header[..2])?;
                // The header has no room for its own fixed part (RFC 4302, 2).
                if header[1] == 0 {
                    return Err(DropReason::Malformed);
                }
                offset += (usize::from(header[1]) + 2) * 4;
            }
            protocol::FRAGMENT => {
                read(frame, offset, &mut header[..8])?;
                // A fragment of a fragment is malformed.
                if packet.part != Part::Whole {
                    return Err(DropReason::Malformed);
                }
                let field = u16::from_be_bytes([header[2], header[3]]);
                packet.fragment_header = true;
                packet.protocol = header[0];
                behind = offset + 8;
                fragment(
                    packet,
                    field >> 3,
                    field & 1 != 0,
                    [header[4], header[5], header[6], header[7]],
                )?;
                packet.fragment_protocol = match packet.part {
                    Part::Whole => 0,
                    Part::First | Part::Later => protocol::FRAGMENT,
                };
                if packet.part == Part::Later {
                    return Ok(offset);
                }
                offset += 8;
            }
            _ => {
                if packet.part == Part::First {
                    packet.eighths += (offset - behind).div_ceil(8) as u16;
                }
                return Ok(offset);
            }
        }
        packet.protocol = header[0];
    }
    Err(DropReason::ExtensionHeaders)
}
