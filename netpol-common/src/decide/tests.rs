// SPDX-License-Identifier: Apache-2.0
//! Tests verdicts over tables in memory, rule by rule.

use super::{
    leaving::{of_pod, sender_to_judge},
    *,
};
use crate::{
    abi::{
        ACTION_ACCEPT, ACTION_DEFER, Fragment, FragmentKey, IDENTITY_NODE, IDENTITY_NONE, Identity,
        NO_POLICY, POLICY_DENY, POLICY_UNRESTRICTED, PolicyMatch, PolicyValue,
    },
    flow::{ACK, FIN, SYN},
    tag,
};

mod addresses;
mod errors;
mod fast_path;
mod flows;
mod fragments;
mod node;
mod post_dnat;
mod properties;
mod services;
mod spoofing;
mod tables;
mod whose;

use tables::*;

const CLIENT: [u8; 4] = [10, 244, 0, 11];
const NODE: [u8; 4] = [10, 244, 0, 1];
const CLIENTS: u32 = 1;
const WEB: u32 = 7;
const SECOND: u64 = 1_000_000_000;

/// A pod that accepts TCP 80 and 443 from the client and may send nothing.
fn web() -> (Memory, Endpoint) {
    let tables = Memory::default();
    tables.put_identity(CLIENT, CLIENTS, 0);
    tables.put_identity(NODE, 2, IDENTITY_NODE);
    for port in [80, 443] {
        tables.put_policy(WEB, CLIENTS, Some((protocol::TCP, port, 16)), ACTION_ACCEPT);
    }
    (tables, endpoint(WEB, POLICY_DENY))
}

fn endpoint(ingress_policy: u32, egress_policy: u32) -> Endpoint {
    Endpoint {
        id: 3,
        ingress_policy,
        egress_policy,
        ipv4: [10, 244, 0, 10],
        ..Endpoint::default()
    }
}

/// Decides on a frame that quotes nothing.
fn decided(
    tables: &Memory,
    endpoint: &Endpoint,
    place: Place,
    parsed: Parsed,
    mut packet: Packet,
) -> Verdict {
    decide(tables, endpoint, place, parsed, &mut packet, &Packet::default())
}

/// A packet from the client's port 40000 to a port of the pod.
fn from_client(protocol: u8, port: u16, tcp_flags: u8) -> Packet {
    Packet {
        source: Address::from_ipv4(CLIENT),
        destination: Address::from_ipv4([10, 244, 0, 10]),
        source_port: 40_000u16.to_be_bytes(),
        destination_port: port.to_be_bytes(),
        protocol,
        tcp_flags,
        ..Packet::default()
    }
}

fn reversed(packet: Packet, tcp_flags: u8) -> Packet {
    Packet {
        source: packet.destination,
        destination: packet.source,
        source_port: packet.destination_port,
        destination_port: packet.source_port,
        tcp_flags,
        ..packet
    }
}

fn ping(role: Role, identifier: u16) -> Packet {
    let source_port = identifier.to_be_bytes();
    Packet {
        source_port,
        destination_port: [0; 2],
        role,
        ..from_client(protocol::ICMP, 0, 0)
    }
}

/// Interface index of the pod whose hooks run.
const OWN: u32 = 7;

/// A place at one of the pod's hooks. The packet came by the uplink, or the node made it.
fn at(direction: Direction, from_node: bool) -> Place {
    Place {
        direction,
        ifindex: OWN,
        ingress_ifindex: if from_node { 0 } else { 2 },
        tag: 0,
    }
}

fn passes(tables: &Memory, endpoint: &Endpoint, direction: Direction, packet: Packet) -> bool {
    decided(tables, endpoint, at(direction, false), Parsed::Packet, packet) == Verdict::Forward
}

fn receives(tables: &Memory, endpoint: &Endpoint, packet: Packet) -> bool {
    passes(tables, endpoint, Direction::Ingress, packet)
}

fn sends(tables: &Memory, endpoint: &Endpoint, packet: Packet) -> bool {
    passes(tables, endpoint, Direction::Egress, packet)
}

const PACKET_KINDS: [(u8, u8); 4] = [
    (protocol::TCP, SYN),
    (protocol::UDP, 0),
    (protocol::SCTP, 0),
    (47, 0),
];

