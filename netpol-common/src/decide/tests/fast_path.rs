// SPDX-License-Identifier: Apache-2.0
//! Tests that the fast path gives the verdict of the four steps and leaves the same state behind.

use proptest::prelude::*;

use super::*;
use crate::{
    decide::fast_path::passes,
    flow::{FIN, RST},
    tag,
};

const POD: [u8; 4] = [10, 244, 0, 10];
const INGRESS: u32 = 7;
const EGRESS: u32 = 8;
const PEER_PORT: u16 = 4000;
const POD_PORT: u16 = 80;
/// Interfaces: none, an endpoint's, the uplink.
const CAME_BY: [u32; 3] = [0, 9, 3];

#[derive(Debug, Clone, Copy)]
struct Case {
    direction: Direction,
    came_by: u32,
    tag: u16,
    protocol: u8,
    /// TCP flags.
    flags: u8,
    own: [u8; 4],
    /// Flow in the table.
    flow: Flow,
    known: bool,
    age: u64,
}

fn cases() -> impl Strategy<Value = Case> {
    const TAGS: [u16; 5] = [
        0,
        tag::new(5, false),
        tag::new(6, false),
        tag::new(5, true),
        0x1234,
    ];
    let place = (
        prop::sample::select(&[Direction::Ingress, Direction::Egress][..]),
        prop::sample::select(&CAME_BY[..]),
        prop::sample::select(&TAGS[..]),
        prop::sample::select(&[protocol::TCP, protocol::UDP][..]),
        prop::sample::select(&[ACK, ACK, ACK, 0, ACK | SYN, SYN, ACK | FIN, RST][..]),
        prop::sample::select(&[POD, POD, POD, CLIENT][..]),
    );
    let flow = (
        0..2u8,
        prop::sample::select(&[1u8, 1, 1, 4, 4, 0, 2, 3][..]),
        prop::sample::select(&TAGS[..3]),
        prop::sample::select(&CAME_BY[..]),
        prop::sample::select(&[INGRESS, EGRESS][..]),
        prop::sample::select(&[1u32, 1, 1, 0][..]),
    );
    let flow = flow.prop_map(|(initiator, state, tag, sender, policy, epoch)| Flow {
        last_seen: 0,
        packets: 3,
        bytes: 300,
        policy,
        epoch,
        initiator,
        state,
        tag,
        sender,
        ..Flow::default()
    });
    let age = prop::sample::select(&[1u64, 1, 1, 121, 432_001][..]);
    (place, flow, prop::bool::weighted(0.9), age).prop_map(
        |((direction, came_by, tag, protocol, flags, own), flow, known, age)| Case {
            direction,
            came_by,
            tag,
            protocol,
            flags,
            own,
            flow,
            known,
            age,
        },
    )
}

/// Everything is allowed, so that only the flow can make a difference.
fn world(case: &Case) -> (Memory, Endpoint, FlowKey) {
    let tables = Memory::default();
    tables.put_identity(CLIENT, CLIENTS, 0);
    tables.put_identity(POD, 2, 0);
    for identity in [0, CLIENTS, 2] {
        for policy in [INGRESS, EGRESS] {
            tables.put_policy(policy, identity, None, ACTION_ACCEPT);
        }
    }
    let pod = endpoint(INGRESS, EGRESS);
    let pods = [(POD, OWN), (CLIENT, 9)].map(|(ip, ifindex)| (Address::from_ipv4(ip), (ifindex, EGRESS)));
    tables.pods.borrow_mut().extend(pods);
    // Each tag is of a pod behind the interface that the packet came by. No flow knows any other
    // tag.
    let ways = CAME_BY
        .iter()
        .flat_map(|by| [5, 6].map(|number| ((*by, number), 9)));
    tables.senders.borrow_mut().extend(ways);
    tables.raise_epoch();
    let key = FlowKey {
        endpoint: pod.id,
        remote: Address::from_ipv4(CLIENT),
        local_port: POD_PORT.to_be_bytes(),
        remote_port: PEER_PORT.to_be_bytes(),
        protocol: case.protocol,
        pad: [0; 3],
    };
    if case.known {
        tables.insert_flow(&key, &case.flow);
    }
    tables.wait(case.age * SECOND);
    (tables, pod, key)
}

fn ends<T>(direction: Direction, own: T, other: T) -> (T, T) {
    match direction {
        Direction::Ingress => (other, own),
        Direction::Egress => (own, other),
    }
}

/// Runs both ways and returns their verdicts, with the flow and the tag that each leaves.
fn both(case: &Case) -> [(bool, Option<Flow>, u16); 2] {
    let place = Place {
        direction: case.direction,
        ifindex: OWN,
        ingress_ifindex: case.came_by,
        tag: case.tag,
    };
    let (source, destination) = ends(case.direction, case.own, CLIENT);
    let ports = ends(case.direction, POD_PORT.to_be_bytes(), PEER_PORT.to_be_bytes());
    let packet = Packet {
        source: Address::from_ipv4(source),
        destination: Address::from_ipv4(destination),
        source_port: ports.0,
        destination_port: ports.1,
        protocol: case.protocol,
        tcp_flags: if case.protocol == protocol::TCP {
            case.flags
        } else {
            0
        },
        ..Packet::default()
    };
    [true, false].map(|short| {
        let (tables, pod, key) = world(case);
        let passes = if short {
            passes(&tables, &pod, &place, &packet)
        } else {
            decided(&tables, &pod, place, Parsed::Packet, packet) == Verdict::Forward
        };
        let flow = tables.flow(&key).map(|flow| *flow.borrow());
        (passes, flow, tables.tag.get())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn c1_c2_c3_what_continues_a_connection_is_decided_the_same(case in cases()) {
        let [short, long] = both(&case);
        if short.0 {
            prop_assert_eq!(short, long);
        } else {
            // A packet that the fast path does not let pass must not change the flow.
            let flow = case.known.then_some(case.flow);
            prop_assert_eq!((short.1, short.2), (flow, 0));
        }
    }
}

#[test]
fn c1_an_open_connection_continues_both_ways() {
    const OPEN: u8 = State::Established as u8;
    for direction in Direction::ALL {
        for initiator in Direction::ALL {
            for (protocol, state) in [
                (protocol::TCP, OPEN),
                (protocol::UDP, OPEN),
                (protocol::TCP, State::Answered as u8),
            ] {
                if state != OPEN && direction != initiator {
                    continue;
                }
                let case = Case {
                    direction,
                    came_by: 3,
                    tag: 0,
                    protocol,
                    flags: ACK,
                    own: POD,
                    flow: Flow {
                        policy: endpoint(INGRESS, EGRESS).policy(initiator),
                        epoch: 1,
                        initiator: initiator as u8,
                        state,
                        ..Flow::default()
                    },
                    known: true,
                    age: 1,
                };
                let [(continues, flow, _), _] = both(&case);
                assert!(continues, "{case:?}");
                assert_eq!(flow.unwrap().state, OPEN, "{case:?}");
            }
        }
    }
}
