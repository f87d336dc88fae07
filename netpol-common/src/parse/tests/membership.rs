// SPDX-License-Identifier: Apache-2.0
//! Tests that MLD and IGMP of link scope are told from everything that only looks like them (rule
//! F1).

use super::*;

const LINK_LOCAL: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
const GROUP_V6: [u8; 16] = [0xff, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 3];
const GROUP_V4: [u8; 4] = [239, 1, 2, 3];
/// A router-alert option with the value for MLD, and padding.
const ALERT: [u8; 6] = [5, 2, 0, 0, 1, 0];

fn link_scope(group: u8) -> [u8; 16] {
    let mut address = [0; 16];
    (address[0], address[1], address[15]) = (0xff, 2, group);
    address
}

fn mld(kind: u8, destination: [u8; 16], behind: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(behind);
    let mut frame = ethernet([0x86, 0xdd], &[0x60, 0, 0, 0]);
    frame.extend(((8 + message.len()) as u16).to_be_bytes());
    frame.extend([protocol::HOP_BY_HOP, 1]);
    frame.extend(LINK_LOCAL);
    frame.extend(destination);
    frame.extend([protocol::ICMPV6, 0]);
    frame.extend(ALERT);
    frame.extend(message);
    frame
}

fn igmp(kind: u8, destination: [u8; 4], behind: &[u8]) -> Vec<u8> {
    let message = [&[kind, 0, 0, 0][..], behind].concat();
    let mut frame = ipv4_with_options(&[0x94, 4, 0, 0], protocol::IGMP, &message);
    frame[14 + 8] = 1;
    frame[14 + 16..14 + 20].copy_from_slice(&destination);
    frame
}

/// Each message as hosts and routers send it, and the number of its bytes, from the IP header on,
/// that are read.
fn messages() -> Vec<(&'static str, Vec<u8>)> {
    let query = |sources: u8| {
        let mut behind = [&GROUP_V6[..], &[2, 125, 0, sources]].concat();
        behind.extend(vec![0x20; 16 * usize::from(sources)]);
        behind
    };
    let record = [&[4, 0, 0, 0][..], &GROUP_V6].concat();
    let mut report = mld(143, link_scope(0x16), &[&record[..], &record].concat());
    report[14 + 40 + 8 + 7] = 2;
    let mut igmp_report = igmp(
        0x22,
        [224, 0, 0, 22],
        &[&[0, 0, 0, 1, 4, 0, 0, 0][..], &GROUP_V4].concat(),
    );
    igmp_report[14 + 24 + 7] = 1;
    vec![
        ("a general query", mld(130, link_scope(1), &[0; 16])),
        ("a query about a group", mld(130, GROUP_V6, &GROUP_V6)),
        (
            "a general query, version 2",
            mld(130, link_scope(1), &[&[0; 16][..], &[2, 125, 0, 0]].concat()),
        ),
        ("a query about two sources", mld(130, GROUP_V6, &query(2))),
        ("a report", mld(131, GROUP_V6, &GROUP_V6)),
        ("done", mld(132, link_scope(2), &GROUP_V6)),
        ("a report, version 2", report),
        ("an IGMP query", igmp(0x11, [224, 0, 0, 1], &[0; 4])),
        ("an IGMP query about a group", igmp(0x11, GROUP_V4, &GROUP_V4)),
        (
            "an IGMP query, version 3",
            igmp(0x11, [224, 0, 0, 1], &[0, 0, 0, 0, 2, 125, 0, 0]),
        ),
        ("an IGMP report, version 1", igmp(0x12, GROUP_V4, &GROUP_V4)),
        ("an IGMP report", igmp(0x16, GROUP_V4, &GROUP_V4)),
        ("leaving a group", igmp(0x17, [224, 0, 0, 2], &GROUP_V4)),
        ("an IGMP report, version 3", igmp_report),
    ]
}

#[test]
fn f1_messages_about_groups_are_told() {
    for (name, mut frame) in messages() {
        assert_eq!(parse_bytes(&frame).0, Parsed::Membership, "{name}");
        if frame[12] == 0x86 {
            frame[14 + 8..14 + 24].fill(0);
            assert_eq!(
                parse_bytes(&frame).0,
                Parsed::Membership,
                "{name} without a source"
            );
            frame[14 + 42..14 + 48].copy_from_slice(&[1, 0, 5, 2, 0, 0]);
            assert_eq!(parse_bytes(&frame).0, Parsed::Membership, "{name}, padded before");
            frame[14 + 42..14 + 48].copy_from_slice(&[5, 2, 0, 0, 0, 0]);
            assert_eq!(
                parse_bytes(&frame).0,
                Parsed::Membership,
                "{name}, as bridges pad"
            );
        }
    }
}

