// SPDX-License-Identifier: Apache-2.0
//! Tests that a flow is what both ends agreed to (rules C3, C4): claims of one end alone, and
//! sequences of segments from both ends under revocation.

use std::{vec, vec::Vec};

use proptest::prelude::*;

use super::*;
use crate::abi::FlowKey;

/// A pod that may send anything and receives from the client what [`WEB`] allows.
fn server() -> (Memory, Endpoint) {
    let (tables, pod) = web();
    let egress_policy = POLICY_UNRESTRICTED;
    (tables, Endpoint { egress_policy, ..pod })
}

/// The same pod after its policy was revoked.
fn revoked(pod: &Endpoint) -> Endpoint {
    Endpoint {
        ingress_policy: POLICY_DENY,
        ..*pod
    }
}

fn segment(tcp_flags: u8, sequence: u32, acknowledgement: u32) -> Packet {
    Packet {
        sequence,
        acknowledgement,
        ..from_client(protocol::TCP, 80, tcp_flags)
    }
}

fn answer(tcp_flags: u8, sequence: u32, acknowledgement: u32) -> Packet {
    reversed(segment(0, sequence, acknowledgement), tcp_flags)
}

/// Opens the client's connection, with initial sequence numbers 100 and 500.
fn open(tables: &Memory, pod: &Endpoint) {
    assert!(receives(tables, pod, segment(SYN, 100, 0)));
    assert!(sends(tables, pod, answer(SYN | ACK, 500, 101)));
    assert!(receives(tables, pod, segment(ACK, 101, 501)));
}

fn state(tables: &Memory) -> u8 {
    tables.only_flow().state
}

const ESTABLISHED: u8 = State::Established as u8;
const ANSWERED: u8 = State::Answered as u8;
const CLOSING: u8 = State::Closing as u8;
const CLOSED: u8 = State::Closed as u8;

/// Not a TCP flag: the segment acknowledges something that was not sent.
const REFUSED: u8 = 0x80;

/// Regression: each SYN of a tenant, once answered, occupied the flow table for five days.
#[test]
fn c4_a_connection_is_established_once_its_opener_goes_on() {
    // What the client sends after the answer to its SYN, whether the pod sends more, and the state.
    for (flags, spoken, after) in [
        (ACK, false, ESTABLISHED),
        (ACK | FIN, false, ESTABLISHED),
        // Regression: the server refuses such an acknowledgement.
        (REFUSED | ACK, false, ANSWERED),
        (SYN, false, State::Opening as u8),
        (SYN | ACK, false, ANSWERED),
        (0, false, ANSWERED),
        (FIN, false, ANSWERED),
        (RST, false, ANSWERED),
        // A stack's reply to the same SYN again, or to one with another number (RFC 5961, 4.2).
        (SYN, true, ANSWERED),
        (RST, true, ANSWERED),
    ] {
        let (tables, pod) = server();
        assert!(receives(&tables, &pod, segment(SYN, 100, 0)));
        assert!(sends(&tables, &pod, answer(SYN | ACK, 500, 101)));
        assert_eq!(state(&tables), ANSWERED);
        for number in if flags & REFUSED == 0 {
            vec![501]
        } else {
            vec![0, 1, 500, 66_037]
        } {
            let flags = flags & !REFUSED;
            assert!(receives(&tables, &pod, segment(flags, 7, number)));
        }
        assert!(!spoken || sends(&tables, &pod, answer(ACK, 501, 101)));
        assert_eq!(state(&tables), after, "flags {flags:#x}, {spoken}");
    }
    // The same for connections that connection tracking knows.
    for (by_pod, after) in [(true, ANSWERED), (false, State::Opening as u8)] {
        let (tables, pod) = server();
        let pod = Endpoint {
            egress_policy: POLICY_DENY,
            ..pod
        };
        let key = flow_key(&pod, Direction::Ingress, &segment(ACK, 1, 1));
        tables.openers.borrow_mut().insert(key, Opener::Remote);
        assert!(if by_pod {
            sends(&tables, &pod, answer(ACK, 501, 101))
        } else {
            receives(&tables, &pod, segment(ACK, 101, 501))
        });
        assert_eq!(state(&tables), after);
    }
}

