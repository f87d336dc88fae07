// SPDX-License-Identifier: Apache-2.0
//! Tests that ICMP errors belong to the connection that they quote (rule C1).

use super::*;

const ROUTER: [u8; 4] = [192, 0, 2, 1];

/// An error from a router to the pod.
fn error() -> Packet {
    Packet {
        source: Address::from_ipv4(ROUTER),
        source_port: [0; 2],
        role: Role::Error,
        ..from_client(protocol::ICMP, 0, 0)
    }
}

fn gets(tables: &Memory, pod: &Endpoint, quoted: Packet) -> bool {
    let place = at(Direction::Ingress, false);
    decide(tables, pod, place, Parsed::Packet, &mut error(), &quoted) == Verdict::Forward
}

/// A packet of a connection that the pod opens.
fn asks(protocol: u8) -> Packet {
    let flags = if protocol == protocol::TCP { SYN } else { 0 };
    reversed(from_client(protocol, 80, 0), flags)
}

#[test]
fn c1_an_error_about_a_connection_that_the_pod_opened_reaches_it() {
    for protocol in [protocol::TCP, protocol::UDP, protocol::SCTP, 47] {
        let (tables, pod) = (Memory::default(), endpoint(POLICY_DENY, POLICY_UNRESTRICTED));
        let asked = asks(protocol);
        assert!(!gets(&tables, &pod, asked), "nothing was asked yet");
        assert!(sends(&tables, &pod, asked));
        assert!(gets(&tables, &pod, asked));
        for wrong in [
            Packet {
                source_port: [1, 1],
                ..asked
            },
            Packet {
                destination_port: [1, 1],
                ..asked
            },
            Packet {
                destination: Address::from_ipv4([10, 244, 0, 12]),
                ..asked
            },
            Packet {
                protocol: 50,
                ..asked
            },
            // The other way round: a packet that the pod received.
            reversed(asked, 0),
        ] {
            assert!(!gets(&tables, &pod, wrong), "{wrong:?}");
        }
        let of_another = Packet {
            source: Address::from_ipv4([10, 244, 0, 13]),
            ..asked
        };
        assert!(!gets(&tables, &pod, of_another), "about another pod's packet");
    }
}

#[test]
fn c1_an_error_about_what_the_pod_answered_reaches_it() {
    let (tables, pod) = web();
    let request = from_client(protocol::TCP, 80, SYN);
    assert!(receives(&tables, &pod, request));
    assert!(gets(&tables, &pod, reversed(request, ACK)));
}

#[test]
fn c1_an_error_about_an_echo_request_reaches_the_one_who_asked() {
    let (tables, pod) = (Memory::default(), endpoint(POLICY_DENY, POLICY_UNRESTRICTED));
    let asked = Packet {
        source_port: 5u16.to_be_bytes(),
        destination_port: [0; 2],
        role: Role::EchoRequest,
        ..asks(protocol::ICMP)
    };
    assert!(sends(&tables, &pod, asked));
    assert!(gets(&tables, &pod, asked));
    let other = Packet {
        source_port: [0, 6],
        ..asked
    };
    assert!(!gets(&tables, &pod, other));
}

#[test]
fn c1_a_pod_may_send_an_error_about_what_it_received() {
    let (tables, pod) = web();
    let request = from_client(protocol::TCP, 80, SYN);
    let sends_error = |to: [u8; 4], quoted: &Packet| {
        let mut error = Packet {
            destination: Address::from_ipv4(to),
            ..reversed(error(), 0)
        };
        let place = at(Direction::Egress, false);
        decide(&tables, &pod, place, Parsed::Packet, &mut error, quoted) == Verdict::Forward
    };
    assert!(!sends_error(CLIENT, &request));
    assert!(receives(&tables, &pod, request));
    assert!(sends_error(CLIENT, &request));
    assert!(!sends_error([10, 244, 0, 12], &request), "to someone else");
}

#[test]
fn c2_an_error_about_a_connection_that_is_no_longer_allowed_is_dropped() {
    let (tables, pod) = web();
    let request = from_client(protocol::TCP, 80, SYN);
    assert!(receives(&tables, &pod, request));
    tables.raise_epoch();
    let quoted = reversed(request, ACK);
    assert!(gets(&tables, &pod, quoted), "still allowed");
    let closed = Endpoint {
        ingress_policy: POLICY_DENY,
        ..pod
    };
    assert!(!gets(&tables, &closed, quoted));
}

#[test]
fn c3_errors_keep_no_flow_alive_and_make_none() {
    let (tables, pod) = (Memory::default(), endpoint(POLICY_DENY, POLICY_UNRESTRICTED));
    let asked = asks(protocol::UDP);
    assert!(sends(&tables, &pod, asked));
    let before = tables.only_flow();
    tables.wait(20 * SECOND);
    assert!(gets(&tables, &pod, asked));
    assert_eq!(tables.only_flow(), before);
    tables.wait(20 * SECOND);
    assert!(!gets(&tables, &pod, asked));
    let open = endpoint(POLICY_UNRESTRICTED, POLICY_UNRESTRICTED);
    assert!(gets(&tables, &open, asks(protocol::SCTP)));
    assert_eq!(tables.flow_count(), 1);
}

/// The flow's key does not hold the pod's own address, and a bridge also floods packets for others
/// to every pod.
#[test]
fn c1_an_error_to_another_address_is_not_the_pods() {
    let (tables, pod) = (Memory::default(), endpoint(POLICY_DENY, POLICY_UNRESTRICTED));
    let asked = asks(protocol::TCP);
    assert!(sends(&tables, &pod, asked));
    let other = Address::from_ipv4([10, 244, 0, 255]);
    let mut packet = Packet {
        destination: other,
        ..error()
    };
    let quoted = Packet {
        source: other,
        ..asked
    };
    let place = at(Direction::Ingress, false);
    let verdict = decide(&tables, &pod, place, Parsed::Packet, &mut packet, &quoted);
    assert_ne!(verdict, Verdict::Forward);
}
