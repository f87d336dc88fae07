// SPDX-License-Identifier: Apache-2.0
//! Makes IP headers: options, extension headers, all kinds of fragments, wrong lengths.

use std::net::IpAddr;

use netpol_tests::random::Random;

use crate::{
    attack::{once_in, pick},
    upper::Ends,
};

/// Makes a packet with the simplest header.
pub fn plain(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let header = V4 {
                ends: [source.octets(), destination.octets()],
                protocol,
                identification: 1,
                fragment: 0,
                options: &[],
            };
            header.packet(payload)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let length = (payload.len() as u16).to_be_bytes();
            let mut packet = vec![0x60, 0, 0, 0, length[0], length[1], protocol, 64];
            packet.extend(source.octets());
            packet.extend(destination.octets());
            packet.extend(payload);
            packet
        }
        _ => unreachable!("one family"),
    }
}

struct V4<'a> {
    ends: [[u8; 4]; 2],
    protocol: u8,
    identification: u16,
    /// Offset in units of 8 bytes and the flag for more fragments, as in the header.
    fragment: u16,
    /// Length must be a multiple of four bytes.
    options: &'a [u8],
}

impl V4<'_> {
    fn packet(&self, payload: &[u8]) -> Vec<u8> {
        let words = 5 + self.options.len() / 4;
        let length = (words * 4 + payload.len()) as u16;
        let mut packet = vec![0x40 | words as u8, 0];
        packet.extend(length.to_be_bytes());
        packet.extend(self.identification.to_be_bytes());
        packet.extend(self.fragment.to_be_bytes());
        packet.extend([64, self.protocol, 0, 0]);
        packet.extend(self.ends.concat());
        packet.extend(self.options);
        let sum = checksum(&packet);
        packet[10..12].copy_from_slice(&sum);
        packet.extend(payload);
        packet
    }
}

/// Makes IPv4 packets: one, or its fragments.
pub fn v4(random: &mut Random, ends: &Ends, protocol: u8, payload: &[u8]) -> Vec<Vec<u8>> {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (ends.source, ends.destination) else {
        unreachable!("one family");
    };
    let options: Vec<u8> = match random.below(10) {
        0 => vec![1; 4 * random.below(11)],
        // Loose source route, router alert, one that runs past its end.
        1 => [&[131, 7, 4][..], &source.octets(), &[0]].concat(),
        2 => vec![148, 4, 0, 0],
        3 => vec![68, 250, 5, 0],
        _ => vec![],
    };
    let identification = random.below(64) as u16;
    let mut packets: Vec<Vec<u8>> = parts(random, payload)
        .into_iter()
        .map(|(eighths, more, bytes)| {
            let header = V4 {
                ends: [source.octets(), destination.octets()],
                protocol,
                identification,
                fragment: eighths | if more { 0x2000 } else { 0 },
                options: &options,
            };
            header.packet(&bytes)
        })
        .collect();
    if once_in(random, 20) {
        let packet = &mut packets[0];
        match random.below(3) {
            0 => packet[0] = 0x40 | random.below(16) as u8,
            1 => packet[0] = (random.below(16) as u8) << 4 | 5,
            _ => packet[2..4].copy_from_slice(&(random.below(300) as u16).to_be_bytes()),
        }
        packet[10..12].fill(0);
        let sum = checksum(&packet[..20]);
        packet[10..12].copy_from_slice(&sum);
    }
    packets
}

