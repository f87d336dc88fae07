// SPDX-License-Identifier: Apache-2.0
//! Tests lengths that contradict the frame, and those that only seem to.

use super::*;

const IPV4_LENGTH: usize = 20;

fn put(mut frame: Vec<u8>, at: usize, number: u16) -> Vec<u8> {
    frame[at..at + 2].copy_from_slice(&number.to_be_bytes());
    frame
}

/// Frames of every upper layer that has a header of its own: IP version, frame and length of that
/// header.
fn whole() -> Vec<(u8, Vec<u8>, usize)> {
    let echo = |kind| vec![kind, 0, 0, 0, 1, 2, 3, 4];
    let mut frames = Vec::new();
    for (version, icmp, request) in [(4, protocol::ICMP, 8), (6, protocol::ICMPV6, 128)] {
        for (number, upper) in [
            (protocol::TCP, tcp_syn()),
            (protocol::UDP, ports_and(4)),
            (protocol::SCTP, ports_and(8)),
            (icmp, echo(request)),
        ] {
            frames.push((version, ip(version, number, &upper), upper.len()));
        }
    }
    frames
}

/// Offset of the length field in the IP header, and the length of that header if the field counts
/// it.
const fn length_field(version: u8) -> (usize, usize) {
    if version == 4 {
        (14 + 2, IPV4_LENGTH)
    } else {
        (14 + 4, 0)
    }
}

#[test]
fn f2_the_ip_header_says_where_the_packet_ends() {
    for (version, frame, upper) in whole() {
        let good = packet(&frame);
        let (at, counted) = length_field(version);
        for length in 0..counted + upper {
            let short = put(frame.clone(), at, length as u16);
            assert_eq!(
                unreadable(&short),
                DropReason::Malformed,
                "{length} bytes of {frame:?}"
            );
        }
        for more in [1, 2, 8, 1000, 0xffff - 60] {
            let long = put(frame.clone(), at, (counted + upper + more) as u16);
            assert_eq!(
                unreadable(&long),
                DropReason::Malformed,
                "{more} bytes more than {frame:?}"
            );
        }
        let padded = [&frame[..], &[0xff; 46]].concat();
        assert_eq!(packet(&padded), good, "padding of the link layer");
    }
}

#[test]
fn f2_a_header_in_the_padding_is_none() {
    // Bytes that a receiver cuts off must not provide a port for those that it keeps.
    let frame = put(ip(4, protocol::UDP, &ports_and(4)), 16, IPV4_LENGTH as u16);
    assert_eq!(unreadable(&frame), DropReason::Malformed);
    let frame = put(
        ipv6_chain(&[protocol::HOP_BY_HOP], protocol::UDP, &ports_and(4)),
        18,
        8,
    );
    assert_eq!(unreadable(&frame), DropReason::Malformed);
    let mut options = ipv4_with_options(&[1; 40], protocol::UDP, &ports_and(4));
    for words in 5..15 {
        options = put(options, 16, words * 4);
        assert_eq!(unreadable(&options), DropReason::Malformed, "{words}");
    }
}

#[test]
fn f2_a_longer_ipv6_extension_header_than_the_packet() {
    for kind in [
        protocol::HOP_BY_HOP,
        protocol::ROUTING,
        protocol::DESTINATION_OPTIONS,
        protocol::AH,
    ] {
        let good = ipv6_chain(&[kind], protocol::TCP, &tcp_syn());
        for units in 5..=255 {
            let mut frame = good.clone();
            frame[14 + 40 + 1] = units;
            assert_eq!(unreadable(&frame), DropReason::Malformed, "{kind}: {units}");
        }
    }
}

#[test]
fn f2_tcp_data_offset() {
    for version in [4, 6] {
        for words in 0..16u8 {
            let mut header = tcp_syn();
            header[12] = words << 4;
            header.resize(40, 1);
            let frame = ip(version, protocol::TCP, &header);
            if (5..=10).contains(&words) {
                assert_eq!(packet(&frame).tcp_flags, SYN, "{words}");
            } else {
                assert_eq!(unreadable(&frame), DropReason::Malformed, "{words}");
            }
        }
    }
}

#[test]
fn f2_udp_length() {
    for version in [4, 6] {
        let frame = ip(version, protocol::UDP, &ports_and(24));
        let at = frame.len() - 24;
        for length in 0..=0xffff_u16 {
            let frame = put(frame.clone(), at, length);
            if (8..=28).contains(&length) {
                assert_eq!(packet(&frame), with_ports(version, protocol::UDP), "{length}");
            } else {
                assert_eq!(unreadable(&frame), DropReason::Malformed, "{length}");
            }
        }
    }
}

/// The UDP length counts all fragments of a datagram.
#[test]
fn f2_c5_the_udp_length_of_a_first_fragment_is_greater() {
    let at = 14 + IPV4_LENGTH + 4;
    let mut frame = put(ip(4, protocol::UDP, &ports_and(4)), at, 3000);
    assert_eq!(unreadable(&frame), DropReason::Malformed);
    frame[14 + 6] = 0x20;
    assert_eq!(packet(&frame).part, Part::First);
    assert_eq!(unreadable(&put(frame, at, 7)), DropReason::Malformed);

    let at = 14 + 40 + 8 + 4;
    let chain = ipv6_chain(&[protocol::FRAGMENT], protocol::UDP, &ports_and(4));
    let mut frame = put(chain, at, 3000);
    assert_eq!(
        unreadable(&frame),
        DropReason::Malformed,
        "nothing continues an atomic fragment"
    );
    frame[14 + 40 + 3] = 1;
    assert_eq!(packet(&frame).part, Part::First);
    assert_eq!(unreadable(&put(frame, at, 7)), DropReason::Malformed);
}

/// A packet of more than 65535 bytes, as segmentation offload makes them: no length fits, so the
/// fields are 0.
#[test]
fn f2_lengths_of_packets_that_have_none() {
    for version in [4, 6] {
        let (at, counted) = length_field(version);
        for number in [protocol::TCP, protocol::UDP] {
            let mut upper = if number == protocol::TCP {
                tcp_syn()
            } else {
                ports_and(4)
            };
            upper.resize(0xffff - counted, 0);
            let mut frame = ip(version, number, &upper);
            let udp = frame.len() - upper.len() + 4;
            if number == protocol::UDP {
                frame = put(frame, udp, upper.len() as u16);
            }
            let good = packet(&frame);
            assert_eq!(unreadable(&put(frame.clone(), at, 0)), DropReason::Malformed);
            frame.push(0);
            assert_eq!(packet(&frame), good, "one byte of padding");
            let huge = put(frame, at, 0);
            assert_eq!(packet(&huge), good);
            // The UDP length is 0 only if even the datagram is too long.
            if number == protocol::UDP {
                let mut without = put(huge, udp, 0);
                assert_eq!(
                    parse_bytes(&without).0 == Parsed::Packet,
                    version == 6,
                    "65536 bytes of IPv6 are all UDP"
                );
                without.extend([0; 20]);
                assert_eq!(packet(&without), good);
            }
        }
    }
    let jumbo = |length| {
        let mut upper = tcp_syn();
        upper.resize(length, 0);
        let mut frame = ipv6_chain(&[protocol::HOP_BY_HOP], protocol::TCP, &upper[..20]);
        frame.extend(&upper[20..]);
        put(frame, 14 + 4, 0)
    };
    assert_eq!(packet(&jumbo(70_000)).destination_port, PORT.to_be_bytes());
    assert_eq!(unreadable(&jumbo(60_000)), DropReason::Malformed);
}