#[test]
fn i1_a_pod_that_is_not_isolated_allows_everything() {
    for (protocol, flags) in PACKET_KINDS {
        let packet = from_client(protocol, 80, flags);
        let (tables, open) = (Memory::default(), endpoint(POLICY_UNRESTRICTED, POLICY_DENY));
        assert!(receives(&tables, &open, packet));
        let (tables, open) = (Memory::default(), endpoint(POLICY_DENY, POLICY_UNRESTRICTED));
        assert!(sends(&tables, &open, reversed(packet, flags)));
    }
}

#[test]
fn i1_directions_are_isolated_on_their_own() {
    for (protocol, flags) in PACKET_KINDS {
        let (tables, packet) = (Memory::default(), from_client(protocol, 80, flags));
        assert!(!receives(
            &tables,
            &endpoint(POLICY_DENY, POLICY_UNRESTRICTED),
            packet
        ));
        assert!(!sends(
            &tables,
            &endpoint(POLICY_UNRESTRICTED, POLICY_DENY),
            reversed(packet, flags)
        ));
    }
}

#[test]
fn i4_what_no_rule_allows_is_dropped_with_its_reason() {
    let (tables, pod) = web();
    let dropped = |packet| {
        decided(
            &tables,
            &pod,
            at(Direction::Ingress, false),
            Parsed::Packet,
            packet,
        )
    };
    let reason = DropReason::Policy;
    let drop = |identity| {
        Verdict::Drop(Drop {
            reason,
            policy: WEB,
            identity,
            whose: Whose::at_hook(&at(Direction::Ingress, false)),
        })
    };
    assert_eq!(dropped(from_client(protocol::TCP, 81, SYN)), drop(CLIENTS));
    assert_eq!(dropped(from_client(protocol::UDP, 80, 0)), drop(CLIENTS));
    let stranger = Packet {
        source: Address::from_ipv4([192, 0, 2, 1]),
        ..from_client(protocol::TCP, 80, SYN)
    };
    assert_eq!(dropped(stranger), drop(IDENTITY_NONE));
}

#[test]
fn a2_what_the_node_makes_reaches_a_closed_pod_and_is_answered() {
    let (tables, _) = web();
    let closed = endpoint(POLICY_DENY, POLICY_DENY);
    let probe = Packet {
        source: Address::from_ipv4(NODE),
        ..from_client(protocol::TCP, 80, SYN)
    };
    for parsed in [
        Parsed::Packet,
        Parsed::Neighbour,
        Parsed::Unreadable(DropReason::Malformed),
    ] {
        assert_eq!(
            decided(&tables, &closed, at(Direction::Ingress, true), parsed, probe),
            Verdict::Forward
        );
    }
    assert!(sends(&tables, &closed, reversed(probe, SYN | ACK)));
    assert!(
        sends(&tables, &closed, reversed(probe, SYN)),
        "the other way round too"
    );
}

/// A packet that the kernel took apart again may not tell how it came.
#[test]
fn a3_a_fragment_without_an_interface_is_the_nodes_only_with_a_socket() {
    let (tables, _) = web();
    let closed = endpoint(POLICY_DENY, POLICY_DENY);
    for source in [NODE, CLIENT] {
        for (fragment_header, socket, passes) in [
            (false, false, true),
            (false, true, true),
            (true, true, true),
            (true, false, false),
        ] {
            tables.socket.set(socket);
            let packet = Packet {
                source: Address::from_ipv4(source),
                fragment_header,
                ..from_client(protocol::UDP, 80, 0)
            };
            let place = at(Direction::Ingress, true);
            let verdict = decided(&tables, &closed, place, Parsed::Packet, packet);
            assert_eq!(
                verdict == Verdict::Forward,
                passes,
                "{source:?} {fragment_header} {socket}"
            );
        }
    }
}

#[test]
fn a3_a_forwarded_packet_is_judged_even_with_an_address_of_the_node() {
    let (tables, pod) = web();
    let forwarded = Packet {
        source: Address::from_ipv4(NODE),
        ..from_client(protocol::TCP, 80, SYN)
    };
    assert!(!receives(&tables, &pod, forwarded));
    // What the pod sends to the node opens no way back for packets that the node only forwards.
    assert!(sends(&tables, &pod, reversed(forwarded, SYN)));
    assert!(sends(&tables, &pod, reversed(forwarded, ACK)));
    assert!(!receives(
        &tables,
        &pod,
        Packet {
            tcp_flags: ACK,
            ..forwarded
        }
    ));
    assert_eq!(tables.flow_count(), 0);
}

