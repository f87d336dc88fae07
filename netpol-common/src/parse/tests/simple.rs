// SPDX-License-Identifier: Apache-2.0
//! Tests that the simple way and [`parse`] read the same, and that most packets are simple.

use super::*;
use crate::parse::simple::simple;

fn simple_bytes(bytes: &[u8]) -> Option<Packet> {
    let vlan_tag = false;
    simple(&Bytes { bytes, vlan_tag })
}

fn tcp(flags: u8) -> Vec<u8> {
    let mut header = TcpHeader::new(SOURCE_PORT, PORT, 1, 1).to_bytes().to_vec();
    header[13] = flags;
    header.extend([b'x'; 20]);
    header
}

#[test]
fn segments_and_datagrams_are_simple() {
    for version in [4, 6] {
        for (protocol, upper) in [(protocol::TCP, tcp(ACK)), (protocol::UDP, ports_and(8))] {
            let frame = ip(version, protocol, &upper);
            let (tcp_flags, sequence) = if protocol == protocol::TCP {
                (ACK, 1)
            } else {
                (0, 0)
            };
            let expected = Packet {
                tcp_flags,
                sequence,
                ..with_ports(version, protocol)
            };
            assert_eq!(simple_bytes(&frame), Some(expected), "{version} {protocol}");
            let bytes = &frame[..];
            assert_eq!(
                simple(&Bytes {
                    bytes,
                    vlan_tag: true
                }),
                None,
                "tagged"
            );
        }
    }
}

#[test]
fn all_flags_of_a_segment_are_told() {
    for version in [4, 6] {
        for flags in 0..=255u8 {
            let found = simple_bytes(&ip(version, protocol::TCP, &tcp(flags)));
            assert_eq!(found.map(|packet| packet.tcp_flags), Some(flags));
        }
    }
}

#[test]
fn f2_f3_what_is_unusual_is_not() {
    let upper = ports_and(8);
    let frames = [
        ipv4_with_options(&[1; 4], protocol::UDP, &upper),
        ipv6_chain(&[protocol::DESTINATION_OPTIONS], protocol::UDP, &upper),
        ipv6_chain(&[protocol::FRAGMENT], protocol::UDP, &upper),
        ip(4, protocol::SCTP, &upper),
        ip(6, protocol::ICMPV6, &upper),
        ip(4, 47, &upper),
    ];
    for frame in frames {
        assert_eq!(simple_bytes(&frame), None, "{frame:?}");
    }
    for at in [ETHERNET_LENGTH + 8, ETHERNET_LENGTH + 24] {
        let mut mapped = ip(6, protocol::UDP, &upper);
        mapped[at..at + 16].copy_from_slice(&Address::from_ipv4(DESTINATION).octets);
        assert_eq!(simple_bytes(&mapped), None, "an IPv4 address at {at}");
    }
    for (version, at, length) in [(4, ETHERNET_LENGTH + 16, 4), (6, ETHERNET_LENGTH + 24, 16)] {
        let mut frame = ip(version, protocol::UDP, &upper);
        frame[at..at + length].fill(0);
        assert_eq!(simple_bytes(&frame), None, "to nobody");
    }
    for more in [0x20, 0x01, 0x10] {
        let mut fragment = ip(4, protocol::UDP, &upper);
        fragment[14 + 6] |= more;
        assert_eq!(simple_bytes(&fragment), None, "{more:#x}");
    }
}

fn frames() -> impl Strategy<Value = Vec<u8>> {
    let upper = prop_oneof![
        Just((protocol::TCP, tcp(ACK))),
        Just((protocol::UDP, ports_and(8))),
    ];
    let changes = prop::collection::vec((12..80usize, any::<u8>()), 0..3);
    let version = prop::sample::select(&[4u8, 6][..]);
    (version, upper, changes, prop::option::weighted(0.2, 0..90usize)).prop_map(
        |(version, (protocol, upper), changes, cut)| {
            let mut frame = ip(version, protocol, &upper);
            for (at, byte) in changes {
                if let Some(place) = frame.get_mut(at) {
                    *place = byte;
                }
            }
            frame.truncate(cut.unwrap_or(usize::MAX));
            frame
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn what_is_simple_is_parsed_as_the_same(frame in frames()) {
        if let Some(found) = simple_bytes(&frame) {
            let (parsed, packet) = parse_bytes(&frame);
            prop_assert_eq!(parsed, Parsed::Packet);
            prop_assert_eq!(packet, found);
        }
    }
}
