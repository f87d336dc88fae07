// SPDX-License-Identifier: Apache-2.0
//! Tests which packet is read from frames of all kinds, whole and cut short.

use etherparse::{PacketBuilder, PacketBuilderStep, TcpHeader, VlanId};
use proptest::prelude::*;
use std::{vec, vec::Vec};

use super::*;
use crate::flow::{ACK, SYN};

mod frames;
mod lengths;
mod membership;
mod simple;

use frames::*;

/// A frame in memory.
struct Bytes<'a> {
    bytes: &'a [u8],
    vlan_tag: bool,
}

impl Frame for Bytes<'_> {
    fn read(&self, offset: usize, into: &mut [u8]) -> bool {
        let Some(found) = self.bytes.get(offset..offset + into.len()) else {
            return false;
        };
        into.copy_from_slice(found);
        true
    }

    fn vlan_tag(&self) -> bool {
        self.vlan_tag
    }

    fn length(&self) -> usize {
        self.bytes.len()
    }
}

fn parse_bytes(bytes: &[u8]) -> (Parsed, Packet) {
    let mut packet = Packet::default();
    let vlan_tag = false;
    (
        parse(&Bytes { bytes, vlan_tag }, &mut packet, &mut Packet::default()),
        packet,
    )
}

/// Parses a frame that must be a packet to judge.
fn packet(frame: &[u8]) -> Packet {
    let (parsed, packet) = parse_bytes(frame);
    assert_eq!(parsed, Parsed::Packet);
    packet
}

fn unreadable(frame: &[u8]) -> DropReason {
    match parse_bytes(frame).0 {
        Parsed::Unreadable(reason) => reason,
        other => panic!("{other:?}"),
    }
}

fn expected(version: u8, protocol: u8) -> Packet {
    let (source, destination, source_end, upper) = match version {
        4 => (
            Address::from_ipv4(SOURCE),
            Address::from_ipv4(DESTINATION),
            30,
            34,
        ),
        _ => (
            Address::from_ipv6(SOURCE_V6),
            Address::from_ipv6(DESTINATION_V6),
            38,
            54,
        ),
    };
    Packet {
        link: LINK,
        source,
        destination,
        protocol,
        source_end,
        upper,
        ..Packet::default()
    }
}

/// The same packet with so many bytes of options or extension headers before the upper layer.
fn behind(bytes: usize, packet: Packet) -> Packet {
    Packet {
        upper: packet.upper + bytes as u16,
        ..packet
    }
}

fn with_ports(version: u8, protocol: u8) -> Packet {
    Packet {
        source_port: SOURCE_PORT.to_be_bytes(),
        destination_port: PORT.to_be_bytes(),
        ..expected(version, protocol)
    }
}

#[test]
fn tcp_udp_and_sctp_have_ports_in_both_families() {
    for version in [4, 6] {
        let tcp = Packet {
            tcp_flags: SYN,
            sequence: 1,
            ..with_ports(version, protocol::TCP)
        };
        assert_eq!(packet(&ip(version, protocol::TCP, &tcp_syn())), tcp);
        for number in [protocol::UDP, protocol::SCTP] {
            let frame = ip(version, number, &ports_and(8));
            assert_eq!(packet(&frame), with_ports(version, number));
        }
    }
}

#[test]
fn tcp_flags_are_those_of_the_header() {
    let mut header = TcpHeader::new(SOURCE_PORT, PORT, 1, 1);
    (header.syn, header.ack) = (true, true);
    let frame = ip(4, protocol::TCP, &header.to_bytes());
    assert_eq!(packet(&frame).tcp_flags, SYN | ACK);
}

#[test]
fn f4_icmp_echo_has_its_identifier_and_no_ports() {
    for (version, number, request, reply) in [(4, protocol::ICMP, 8, 0), (6, protocol::ICMPV6, 128, 129)] {
        for (kind, role) in [(request, Role::EchoRequest), (reply, Role::EchoReply)] {
            let found = packet(&ip(version, number, &[kind, 0, 0, 0, 0x12, 0x34, 0, 1]));
            let source_port = [0x12, 0x34];
            assert_eq!(
                found,
                Packet {
                    source_port,
                    role,
                    ..expected(version, number)
                }
            );
        }
        // An error quotes a packet. The ports in the quote are not its own.
        let error = ip(version, number, &[3, 4, 0, 0, 0, 0, 5, 0, 0, 80]);
        let role = Role::Single;
        assert_eq!(
            packet(&error),
            Packet {
                role,
                ..expected(version, number)
            }
        );
    }
}

