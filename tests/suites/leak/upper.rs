// SPDX-License-Identifier: Apache-2.0
//! Makes the content of IP packets: TCP, UDP, SCTP, ICMP and its errors, other protocols, some with
//! wrong lengths.

use std::net::IpAddr;

use netpol_tests::random::Random;

use crate::{
    attack::{once_in, pick},
    ip,
};

/// Addresses and ports of a packet.
pub struct Ends {
    /// Source address on the packet.
    pub source: IpAddr,
    /// Destination address on the packet.
    pub destination: IpAddr,
    /// The TCP and the UDP port that are open at the victim that has any.
    pub ports: (u16, u16),
}

/// Source ports that repeat, so that later packets and errors meet earlier flows.
const SOURCES: [u16; 6] = [40_000, 40_001, 40_002, 8080, 5353, 80];
const PORTS: [u16; 10] = [0, 1, 22, 53, 80, 5353, 8079, 8081, 9090, 65_535];

/// Returns a protocol number and the content after the IP header.
pub fn packet(random: &mut Random, ends: &Ends) -> (u8, Vec<u8>) {
    let ipv4 = ends.source.is_ipv4();
    let (protocol, mut payload) = match random.below(12) {
        0..4 => (6, tcp(random, ends)),
        4..7 => (17, udp(random, ends)),
        7 => (132, sctp(random, ends)),
        8 => (if ipv4 { 1 } else { 58 }, echo(random, ipv4)),
        9 => (if ipv4 { 1 } else { 58 }, error(random, ends)),
        10 => (
            pick(random, &[2, 4, 41, 47, 50, 51, 89, 103, 112, 255, 59, 136]),
            tcp(random, ends),
        ),
        _ => (if ipv4 { 58 } else { 1 }, echo(random, ipv4)),
    };
    if once_in(random, 20) {
        payload.truncate(random.below(payload.len() + 1));
    }
    ip::checksum_upper(ends, protocol, &mut payload);
    (protocol, payload)
}

fn port(random: &mut Random, open: u16) -> u16 {
    if once_in(random, 2) {
        open
    } else {
        pick(random, &PORTS)
    }
}

fn source_port(random: &mut Random) -> u16 {
    if once_in(random, 4) {
        random.below(65_536) as u16
    } else {
        pick(random, &SOURCES)
    }
}

/// Makes a TCP segment with any flags, in any order.
fn tcp(random: &mut Random, ends: &Ends) -> Vec<u8> {
    let flags = match random.below(8) {
        0..3 => 0x02,
        3 => 0x12,
        4 => 0x10,
        5 => pick(random, &[0x01, 0x04, 0x11, 0x14, 0x18]),
        _ => random.below(256) as u8,
    };
    let words = if once_in(random, 12) {
        random.below(16) as u8
    } else {
        5
    };
    let (from, to) = (source_port(random), port(random, ends.ports.0));
    let mut segment = [&from.to_be_bytes()[..], &to.to_be_bytes()].concat();
    segment.extend((random.below(1 << 31) as u32).to_be_bytes());
    segment.extend((random.below(1 << 31) as u32).to_be_bytes());
    segment.extend([words << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(vec![0x5a; random.below(100)]);
    segment
}

fn udp(random: &mut Random, ends: &Ends) -> Vec<u8> {
    let body = random.below(100);
    let length = match random.below(16) {
        0 => random.below(2000) as u16,
        1 => 0,
        _ => 8 + body as u16,
    };
    let (from, to) = (source_port(random), port(random, ends.ports.1));
    let mut datagram = [from.to_be_bytes(), to.to_be_bytes(), length.to_be_bytes(), [0, 0]].concat();
    datagram.extend(vec![0xa5; body]);
    datagram
}

fn sctp(random: &mut Random, ends: &Ends) -> Vec<u8> {
    let (from, to) = (source_port(random), port(random, ends.ports.0));
    let mut packet = [
        from.to_be_bytes(),
        to.to_be_bytes(),
        [0, 0],
        [0, 0],
        [0, 0],
        [0, 0],
    ]
    .concat();
    packet.extend([random.below(16) as u8, 0, 0, 20]);
    packet.extend([0; 16]);
    packet
}

/// Makes echo requests and replies, and all types that are neither errors nor neighbour discovery.
fn echo(random: &mut Random, ipv4: bool) -> Vec<u8> {
    let usual: &[u8] = if ipv4 { &[8, 0] } else { &[128, 129] };
    let mut kind = pick(random, usual);
    if once_in(random, 3) {
        kind = random.below(256) as u8;
    }
    // With hop limit 255 these always pass, and would mislead the victims.
    if !ipv4 && matches!(kind, 133..=137) {
        kind = 138;
    }
    let mut message = vec![kind, random.below(4) as u8, 0, 0, 0x9c, 0x40, 0, 1];
    message.extend(vec![1; random.below(60)]);
    message
}

/// Makes a forged error: about a connection that the victim may have, one that it has not, one in
/// the wrong direction, or about nothing.
fn error(random: &mut Random, ends: &Ends) -> Vec<u8> {
    let ipv4 = ends.source.is_ipv4();
    let (kinds, usual): (&[u8], u8) = if ipv4 {
        (&[3, 3, 4, 5, 11, 12], 1)
    } else {
        (&[1, 2, 3, 4, 100], 58)
    };
    let (kind, code) = (pick(random, kinds), random.below(6) as u8);
    let mut message = vec![kind, code, 0, 0, 0, 0, 5, 0];
    let (mut from, mut to) = (ends.destination, ends.source);
    if once_in(random, 4) {
        (from, to) = (to, from);
    }
    let protocol = pick(random, &[6, 6, 6, 17, 17, 132, usual, 47]);
    let open = if protocol == 17 {
        ends.ports.1
    } else {
        ends.ports.0
    };
    let (own, remote) = (port(random, open), source_port(random));
    let mut upper = [own.to_be_bytes(), remote.to_be_bytes()].concat();
    upper.extend([0; 16]);
    message.extend(ip::plain(from, to, protocol, &upper));
    message
}