#[test]
fn c1_replies_pass_whatever_the_other_direction_says() {
    for (protocol, syn, answer) in [
        (protocol::TCP, SYN, SYN | ACK),
        (protocol::UDP, 0, 0),
        (protocol::SCTP, 0, 0),
        (47, 0, 0),
    ] {
        let tables = Memory::default();
        let first = from_client(protocol, 80, syn);
        let (receiver, sender) = (
            endpoint(POLICY_UNRESTRICTED, POLICY_DENY),
            endpoint(POLICY_DENY, POLICY_UNRESTRICTED),
        );
        let reply = reversed(first, answer);
        assert!(!sends(&tables, &receiver, reply), "nothing was asked yet");
        assert!(receives(&tables, &receiver, first));
        assert!(sends(&tables, &receiver, reply));

        let tables = Memory::default();
        let asked = reversed(first, syn);
        let answered = reversed(asked, answer);
        assert!(!receives(&tables, &sender, answered), "nothing was asked yet");
        assert!(sends(&tables, &sender, asked));
        assert!(receives(&tables, &sender, answered));
    }
}

#[test]
fn c1_a_reply_is_one_of_the_same_ports_and_endpoint() {
    let (tables, pod) = web();
    let syn = from_client(protocol::TCP, 80, SYN);
    assert!(receives(&tables, &pod, syn));
    let reply = reversed(syn, SYN | ACK);
    let (other_port, other_client) = ([1, 1], Address::from_ipv4([10, 244, 0, 12]));
    for wrong in [
        Packet {
            source_port: other_port,
            ..reply
        },
        Packet {
            destination_port: other_port,
            ..reply
        },
        Packet {
            destination: other_client,
            ..reply
        },
        Packet {
            protocol: protocol::UDP,
            ..reply
        },
    ] {
        assert!(!sends(&tables, &pod, wrong), "{wrong:?}");
    }
    assert!(!sends(&tables, &Endpoint { id: 4, ..pod }, reply), "another pod");
    assert!(sends(&tables, &pod, reply));
}

#[test]
fn c1_pings_both_ways_are_two_flows() {
    let tables = Memory::default();
    let (request, reply) = (ping(Role::EchoRequest, 9), ping(Role::EchoReply, 9));
    let pod = endpoint(POLICY_DENY, POLICY_UNRESTRICTED);
    assert!(!receives(&tables, &pod, reply), "nothing was asked yet");
    assert!(sends(&tables, &pod, reversed_ping(request)));
    assert!(receives(&tables, &pod, reply));
    assert!(
        !receives(&tables, &pod, request),
        "the peer's own ping, with the same identifier"
    );
    assert!(
        !receives(&tables, &pod, ping(Role::EchoReply, 10)),
        "another identifier"
    );

    let open = endpoint(POLICY_UNRESTRICTED, POLICY_UNRESTRICTED);
    assert!(receives(&tables, &open, request) && sends(&tables, &open, reversed_ping(request)));
    assert_eq!(tables.flow_count(), 2);
}

fn reversed_ping(packet: Packet) -> Packet {
    Packet {
        source: packet.destination,
        destination: packet.source,
        ..packet
    }
}

#[test]
fn c2_a_changed_policy_is_enforced_on_connections() {
    let (tables, pod) = web();
    let (syn, data) = (
        from_client(protocol::TCP, 80, SYN),
        from_client(protocol::TCP, 80, ACK),
    );
    let reply = reversed(syn, ACK);
    assert!(receives(&tables, &pod, syn) && sends(&tables, &pod, reply));

    let (stricter, laxer) = (
        Endpoint {
            ingress_policy: 8,
            ..pod
        },
        Endpoint {
            ingress_policy: 9,
            ..pod
        },
    );
    tables.put_policy(9, CLIENTS, None, ACTION_ACCEPT);
    for _ in 0..3 {
        assert!(
            !sends(&tables, &stricter, reply),
            "dropped, and stays dropped after the first"
        );
        assert!(!receives(&tables, &stricter, data));
    }
    assert!(
        sends(&tables, &laxer, reply),
        "allowed again, it never was a new connection"
    );
    assert!(receives(&tables, &laxer, data));
    assert_eq!(tables.only_flow().policy, 9);
}

