// SPDX-License-Identifier: Apache-2.0

use super::{
    super::{captured, message},
    *,
};

const NOW: u64 = 1_000_000 * NANOSECONDS;
const A: u32 = 7;
const B: u32 = 8;

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Pods a and b, and the node.
fn places() -> Places {
    Places {
        pods: [
            ("10.244.0.10", Some(A)),
            ("10.244.0.11", Some(B)),
            ("fd00:10:244::a", Some(A)),
            ("fd00:10:244::b", Some(B)),
        ]
        .map(|(text, ifindex)| (address(text), ifindex))
        .into(),
        node: ["10.244.0.1", "198.51.100.1"].map(address).into(),
        lifetimes: Lifetimes::default(),
    }
}

fn captured(text: &str) -> Connection {
    message::connection(&captured::bytes(text)).unwrap()
}

/// An established TCP connection without translation.
fn tcp(source: &str, destination: &str) -> Connection {
    let original = Tuple {
        source: address(source),
        destination: address(destination),
        protocol: protocol::TCP,
        source_port: [0x90, 1],
        destination_port: [0, 80],
        icmp_type: None,
    };
    Connection {
        original,
        reply: Tuple {
            source: original.destination,
            destination: original.source,
            source_port: original.destination_port,
            destination_port: original.source_port,
            ..original
        },
        answered: true,
        dying: false,
        timeout: Some(1000),
        tcp: Some(Tcp::Established),
        picked_up: false,
    }
}

fn ends(connection: &Connection) -> Vec<(IpAddr, u8)> {
    let seeds = seeds(connection, &places(), NOW);
    seeds
        .iter()
        .map(|seed| (seed.address, seed.flow.initiator))
        .collect()
}

#[test]
fn c6_each_end_sees_its_side_of_the_translation() {
    let seeds = seeds(&captured(captured::TCP_TO_A_SERVICE), &places(), NOW);
    let [opener, opened] = &seeds[..] else {
        panic!("{seeds:?}")
    };
    assert_eq!(opener.address, address("10.244.0.10"));
    assert_eq!(opener.key.remote, mapped(address("10.96.0.1")));
    assert_eq!(opener.key.local_port, 41448u16.to_be_bytes());
    assert_eq!(opener.key.remote_port, 80u16.to_be_bytes());
    assert_eq!(opener.flow.initiator, Direction::Egress as u8);
    assert_eq!(opener.flow.sender, 0);
    assert_eq!(opened.address, address("10.244.0.11"));
    assert_eq!(opened.key.remote, mapped(address("10.244.0.10")));
    assert_eq!(opened.key.local_port, 7000u16.to_be_bytes());
    assert_eq!(opened.key.remote_port, 41448u16.to_be_bytes());
    assert_eq!(opened.flow.initiator, Direction::Ingress as u8);
    // The opener's egress policy also decides about the backend (rule A5).
    assert_eq!(opened.flow.sender, A);
    for seed in [opener, opened] {
        assert_eq!(seed.flow.state, State::Established as u8);
        assert_eq!(seed.flow.epoch, 0, "an epoch that is never the current one");
        assert!(flow::alive(&seed.flow, protocol::TCP, NOW, &flow::DEFAULTS));
    }
}

#[test]
fn c6_c3_a_seed_lives_no_longer_than_the_kernels_own_entry() {
    let [seed] = seeds(&captured(captured::UDP_MASQUERADED), &places(), NOW)[..] else {
        panic!("one end is a pod");
    };
    assert_eq!(seed.flow.state, State::Opening as u8);
    let end = NOW + 29 * NANOSECONDS;
    assert!(flow::alive(&seed.flow, protocol::UDP, end, &flow::DEFAULTS));
    assert!(!flow::alive(&seed.flow, protocol::UDP, end + 1, &flow::DEFAULTS));
}

#[test]
fn c6_what_says_nothing_of_the_opener_seeds_nothing() {
    assert_eq!(ends(&captured(captured::TCP_PICKED_UP)), []);
    let known = tcp("10.244.0.10", "10.244.0.11");
    assert_eq!(ends(&known).len(), 2);
    for nothing in [
        Connection { dying: true, ..known },
        Connection {
            tcp: Some(Tcp::Closed),
            ..known
        },
    ] {
        assert_eq!(ends(&nothing), []);
    }
}

#[test]
fn c6_half_a_handshake_is_known_to_who_waits_for_its_answer_only() {
    let half = Connection {
        answered: false,
        tcp: Some(Tcp::Opening),
        ..tcp("10.244.0.10", "10.244.0.11")
    };
    assert_eq!(ends(&half), [(address("10.244.0.10"), Direction::Egress as u8)]);
    let from_outside = Connection {
        answered: false,
        tcp: Some(Tcp::Opening),
        ..tcp("192.0.2.1", "10.244.0.11")
    };
    assert_eq!(ends(&from_outside), []);
}

#[test]
fn c6_a2_a3_no_flow_is_made_to_or_by_the_node_itself() {
    assert_eq!(ends(&tcp("10.244.0.10", "10.244.0.1")), []);
    assert_eq!(ends(&tcp("10.244.0.1", "10.244.0.11")), []);
    // What the node forwards under its own address comes from someone else.
    let mut forwarded = tcp("192.0.2.1", "198.51.100.1");
    forwarded.reply.source = address("10.244.0.11");
    forwarded.reply.destination = address("10.244.0.1");
    assert_eq!(
        ends(&forwarded),
        [(address("10.244.0.11"), Direction::Ingress as u8)]
    );
    // A node port at the node's address is no connection to the node.
    let mut node_port = tcp("10.244.0.10", "198.51.100.1");
    node_port.reply.source = address("10.244.0.11");
    assert_eq!(ends(&node_port).len(), 2);
}

#[test]
fn c6_an_address_that_two_claim_seeds_nothing() {
    let mut places = places();
    places.pods.insert(address("10.244.0.10"), None);
    let found = seeds(&tcp("10.244.0.10", "10.244.0.11"), &places, NOW);
    assert_eq!(
        found,
        [],
        "neither as the opener, nor with a sender that cannot be told"
    );
}

#[test]
fn c6_pings_are_known_by_identifier_and_direction() {
    let mut ping = Connection {
        tcp: None,
        ..tcp("10.244.0.10", "10.244.0.11")
    };
    ping.original.protocol = protocol::ICMP;
    ping.original.source_port = [0x12, 0x34];
    ping.original.destination_port = [0; 2];
    ping.original.icmp_type = Some(ECHO_REQUEST);
    ping.reply = Tuple {
        source: ping.original.destination,
        destination: ping.original.source,
        icmp_type: Some(0),
        ..ping.original
    };
    let found = seeds(&ping, &places(), NOW);
    let ports: Vec<_> = found
        .iter()
        .map(|seed| (seed.key.local_port, seed.key.remote_port))
        .collect();
    assert_eq!(
        ports,
        [
            ([0x12, 0x34], [0, Direction::Egress as u8]),
            ([0x12, 0x34], [0, Direction::Ingress as u8])
        ]
    );
    ping.original.icmp_type = Some(13);
    ping.reply.icmp_type = Some(14);
    assert_eq!(ends(&ping), [], "a timestamp is not tracked by the programs");
}