/// A change of any byte that identifies a message makes it an ordinary packet, or a malformed one.
/// The other bytes mean nothing here: traffic class, flow label, identification, checksums, timers,
/// low bits of addresses.
#[test]
fn f1_each_byte_that_tells_a_message_has_to_be_right() {
    for (name, frame) in messages() {
        let v6 = frame[12] == 0x86;
        let (told, message): (&[usize], usize) = if v6 {
            (&[0, 5, 6, 7, 8, 9, 24, 40, 41, 42, 43, 44, 45, 46, 47], 48)
        } else {
            (&[0, 3, 6, 7, 8, 9, 16, 17, 18, 19, 20, 21, 22, 23], 24)
        };
        let code = v6.then_some(message + 1);
        for at in told.iter().copied().chain(code).chain([message]) {
            for value in 0..=255 {
                let mut wrong = frame.clone();
                wrong[14 + at] = value;
                let still = match (v6, at) {
                    // fe80::/10 covers four of the values. There are two kinds of padding. Only one
                    // flag is not about fragments.
                    (true, 0) => value >> 4 == 6,
                    // Cut short, it is a query of the version before.
                    (true, 5) => value == 32 && name.contains("query"),
                    (false, 3) => value == 32 && wrong.len() == 50,
                    (true, 9) => value & 0xc0 == 0x80,
                    (true, 46) => value < 2,
                    (false, 6) => value & 0x3f == 0,
                    // Some types have messages of the same form: a query for a group, and its
                    // reports of both versions.
                    (true, 48) => {
                        matches!((frame[14 + 48], value), (130, 131) | (131, 130))
                            && wrong.len() == 86
                            && wrong[38..54] == GROUP_V6
                    }
                    (false, 24) => {
                        [frame[14 + 24], value]
                            .iter()
                            .all(|kind| [0x11, 0x12, 0x16].contains(kind))
                            && wrong[30..34] == GROUP_V4
                    }
                    _ => false,
                };
                let still = still || value == frame[14 + at];
                let found = parse_bytes(&wrong).0;
                assert_eq!(found == Parsed::Membership, still, "{name}: byte {at} is {value}");
            }
        }
    }
}

#[test]
fn f1_messages_of_other_lengths_and_to_other_groups_are_none() {
    for (name, frame) in messages() {
        let v6 = frame[12] == 0x86;
        let report = matches!(frame[if v6 { 62 } else { 38 }], 143 | 0x22);
        for more in [1, 4, 16, 1000] {
            let mut longer = frame.clone();
            longer.resize(frame.len() + more, 0);
            assert_eq!(
                parse_bytes(&longer).0,
                Parsed::Membership,
                "{name}: padding of the frame"
            );
            let at = if v6 { 14 + 4 } else { 14 + 2 };
            let length = u16::from_be_bytes([frame[at], frame[at + 1]]) + more as u16;
            longer[at..at + 2].copy_from_slice(&length.to_be_bytes());
            // The records of reports may have data of any length. A query with four more zeros is
            // one of the later version.
            let first = name.contains("query") && !name.contains("version") && !name.contains("sources");
            let found = parse_bytes(&longer).0 == Parsed::Membership;
            assert_eq!(found, report || more == 4 && first, "{name} and {more}");
        }
        let mut elsewhere = frame.clone();
        let last = if v6 { 14 + 39 } else { 14 + 19 };
        elsewhere[last] ^= 0x40;
        assert_eq!(
            parse_bytes(&elsewhere).0,
            Parsed::Packet,
            "{name} to another group"
        );
        let to = if v6 {
            DESTINATION_V6.to_vec()
        } else {
            DESTINATION.to_vec()
        };
        elsewhere[last + 1 - to.len()..=last].copy_from_slice(&to);
        assert_eq!(parse_bytes(&elsewhere).0, Parsed::Packet, "{name} to a host");
    }
}

/// More headers, or others in place of the expected ones.
#[test]
fn f1_messages_behind_other_headers_are_none() {
    let (_, frame) = messages().remove(0);
    let message = &frame[14 + 48..];
    for chain in [
        &[][..],
        &[protocol::DESTINATION_OPTIONS],
        &[protocol::HOP_BY_HOP, protocol::FRAGMENT],
        &[protocol::HOP_BY_HOP, protocol::DESTINATION_OPTIONS],
        &[protocol::DESTINATION_OPTIONS, protocol::HOP_BY_HOP],
    ] {
        let mut built = ipv6_chain_of(chain, 0, 0, protocol::ICMPV6, message);
        built[14 + 7..14 + 40].copy_from_slice(&frame[14 + 7..14 + 40]);
        if chain.len() > 1 || chain == [protocol::HOP_BY_HOP] {
            built[14 + 42..14 + 48].copy_from_slice(&ALERT);
        }
        assert_eq!(parse_bytes(&built).0, Parsed::Packet, "{chain:?}");
    }
}