#[test]
fn c2_a_denied_connection_opens_no_other_way() {
    // Ingress is closed while egress is open: the pod's answers must not become a connection of its
    // own.
    let (tables, _) = web();
    let open = endpoint(WEB, POLICY_UNRESTRICTED);
    let syn = from_client(protocol::TCP, 80, SYN);
    assert!(receives(&tables, &open, syn));
    let closed = endpoint(POLICY_DENY, POLICY_UNRESTRICTED);
    assert!(!sends(&tables, &closed, reversed(syn, ACK)));
    assert!(!receives(
        &tables,
        &closed,
        Packet {
            tcp_flags: ACK,
            ..syn
        }
    ));
    assert_eq!(tables.only_flow().initiator, Direction::Ingress as u8);
}

#[test]
fn c2_an_address_that_changes_its_identity_is_judged_again() {
    let (tables, pod) = web();
    let (syn, data) = (
        from_client(protocol::TCP, 80, SYN),
        from_client(protocol::TCP, 80, ACK),
    );
    assert!(receives(&tables, &pod, syn));
    tables.put_identity(CLIENT, 5, 0);
    tables.raise_epoch();
    assert!(!receives(&tables, &pod, data) && !sends(&tables, &pod, reversed(syn, ACK)));
    tables.put_identity(CLIENT, CLIENTS, 0);
    tables.raise_epoch();
    assert!(sends(&tables, &pod, reversed(syn, ACK)) && receives(&tables, &pod, data));
}

#[test]
fn c2_a_reply_is_judged_by_the_port_that_was_opened() {
    let (tables, pod) = web();
    let syn = from_client(protocol::TCP, 443, SYN);
    assert!(receives(&tables, &pod, syn));
    tables.raise_epoch();
    assert!(sends(&tables, &pod, reversed(syn, SYN | ACK)));
}

#[test]
fn c3_flows_end_after_their_lifetime() {
    // Protocol, number of packets that follow the first in turns, and seconds: the defaults of the
    // kernel's connection tracking.
    let lifetimes = [
        (protocol::TCP, 0, 120),
        (protocol::TCP, 1, 120),
        (protocol::TCP, 2, 432_000),
        (protocol::UDP, 0, 30),
        (protocol::UDP, 1, 120),
        (protocol::SCTP, 0, 30),
        (protocol::SCTP, 1, 210),
        (47, 0, 600),
    ];
    for (protocol, follow, seconds) in lifetimes {
        for (waited, lives) in [(seconds * SECOND, true), (seconds * SECOND + 1, false)] {
            let tables = Memory::default();
            let pod = endpoint(POLICY_UNRESTRICTED, POLICY_DENY);
            let first = from_client(protocol, 80, SYN);
            let reply = reversed(first, SYN | ACK);
            assert!(receives(&tables, &pod, first));
            assert!(follow < 1 || sends(&tables, &pod, reply));
            let goes_on = Packet {
                acknowledgement: 1,
                ..from_client(protocol, 80, ACK)
            };
            assert!(follow < 2 || receives(&tables, &pod, goes_on));
            tables.wait(waited);
            assert_eq!(
                sends(&tables, &pod, reply),
                lives,
                "{protocol} and {follow} after {waited}"
            );
        }
    }
}

#[test]
fn c3_closing_shortens_the_life() {
    for (flags, seconds) in [(FIN | ACK, 120), (RST, 10)] {
        let (tables, pod) = web();
        let syn = from_client(protocol::TCP, 80, SYN);
        let reply = Packet {
            acknowledgement: 1,
            ..reversed(syn, ACK)
        };
        let fin = reversed(syn, FIN | ACK);
        assert!(receives(&tables, &pod, syn) && sends(&tables, &pod, reply));
        let end = Packet {
            tcp_flags: flags,
            sequence: 1,
            ..syn
        };
        assert!(receives(&tables, &pod, end));
        assert!(
            sends(&tables, &pod, reply),
            "the other side may still have something to say"
        );
        assert!(flags == RST || sends(&tables, &pod, fin), "both have said all");
        tables.wait(seconds * SECOND + 1);
        assert!(!sends(&tables, &pod, reply));
    }
}

