// SPDX-License-Identifier: Apache-2.0
//! Parses what follows the IP headers: TCP (RFC 9293), UDP (RFC 768), SCTP (RFC 9260), and the echo
//! messages of ICMP.

use super::{
    Buffer, Frame, MAX_LENGTH, Packet, Part, Role,
    numbers::{icmp, icmpv6, protocol},
    read,
};
use crate::abi::DropReason;

/// Reads ports, flags and role. `icmp` is the ICMP of this family; that of the other family is a
/// protocol without ports. Returns true for neighbour discovery (ICMPv6 types 133 to 137).
#[inline(always)]
pub(super) fn upper_layer(
    frame: &impl Frame,
    offset: usize,
    icmp: u8,
    header: &mut Buffer,
    packet: &mut Packet,
) -> Result<bool, DropReason> {
    if packet.protocol == protocol::TCP {
        read(frame, offset, &mut header[..20])?;
        let header_length = usize::from(header[12] >> 4) * 4;
        if header_length < 20 || offset + header_length > frame.length() {
            return Err(DropReason::Malformed);
        }
        packet.tcp_flags = header[13];
        let number =
            |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        packet.sequence = number(4);
        packet.acknowledgement = number(8);
    } else if packet.protocol == protocol::SCTP {
        read(frame, offset, &mut header[..12])?;
    } else if packet.protocol == protocol::UDP || packet.protocol == icmp {
        read(frame, offset, &mut header[..8])?;
    } else {
        return Ok(false);
    }
    if packet.protocol == protocol::UDP {
        let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let huge = length == 0 && frame.length() > offset + MAX_LENGTH;
        if length < 8 && !huge || offset + length > frame.length() && packet.part == Part::Whole {
            return Err(DropReason::Malformed);
        }
    }
    if packet.protocol == icmp {
        packet.role = echo(icmp, header[0]);
        if !matches!(packet.role, Role::Single) {
            packet.source_port = [header[4], header[5]];
        }
        return Ok(
            icmp == protocol::ICMPV6 && matches!(header[0], icmpv6::ROUTER_SOLICITATION..=icmpv6::REDIRECT)
        );
    }
    packet.source_port = [header[0], header[1]];
    packet.destination_port = [header[2], header[3]];
    Ok(false)
}

#[inline(always)]
pub(super) fn quoted_ports(
    frame: &impl Frame,
    offset: usize,
    icmp: u8,
    header: &mut Buffer,
    quoted: &mut Packet,
) -> Result<(), DropReason> {
    read(frame, offset, &mut header[..8])?;
    if quoted.protocol == icmp {
        quoted.role = echo(icmp, header[0]);
        quoted.source_port = [header[4], header[5]];
        // An error about an error answers no connection.
        return if quoted.role == Role::Single {
            Err(DropReason::Malformed)
        } else {
            Ok(())
        };
    }
    if matches!(quoted.protocol, protocol::TCP | protocol::UDP | protocol::SCTP) {
        quoted.source_port = [header[0], header[1]];
        quoted.destination_port = [header[2], header[3]];
    }
    Ok(())
}

/// Returns the role of an ICMP message by its type.
#[inline(always)]
const fn echo(protocol: u8, kind: u8) -> Role {
    match (protocol, kind) {
        (protocol::ICMP, icmp::ECHO_REQUEST) | (protocol::ICMPV6, icmpv6::ECHO_REQUEST) => Role::EchoRequest,
        (protocol::ICMP, icmp::ECHO_REPLY) | (protocol::ICMPV6, icmpv6::ECHO_REPLY) => Role::EchoReply,
        _ => Role::Single,
    }
}