/// After a side has answered, its reset does not count as a refusal: only a SYN can be refused.
#[test]
fn c4_what_was_answered_is_not_refused() {
    let (tables, pod) = server();
    assert!(receives(&tables, &pod, segment(SYN, 100, 0)));
    assert!(sends(&tables, &pod, answer(SYN | ACK, 500, 101)));
    assert!(sends(&tables, &pod, answer(RST | ACK, 0, 101)));
    assert_eq!(state(&tables), ANSWERED);
}

#[test]
fn c4_a_reset_counts_if_its_receiver_would_take_it() {
    // Flags and sequence number of a segment from the client, and the state after it. The pod last
    // acknowledged 101.
    for (flags, sequence, after) in [
        (RST, 101, CLOSED),
        (RST | ACK, 101, CLOSED),
        (RST, 100, ESTABLISHED),
        (RST, 102, ESTABLISHED),
        (RST, 0, ESTABLISHED),
        (RST | FIN, 7, ESTABLISHED),
        (RST | SYN, 7, ESTABLISHED),
        (FIN | ACK, 101, ESTABLISHED),
        (FIN, 7, ESTABLISHED),
        (SYN | FIN, 7, ESTABLISHED),
        (SYN | ACK, 7, ESTABLISHED),
        (SYN, 7, ESTABLISHED),
        (0, 7, ESTABLISHED),
    ] {
        let (tables, pod) = server();
        open(&tables, &pod);
        assert!(receives(&tables, &pod, segment(flags, sequence, 501)));
        assert_eq!(state(&tables), after, "flags {flags:#x}, number {sequence}");
        assert_eq!(tables.only_flow().initiator, Direction::Ingress as u8);
    }
}

#[test]
fn c4_both_ends_end_a_flow() {
    let (tables, pod) = server();
    open(&tables, &pod);
    assert!(sends(&tables, &pod, answer(FIN | ACK, 501, 101)));
    assert_eq!(state(&tables), ESTABLISHED);
    // A side that sent a FIN gets a reset if more data comes. The reset need not match what that
    // side acknowledged.
    assert!(receives(&tables, &pod, segment(RST, 4000, 0)));
    assert_eq!(state(&tables), CLOSED);

    let (tables, pod) = server();
    open(&tables, &pod);
    assert!(sends(&tables, &pod, answer(FIN | ACK, 501, 101)));
    assert!(receives(&tables, &pod, segment(FIN | ACK, 101, 502)));
    assert_eq!(state(&tables), CLOSING);
    assert!(receives(&tables, &pod, segment(SYN, 9000, 0)));
    assert!(sends(&tables, &pod, answer(SYN | ACK, 800, 9001)));
    assert_eq!((state(&tables), tables.only_flow().marks), (ANSWERED, 0));
    assert!(receives(&tables, &pod, segment(ACK, 9001, 801)));
    assert_eq!((state(&tables), tables.only_flow().marks), (ESTABLISHED, 0));

    let (tables, pod) = server();
    assert!(receives(&tables, &pod, segment(SYN, 100, 0)));
    assert!(
        receives(&tables, &pod, segment(RST, 100, 0)),
        "taken back by who asked"
    );
    assert_eq!(state(&tables), State::Opening as u8);
    assert!(sends(&tables, &pod, answer(RST | ACK, 0, 101)), "refused");
    assert_eq!(state(&tables), CLOSED);
}

/// Regression: the flow of a forged reset ended while its packets were denied, and what the pod
/// sent again opened a new flow.
#[test]
fn c4_a_forged_reset_and_silence_by_policy_open_nothing() {
    for reset in [segment(RST, 77, 0), segment(RST, 101, 501)] {
        let (tables, pod) = server();
        open(&tables, &pod);
        assert!(receives(&tables, &pod, reset));
        let pod = revoked(&pod);
        for _ in 0..20 {
            tables.wait(8 * SECOND);
            assert!(!receives(&tables, &pod, segment(ACK, 101, 501)));
        }
        assert!(
            !sends(&tables, &pod, answer(ACK, 501, 101)),
            "the flow is denied to both ends"
        );
        tables.wait(1_000_000 * SECOND);
        assert!(
            sends(&tables, &pod, answer(ACK, 501, 101)),
            "by itself it may be sent"
        );
        assert!(!receives(&tables, &pod, segment(ACK, 101, 501)));
    }
}

