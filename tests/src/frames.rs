// SPDX-License-Identifier: Apache-2.0
//! Builds Ethernet frames as a pod's hook sees them.

use std::net::IpAddr;

use etherparse::{
    EtherType, Ethernet2Header, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, TcpHeader, UdpHeader,
};
use netpol_agent::evaluate::Packet;
use netpol_common::parse::Frame;

pub mod headers;
pub mod membership;

/// The MAC address of every pod on a bench, and of both ends of [`opening`]'s frames.
pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// A frame in memory, as the parser reads it.
#[derive(Debug, Clone, Copy)]
pub struct Bytes<'a>(pub &'a [u8]);

impl Frame for Bytes<'_> {
    fn read(&self, offset: usize, into: &mut [u8]) -> bool {
        let Some(found) = self.0.get(offset..offset + into.len()) else {
            return false;
        };
        into.copy_from_slice(found);
        true
    }

    fn vlan_tag(&self) -> bool {
        false
    }

    fn length(&self) -> usize {
        self.0.len()
    }
}

/// Returns the frame of a packet that opens a connection: a TCP SYN, an SCTP INIT, an ICMP or
/// ICMPv6 echo request by the address family; any payload for other protocols. `source_port` is the
/// identifier of an echo request.
///
/// # Panics
/// If the addresses are of two families.
/// If the addresses are of two families.
pub fn opening(packet: &Packet, source_port: u16) -> Vec<u8> {
    let upper = upper_layer(packet, source_port);
    let mut frame = Vec::new();
    let ethernet = |ether_type| {
        Ethernet2Header {
            source: MAC,
            destination: MAC,
            ether_type,
        }
        .to_bytes()
    };
    match (packet.source, packet.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let (source, destination) = (source.octets(), destination.octets());
            let length = upper.len() as u16;
            let header = Ipv4Header::new(length, 64, IpNumber(packet.protocol), source, destination);
            frame.extend(ethernet(EtherType::IPV4));
            frame.extend(header.expect("a short payload").to_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let header = Ipv6Header {
                traffic_class: 0,
                flow_label: Ipv6FlowLabel::ZERO,
                payload_length: upper.len() as u16,
                next_header: IpNumber(packet.protocol),
                hop_limit: 64,
                source: source.octets(),
                destination: destination.octets(),
            };
            frame.extend(ethernet(EtherType::IPV6));
            frame.extend(header.to_bytes());
        }
        _ => panic!("{packet:?} has two address families"),
    }
    frame.extend(upper);
    frame
}

fn upper_layer(packet: &Packet, source_port: u16) -> Vec<u8> {
    const ECHO_REQUEST: u8 = 8;
    const ECHO_REQUEST_V6: u8 = 128;
    let port = packet.port.unwrap_or_default();
    let echo = |kind: u8| {
        let [high, low] = source_port.to_be_bytes();
        vec![kind, 0, 0, 0, high, low, 0, 1]
    };
    match packet.protocol {
        6 => {
            let mut header = TcpHeader::new(source_port, port, 1, 65_535);
            header.syn = true;
            header.to_bytes().to_vec()
        }
        17 => {
            let length = UdpHeader::LEN as u16;
            let checksum = 0;
            UdpHeader {
                source_port,
                destination_port: port,
                length,
                checksum,
            }
            .to_bytes()
            .to_vec()
        }
        132 => {
            let mut header = [source_port.to_be_bytes(), port.to_be_bytes()].concat();
            header.extend([0; 8]);
            header.extend([1, 0, 0, 20]); // The INIT chunk.
            header.extend([0; 16]);
            header
        }
        1 => echo(ECHO_REQUEST),
        58 => echo(ECHO_REQUEST_V6),
        _ => vec![0; 24],
    }
}
