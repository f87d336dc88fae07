// SPDX-License-Identifier: Apache-2.0
//! From bytes to a [`Packet`]: Ethernet, ARP, IPv4 (RFC 791), IPv6 (RFC 8200) with its extension headers, TCP, UDP, SCTP, ICMP and
//! ICMPv6. Nothing is skipped blindly: the port that policy tests is the one that the receiver will see (rule F3).

#[cfg(test)]
mod tests;

use crate::abi::{Address, DropReason};

/// IANA protocol numbers.
pub mod protocol {
    #![expect(missing_docs, reason = "the names say it all")]
    pub const HOP_BY_HOP: u8 = 0;
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const AH: u8 = 51;
    pub const ICMPV6: u8 = 58;
    pub const DESTINATION_OPTIONS: u8 = 60;
    pub const SCTP: u8 = 132;
    pub const MOBILITY: u8 = 135;
    pub const HIP: u8 = 139;
    pub const SHIM6: u8 = 140;
}

/// IPv6 extension headers that are walked before a packet counts as [`DropReason::ExtensionHeaders`].
pub const MAX_EXTENSION_HEADERS: usize = 8;

const ETHERNET_LENGTH: usize = 14;

/// A frame that headers are read from.
pub trait Frame {
    /// Fills `into` with the bytes from `offset`, counted from the link layer header; false if the frame is shorter.
    fn read(&self, offset: usize, into: &mut [u8]) -> bool;
    /// Whether a VLAN tag was taken off the frame and is kept beside it.
    fn vlan_tag(&self) -> bool;
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// An IP packet to be judged.
    Packet,
    /// ARP or IPv6 neighbour discovery: always passes (rule F1).
    Neighbour,
    /// Nothing that policy can be asked about: dropped at an isolated pod, passed elsewhere (rule F2).
    Unjudged(DropReason),
}

/// What policy asks about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Packet {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Source port, network byte order; the identifier of an ICMP echo; zeros elsewhere.
    pub source_port: [u8; 2],
    /// Destination port, network byte order; zeros where the protocol has none.
    pub destination_port: [u8; 2],
    /// IANA protocol number of the upper layer.
    pub protocol: u8,
    /// TCP flags (byte 13 of the header), 0 elsewhere.
    pub tcp_flags: u8,
    /// What it is to connection tracking.
    pub role: Role,
}

/// What a packet is to connection tracking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// Opens or continues a connection; the first one seen tells who opened it.
    #[default]
    Any,
    /// ICMP echo request.
    EchoRequest,
    /// ICMP echo reply.
    EchoReply,
    /// Belongs to no connection: other ICMP.
    Single,
}

/// The header being read. One for all, because the stack of a program is 512 bytes.
type Buffer = [u8; 40];

/// Parses the headers of a frame into `packet`, which means something for [`Parsed::Packet`] only; it must come in as its default.
#[inline(always)]
pub fn parse(frame: &impl Frame, packet: &mut Packet) -> Parsed {
    let mut header: Buffer = [0; 40];
    if !frame.read(0, &mut header[..ETHERNET_LENGTH]) {
        return Parsed::Unjudged(DropReason::Malformed);
    }
    if frame.vlan_tag() {
        return Parsed::Unjudged(DropReason::Vlan);
    }
    let parsed = match [header[12], header[13]] {
        [0x08, 0x00] => ipv4(frame, &mut header, packet),
        [0x86, 0xdd] => ipv6(frame, &mut header, packet),
        [0x08, 0x06] => return Parsed::Neighbour,
        [0x81, 0x00] | [0x88, 0xa8] => return Parsed::Unjudged(DropReason::Vlan),
        _ => return Parsed::Unjudged(DropReason::EtherType),
    };
    match parsed {
        Ok(parsed) => parsed,
        Err(reason) => Parsed::Unjudged(reason),
    }
}

#[inline(always)]
fn ipv4(frame: &impl Frame, header: &mut Buffer, packet: &mut Packet) -> Result<Parsed, DropReason> {
    read(frame, ETHERNET_LENGTH, &mut header[..20])?;
    let header_length = usize::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || header_length < 20 {
        return Err(DropReason::Malformed);
    }
    if u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0 {
        return Err(DropReason::Fragment);
    }
    packet.source = Address::from_ipv4([header[12], header[13], header[14], header[15]]);
    packet.destination = Address::from_ipv4([header[16], header[17], header[18], header[19]]);
    packet.protocol = header[9];
    upper_layer(
        frame,
        ETHERNET_LENGTH + header_length,
        protocol::ICMP,
        header,
        packet,
    )?;
    Ok(Parsed::Packet)
}

