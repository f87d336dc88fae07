// SPDX-License-Identifier: Apache-2.0
//! Tests that fragments get the verdict of their first one (rule C5).

use super::*;
use crate::parse::Part;

fn part(part: Part, identification: u32, packet: Packet) -> Packet {
    Packet {
        part,
        identification,
        fragment_protocol: packet.protocol,
        ..packet
    }
}

/// A later fragment from the client to the pod.
fn later(identification: u32, protocol: u8) -> Packet {
    let packet = from_client(protocol, 0, 0);
    let bare = Packet {
        source_port: [0; 2],
        ..packet
    };
    part(Part::Later, identification, bare)
}

fn first(identification: u32, port: u16) -> Packet {
    part(Part::First, identification, from_client(protocol::TCP, port, SYN))
}

#[test]
fn c5_a_later_fragment_gets_the_verdict_of_its_first() {
    let (tables, pod) = web();
    assert!(!receives(&tables, &pod, later(1, protocol::TCP)), "out of order");
    assert!(receives(&tables, &pod, first(1, 80)));
    for _ in 0..3 {
        assert!(receives(&tables, &pod, later(1, protocol::TCP)));
    }
    assert!(!receives(&tables, &pod, first(2, 81)));
    assert!(!receives(&tables, &pod, later(2, protocol::TCP)));
    assert!(!receives(&tables, &pod, later(3, protocol::TCP)), "of no packet");
    assert!(
        !receives(&tables, &pod, later(1, protocol::UDP)),
        "of another protocol"
    );
    let other = Packet {
        source: Address::from_ipv4([10, 244, 0, 12]),
        ..later(1, protocol::TCP)
    };
    assert!(!receives(&tables, &pod, other), "of another host");
    assert!(
        !receives(&tables, &Endpoint { id: 4, ..pod }, later(1, protocol::TCP)),
        "to another pod"
    );
    // A second first fragment, to another port, does not profit from the first.
    assert!(!receives(&tables, &pod, first(1, 81)));
}

#[test]
fn c5_a_fragment_without_its_first_passes_where_nobody_is_isolated() {
    let tables = Memory::default();
    assert!(receives(
        &tables,
        &endpoint(POLICY_UNRESTRICTED, POLICY_DENY),
        later(1, protocol::TCP)
    ));
    let dropped = decided(
        &tables,
        &endpoint(POLICY_DENY, POLICY_UNRESTRICTED),
        at(Direction::Ingress, false),
        Parsed::Packet,
        later(1, protocol::TCP),
    );
    let reason = DropReason::Fragment;
    assert_eq!(
        dropped,
        Verdict::Drop(Drop {
            reason,
            policy: NO_POLICY,
            identity: IDENTITY_NONE,
            whose: Whose::at_hook(&at(Direction::Ingress, false)),
        })
    );
}

#[test]
fn c2_c5_a_change_counts_for_the_fragments_of_before_and_costs_none_that_is_allowed() {
    let (tables, pod) = web();
    assert!(receives(&tables, &pod, first(1, 80)));
    tables.raise_epoch();
    assert!(receives(&tables, &pod, later(1, protocol::TCP)));
    let also = Endpoint {
        ingress_policy: WEB + 1,
        ..pod
    };
    tables.put_policy(WEB + 1, CLIENTS, Some((protocol::TCP, 80, 16)), ACTION_ACCEPT);
    assert!(receives(&tables, &also, later(1, protocol::TCP)));
    let closed = Endpoint {
        ingress_policy: POLICY_DENY,
        ..pod
    };
    assert!(!receives(&tables, &closed, later(1, protocol::TCP)));
}

#[test]
fn c5_fragments_of_replies_and_echoes() {
    let (tables, pod) = web();
    assert!(receives(&tables, &pod, from_client(protocol::TCP, 80, SYN)));
    let reply = reversed(from_client(protocol::TCP, 80, 0), ACK);
    let bare = Packet {
        source_port: [0; 2],
        destination_port: [0; 2],
        ..reply
    };
    assert!(!sends(&tables, &pod, part(Part::Later, 9, bare)));
    assert!(sends(&tables, &pod, part(Part::First, 9, reply)));
    assert!(sends(&tables, &pod, part(Part::Later, 9, bare)));

    let tables = Memory::default();
    let pod = endpoint(POLICY_DENY, POLICY_UNRESTRICTED);
    let asked = reversed(ping(Role::EchoReply, 5), 0);
    let asked = Packet {
        source_port: 5u16.to_be_bytes(),
        destination_port: [0; 2],
        role: Role::EchoRequest,
        ..asked
    };
    assert!(sends(&tables, &pod, asked));
    assert!(receives(
        &tables,
        &pod,
        part(Part::First, 1, ping(Role::EchoReply, 5))
    ));
    assert!(receives(&tables, &pod, later(1, protocol::ICMP)));
    assert!(!receives(
        &tables,
        &pod,
        part(Part::First, 2, ping(Role::EchoReply, 6))
    ));
    assert!(!receives(&tables, &pod, later(2, protocol::ICMP)));
}

#[test]
fn c3_a_first_fragment_speaks_for_a_minute() {
    let (tables, pod) = web();
    assert!(receives(&tables, &pod, first(1, 80)));
    tables.wait(60 * SECOND);
    assert!(receives(&tables, &pod, later(1, protocol::TCP)));
    tables.wait(1);
    assert!(!receives(&tables, &pod, later(1, protocol::TCP)));
}

/// RFC 5722: other fragments may begin only where the headers of the first end. A second first
/// fragment does not move that limit back.
#[test]
fn c5_nothing_is_written_over_the_headers_that_were_judged() {
    let (tables, pod) = web();
    let long = |eighths| Packet {
        eighths,
        ..first(1, 80)
    };
    let at = |eighths| Packet {
        eighths,
        ..later(1, protocol::TCP)
    };
    assert!(receives(&tables, &pod, long(5)));
    for (eighths, passes) in [(3, false), (4, false), (5, true), (100, true)] {
        assert_eq!(receives(&tables, &pod, at(eighths)), passes, "{eighths}");
    }
    assert!(receives(&tables, &pod, long(3)));
    assert!(!receives(&tables, &pod, at(4)), "both are one packet's");
    assert!(receives(&tables, &pod, long(9)));
    assert!(!receives(&tables, &pod, at(8)));
    assert!(!receives(&tables, &pod, first(1, 81)), "denied, so of no account");
    assert!(receives(&tables, &pod, at(9)));
    tables.wait(61 * SECOND);
    assert!(receives(&tables, &pod, long(3)));
    assert!(receives(&tables, &pod, at(3)), "of another packet of that number");
}
