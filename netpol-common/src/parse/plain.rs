// SPDX-License-Identifier: Apache-2.0
//! What nearly all packets are, read with less work than [`parse`](super::parse) takes for what can come.

use super::{ETHERNET_LENGTH, Frame, IPV6_LENGTH, protocol};
use crate::{
    abi::Address,
    flow::{FIN, RST, SYN},
};

/// A TCP segment that neither opens nor ends a connection, or a UDP datagram: whole, right behind an IP header without options. To
/// [`parse`](super::parse) it is a packet with these addresses and ports, of [`Role::Any`](super::Role::Any).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plain {
    /// Source and destination address.
    pub ends: Ends,
    /// Source port, network byte order.
    pub source_port: [u8; 2],
    /// Destination port, network byte order.
    pub destination_port: [u8; 2],
    /// TCP or UDP.
    pub protocol: u8,
}

/// Source and destination address, network byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// IPv4.
    V4([u8; 4], [u8; 4]),
    /// IPv6.
    V6([u8; 16], [u8; 16]),
}

const IPV4_LENGTH: usize = 20;
const TCP_LENGTH: usize = 20;
const UDP_LENGTH: usize = 8;

/// Reads a frame as a plain packet. `None` of anything else, of what is malformed or cut short, and of what has no lengths in its headers.
#[inline(always)]
pub fn plain(frame: &impl Frame) -> Option<Plain> {
    if frame.vlan_tag() {
        return None;
    }
    let mut ether_type = [0; 2];
    if !frame.read(12, &mut ether_type) {
        return None;
    }
    if ether_type == [0x08, 0x00] {
        let mut header = [0; IPV4_LENGTH];
        if !frame.read(ETHERNET_LENGTH, &mut header) {
            return None;
        }
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let fragment = header[6] & 0x3f | header[7];
        let nobody = header[16] | header[17] | header[18] | header[19] == 0;
        if nobody || header[0] != 0x45 || fragment != 0 || length < IPV4_LENGTH {
            return None;
        }
        let (source_port, destination_port) = ports(
            frame,
            ETHERNET_LENGTH + IPV4_LENGTH,
            header[9],
            length - IPV4_LENGTH,
        )?;
        Some(Plain {
            ends: Ends::V4(
                [header[12], header[13], header[14], header[15]],
                [header[16], header[17], header[18], header[19]],
            ),
            source_port,
            destination_port,
            protocol: header[9],
        })
    } else if ether_type == [0x86, 0xdd] {
        let mut header = [0; 8];
        let (mut source, mut destination) = ([0; 16], [0; 16]);
        let readable = frame.read(ETHERNET_LENGTH, &mut header)
            && frame.read(ETHERNET_LENGTH + 8, &mut source)
            && frame.read(ETHERNET_LENGTH + 24, &mut destination);
        let mapped = [source, destination].map(|address| Address::from_ipv6(address).is_ipv4());
        let nobody = u128::from_ne_bytes(destination) == 0;
        if !readable || nobody || header[0] >> 4 != 6 || mapped[0] || mapped[1] {
            return None;
        }
        let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let (source_port, destination_port) = ports(frame, ETHERNET_LENGTH + IPV6_LENGTH, header[6], length)?;
        Some(Plain {
            ends: Ends::V6(source, destination),
            source_port,
            destination_port,
            protocol: header[6],
        })
    } else {
        None
    }
}

/// Source and destination port of an upper layer that begins at `offset` and has `length` bytes.
#[inline(always)]
fn ports(frame: &impl Frame, offset: usize, protocol: u8, length: usize) -> Option<([u8; 2], [u8; 2])> {
    if offset + length > frame.length() {
        return None;
    }
    if protocol == protocol::TCP {
        let mut header = [0; 14];
        let readable = frame.read(offset, &mut header) && length >= TCP_LENGTH;
        let header_length = usize::from(header[12] >> 4) * 4;
        let special = header[13] & (SYN | FIN | RST) != 0;
        if !readable || header_length < TCP_LENGTH || header_length > length || special {
            return None;
        }
        Some(([header[0], header[1]], [header[2], header[3]]))
    } else if protocol == protocol::UDP {
        let mut header = [0; 6];
        let readable = frame.read(offset, &mut header) && length >= UDP_LENGTH;
        let claimed = usize::from(u16::from_be_bytes([header[4], header[5]]));
        if !readable || claimed < UDP_LENGTH || claimed > length {
            return None;
        }
        Some(([header[0], header[1]], [header[2], header[3]]))
    } else {
        None
    }
}
