// SPDX-License-Identifier: Apache-2.0
//! Reads simple packets, which nearly all are, with less work than [`parse`](super::parse) needs
//! for every kind of frame.

use super::{
    ETHERNET_LENGTH, Frame, IPV4_LENGTH, IPV4_SOURCE_END, IPV6_LENGTH, IPV6_SOURCE_END, Packet, Part, Role,
    protocol,
};
use crate::abi::Address;

const TCP_LENGTH: usize = 20;
const UDP_LENGTH: usize = 8;

/// Version 4 and a header of five words.
const IPV4_WITHOUT_OPTIONS: u32 = 0x45;
/// Flag "more fragments" and the fragment offset, in the second word of an IPv4 header.
const FRAGMENT_BITS: u32 = 0x3fff;

/// Reads a frame as a simple packet: a whole TCP segment or UDP datagram, directly after an IP
/// header without options. [`parse`](super::parse) gives the same result for it. Returns `None` for
/// any other frame, for one that is malformed or cut short, and for one whose headers do not give
/// its lengths.
#[inline(always)]
pub fn simple(frame: &impl Frame) -> Option<Packet> {
    if frame.vlan_tag() {
        return None;
    }
    let [first, second, third, ether_type] = frame.words(0)?;
    let packet = match ether_type.to_be() >> 16 {
        0x0800 => ipv4(frame)?,
        0x86dd => ipv6(frame)?,
        _ => return None,
    };
    Some(Packet {
        link: [first, second, third],
        ..packet
    })
}

#[inline(always)]
fn ipv4(frame: &impl Frame) -> Option<Packet> {
    let [first, second, third, source, destination] = frame.words(ETHERNET_LENGTH)?;
    let [first, second, third] = [first, second, third].map(u32::from_be);
    let length = (first & 0xffff) as usize;
    let is_fragment = second & FRAGMENT_BITS != 0;
    if first >> 24 != IPV4_WITHOUT_OPTIONS || is_fragment || destination == 0 || length < IPV4_LENGTH {
        return None;
    }
    let ends = [source, destination].map(|address| Address::from_ipv4(address.to_ne_bytes()));
    let offset = ETHERNET_LENGTH + IPV4_LENGTH;
    let packet = upper_layer(frame, offset, (third >> 16) as u8, length - IPV4_LENGTH, ends)?;
    Some(Packet {
        source_end: (ETHERNET_LENGTH + IPV4_SOURCE_END) as u16,
        ..packet
    })
}

#[inline(always)]
fn ipv6(frame: &impl Frame) -> Option<Packet> {
    let [first, second] = frame.words(ETHERNET_LENGTH)?.map(u32::from_be);
    let source = Address::from_words(frame.words(ETHERNET_LENGTH + 8)?);
    let destination = Address::from_words(frame.words(ETHERNET_LENGTH + 24)?);
    let nobody = destination.octets == [0; 16];
    if first >> 28 != 6 || nobody || source.is_ipv4() || destination.is_ipv4() {
        return None;
    }
    let (length, protocol) = ((second >> 16) as usize, (second >> 8) as u8);
    let offset = ETHERNET_LENGTH + IPV6_LENGTH;
    let packet = upper_layer(frame, offset, protocol, length, [source, destination])?;
    Some(Packet {
        source_end: (ETHERNET_LENGTH + IPV6_SOURCE_END) as u16,
        ..packet
    })
}

/// Reads the upper layer, which begins at `offset` and has `length` bytes. The caller sets
/// `source_end`.
#[inline(always)]
fn upper_layer(
    frame: &impl Frame,
    offset: usize,
    protocol: u8,
    length: usize,
    [source, destination]: [Address; 2],
) -> Option<Packet> {
    if offset + length > frame.length() {
        return None;
    }
    let (ports, tcp_flags, sequence, acknowledgement) = if protocol == protocol::TCP {
        let [ports, sequence, acknowledgement, fourth] = frame.words(offset)?;
        let fourth = fourth.to_be();
        let header_length = (fourth >> 28) as usize * 4;
        if length < TCP_LENGTH || header_length < TCP_LENGTH || header_length > length {
            return None;
        }
        let numbers = [sequence, acknowledgement].map(u32::from_be);
        (ports, (fourth >> 16) as u8, numbers[0], numbers[1])
    } else if protocol == protocol::UDP {
        let [ports, second] = frame.words(offset)?;
        let claimed = (second.to_be() >> 16) as usize;
        if length < UDP_LENGTH || claimed < UDP_LENGTH || claimed > length {
            return None;
        }
        (ports, 0, 0, 0)
    } else {
        return None;
    };
    let ports = ports.to_be();
    Some(Packet {
        link: [0; 3],
        source,
        destination,
        source_port: ((ports >> 16) as u16).to_be_bytes(),
        destination_port: (ports as u16).to_be_bytes(),
        protocol,
        tcp_flags,
        sequence,
        acknowledgement,
        role: Role::Any,
        part: Part::Whole,
        fragment_protocol: 0,
        eighths: 0,
        identification: 0,
        fragment_header: false,
        source_end: 0,
        upper: offset as u16,
    })
}
