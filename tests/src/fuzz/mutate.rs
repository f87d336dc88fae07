// SPDX-License-Identifier: Apache-2.0
//! Damages frames a little. No change keeps a frame well formed on purpose.
#![expect(clippy::ptr_arg, reason = "all kinds of damage have one signature")]

use netpol_common::parse::protocol;

use crate::{
    frames::headers::{self, ETHERNET, behind_ip, is_ipv6, put},
    random::Random,
};

/// A frame to take parts from.
#[derive(Debug, Clone, Copy)]
pub struct Donor<'a>(pub &'a [u8]);

type Change = fn(&mut Random, &mut Vec<u8>, Donor<'_>);

/// All changes, by name.
pub const ALL: [(&str, Change); 15] = [
    ("bit", bit),
    ("byte", byte),
    ("length field", length_field),
    ("number of a length", header_length),
    ("protocol", swap_protocol),
    ("fragment", fragment),
    ("truncation", truncate),
    ("growth", grow),
    ("header in", insert),
    ("header out", remove),
    ("extension headers", extensions),
    ("options", options),
    ("VLAN tag", tag),
    ("crossover", cross),
    ("answer", answer),
];

const PROTOCOLS: [u8; 18] = [
    0, 1, 2, 4, 6, 17, 41, 43, 44, 47, 50, 51, 58, 59, 60, 132, 135, 140,
];
/// Numbers that length checks may get wrong.
const EDGES: [u16; 14] = [0, 1, 7, 8, 12, 19, 20, 21, 28, 40, 60, 0x7fff, 0xfffe, 0xffff];

fn any_byte(random: &mut Random) -> u8 {
    random.below(256) as u8
}

fn bit(random: &mut Random, frame: &mut Vec<u8>, _: Donor<'_>) {
    if !frame.is_empty() {
        let at = random.below(frame.len());
        frame[at] ^= 1 << random.below(8);
    }
}

fn byte(random: &mut Random, frame: &mut Vec<u8>, _: Donor<'_>) {
    if !frame.is_empty() {
        let at = random.below(frame.len());
        frame[at] = any_byte(random);
    }
}

/// Changes the IPv4 total length, IPv6 payload length or UDP length: slightly or completely.
fn length_field(random: &mut Random, frame: &mut Vec<u8>, _: Donor<'_>) {
    let at = match (is_ipv6(frame), random.below(2)) {
        (true, 0) => ETHERNET + 4,
        (false, 0) => ETHERNET + 2,
        _ => behind_ip(frame) + 4,
    };
    let number = if random.below(2) == 0 {
        EDGES[random.below(EDGES.len())]
    } else {
        let now = match frame.get(at..at + 2) {
            Some(now) => u16::from_be_bytes([now[0], now[1]]),
            None => 0,
        };
        now.wrapping_add(random.below(9) as u16).wrapping_sub(4)
    };
    put(frame, at, number);
}

/// Changes the header length of IPv4 or TCP, or an extension header's length.
fn header_length(random: &mut Random, frame: &mut Vec<u8>, _: Donor<'_>) {
    let at = match random.below(3) {
        0 => ETHERNET,
        1 => behind_ip(frame) + 12,
        _ => behind_ip(frame) + 1,
    };
    if let Some(place) = frame.get_mut(at) {
        *place = match random.below(3) {
            0 => (*place & 0xf0) | random.below(16) as u8,
            1 => (*place & 0x0f) | (random.below(16) as u8) << 4,
            _ => any_byte(random),
        };
    }
}

fn swap_protocol(random: &mut Random, frame: &mut Vec<u8>, _: Donor<'_>) {
    let at = match (is_ipv6(frame), random.below(3)) {
        (true, 0 | 1) => ETHERNET + 6,
        (true, _) => behind_ip(frame),
        (false, _) => ETHERNET + 9,
    };
    if let Some(place) = frame.get_mut(at) {
        *place = PROTOCOLS[random.below(PROTOCOLS.len())];
    }
}

fn fragment(random: &mut Random, frame: &mut Vec<u8>, _: Donor<'_>) {
    let offset = [0, 0, 1, 2, 185, 0x1fff][random.below(6)];
    if is_ipv6(frame) {
        if frame.len() < ETHERNET + headers::IPV6 {
            return;
        }
        *frame = headers::with_extensions(frame, &[protocol::FRAGMENT], 0, 0);
        put(
            frame,
            ETHERNET + headers::IPV6 + 2,
            offset << 3 | random.below(2) as u16,
        );
    } else {
        put(frame, ETHERNET + 6, offset | (random.below(8) as u16) << 13);
    }
}

fn truncate(random: &mut Random, frame: &mut Vec<u8>, _: Donor<'_>) {
    let length = random.below(frame.len() + 1);
    frame.truncate(length);
    if random.below(2) == 0 && length >= ETHERNET {
        headers::fit(frame);
    }
}

fn grow(random: &mut Random, frame: &mut Vec<u8>, _: Donor<'_>) {
    let most = [4, 60, 1500][random.below(3)];
    let more = 1 + random.below(most);
    let filling = any_byte(random);
    frame.resize(frame.len() + more, filling);
    if random.below(2) == 0 {
        headers::fit(frame);
    }
}

/// Returns an offset at or next to the border of two headers.
fn seam(random: &mut Random, frame: &[u8]) -> usize {
    let seams = [12, ETHERNET, behind_ip(frame), behind_ip(frame) + 8];
    (seams[random.below(seams.len())] + random.below(3))
        .saturating_sub(1)
        .min(frame.len())
}

fn insert(random: &mut Random, frame: &mut Vec<u8>, _: Donor<'_>) {
    let (at, length) = (seam(random, frame), [1, 2, 4, 8, 20, 40][random.below(6)]);
    let header: Vec<u8> = (0..length).map(|_| any_byte(random)).collect();
    frame.splice(at..at, header);
}

fn remove(random: &mut Random, frame: &mut Vec<u8>, _: Donor<'_>) {
    let (at, length) = (seam(random, frame), [1, 2, 4, 8, 20, 40][random.below(6)]);
    frame.drain(at..(at + length).min(frame.len()));
}

fn extensions(random: &mut Random, frame: &mut Vec<u8>, _: Donor<'_>) {
    const KINDS: [u8; 9] = [0, 43, 44, 51, 60, 135, 139, 140, 59];
    if is_ipv6(frame) && frame.len() >= ETHERNET + headers::IPV6 {
        // One chain in three is as long as the parser's limit, or longer: nothing in it ends the
        // walk early.
        const WALKED: [u8; 3] = [0, 43, 60];
        let kinds: Vec<u8> = match random.below(3) {
            0 => (0..8 + random.below(3))
                .map(|_| WALKED[random.below(3)])
                .collect(),
            _ => (0..1 + random.below(11))
                .map(|_| KINDS[random.below(KINDS.len())])
                .collect(),
        };
        *frame = headers::with_extensions(frame, &kinds, random.below(3) as u8, any_byte(random));
    }
}

fn options(random: &mut Random, frame: &mut Vec<u8>, _: Donor<'_>) {
    if !is_ipv6(frame) && frame.len() >= ETHERNET + 20 {
        let options = vec![any_byte(random); random.below(11) * 4];
        *frame = headers::with_options(frame, &options);
    }
}

fn tag(random: &mut Random, frame: &mut Vec<u8>, _: Donor<'_>) {
    const TAGS: [[u8; 2]; 5] = [[0x81, 0x00], [0x88, 0xa8], [0x91, 0x00], [0x88, 0x47], [0, 46]];
    if frame.len() >= ETHERNET {
        *frame = headers::with_tag(frame, TAGS[random.below(TAGS.len())]);
    }
}

/// Joins the first part of one frame and the last of another.
fn cross(random: &mut Random, frame: &mut Vec<u8>, Donor(other): Donor<'_>) {
    let at = if random.below(2) == 0 {
        seam(random, frame)
    } else {
        random.below(frame.len() + 1)
    };
    let from = if random.below(2) == 0 {
        at.min(other.len())
    } else {
        seam(random, other)
    };
    frame.truncate(at);
    frame.extend(&other[from..]);
}

/// Swaps addresses and ports; acknowledges a SYN, answers an echo request.
fn answer(random: &mut Random, frame: &mut Vec<u8>, _: Donor<'_>) {
    let (number, first, size) = if is_ipv6(frame) {
        (ETHERNET + 6, ETHERNET + 8, 16)
    } else {
        (ETHERNET + 9, ETHERNET + 12, 4)
    };
    let upper = behind_ip(frame);
    if frame.len() < (upper + 14).max(ETHERNET + headers::IPV6) {
        return;
    }
    for index in 0..size {
        frame.swap(first + index, first + size + index);
    }
    match frame[number] {
        protocol::ICMP => frame[upper] = 0,
        protocol::ICMPV6 => frame[upper] = 129,
        _ => {
            frame.swap(upper, upper + 2);
            frame.swap(upper + 1, upper + 3);
            if frame[number] == protocol::TCP {
                frame[upper + 13] = [0x12, 0x10, 0x11, 0x14, 0x04, 0x18][random.below(6)];
            }
        }
    }
}