#[test]
fn f4_other_protocols_have_no_ports() {
    // ICMP of the other family is such a protocol, too.
    for (version, number) in [
        (4, 47),
        (6, 47),
        (4, 50),
        (6, 59),
        (4, protocol::ICMPV6),
        (6, protocol::ICMP),
    ] {
        assert_eq!(
            packet(&ip(version, number, &[128, 0, 0, 80])),
            expected(version, number)
        );
        assert_eq!(
            packet(&ip(version, number, &[])),
            expected(version, number),
            "no payload"
        );
    }
}

#[test]
fn f3_ipv4_options_are_walked() {
    for words in 0..=10usize {
        let options = vec![1; words * 4];
        let frame = ipv4_with_options(&options, protocol::UDP, &ports_and(4));
        let expected = behind(words * 4, with_ports(4, protocol::UDP));
        assert_eq!(packet(&frame), expected, "{words} words");
    }
}

#[test]
fn f3_ipv6_extension_headers_are_walked() {
    let kinds = [
        protocol::HOP_BY_HOP,
        protocol::ROUTING,
        protocol::DESTINATION_OPTIONS,
        protocol::AH,
        protocol::FRAGMENT,
    ];
    let plain = ip(6, protocol::UDP, &ports_and(4)).len();
    for kind in kinds {
        let frame = ipv6_chain(&[kind], protocol::UDP, &ports_and(4));
        let expected = Packet {
            fragment_header: kind == protocol::FRAGMENT,
            ..behind(frame.len() - plain, with_ports(6, protocol::UDP))
        };
        assert_eq!(packet(&frame), expected, "{kind}");
    }
    let all = ipv6_chain(&kinds, protocol::UDP, &ports_and(4));
    let expected = Packet {
        fragment_header: true,
        ..behind(all.len() - plain, with_ports(6, protocol::UDP))
    };
    assert_eq!(packet(&all), expected);
}

#[test]
fn f2_an_authentication_header_shorter_than_its_fixed_part_is_malformed() {
    let mut frame = ipv6_chain(&[protocol::AH], protocol::UDP, &ports_and(4));
    let length = ip(6, protocol::UDP, &ports_and(4)).len();
    let expected = behind(frame.len() - length, with_ports(6, protocol::UDP));
    assert_eq!(packet(&frame), expected);
    frame[14 + 40 + 1] = 0;
    assert_eq!(unreadable(&frame), DropReason::Malformed);
}

#[test]
fn f3_more_extension_headers_than_are_walked() {
    let chain = |length| {
        ipv6_chain(
            &vec![protocol::DESTINATION_OPTIONS; length],
            protocol::UDP,
            &ports_and(4),
        )
    };
    assert_eq!(
        packet(&chain(MAX_EXTENSION_HEADERS)),
        behind(
            chain(MAX_EXTENSION_HEADERS).len() - chain(0).len(),
            with_ports(6, protocol::UDP)
        )
    );
    let (_, packet) = parse_bytes(&chain(MAX_EXTENSION_HEADERS + 1));
    assert!(packet.fragment_header, "one may come behind them");
    assert_eq!(
        unreadable(&chain(MAX_EXTENSION_HEADERS + 1)),
        DropReason::ExtensionHeaders
    );
}

#[test]
fn c5_fragments_tell_which_packet_they_are_of() {
    let mut frame = ip(4, protocol::UDP, &ports_and(4));
    frame[14 + 4..14 + 6].copy_from_slice(&[0x12, 0x34]);
    frame[14 + 6] = 0x20; // More fragments, offset 0: the first one.
    let part_of = |packet: Packet, part, identification| Packet {
        part,
        fragment_protocol: if packet.source.is_ipv4() {
            protocol::UDP
        } else {
            protocol::FRAGMENT
        },
        eighths: 3,
        identification,
        ..packet
    };
    assert_eq!(
        packet(&frame),
        part_of(with_ports(4, protocol::UDP), Part::First, 0x1234)
    );
    let without_ports = |version| Packet {
        source_port: [0; 2],
        destination_port: [0; 2],
        ..with_ports(version, protocol::UDP)
    };
    for offset in [[0x20, 3], [0, 3], [0x1f, 0xff]] {
        frame[14 + 6..14 + 8].copy_from_slice(&offset);
        let eighths = u16::from_be_bytes(offset) & 0x1fff;
        let later = part_of(without_ports(4), Part::Later, 0x1234);
        assert_eq!(packet(&frame), Packet { eighths, ..later });
    }

    let mut frame = ipv6_chain(&[protocol::FRAGMENT], protocol::UDP, &ports_and(4));
    frame[54 + 4..54 + 8].copy_from_slice(&[1, 2, 3, 4]);
    let headed = |packet| Packet {
        fragment_header: true,
        ..packet
    };
    assert_eq!(
        packet(&frame),
        headed(behind(8, with_ports(6, protocol::UDP))),
        "not fragmented (RFC 6946)"
    );
    frame[54 + 3] = 1; // More fragments, offset 0.
    assert_eq!(
        packet(&frame),
        headed(part_of(
            behind(8, with_ports(6, protocol::UDP)),
            Part::First,
            0x0102_0304
        ))
    );
    frame[54 + 3] = 3 << 3;
    assert_eq!(
        packet(&frame),
        headed(part_of(without_ports(6), Part::Later, 0x0102_0304))
    );
}

