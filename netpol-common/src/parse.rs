// SPDX-License-Identifier: Apache-2.0
//! Parses bytes into a [`Packet`]: Ethernet, ARP, IPv4 (RFC 791), IPv6 (RFC 8200) with its
//! extension headers, TCP, UDP, SCTP, ICMP and ICMPv6.
//!
//! Nothing is skipped blindly: the port that policy tests is the port that the receiver will see
//! (rule F3). A packet ends where its IP header says, not where the frame ends. The receiver cuts
//! off the rest, and accepts no packet that claims more bytes than there are.

mod ipv4;
mod ipv6;
mod membership;
mod numbers;
pub mod simple;
#[cfg(test)]
mod tests;
mod upper;

use zerocopy::IntoBytes as _;

use crate::abi::{Address, DropReason};
use ipv4::ipv4;
use ipv6::ipv6;
pub use numbers::{ether_type, protocol};

/// Number of IPv6 extension headers that are walked. A packet with more is
/// [`DropReason::ExtensionHeaders`].
pub const MAX_EXTENSION_HEADERS: usize = 8;

const ETHERNET_LENGTH: usize = 14;
const IPV4_LENGTH: usize = 20;
const IPV4_SOURCE_END: usize = 16;
const IPV6_LENGTH: usize = 40;
const IPV6_SOURCE_END: usize = 24;
const ICMP_LENGTH: usize = 8;
/// Least offset of a later fragment, in units of 8 bytes: after the longest of the headers that are
/// read. If other headers come before that one, the offset is greater by their length
/// ([`Packet::eighths`]).
const MIN_FRAGMENT_EIGHTHS: u16 = 3;
/// Greatest number in a length field of IP and UDP. In a longer packet (segments that the kernel
/// carries as one, RFC 2675) the field is 0.
const MAX_LENGTH: usize = 0xffff;

/// [`Packet::protocol`] of a frame with more than two tags. Its source is not read, so no pod may
/// send it (rule A6).
pub(crate) const NOTHING_TOLD: u8 = 255;
const TAG_LENGTH: usize = 4;

/// A frame to read headers from.
pub trait Frame {
    /// Fills `into` with the bytes from `offset`, counted from the link layer header. Returns false
    /// if the frame is shorter.
    fn read(&self, offset: usize, into: &mut [u8]) -> bool;
    /// Reads `N` words from `offset`, each with its bytes as they are in the frame. Returns `None`
    /// if they cannot be read at once.
    #[inline(always)]
    fn words<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        let mut words = [0; N];
        self.read(offset, words.as_mut_bytes()).then_some(words)
    }
    /// Returns true if a VLAN tag was taken off the frame and is kept beside it.
    fn vlan_tag(&self) -> bool;
    /// Length in bytes, from the link layer header to the end of all segments of the frame.
    fn length(&self) -> usize;
}

/// Kind of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// An IP packet to be judged.
    Packet,
    /// ARP or IPv6 neighbour discovery: always passes (rule F1).
    Neighbour,
    /// MLD or IGMP of link scope, to the group that it is about. It passes if the frame, too, goes
    /// to that group (rule F1).
    Membership,
    /// The headers do not tell what policy asks about: dropped at an isolated pod, passed elsewhere
    /// (rule F2).
    Unreadable(DropReason),
}

/// The fields of a packet that a verdict needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Packet {
    /// MAC addresses of the frame, destination first, in words as they are there. Zeros if there is
    /// no link layer.
    pub link: [u32; 3],
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Source port in network byte order, or the identifier of an ICMP echo; otherwise zeros.
    pub source_port: [u8; 2],
    /// Destination port in network byte order; zeros if the protocol has none.
    pub destination_port: [u8; 2],
    /// IANA protocol number of the upper layer.
    pub protocol: u8,
    /// TCP flags (byte 13 of the header); otherwise 0.
    pub tcp_flags: u8,
    /// TCP sequence number in host byte order; otherwise 0.
    pub sequence: u32,
    /// TCP acknowledgement number in host byte order; otherwise 0.
    pub acknowledgement: u32,
    /// Role of the packet in connection tracking.
    pub role: Role,
    /// Part of a fragmented packet.
    pub part: Part,
    /// Protocol number that all fragments of the packet carry; 0 for [`Part::Whole`]. For IPv6 it
    /// is that of the fragment header, because a receiver ignores the next-header field in later
    /// fragments (RFC 8200, 4.5).
    pub fragment_protocol: u8,
    /// Offset in units of 8 bytes. For a later fragment: where it begins. For the first fragment:
    /// the least offset of a later one that does not overwrite judged headers.
    pub eighths: u16,
    /// Identification number that all fragments of the packet share; 0 for [`Part::Whole`].
    pub identification: u32,
    /// True if the packet has an IPv6 fragment header, or may have one after headers that cannot be
    /// read to the end. A [`Part::Whole`] may have one, too (RFC 6946).
    pub fragment_header: bool,
    /// Offset of the end of the source address, in bytes from the link layer header; 0 if there is
    /// none.
    pub source_end: u16,
    /// Offset of the upper layer's header, in bytes from the link layer header; 0 if not known. Not
    /// set for [`Part::Later`].
    pub upper: u16,
}