#[test]
fn c3_denied_packets_of_either_end_keep_a_denied_flow() {
    for sent in [false, true] {
        let (tables, pod) = server();
        open(&tables, &pod);
        let denied = revoked(&pod);
        for _ in 0..3 {
            tables.wait(400_000 * SECOND);
            let passed = if sent {
                sends(&tables, &denied, answer(ACK, 501, 101))
            } else {
                receives(&tables, &denied, segment(ACK, 101, 501))
            };
            assert!(!passed);
        }
        assert!(!sends(&tables, &denied, answer(ACK, 501, 101)));
    }
}

/// A segment in the middle of a connection without a flow, for each answer of connection tracking.
#[test]
fn c4_what_was_not_seen_to_open_is_told_by_connection_tracking() {
    let isolations = [POLICY_UNRESTRICTED, POLICY_DENY, WEB];
    for (ingress, egress) in isolations.into_iter().flat_map(|a| isolations.map(|b| (a, b))) {
        for opener in [Opener::Unknown, Opener::Remote, Opener::Pod] {
            for by_pod in [false, true] {
                let (tables, _) = web();
                tables.put_policy(WEB, CLIENTS, Some((protocol::TCP, 40_000, 16)), ACTION_ACCEPT);
                let pod = endpoint(ingress, egress);
                let key = flow_key(&pod, Direction::Ingress, &segment(ACK, 1, 1));
                tables.openers.borrow_mut().insert(key, opener);
                let passed = if by_pod {
                    sends(&tables, &pod, answer(ACK, 1, 1))
                } else {
                    receives(&tables, &pod, segment(ACK, 1, 1))
                };
                let judged = match (opener, by_pod) {
                    (Opener::Remote, _) | (Opener::Unknown, false) => ingress,
                    (Opener::Pod, _) | (Opener::Unknown, true) => egress,
                };
                let case = (ingress, egress, opener, by_pod);
                assert_eq!(passed, judged != POLICY_DENY, "{case:?}");
                let made = passed && opener != Opener::Unknown;
                assert_eq!(tables.flow_count(), usize::from(made), "{case:?}");
                if made {
                    let by = Direction::from_u8(tables.only_flow().initiator);
                    assert_eq!(by == Direction::Egress, opener == Opener::Pod, "{case:?}");
                }
            }
        }
    }
}

#[test]
fn c4_an_answer_of_udp_is_told_by_connection_tracking() {
    let (tables, _) = web();
    let pod = endpoint(POLICY_DENY, POLICY_UNRESTRICTED);
    let asked = from_client(protocol::UDP, 53, 0);
    let key = flow_key(&pod, Direction::Ingress, &asked);
    tables.openers.borrow_mut().insert(key, Opener::Remote);
    assert!(
        !sends(&tables, &pod, reversed(asked, 0)),
        "the client opened it, and may not"
    );
    tables.openers.borrow_mut().clear();
    // The pod's own question is answered, even if other flows evicted its flow. Packets that nobody
    // asked for stay out.
    tables.openers.borrow_mut().insert(key, Opener::Pod);
    let (forgetful, _) = web();
    assert!(!receives(&forgetful, &pod, asked));
    assert!(receives(&tables, &pod, asked), "an answer");
    let (tables, _) = web();
    assert!(sends(&tables, &pod, reversed(asked, 0)));
    assert!(receives(&tables, &pod, asked), "the pod's own");
}

