// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::parse::{Frame, parse, simple::simple};
use std::{vec, vec::Vec};

const MALFORMED: Parsed = Parsed::Unreadable(DropReason::Malformed);

struct Bytes(Vec<u8>, bool);

impl Frame for Bytes {
    fn read(&self, offset: usize, into: &mut [u8]) -> bool {
        let found = self.0.get(offset..offset + into.len());
        found.inspect(|found| into.copy_from_slice(found)).is_some()
    }

    fn vlan_tag(&self) -> bool {
        self.1
    }

    fn length(&self) -> usize {
        self.0.len()
    }
}

const fn at(start: i32, offset: u16) -> PartialChecksum {
    PartialChecksum {
        is_pending: true,
        start,
        offset,
    }
}

fn ipv4(protocol: u8, fragment: u16, upper: &[u8]) -> Bytes {
    let mut frame = vec![2; 12];
    frame.extend([8, 0, 0x45, 0]);
    frame.extend((20 + upper.len() as u16).to_be_bytes());
    frame.extend([0, 1]);
    frame.extend(fragment.to_be_bytes());
    frame.extend([64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend(upper);
    Bytes(frame, false)
}

fn ipv6(hop_limit: u8, next: u8, upper: &[u8]) -> Bytes {
    let mut frame = vec![2; 12];
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend((upper.len() as u16).to_be_bytes());
    frame.extend([next, hop_limit]);
    for last in [1, 2] {
        let mut address = [0xfd; 16];
        address[15] = last;
        frame.extend(address);
    }
    frame.extend(upper);
    Bytes(frame, false)
}

fn tcp() -> Vec<u8> {
    let mut segment = vec![0; 60];
    segment[12] = 0x50;
    segment[13] = 0x10;
    segment
}

fn udp() -> Vec<u8> {
    let mut datagram = vec![0; 60];
    datagram[5] = 60;
    datagram
}

/// Parses a frame with a checksum that is still to be written.
fn with(frame: &Bytes, partial: PartialChecksum) -> (Parsed, Packet) {
    let (mut packet, mut quoted) = (Packet::default(), Packet::default());
    let parsed = parse(frame, &mut packet, &mut quoted);
    let parsed = check(parsed, &mut packet, partial);
    (parsed, packet)
}

/// Returns the places in a frame where a checksum may be written that covers the bytes from
/// `start`.
fn open(frame: &Bytes, start: i32) -> Vec<i32> {
    let end = frame.0.len() as i32;
    let passes = |place: &i32| with(frame, at(start, (*place - start) as u16)).0 == Parsed::Packet;
    (start..end - 1).filter(passes).collect()
}

#[test]
fn f3_nothing_but_the_own_checksum_of_a_header_is_written_into_it() {
    for (protocol, upper, own) in [
        (protocol::TCP, tcp(), 16),
        (protocol::UDP, udp(), 6),
        (protocol::SCTP, vec![0; 60], 8),
        (protocol::ICMP, vec![8; 60], 2),
    ] {
        assert_eq!(open(&ipv4(protocol, 0, &upper), 34), [34 + own], "{protocol}");
    }
    for (protocol, upper, own) in [
        (protocol::TCP, tcp(), 16),
        (protocol::UDP, udp(), 6),
        (protocol::SCTP, vec![0; 60], 8),
        (protocol::ICMPV6, vec![128; 60], 2),
    ] {
        assert_eq!(open(&ipv6(64, protocol, &upper), 54), [54 + own], "{protocol}");
    }
}

#[test]
fn f3_the_own_checksum_is_behind_the_extension_headers() {
    let upper = [&[protocol::UDP, 0, 1, 4, 0, 0, 0, 0][..], &udp()].concat();
    let frame = ipv6(64, protocol::DESTINATION_OPTIONS, &upper);
    assert_eq!(open(&frame, 62), [68]);
    assert_eq!(open(&frame, 54), [], "over the options, or the ports");
    let mut options = ipv4(protocol::UDP, 0, &[&[1; 4][..], &udp()].concat());
    options.0[14] = 0x46;
    assert_eq!(open(&options, 38), [44]);
    assert_eq!(open(&options, 34), []);
}

#[test]
fn f3_what_begins_before_the_header_is_not_its_checksum() {
    for frame in [ipv4(protocol::TCP, 0, &tcp()), ipv4(protocol::UDP, 0, &udp())] {
        for start in -20..34 {
            assert_eq!(open(&frame, start), [], "{start}");
        }
    }
}

#[test]
fn f3_behind_the_headers_any_is() {
    for (protocol, upper, length) in [
        (protocol::TCP, tcp(), 20),
        (protocol::UDP, udp(), 8),
        (protocol::SCTP, vec![0; 60], 12),
        (47, vec![0; 60], 0),
    ] {
        let frame = ipv4(protocol, 0, &upper);
        for start in 35..80 {
            let all: Vec<i32> = (start..93).collect();
            let expected = if start >= 34 + length { all } else { Vec::new() };
            assert_eq!(open(&frame, start), expected, "{protocol} from {start}");
        }
    }
}

#[test]
fn c1_what_an_icmp_message_quotes_is_not_written_over() {
    for kind in [3, 8, 13] {
        let frame = ipv4(protocol::ICMP, 0, &[kind; 60]);
        for start in 35..93 {
            assert_eq!(open(&frame, start), [], "type {kind} from {start}");
        }
    }
}

#[test]
fn c5_fragments_have_their_checksum() {
    for (fragment, upper) in [(0x2000, udp()), (0x2003, vec![0; 64]), (0x0003, vec![0; 64])] {
        let frame = ipv4(protocol::UDP, fragment, &upper);
        assert_eq!(with(&frame, PartialChecksum::NONE).0, Parsed::Packet);
        for start in 0..90 {
            assert_eq!(open(&frame, start), [], "{fragment:x}");
        }
    }
}

#[test]
fn f1_neighbour_discovery_stays_what_it_is() {
    let mut message = vec![0; 32];
    message[0] = 135;
    let frame = ipv6(255, protocol::ICMPV6, &message);
    assert_eq!(with(&frame, at(54, 2)).0, Parsed::Neighbour);
    assert_eq!(with(&frame, at(54, 0)).0, MALFORMED);
    assert_eq!(with(&frame, at(20, 0)).0, MALFORMED, "the next header");
    let arp = Bytes([&[2; 12][..], &[8, 6], &[0; 28]].concat(), false);
    assert_eq!(with(&arp, at(20, 0)).0, Parsed::Neighbour);
    assert_eq!(with(&arp, at(12, 0)).0, MALFORMED, "the EtherType");
}

#[test]
fn a6_a_source_address_that_will_be_another_is_nobodys() {
    let behind = |frame: &Bytes, end: i32| {
        for place in -3..80 {
            for start in [place, place - 2, -5] {
                let (parsed, packet) = with(frame, at(start, (place - start).max(0) as u16));
                let nobody = packet.source == Address::default() && packet.protocol == NOTHING_TOLD;
                let reached = start + (place - start).max(0);
                assert_eq!(nobody, start < 0 || reached < end, "{start} {place}");
                assert!(!nobody || parsed == MALFORMED);
            }
        }
    };
    behind(&ipv4(protocol::UDP, 0, &udp()), 30);
    behind(&ipv6(64, protocol::UDP, &udp()), 38);
    let other = Bytes([&[2; 12][..], &[0x88, 0x47], &[0; 80]].concat(), false);
    behind(&other, 18);
    // One tag beside the frame, and one in it.
    let tagged = |frame: Bytes| {
        let mut bytes = frame.0;
        bytes.splice(12..12, [0x81, 0, 0, 0]);
        Bytes(bytes, true)
    };
    behind(&tagged(ipv4(protocol::UDP, 0, &udp())), 34);
    behind(&tagged(ipv6(64, protocol::UDP, &udp())), 42);
}

#[test]
fn f2_what_is_not_judged_stays_so() {
    let other = Bytes([&[2; 12][..], &[0x88, 0x47], &[0; 80]].concat(), false);
    assert_eq!(
        with(&other, at(40, 6)).0,
        Parsed::Unreadable(DropReason::EtherType)
    );
}

/// The simple way never lets a checksum pass that the full check refuses.
#[test]
fn f3_simple_packets_are_told_as_all_are() {
    for frame in [
        ipv4(protocol::TCP, 0, &tcp()),
        ipv4(protocol::UDP, 0, &udp()),
        ipv6(64, protocol::TCP, &tcp()),
        ipv6(64, protocol::UDP, &udp()),
    ] {
        let packet = simple(&frame).unwrap();
        assert!(PartialChecksum::NONE.is_of(&packet));
        let mut own = 0;
        for start in -2..90 {
            for offset in 0..40 {
                if at(start, offset).is_of(&packet) {
                    assert_eq!(with(&frame, at(start, offset)).0, Parsed::Packet);
                    own += 1;
                }
            }
        }
        assert_eq!(own, 1);
        assert!(!at(-1, u16::MAX).is_of(&packet));
    }
}