/// Such a fragment would overwrite the ports or flags that were judged.
#[test]
fn c5_a_fragment_that_begins_within_the_first_header_is_malformed() {
    let mut frame = ip(4, protocol::TCP, &ports_and(40));
    for offset in [1, 2] {
        frame[14 + 7] = offset;
        assert_eq!(unreadable(&frame), DropReason::Malformed);
    }
    let mut frame = ipv6_chain(&[protocol::FRAGMENT], protocol::TCP, &ports_and(40));
    for offset in [1, 2] {
        frame[54 + 3] = offset << 3;
        assert_eq!(unreadable(&frame), DropReason::Malformed);
    }
    let mut twice = ipv6_chain(&[protocol::FRAGMENT; 2], protocol::UDP, &ports_and(4));
    twice[54 + 3] = 1;
    assert_eq!(
        unreadable(&twice),
        DropReason::Malformed,
        "a fragment of a fragment"
    );
}

/// RFC 7112: headers outside the first fragment cannot be judged, and headers inside it must not be
/// overwritten.
#[test]
fn c5_the_first_fragment_tells_how_far_its_headers_go() {
    for (chain, least) in [
        (&[protocol::FRAGMENT][..], 3),
        (&[protocol::DESTINATION_OPTIONS, protocol::FRAGMENT], 3),
        (&[protocol::FRAGMENT, protocol::DESTINATION_OPTIONS], 5),
        (&[protocol::FRAGMENT, protocol::AH], 5),
        (
            &[
                protocol::FRAGMENT,
                protocol::ROUTING,
                protocol::DESTINATION_OPTIONS,
            ],
            7,
        ),
    ] {
        let mut frame = ipv6_chain(chain, protocol::TCP, &tcp_syn());
        let before = chain.iter().take_while(|kind| **kind != protocol::FRAGMENT);
        let at = 54 + 16 * before.count();
        frame[at + 3] = 1;
        let found = packet(&frame);
        assert_eq!((found.part, found.eighths), (Part::First, least), "{chain:?}");
        let cut = frame.len() - 14 - 40;
        for short in 1..=cut {
            let mut frame = frame[..frame.len() - short].to_vec();
            frame[18..20].copy_from_slice(&((cut - short) as u16).to_be_bytes());
            assert_eq!(
                unreadable(&frame),
                DropReason::Malformed,
                "{chain:?} without {short}"
            );
        }
    }
}

/// Protocols that have the shape of an extension header but are none for receivers (Mobility, HIP,
/// Shim6), and others after which nothing is read.
#[test]
fn f4_protocols_of_that_shape_are_judged_as_what_they_are() {
    for kind in [41, 47, 50, 59, 89, 103, 135, 139, 140, 253, 254] {
        for chain in [
            &[kind][..],
            &[protocol::DESTINATION_OPTIONS, kind],
            &[protocol::FRAGMENT, kind],
        ] {
            let frame = ipv6_chain(chain, protocol::TCP, &tcp_syn());
            let found = packet(&frame);
            let told = (
                found.protocol,
                found.source_port,
                found.destination_port,
                found.tcp_flags,
            );
            assert_eq!(told, (kind, [0; 2], [0; 2], 0), "{chain:?}");
        }
        let mut frame = ip(4, kind, &tcp_syn());
        assert_eq!(packet(&frame).protocol, kind);
        frame[23] = protocol::AH;
        assert_eq!(
            packet(&frame).protocol,
            protocol::AH,
            "no header of IPv4 has one behind it"
        );
    }
}