impl Packet {
    /// Returns the MAC address that the frame is for.
    #[inline(always)]
    pub const fn destination_mac(&self) -> [u8; 6] {
        let [first, second, _] = self.link;
        let ([a, b, c, d], [e, f, ..]) = (first.to_ne_bytes(), second.to_ne_bytes());
        [a, b, c, d, e, f]
    }

    /// Returns the MAC address that the frame claims to be from.
    #[inline(always)]
    pub const fn source_mac(&self) -> [u8; 6] {
        let [_, second, third] = self.link;
        let ([.., a, b], [c, d, e, f]) = (second.to_ne_bytes(), third.to_ne_bytes());
        [a, b, c, d, e, f]
    }
}

/// A part of a packet (rule C5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Part {
    /// The whole packet.
    #[default]
    Whole,
    /// The first fragment, with the whole header of the upper layer.
    First,
    /// A later fragment: its ports, flags and role are not known.
    Later,
}

/// Role of a packet in connection tracking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Role {
    /// Opens or continues a connection. The first packet seen tells who opened it.
    #[default]
    Any = 0,
    /// ICMP echo request.
    EchoRequest = 1,
    /// ICMP echo reply.
    EchoReply = 2,
    /// Belongs to no connection: other ICMP.
    Single = 3,
    /// An ICMP error that quotes a packet of a connection (rule C1).
    Error = 4,
}

impl Role {
    /// Converts a number. Any unknown number is [`Role::Single`], which no connection
    /// lets pass; so is [`Role::Error`], as a later fragment has no quote.
    #[inline(always)]
    pub const fn from_u8(number: u8) -> Self {
        match number {
            0 => Self::Any,
            1 => Self::EchoRequest,
            2 => Self::EchoReply,
            _ => Self::Single,
        }
    }
}

/// A packet within its frame.
struct Bounded<'a, F> {
    frame: &'a F,
    /// End of the packet, counted like the frame's bytes.
    end: usize,
}

impl<'a, F: Frame> Bounded<'a, F> {
    /// Bounds a packet. `before` is the number of bytes already known to be there; `field` is the
    /// length of the rest, from the packet's header.
    #[inline(always)]
    fn new(frame: &'a F, before: usize, field: u16) -> Result<Self, DropReason> {
        let length = frame.length();
        let mut end = before + usize::from(field);
        if field == 0 && length > before + MAX_LENGTH {
            end = length;
        }
        if end > length {
            return Err(DropReason::Malformed);
        }
        Ok(Self { frame, end })
    }
}

impl<F: Frame> Frame for Bounded<'_, F> {
    #[inline(always)]
    fn read(&self, offset: usize, into: &mut [u8]) -> bool {
        offset + into.len() <= self.end && self.frame.read(offset, into)
    }

    #[inline(always)]
    fn vlan_tag(&self) -> bool {
        self.frame.vlan_tag()
    }

    #[inline(always)]
    fn length(&self) -> usize {
        self.end
    }
}

/// The header being read. All headers share one buffer, because the stack of a program has 512
/// bytes.
type Buffer = [u8; 40];

