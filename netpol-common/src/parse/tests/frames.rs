// SPDX-License-Identifier: Apache-2.0
//! Builds frames: with etherparse where possible, by hand where a header must be unusual.

use etherparse::{
    EtherType, Ethernet2Header, IpNumber, Ipv4Header, Ipv4Options, Ipv6FlowLabel, Ipv6Header, TcpHeader,
};
use std::vec::Vec;

use super::protocol;

pub const SOURCE: [u8; 4] = [10, 244, 0, 11];
pub const DESTINATION: [u8; 4] = [10, 244, 0, 10];
pub const SOURCE_V6: [u8; 16] = [0xfd, 0, 0, 0x10, 2, 0x44, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x11];
pub const DESTINATION_V6: [u8; 16] = [0xfd, 0, 0, 0x10, 2, 0x44, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10];
/// Both MAC addresses of frames from [`ethernet`].
pub const LINK: [u32; 3] = [0x0404_0404, u32::from_ne_bytes([4, 4, 2, 2]), 0x0202_0202];
pub const SOURCE_PORT: u16 = 40_000;
pub const PORT: u16 = 8080;

pub fn ethernet(ether_type: [u8; 2], payload: &[u8]) -> Vec<u8> {
    let header = Ethernet2Header {
        source: [2; 6],
        destination: [4; 6],
        ether_type: EtherType(u16::from_be_bytes(ether_type)),
    };
    [&header.to_bytes()[..], payload].concat()
}

/// A packet without options or extension headers.
pub fn ip(version: u8, number: u8, upper: &[u8]) -> Vec<u8> {
    match version {
        4 => ipv4_with_options(&[], number, upper),
        _ => ipv6_chain(&[], number, upper),
    }
}

pub fn ipv4_with_options(options: &[u8], number: u8, upper: &[u8]) -> Vec<u8> {
    let mut header = Ipv4Header::new(upper.len() as u16, 64, IpNumber(number), SOURCE, DESTINATION).unwrap();
    header.options = Ipv4Options::try_from(options).unwrap();
    header.set_payload_len(upper.len()).unwrap();
    ethernet([0x08, 0x00], &[&header.to_bytes()[..], upper].concat())
}

/// A packet with extension headers of these numbers, in this order.
pub fn ipv6_chain(chain: &[u8], number: u8, upper: &[u8]) -> Vec<u8> {
    ipv6_chain_of(chain, 1, 0, number, upper)
}

/// Like [`ipv6_chain`]. Each header is `units` longer than the shortest and is filled with a byte.
pub fn ipv6_chain_of(chain: &[u8], units: u8, filling: u8, number: u8, upper: &[u8]) -> Vec<u8> {
    let mut extensions = Vec::new();
    for (index, kind) in chain.iter().enumerate() {
        let next = chain.get(index + 1).copied().unwrap_or(number);
        // The unit of a length is 8 bytes (RFC 8200) or, for an authentication header, 4 (RFC
        // 4302). The first 8 bytes do not count. A fragment header has 8 bytes. The fixed part of
        // an authentication header has one unit more.
        let units = if *kind == protocol::AH {
            units.max(1)
        } else {
            units
        };
        let (length, filling) = match *kind {
            protocol::AH => (8 + usize::from(units) * 4, filling),
            protocol::FRAGMENT => (8, 0),
            _ => (8 + usize::from(units) * 8, filling),
        };
        let start = extensions.len();
        extensions.resize(start + length, filling);
        extensions[start] = next;
        extensions[start + 1] = if *kind == protocol::FRAGMENT { 0 } else { units };
    }
    let header = Ipv6Header {
        traffic_class: 0,
        flow_label: Ipv6FlowLabel::ZERO,
        payload_length: (extensions.len() + upper.len()) as u16,
        next_header: IpNumber(chain.first().copied().unwrap_or(number)),
        hop_limit: 64,
        source: SOURCE_V6,
        destination: DESTINATION_V6,
    };
    ethernet(
        [0x86, 0xdd],
        &[&header.to_bytes()[..], &extensions, upper].concat(),
    )
}

pub fn tcp_syn() -> Vec<u8> {
    let mut header = TcpHeader::new(SOURCE_PORT, PORT, 1, 65_535);
    header.syn = true;
    header.to_bytes().to_vec()
}

/// Both ports and so many bytes more. The first two of these are the UDP length.
pub fn ports_and(more: usize) -> Vec<u8> {
    let length = 4 + more;
    let words = [SOURCE_PORT, PORT, length as u16];
    let mut header: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    header.resize(length, 0);
    header
}