#[test]
fn f1_arp_and_neighbour_discovery() {
    assert_eq!(
        parse_bytes(&ethernet([0x08, 0x06], &[0; 28])).0,
        Parsed::Neighbour
    );
    for kind in 133..=137 {
        let mut frame = ip(6, protocol::ICMPV6, &[kind, 0, 0, 0, 0, 0, 0, 0]);
        frame[14 + 7] = 255;
        assert_eq!(parse_bytes(&frame).0, Parsed::Neighbour, "{kind}");
        // With another hop limit the message was forwarded, and is not neighbour discovery (RFC
        // 4861).
        for hop_limit in [0, 64, 254] {
            frame[14 + 7] = hop_limit;
            assert_eq!(packet(&frame).role, Role::Single, "{kind}, hop limit {hop_limit}");
        }
    }
    for kind in [1, 128, 129, 130, 132, 138] {
        let mut frame = ip(6, protocol::ICMPV6, &[kind, 0, 0, 0, 0, 0, 0, 0]);
        frame[14 + 7] = 255;
        packet(&frame);
    }
    let mut hidden = ipv6_chain(
        &[protocol::DESTINATION_OPTIONS],
        protocol::ICMPV6,
        &[135, 0, 0, 0, 0, 0, 0, 0],
    );
    hidden[14 + 7] = 255;
    packet(&hidden);
}

#[test]
fn a6_a9_the_addresses_of_a_tagged_frame_are_told() {
    let tell = |bytes: &[u8]| {
        let (mut packet, vlan_tag) = (Packet::default(), true);
        let parsed = parse(&Bytes { bytes, vlan_tag }, &mut packet, &mut Packet::default());
        assert_eq!(parsed, Parsed::Unreadable(DropReason::Vlan));
        packet
    };
    let v6 = ipv6_chain(&[], protocol::UDP, &ports_and(4));
    assert_eq!(tell(&v6).source, Address::from_ipv6(SOURCE_V6));
    let mut arp = v6.clone();
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    let nothing = Packet {
        link: LINK,
        ..Packet::default()
    };
    assert_eq!(tell(&arp), nothing);
    let again = |frame: &[u8]| [&frame[..12], &[0x81, 0, 0, 0], &frame[12..]].concat();
    let found = tell(&again(&v6));
    let ends = [SOURCE_V6, DESTINATION_V6].map(Address::from_ipv6);
    assert_eq!([found.source, found.destination], ends);
    let v4 = ip(4, protocol::UDP, &ports_and(4));
    let found = tell(&again(&v4));
    let ends = [SOURCE, DESTINATION].map(Address::from_ipv4);
    assert_eq!([found.source, found.destination], ends);
    assert_eq!(tell(&again(&arp)), nothing);
    assert_eq!(tell(&again(&again(&v4))).protocol, NOTHING_TOLD);
}

#[test]
fn f2_vlan_and_unknown_ether_types() {
    let builder = || PacketBuilder::ethernet2([2; 6], [4; 6]);
    let write = |step: PacketBuilderStep<etherparse::VlanHeader>| {
        let mut frame = Vec::new();
        step.ipv4(SOURCE, DESTINATION, 64)
            .udp(SOURCE_PORT, PORT)
            .write(&mut frame, &[])
            .unwrap();
        frame
    };
    let id = VlanId::try_new(7).unwrap();
    assert_eq!(unreadable(&write(builder().single_vlan(id))), DropReason::Vlan);
    assert_eq!(
        unreadable(&write(builder().double_vlan(id, id))),
        DropReason::Vlan
    );
    let bytes = ip(4, protocol::UDP, &ports_and(4));
    let tagged = Bytes {
        bytes: &bytes,
        vlan_tag: true,
    };
    assert_eq!(
        parse(&tagged, &mut Packet::default(), &mut Packet::default()),
        Parsed::Unreadable(DropReason::Vlan)
    );
    for ether_type in [[0x88, 0x47], [0x88, 0xcc], [0, 0], [0xff, 0xff], [0x08, 0x01]] {
        assert_eq!(
            unreadable(&ethernet(ether_type, &[0; 60])),
            DropReason::EtherType,
            "{ether_type:?}"
        );
    }
}

#[test]
fn f2_headers_that_contradict_themselves() {
    for (version, wrong) in [
        (4, 0x55),
        (4, 0x65),
        (4, 0x44),
        (4, 0x40),
        (6, 0x40),
        (6, 0x50),
        (6, 0x70),
    ] {
        let mut frame = ip(version, protocol::UDP, &ports_and(4));
        frame[14] = wrong;
        assert_eq!(unreadable(&frame), DropReason::Malformed, "{wrong:#x}");
    }
    let mut short = tcp_syn();
    short[12] = 0x40;
    assert_eq!(unreadable(&ip(4, protocol::TCP, &short)), DropReason::Malformed);
}