#[inline(always)]
fn ipv6(frame: &impl Frame, header: &mut Buffer, packet: &mut Packet) -> Result<Parsed, DropReason> {
    read(frame, ETHERNET_LENGTH, &mut header[..40])?;
    if header[0] >> 4 != 6 {
        return Err(DropReason::Malformed);
    }
    let hop_limit = header[7];
    packet.protocol = header[6];
    packet.source.octets.copy_from_slice(&header[8..24]);
    packet.destination.octets.copy_from_slice(&header[24..40]);
    let first = ETHERNET_LENGTH + 40;
    let offset = skip_extension_headers(frame, first, header, packet)?;
    let neighbour_discovery = upper_layer(frame, offset, protocol::ICMPV6, header, packet)?;
    // RFC 4861: neighbour discovery is never forwarded (hop limit 255), and no extension header comes before it.
    if neighbour_discovery && hop_limit == 255 && offset == first {
        Ok(Parsed::Neighbour)
    } else {
        Ok(Parsed::Packet)
    }
}

/// Walks from `packet.protocol` to the upper layer, and returns where that begins.
#[inline(always)]
fn skip_extension_headers(
    frame: &impl Frame,
    mut offset: usize,
    header: &mut Buffer,
    packet: &mut Packet,
) -> Result<usize, DropReason> {
    for _ in 0..=MAX_EXTENSION_HEADERS {
        match packet.protocol {
            protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::DESTINATION_OPTIONS
            | protocol::MOBILITY
            | protocol::HIP
            | protocol::SHIM6 => {
                read(frame, offset, &mut header[..2])?;
                offset += (usize::from(header[1]) + 1) * 8;
            }
            protocol::AH => {
                read(frame, offset, &mut header[..2])?;
                offset += (usize::from(header[1]) + 2) * 4;
            }
            protocol::FRAGMENT => {
                read(frame, offset, &mut header[..8])?;
                if u16::from_be_bytes([header[2], header[3]]) & 0xfff8 != 0 {
                    return Err(DropReason::Fragment);
                }
                offset += 8;
            }
            _ => return Ok(offset),
        }
        packet.protocol = header[0];
    }
    Err(DropReason::ExtensionHeaders)
}

/// Reads ports, flags and role. `icmp` is the family's ICMP: the other family's is a protocol without ports. Returns whether it is
/// neighbour discovery (ICMPv6 types 133 to 137).
#[inline(always)]
fn upper_layer(
    frame: &impl Frame,
    offset: usize,
    icmp: u8,
    header: &mut Buffer,
    packet: &mut Packet,
) -> Result<bool, DropReason> {
    if packet.protocol == protocol::TCP {
        read(frame, offset, &mut header[..20])?;
        if header[12] >> 4 < 5 {
            return Err(DropReason::Malformed);
        }
        packet.tcp_flags = header[13];
    } else if packet.protocol == protocol::SCTP {
        read(frame, offset, &mut header[..12])?;
    } else if packet.protocol == protocol::UDP || packet.protocol == icmp {
        read(frame, offset, &mut header[..8])?;
    } else {
        return Ok(false);
    }
    if packet.protocol == icmp {
        packet.role = match (icmp, header[0]) {
            (protocol::ICMP, 8) | (protocol::ICMPV6, 128) => Role::EchoRequest,
            (protocol::ICMP, 0) | (protocol::ICMPV6, 129) => Role::EchoReply,
            _ => Role::Single,
        };
        if !matches!(packet.role, Role::Single) {
            packet.source_port = [header[4], header[5]];
        }
        return Ok(icmp == protocol::ICMPV6 && matches!(header[0], 133..=137));
    }
    packet.source_port = [header[0], header[1]];
    packet.destination_port = [header[2], header[3]];
    Ok(false)
}

#[inline(always)]
fn read(frame: &impl Frame, offset: usize, into: &mut [u8]) -> Result<(), DropReason> {
    if frame.read(offset, into) {
        Ok(())
    } else {
        Err(DropReason::Malformed)
    }
}