/// Parses the headers of a frame into `packet`, which must be the default value. `packet` is valid
/// only for [`Parsed::Packet`].
///
/// Parses what an ICMP error quotes into `quoted`, which is valid only for [`Role::Error`].
#[inline(always)]
pub fn parse(frame: &impl Frame, packet: &mut Packet, quoted: &mut Packet) -> Parsed {
    let mut header: Buffer = [0; 40];
    if !frame.read(0, &mut header[..ETHERNET_LENGTH]) {
        return Parsed::Unreadable(DropReason::Malformed);
    }
    packet.link.as_mut_bytes().copy_from_slice(&header[..12]);
    // The addresses of a tagged frame are read all the same: the kernel removes the tag of VLAN 0
    // and forwards the packet in it (rule A6).
    let tagged = frame.vlan_tag();
    let parsed = match [header[12], header[13]] {
        ether_type::VLAN | ether_type::PROVIDER_VLAN if tagged => {
            addresses_behind_tag(frame, &mut header, packet);
            return Parsed::Unreadable(DropReason::Vlan);
        }
        _ if tagged && ![ether_type::IPV4, ether_type::IPV6].contains(&[header[12], header[13]]) => {
            return Parsed::Unreadable(DropReason::Vlan);
        }
        ether_type::IPV4 => ipv4(frame, &mut header, packet, quoted),
        ether_type::IPV6 => ipv6(frame, &mut header, packet, quoted),
        ether_type::ARP => return Parsed::Neighbour,
        ether_type::VLAN | ether_type::PROVIDER_VLAN => return Parsed::Unreadable(DropReason::Vlan),
        _ => return Parsed::Unreadable(DropReason::EtherType),
    };
    match parsed {
        _ if tagged => Parsed::Unreadable(DropReason::Vlan),
        Ok(parsed) => parsed,
        Err(reason) => Parsed::Unreadable(reason),
    }
}

/// Returns true for `::`. Nothing is sent to it, and it stands for every NodePort in map
/// `frontends`.
#[inline(always)]
fn is_nobody(address: &Address) -> bool {
    let mut bits = 0;
    for octet in address.octets {
        bits |= octet;
    }
    bits == 0
}

/// Reads the addresses after a second tag, if an IP header follows.
#[inline(always)]
fn addresses_behind_tag(frame: &impl Frame, header: &mut Buffer, packet: &mut Packet) {
    if !frame.read(ETHERNET_LENGTH, &mut header[..TAG_LENGTH]) {
        return;
    }
    let inner = ETHERNET_LENGTH + TAG_LENGTH;
    match [header[2], header[3]] {
        ether_type::IPV4 if frame.read(inner, &mut header[..20]) => {
            packet.source_end = (inner + IPV4_SOURCE_END) as u16;
            packet.source = Address::from_ipv4([header[12], header[13], header[14], header[15]]);
            packet.destination = Address::from_ipv4([header[16], header[17], header[18], header[19]]);
        }
        ether_type::IPV6 if frame.read(inner, &mut header[..IPV6_LENGTH]) => {
            packet.source_end = (inner + IPV6_SOURCE_END) as u16;
            packet.source.octets.copy_from_slice(&header[8..24]);
            packet.destination.octets.copy_from_slice(&header[24..40]);
        }
        ether_type::VLAN | ether_type::PROVIDER_VLAN => packet.protocol = NOTHING_TOLD,
        _ => {}
    }
}

/// Notes that a packet is a fragment.
#[inline(always)]
fn fragment(
    packet: &mut Packet,
    eighths: u16,
    continued: bool,
    identification: [u8; 4],
) -> Result<(), DropReason> {
    if eighths == 0 && !continued {
        return Ok(());
    }
    // No link is that narrow. Such a fragment exists to overwrite the header that was judged (RFC
    // 3128).
    if eighths != 0 && eighths < MIN_FRAGMENT_EIGHTHS {
        return Err(DropReason::Malformed);
    }
    packet.part = if eighths == 0 { Part::First } else { Part::Later };
    packet.fragment_protocol = packet.protocol;
    packet.eighths = eighths.max(MIN_FRAGMENT_EIGHTHS);
    packet.identification = u32::from_be_bytes(identification);
    Ok(())
}

#[inline(always)]
fn read(frame: &impl Frame, offset: usize, into: &mut [u8]) -> Result<(), DropReason> {
    if frame.read(offset, into) {
        Ok(())
    } else {
        Err(DropReason::Malformed)
    }
}