#[test]
fn f2_a_packet_to_nobody_is_malformed() {
    for (version, at, length) in [(4, ETHERNET_LENGTH + 16, 4), (6, ETHERNET_LENGTH + 24, 16)] {
        let mut frame = ip(version, protocol::UDP, &ports_and(8));
        assert_eq!(packet(&frame).protocol, protocol::UDP);
        frame[at..at + length].fill(0);
        assert_eq!(unreadable(&frame), DropReason::Malformed);
        frame[at + length - 1] = 1;
        assert_eq!(packet(&frame).protocol, protocol::UDP);
    }
}

/// The IPv6 form of an IPv4 address, which may be that of any pod or node.
#[test]
fn f2_an_ipv4_address_in_an_ipv6_header_is_malformed() {
    let mapped = Address::from_ipv4(DESTINATION).octets;
    for at in [ETHERNET_LENGTH + 8, ETHERNET_LENGTH + 24] {
        let mut frame = ip(6, protocol::UDP, &ports_and(8));
        assert_eq!(packet(&frame).protocol, protocol::UDP);
        frame[at..at + 16].copy_from_slice(&mapped);
        assert_eq!(unreadable(&frame), DropReason::Malformed);
    }
}

#[test]
fn f2_headers_cut_short_at_every_byte() {
    let frames = [
        ip(4, protocol::TCP, &tcp_syn()),
        ip(6, protocol::TCP, &tcp_syn()),
        ip(4, protocol::UDP, &ports_and(4)),
        ip(6, protocol::UDP, &ports_and(4)),
        ip(4, protocol::SCTP, &ports_and(8)),
        ip(4, protocol::ICMP, &[8, 0, 0, 0, 1, 2, 3, 4]),
        ip(6, protocol::ICMPV6, &[128, 0, 0, 0, 1, 2, 3, 4]),
        ipv4_with_options(&[1; 40], protocol::TCP, &tcp_syn()),
        ipv6_chain(
            &[protocol::HOP_BY_HOP, protocol::AH, protocol::FRAGMENT],
            protocol::TCP,
            &tcp_syn(),
        ),
    ];
    for frame in frames {
        packet(&frame);
        for length in 0..frame.len() {
            assert_eq!(
                unreadable(&frame[..length]),
                DropReason::Malformed,
                "{length} of {frame:?}"
            );
        }
    }
}

proptest! {
    /// No frame, however wrong, makes the parser panic or read past its end. Bytes after the
    /// headers change nothing.
    #[test]
    fn any_bytes(mut bytes in prop::collection::vec(any::<u8>(), 0..120), kind in 0..4usize, next in any::<u8>()) {
        if bytes.len() > 34 {
            let start: &[u8] = [&[0x08, 0x00, 0x45][..], &[0x86, 0xdd, 0x60], &[0x08, 0x00, 0x4f], &[0x08]][kind];
            bytes[12..12 + start.len()].copy_from_slice(start);
            bytes[if kind == 1 { 20 } else { 23 }] = next;
        }
        let (parsed, found) = parse_bytes(&bytes);
        if parsed == Parsed::Packet {
            bytes.extend([0xff; 40]);
            prop_assert_eq!(parse_bytes(&bytes), (parsed, found));
        }
    }

    /// F3: the ports are those of the real header, whatever chain of headers leads to it, and
    /// whatever these contain.
    #[test]
    fn f3_ports_of_the_real_header(
        chain in prop::collection::vec(prop::sample::select(&[0u8, 43, 51, 60][..]), 0..=MAX_EXTENSION_HEADERS),
        filling in any::<u8>(),
        units in 0..4u8,
        options in 0..=10usize,
        ports in any::<[u8; 4]>(),
    ) {
        let upper = [&ports[..], &[0, 8, 0, 0]].concat();
        for frame in [
            ipv6_chain_of(&chain, units, filling, protocol::UDP, &upper),
            ipv4_with_options(&vec![filling; options * 4], protocol::UDP, &upper),
        ] {
            let found = packet(&frame);
            prop_assert_eq!(found.protocol, protocol::UDP);
            prop_assert_eq!([found.source_port, found.destination_port].concat(), ports);
        }
    }
}