#[test]
fn c4_a_syn_by_the_other_end_changes_nothing_until_it_is_answered() {
    let (tables, _) = web();
    // The pod's own connection to the client, which its egress policy no longer allows. The client
    // may open port 80.
    let before = endpoint(WEB, POLICY_UNRESTRICTED);
    assert!(sends(&tables, &before, answer(SYN, 500, 0)));
    assert!(receives(&tables, &before, segment(SYN | ACK, 100, 501)));
    let pod = endpoint(WEB, POLICY_DENY);
    assert!(!sends(&tables, &pod, answer(ACK, 501, 101)));
    assert!(receives(&tables, &pod, segment(SYN, 9000, 0)), "it may ask");
    assert!(
        !sends(&tables, &pod, answer(ACK, 501, 101)),
        "a challenge is no agreement"
    );
    assert!(
        !sends(&tables, &pod, answer(SYN | ACK, 501, 101)),
        "nor is the answer to another"
    );
    assert!(!receives(&tables, &pod, segment(ACK, 9001, 501)));
    assert!(
        sends(&tables, &pod, answer(SYN | ACK, 700, 9001)),
        "it opened port 80 to the client"
    );
    assert!(receives(&tables, &pod, segment(ACK, 9001, 701)));
    assert!(sends(&tables, &pod, answer(ACK, 701, 9001)));
    assert_eq!(tables.only_flow().initiator, Direction::Ingress as u8);
}

#[derive(Debug, Clone)]
enum Step {
    /// Flags, and which sequence and acknowledgement number.
    Client(u8, u32, u32),
    Pod(u8, u32, u32),
    Wait(u64),
    /// The flow is lost: the table was full, or the flow made room for another.
    Lost,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let flags = || {
        let any = 0u8..64;
        let usual =
            prop::sample::select(&[ACK, ACK, SYN, SYN | ACK, RST, RST | ACK, FIN | ACK, SYN | FIN, 0][..]);
        prop_oneof![3 => usual, 1 => any]
    };
    let numbers = || (0..4u32, 0..4u32);
    let step = prop_oneof![
        6 => (flags(), numbers()).prop_map(|(flags, (a, b))| Step::Client(flags, a, b)),
        6 => (flags(), numbers()).prop_map(|(flags, (a, b))| Step::Pod(flags, a, b)),
        2 => prop::sample::select(&[1u64, 9, 11, 119, 121, 431_999, 432_001][..]).prop_map(Step::Wait),
        1 => Just(Step::Lost),
    ];
    prop::collection::vec(step, 1..40)
}

/// Plays steps and returns which of the client's segments passed. The pod sends no SYN of its own.
/// If connection tracking sees the connection at all, it knows that the client opened it.
fn play(tables: &Memory, pod: &Endpoint, steps: &[Step], tracked: bool) -> Vec<(bool, Step)> {
    let key = flow_key(pod, Direction::Ingress, &segment(SYN, 0, 0));
    let mut passed = Vec::new();
    for step in steps {
        let (by_client, passes) = match *step {
            Step::Client(flags, sequence, acknowledgement) => {
                if tracked && flow::is_syn(flags) {
                    tables.openers.borrow_mut().insert(key, Opener::Remote);
                }
                (
                    true,
                    receives(tables, pod, segment(flags, sequence, acknowledgement)),
                )
            }
            Step::Pod(flags, ..) if flow::is_syn(flags) => continue,
            Step::Pod(flags, sequence, acknowledgement) => (
                false,
                sends(tables, pod, answer(flags, sequence, acknowledgement)),
            ),
            Step::Wait(seconds) => {
                tables.wait(seconds * SECOND);
                continue;
            }
            Step::Lost => {
                tables.forget_flows();
                continue;
            }
        };
        if by_client || tables.openers.borrow().contains_key(&key) {
            passed.push((passes, step.clone()));
        }
    }
    passed
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn c4_after_revocation_nothing_of_the_client_enters(before in steps(), after in steps(), tracked: bool) {
        let (tables, pod) = server();
        open(&tables, &pod);
        play(&tables, &pod, &before, tracked);
        for (passed, step) in play(&tables, &revoked(&pod), &after, tracked) {
            if matches!(step, Step::Client(..)) {
                prop_assert!(!passed, "{:?}", step);
            }
        }
    }

    #[test]
    fn c2_what_stays_allowed_loses_nothing(steps in steps()) {
        // The pod may send nothing of its own, so all of its segments depend on who is known to
        // have opened the connection.
        let (tables, pod) = web();
        open(&tables, &pod);
        let key: FlowKey = flow_key(&pod, Direction::Ingress, &segment(SYN, 0, 0));
        tables.openers.borrow_mut().insert(key, Opener::Remote);
        for (passed, step) in play(&tables, &pod, &steps, true) {
            prop_assert!(passed, "{:?}", step);
        }
    }
}