/// Makes IPv6 packets: one, or its fragments.
pub fn v6(random: &mut Random, ends: &Ends, protocol: u8, payload: &[u8]) -> Vec<Vec<u8>> {
    let (mut chain, mut next) = (Vec::new(), protocol);
    if once_in(random, 3) {
        let most = if once_in(random, 4) { 12 } else { 3 };
        for _ in 0..=random.below(most) {
            let kind = pick(random, &[0, 43, 60, 60, 51, 135, 139, 140]);
            let length = if once_in(random, 30) {
                random.below(256)
            } else {
                random.below(2)
            };
            let bytes = if kind == 51 {
                (length + 2) * 4
            } else {
                (length + 1) * 8
            };
            let mut header = vec![
                next,
                if kind == 51 {
                    length.max(1) as u8
                } else {
                    length as u8
                },
            ];
            // Padding that fills the header.
            header.resize(
                bytes
                    .clamp(12, 48)
                    .next_multiple_of(if kind == 51 { 4 } else { 8 }),
                0,
            );
            if kind != 51 && length < 6 {
                header.truncate(bytes);
                header[2..4].copy_from_slice(&[1, bytes as u8 - 4]);
            }
            header.extend(&chain);
            (chain, next) = (header, kind);
        }
    }
    let upper = [&chain[..], payload].concat();
    let identification = (random.below(64) as u32).to_be_bytes();
    let whole = plain(ends.source, ends.destination, next, &upper);
    let pieces = parts(random, &upper);
    let mut packets: Vec<Vec<u8>> = if matches!(pieces[..], [(0, false, _)]) && !once_in(random, 40) {
        vec![whole]
    } else {
        pieces
            .into_iter()
            .map(|(eighths, more, bytes)| {
                let field = (eighths << 3 | u16::from(more)).to_be_bytes();
                // Only the first one's next header counts; others may lie.
                let next = if eighths != 0 && once_in(random, 8) {
                    17
                } else {
                    next
                };
                let mut piece = vec![next, 0, field[0], field[1]];
                piece.extend(identification);
                piece.extend(bytes);
                plain(ends.source, ends.destination, 44, &piece)
            })
            .collect()
    };
    if once_in(random, 20) {
        packets[0][4..6].copy_from_slice(&(random.below(300) as u16).to_be_bytes());
    }
    if once_in(random, 20) {
        packets[0][7] = 255;
    }
    packets
}

/// Splits a payload, or not: correctly, with tiny or overlapping parts, out of order, or
/// incomplete. Returns the offset in units of 8 bytes, whether more follow, and the bytes.
fn parts(random: &mut Random, payload: &[u8]) -> Vec<(u16, bool, Vec<u8>)> {
    if !once_in(random, 3) {
        return vec![(0, false, payload.to_vec())];
    }
    let mut payload = payload.to_vec();
    // Usually long enough that its second part is not tiny.
    if !once_in(random, 4) {
        payload.resize(payload.len().max(64), 0x77);
    }
    let at = (8 * (1 + random.below(5))).min(payload.len() / 8 * 8);
    let eighths = (at / 8) as u16;
    let (head, tail) = payload.split_at(at);
    let first = (0, true, head.to_vec());
    let last = (eighths, false, tail.to_vec());
    match random.below(10) {
        0 => vec![last, first],
        1 => vec![first],
        2 => vec![last],
        // A second part that overlaps the first and rewrites its ports.
        3 => vec![
            first,
            (u16::from(once_in(random, 2)), true, payload.clone()),
            last,
        ],
        4 => vec![(0, true, payload.clone()), (eighths / 2, false, payload)],
        5 => vec![
            first,
            (random.below(8191) as u16, once_in(random, 2), tail.to_vec()),
        ],
        _ => vec![first, last],
    }
}

/// Writes the checksum of TCP, UDP or ICMP if there is room for one.
pub fn checksum_upper(ends: &Ends, protocol: u8, payload: &mut [u8]) {
    let at = match protocol {
        6 => 16,
        17 => 6,
        1 | 58 => 2,
        _ => return,
    };
    if payload.len() < at + 2 {
        return;
    }
    let mut pseudo = Vec::new();
    match (ends.source, ends.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) if protocol != 1 => {
            pseudo.extend([source.octets(), destination.octets()].concat());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            pseudo.extend([source.octets(), destination.octets()].concat());
        }
        _ => {}
    }
    if !pseudo.is_empty() {
        pseudo.extend([0, protocol]);
        pseudo.extend((payload.len() as u16).to_be_bytes());
    }
    pseudo.extend(&*payload);
    let sum = checksum(&pseudo);
    payload[at..at + 2].copy_from_slice(&sum);
}

/// Computes RFC 1071's checksum; the checksum field must be zero.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|pair| {
        let low = pair.get(1).copied().unwrap_or(0);
        u32::from(u16::from_be_bytes([pair[0], low]))
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}
