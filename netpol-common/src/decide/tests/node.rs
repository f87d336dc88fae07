// SPDX-License-Identifier: Apache-2.0
//! Tests connections between a pod and an address of its node, for which no flow is made (rules A2,
//! A3). Connection tracking tells who opened them: both those that end at the node and those that
//! it leads elsewhere, like a host port.

use super::*;
use crate::abi::SENDER_AMBIGUOUS;

const BRIDGE: u32 = 2;
/// Interface of the pod behind the host port.
const TARGET: u32 = 11;
const TARGET_NUMBER: u16 = 5;
/// The policy of what that pod may send to, and of what the other pod may receive from: the client,
/// not the node.
const OPEN: u32 = 8;

/// A pod, and another one behind the same bridge that may send nothing.
fn pods(ingress: u32, egress: u32) -> (Memory, Endpoint) {
    let (tables, _) = web();
    tables.put_policy(OPEN, CLIENTS, None, ACTION_ACCEPT);
    tables
        .pods
        .borrow_mut()
        .insert(Address::from_ipv4(CLIENT), (TARGET, POLICY_DENY));
    tables
        .senders
        .borrow_mut()
        .extend([((BRIDGE, 0), SENDER_AMBIGUOUS), ((BRIDGE, TARGET_NUMBER), TARGET)]);
    (tables, endpoint(ingress, egress))
}

/// A packet from the node's address to the pod.
fn from_node(protocol: u8, port: u16, tcp_flags: u8) -> Packet {
    Packet {
        source: Address::from_ipv4(NODE),
        ..from_client(protocol, port, tcp_flags)
    }
}

fn told(tables: &Memory, pod: &Endpoint, packet: &Packet, opener: Opener) {
    let key = flow_key(pod, Direction::Ingress, packet);
    tables.openers.borrow_mut().insert(key, opener);
}

fn isolations() -> impl Iterator<Item = (u32, u32)> {
    let all = [POLICY_UNRESTRICTED, POLICY_DENY, OPEN];
    all.into_iter()
        .flat_map(move |ingress| all.map(|egress| (ingress, egress)))
}

/// A probe by the kubelet, say, on a node whose connection tracking sees it.
#[test]
fn a2_what_the_node_opened_is_answered_though_tracking_tells_who_did() {
    for ((ingress, egress), opener) in
        isolations().flat_map(|isolated| [Opener::Unknown, Opener::Remote].map(|opener| (isolated, opener)))
    {
        for (protocol, flags) in [
            (protocol::TCP, SYN | ACK),
            (protocol::TCP, ACK),
            (protocol::UDP, 0),
        ] {
            let (tables, pod) = pods(ingress, egress);
            let request = from_node(protocol, 8080, SYN);
            told(&tables, &pod, &request, opener);
            let case = (ingress, egress, opener, protocol, flags);
            assert!(sends(&tables, &pod, reversed(request, flags)), "{case:?}");
            assert_eq!(tables.flow_count(), 0, "{case:?}");
            // A packet that the node only forwarded with its address is left to the post-DNAT
            // check, unless policy let it in.
            let let_in =
                opener == Opener::Remote && ingress == POLICY_UNRESTRICTED && protocol == protocol::TCP;
            if egress != POLICY_UNRESTRICTED && !let_in {
                assert_eq!(tables.tag.get(), pod.tag(true), "{case:?}");
            }
            let more = from_node(protocol, 8080, if flags == 0 { 0 } else { ACK });
            let forwarded = receives(&tables, &pod, more);
            assert_eq!(forwarded, ingress == POLICY_UNRESTRICTED, "A3, {case:?}");
        }
    }
}

/// A flow that ended, on the ports of a connection with the node, does not come back to life by it.
#[test]
fn a2_a_flow_that_ended_is_not_what_the_node_opened() {
    for protocol in [protocol::TCP, protocol::UDP] {
        let (tables, open) = pods(POLICY_UNRESTRICTED, OPEN);
        let request = from_node(protocol, 8080, SYN);
        assert!(receives(&tables, &open, request));
        tables.wait(500_000 * SECOND);
        let ended = tables.only_flow();
        told(&tables, &open, &request, Opener::Remote);
        let closed = Endpoint {
            ingress_policy: POLICY_DENY,
            ..open
        };
        for _ in 0..2 {
            assert!(sends(&tables, &closed, reversed(request, ACK)));
            assert_eq!(tables.only_flow(), ended);
        }
        let more = Packet {
            tcp_flags: ACK,
            ..request
        };
        assert!(!receives(&tables, &closed, more), "A3");
    }
}

/// The pod asked a port of the node, which led to a pod that is isolated for egress. The answer has
/// the node's address again.
#[test]
fn c1_answers_of_a_host_port_reach_who_asked() {
    let tag = tag::new(TARGET_NUMBER, false);
    for (ingress, egress) in isolations() {
        for (protocol, flags) in [
            (protocol::TCP, SYN | ACK),
            (protocol::TCP, ACK),
            (protocol::UDP, 0),
        ] {
            for opener in [Opener::Pod, Opener::Remote, Opener::Unknown] {
                let (tables, pod) = pods(ingress, egress);
                let answer = from_node(protocol, 40_001, flags);
                told(&tables, &pod, &answer, opener);
                let place = Place {
                    tag,
                    ..at(Direction::Ingress, false)
                };
                let passed = decided(&tables, &pod, place, Parsed::Packet, answer) == Verdict::Forward;
                let case = (ingress, egress, protocol, flags, opener);
                assert_eq!(passed, opener == Opener::Pod, "{case:?}");
                assert_eq!(tables.flow_count(), 0, "nothing else passes by it: {case:?}");
            }
        }
    }
}

/// Packets that look like an answer and are none: they open a connection, come from elsewhere, or
/// go to another port.
#[test]
fn a5_what_only_looks_like_an_answer_is_judged_by_who_sent_it() {
    let place = Place {
        tag: tag::new(TARGET_NUMBER, false),
        ..at(Direction::Ingress, false)
    };
    let answer = from_node(protocol::UDP, 40_001, 0);
    let segment = from_node(protocol::TCP, 40_001, ACK);
    let forged = [
        Packet {
            tcp_flags: SYN,
            ..segment
        },
        Packet {
            source_port: [0, 1],
            ..answer
        },
        Packet {
            destination_port: [0, 1],
            ..segment
        },
        Packet {
            source: Address::from_ipv4(CLIENT),
            ..answer
        },
        Packet {
            protocol: protocol::SCTP,
            ..answer
        },
    ];
    for packet in forged {
        let (tables, pod) = pods(POLICY_UNRESTRICTED, POLICY_UNRESTRICTED);
        for real in [answer, segment] {
            told(&tables, &pod, &real, Opener::Pod);
        }
        let verdict = decided(&tables, &pod, place, Parsed::Packet, packet);
        assert!(
            matches!(
                verdict,
                Verdict::Drop(Drop {
                    reason: DropReason::EgressBackend,
                    ..
                })
            ),
            "{packet:?}: {verdict:?}"
        );
    }
}
