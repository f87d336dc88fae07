// SPDX-License-Identifier: Apache-2.0
//! Messages recorded from Linux 6.18 on x86-64, also truncated or changed.

use super::{super::captured, *};
use crate::datapath::netlink::push_attribute;

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn tuple_of(source: (&str, u16), destination: (&str, u16), protocol: u8) -> Tuple {
    Tuple {
        source: address(source.0),
        destination: address(destination.0),
        protocol,
        source_port: source.1.to_be_bytes(),
        destination_port: destination.1.to_be_bytes(),
        icmp_type: None,
    }
}

#[test]
fn c6_a_translated_tcp_connection_is_read() {
    assert_eq!(
        connection(&captured::bytes(captured::TCP_TO_A_SERVICE)),
        Some(Connection {
            original: tuple_of(("10.244.0.10", 41448), ("10.96.0.1", 80), protocol::TCP),
            reply: tuple_of(("10.244.0.11", 7000), ("10.244.0.10", 41448), protocol::TCP),
            answered: true,
            dying: false,
            timeout: Some(431_999),
            tcp: Some(Tcp::Established),
            picked_up: false,
        })
    );
}

#[test]
fn c6_an_unanswered_masqueraded_udp_flow_is_read() {
    assert_eq!(
        connection(&captured::bytes(captured::UDP_MASQUERADED)),
        Some(Connection {
            original: tuple_of(("10.244.0.10", 37720), ("198.51.100.10", 47164), protocol::UDP),
            reply: tuple_of(("198.51.100.10", 47164), ("198.51.100.1", 43611), protocol::UDP),
            answered: false,
            dying: false,
            timeout: Some(29),
            tcp: None,
            picked_up: false,
        })
    );
}

#[test]
fn c6_ipv6_is_read_and_what_was_met_in_the_middle_is_known() {
    let found = connection(&captured::bytes(captured::TCP_PICKED_UP)).unwrap();
    let (b, a) = (("fd00:10:244::b", 34569), ("fd00:10:244::a", 52562));
    assert_eq!(found.original, tuple_of(b, a, protocol::TCP));
    assert!(found.picked_up && found.answered);
}

#[test]
fn an_echo_has_its_identifier_and_type() {
    let mut ip = Vec::new();
    push_attribute(&mut ip, CTA_IP_V4_SRC, &[10, 0, 0, 1]);
    push_attribute(&mut ip, CTA_IP_V4_DST, &[10, 0, 0, 2]);
    let mut proto = Vec::new();
    push_attribute(&mut proto, CTA_PROTO_NUM, &[protocol::ICMP]);
    push_attribute(&mut proto, CTA_PROTO_ICMP_ID, &[0x12, 0x34]);
    push_attribute(&mut proto, CTA_PROTO_ICMP_TYPE, &[8]);
    let mut bytes = Vec::new();
    push_attribute(&mut bytes, CTA_TUPLE_IP, &ip);
    push_attribute(&mut bytes, CTA_TUPLE_PROTO, &proto);
    let found = tuple(&bytes).unwrap();
    assert_eq!(found.source_port, [0x12, 0x34]);
    assert_eq!(found.icmp_type, Some(8));
}

/// A truncated message never says more than the whole one.
#[test]
fn what_is_cut_short_is_no_connection_or_the_same_one() {
    for text in captured::ALL {
        let bytes = captured::bytes(text);
        let whole = connection(&bytes).unwrap();
        for length in 0..bytes.len() {
            let Some(cut) = connection(&bytes[..length]) else {
                continue;
            };
            // The timeout and the TCP flags are the last attributes. Without them it is still the
            // same connection.
            assert_eq!(
                (cut.original, cut.reply),
                (whole.original, whole.reply),
                "{length} bytes"
            );
            assert_eq!(cut.answered, whole.answered, "{length} bytes");
        }
        assert_eq!(connection(&bytes[..100]), None);
    }
}

/// Any bytes are parsed without a panic.
#[test]
fn garbage_is_read_without_a_panic() {
    for text in captured::ALL {
        let bytes = captured::bytes(text);
        for place in 0..bytes.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut changed = bytes.clone();
                changed[place] = value;
                let _ = connection(&changed);
            }
        }
    }
    assert_eq!(connection(&[]), None);
    assert_eq!(connection(&[0xff; 64]), None);
    assert_eq!(connection(&[0; 64]), None);
}

#[test]
fn addresses_of_two_families_are_no_tuple() {
    let mut ip = Vec::new();
    push_attribute(&mut ip, CTA_IP_V4_SRC, &[10, 0, 0, 1]);
    push_attribute(&mut ip, CTA_IP_V6_DST, &[0; 16]);
    let mut proto = Vec::new();
    push_attribute(&mut proto, CTA_PROTO_NUM, &[protocol::UDP]);
    let mut bytes = Vec::new();
    push_attribute(&mut bytes, CTA_TUPLE_IP, &ip);
    push_attribute(&mut bytes, CTA_TUPLE_PROTO, &proto);
    assert_eq!(tuple(&bytes), None);
}