#[test]
fn c3_a_syn_opens_whatever_the_table_remembers() {
    let (tables, pod) = web();
    let syn = from_client(protocol::TCP, 80, SYN);
    assert!(receives(&tables, &pod, syn) && sends(&tables, &pod, reversed(syn, ACK)));
    assert!(
        !sends(&tables, &pod, reversed(syn, SYN)),
        "the pod's own connection on the same ports"
    );
    assert!(receives(&tables, &pod, syn), "opened anew");
    let open = Endpoint {
        egress_policy: POLICY_UNRESTRICTED,
        ..pod
    };
    assert!(sends(&tables, &open, reversed(syn, SYN)));
    assert_eq!(
        tables.only_flow().initiator,
        Direction::Ingress as u8,
        "not answered yet"
    );
    let agreed = Packet {
        acknowledgement: 1,
        tcp_flags: SYN | ACK,
        ..syn
    };
    assert!(receives(&tables, &open, agreed));
    assert_eq!(tables.only_flow().initiator, Direction::Egress as u8);
}

#[test]
fn c4_what_is_denied_makes_no_flow() {
    let (tables, pod) = web();
    for (protocol, flags) in PACKET_KINDS {
        assert!(!receives(&tables, &pod, from_client(protocol, 81, flags)));
    }
    assert!(!receives(&tables, &pod, ping(Role::EchoRequest, 1)));
    assert_eq!(tables.flow_count(), 0);
}

#[test]
fn c4_resets_errors_and_unasked_echo_replies_make_no_flow() {
    let (tables, open) = (
        Memory::default(),
        endpoint(POLICY_UNRESTRICTED, POLICY_UNRESTRICTED),
    );
    let single = Packet {
        role: Role::Single,
        ..from_client(protocol::ICMP, 0, 0)
    };
    let reset = from_client(protocol::TCP, 80, RST | ACK);
    for packet in [
        reset,
        from_client(protocol::TCP, 80, RST),
        single,
        ping(Role::EchoReply, 1),
    ] {
        assert!(receives(&tables, &open, packet));
        assert_eq!(tables.flow_count(), 0, "{packet:?}");
    }
}

#[test]
fn f1_neighbour_discovery_passes_at_a_closed_pod() {
    let (tables, closed) = (Memory::default(), endpoint(POLICY_DENY, POLICY_DENY));
    for direction in Direction::ALL {
        let verdict = decided(
            &tables,
            &closed,
            at(direction, false),
            Parsed::Neighbour,
            Packet::default(),
        );
        assert_eq!(verdict, Verdict::Forward);
    }
}

#[test]
fn f2_what_cannot_be_judged_is_dropped_at_an_isolated_pod_only() {
    let tables = Memory::default();
    let one_way = endpoint(POLICY_DENY, POLICY_UNRESTRICTED);
    for reason in DropReason::ALL {
        let verdict = |direction| {
            decided(
                &tables,
                &one_way,
                at(direction, false),
                Parsed::Unreadable(reason),
                Packet::default(),
            )
        };
        let (policy, identity) = (NO_POLICY, IDENTITY_NONE);
        assert_eq!(
            verdict(Direction::Ingress),
            Verdict::Drop(Drop {
                reason,
                policy,
                identity,
                whose: Whose::at_hook(&at(Direction::Ingress, false)),
            })
        );
        assert_eq!(verdict(Direction::Egress), Verdict::Forward);
    }
}

#[test]
fn f4_rules_with_ports_allow_no_echo_and_no_other_protocol() {
    let (tables, pod) = web();
    tables.put_policy(WEB, CLIENTS, Some((protocol::UDP, 0, 0)), ACTION_ACCEPT);
    assert!(receives(&tables, &pod, from_client(protocol::UDP, 9, 0)));
    for packet in [ping(Role::EchoRequest, 80), from_client(47, 0, 0)] {
        assert!(!receives(&tables, &pod, packet), "{packet:?}");
    }
    tables.put_policy(WEB, CLIENTS, None, ACTION_ACCEPT);
    for packet in [ping(Role::EchoRequest, 80), from_client(47, 0, 0)] {
        assert!(receives(&tables, &pod, packet), "{packet:?}");
    }
}
