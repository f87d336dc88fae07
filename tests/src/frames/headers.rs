// SPDX-License-Identifier: Apache-2.0
//! Adds headers to frames. Adjusts lengths and numbers in the surrounding headers, but not
//! checksums, as nothing reads them.

use netpol_common::parse::protocol;

/// Length of an Ethernet header, bytes.
pub const ETHERNET: usize = 14;
/// Length of an IPv6 header, bytes.
pub const IPV6: usize = 40;

/// Returns true for an IPv6 frame, by its EtherType.
pub fn is_ipv6(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[0x86, 0xdd])
}

/// Returns the offset of the header after IPv4 and its options, or after the IPv6 header; does not
/// skip extension headers.
pub fn behind_ip(frame: &[u8]) -> usize {
    if is_ipv6(frame) {
        ETHERNET + IPV6
    } else {
        ETHERNET
            + frame
                .get(ETHERNET)
                .map_or(20, |first| usize::from(first & 0x0f) * 4)
    }
}

/// Writes a number in network byte order, as far as there is room.
pub fn put(frame: &mut [u8], at: usize, number: u16) {
    for (place, byte) in frame.iter_mut().skip(at).zip(number.to_be_bytes()) {
        *place = byte;
    }
}

/// Sets the IP header's length so that the packet ends with the frame; 0 if it does not fit the
/// field.
pub fn fit(frame: &mut [u8]) {
    let (at, before) = if is_ipv6(frame) {
        (ETHERNET + 4, ETHERNET + IPV6)
    } else {
        (ETHERNET + 2, ETHERNET)
    };
    let length = frame.len().saturating_sub(before);
    put(frame, at, u16::try_from(length).unwrap_or(0));
}

/// Adds options to an IPv4 frame; their length must be a multiple of 4 and at most 40.
pub fn with_options(frame: &[u8], options: &[u8]) -> Vec<u8> {
    let at = ETHERNET + 20;
    let mut longer = [&frame[..at], options, &frame[at..]].concat();
    longer[ETHERNET] = 0x45 + (options.len() / 4) as u8;
    fit(&mut longer);
    longer
}

/// Inserts extension headers of these kinds after the IPv6 header of a frame. Each is `units`
/// longer than its minimum, and filled with a byte. A fragment header is that of an unfragmented
/// packet.
pub fn with_extensions(frame: &[u8], kinds: &[u8], units: u8, filling: u8) -> Vec<u8> {
    let next_header = ETHERNET + 6;
    let mut extensions = Vec::new();
    for (index, kind) in kinds.iter().enumerate() {
        let next = kinds.get(index + 1).copied().unwrap_or(frame[next_header]);
        // The fixed part of an authentication header is one unit longer.
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
    let at = ETHERNET + IPV6;
    let mut longer = [&frame[..at], &extensions, &frame[at..]].concat();
    if let Some(first) = kinds.first() {
        longer[next_header] = *first;
    }
    fit(&mut longer);
    longer
}

/// Appends bytes to the packet of a frame without options and extension headers.
pub fn with_payload(frame: &[u8], more: usize) -> Vec<u8> {
    let mut longer = frame.to_vec();
    longer.resize(frame.len() + more, 0);
    let number = if is_ipv6(frame) { frame[20] } else { frame[23] };
    if number == protocol::UDP {
        let at = behind_ip(frame);
        let length = longer.len() - at;
        put(&mut longer, at + 4, u16::try_from(length).unwrap_or(0));
    }
    fit(&mut longer);
    longer
}

/// Inserts a VLAN tag with this EtherType.
pub fn with_tag(frame: &[u8], ether_type: [u8; 2]) -> Vec<u8> {
    [&frame[..12], &ether_type, &[0, 7], &frame[12..]].concat()
}
