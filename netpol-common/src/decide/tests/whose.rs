// SPDX-License-Identifier: Apache-2.0
//! Tests whose policy a drop is reported for: that of the pod that opened the connection or
//! received it, never that of the direction in which one of its packets happens to go (rules C2,
//! A5).

use super::*;

const SENDER: u32 = 11;
/// The sender's policy.
const RESTRICTED: u32 = 8;
const POD: [u8; 4] = [10, 244, 0, 10];

fn whose(verdict: Verdict) -> (DropReason, Whose) {
    match verdict {
        Verdict::Drop(drop) => (drop.reason, drop.whose),
        Verdict::Forward => panic!("it passes"),
    }
}

/// Reports at both ends for a connection that was allowed and no longer is.
#[test]
fn c2_a_reply_is_dropped_by_the_policy_of_the_direction_that_opened_the_connection() {
    let opened = from_client(protocol::TCP, 80, SYN);
    for initiator in Direction::ALL {
        let tables = Memory::default();
        let open = endpoint(POLICY_UNRESTRICTED, POLICY_UNRESTRICTED);
        let (first, reply) = match initiator {
            Direction::Ingress => (opened, reversed(opened, SYN | ACK)),
            Direction::Egress => (reversed(opened, SYN), from_client(protocol::TCP, 80, SYN | ACK)),
        };
        assert!(passes(&tables, &open, initiator, first));
        let closed = match initiator {
            Direction::Ingress => endpoint(POLICY_DENY, POLICY_UNRESTRICTED),
            Direction::Egress => endpoint(POLICY_UNRESTRICTED, POLICY_DENY),
        };
        for (direction, packet) in [
            (
                initiator,
                Packet {
                    tcp_flags: ACK,
                    ..first
                },
            ),
            (initiator.opposite(), reply),
        ] {
            let verdict = decided(&tables, &closed, at(direction, false), Parsed::Packet, packet);
            let expected = Whose {
                subject: OWN,
                direction: initiator,
                reply: direction != initiator,
            };
            assert_eq!(
                whose(verdict),
                (DropReason::Policy, expected),
                "{initiator:?} {direction:?}"
            );
        }
    }
}

/// A receiver without a policy, and a sender behind the same bridge whose egress policy does not
/// allow that receiver (rule A5).
#[test]
fn a5_what_the_senders_policy_drops_at_the_receiver_is_told_to_be_the_senders() {
    let receiver = endpoint(POLICY_UNRESTRICTED, POLICY_UNRESTRICTED);
    let place = |direction| Place {
        ingress_ifindex: SENDER,
        ..at(direction, false)
    };
    let of_sender = |reply| Whose {
        subject: SENDER,
        direction: Direction::Egress,
        reply,
    };
    let request = from_client(protocol::TCP, 80, SYN);
    let tables = Memory::default();
    let client = Address::from_ipv4(CLIENT);
    tables
        .pods
        .borrow_mut()
        .insert(client, (SENDER, POLICY_UNRESTRICTED));
    let decided = |direction, parsed, packet| decided(&tables, &receiver, place(direction), parsed, packet);
    assert_eq!(
        decided(Direction::Ingress, Parsed::Packet, request),
        Verdict::Forward
    );
    tables.pods.borrow_mut().insert(client, (SENDER, RESTRICTED));
    tables.raise_epoch();
    let came = decided(Direction::Ingress, Parsed::Packet, request);
    assert_eq!(whose(came), (DropReason::EgressBackend, of_sender(false)));
    // The answer goes the other way and is dropped for the same reason.
    let answer = reversed(request, SYN | ACK);
    let went = decided(Direction::Egress, Parsed::Packet, answer);
    assert_eq!(whose(went), (DropReason::EgressBackend, of_sender(true)));
    // Unreadable packets do not reach others while a policy restricts their sender.
    let unread = Parsed::Unreadable(DropReason::Malformed);
    let came = decided(Direction::Ingress, unread, Packet::default());
    assert_eq!(whose(came), (DropReason::Malformed, of_sender(false)));
    let (closed, met) = (
        endpoint(POLICY_DENY, POLICY_UNRESTRICTED),
        place(Direction::Ingress),
    );
    let came = super::decided(&tables, &closed, met, unread, Packet::default());
    assert_eq!(whose(came), (DropReason::Malformed, Whose::at_hook(&met)));
}

/// An error goes in the direction opposite to the packet that it quotes.
#[test]
fn c1_an_error_about_a_denied_connection_is_dropped_as_the_connection_is() {
    let tables = Memory::default();
    let opened = from_client(protocol::UDP, 80, 0);
    assert!(receives(
        &tables,
        &endpoint(POLICY_UNRESTRICTED, POLICY_UNRESTRICTED),
        opened
    ));
    let error = Packet {
        protocol: protocol::ICMP,
        role: Role::Error,
        source_port: [0; 2],
        destination_port: [0; 2],
        source: Address::from_ipv4(POD),
        destination: Address::from_ipv4(CLIENT),
        ..opened
    };
    let closed = endpoint(POLICY_DENY, POLICY_UNRESTRICTED);
    let place = at(Direction::Egress, false);
    let verdict = decide(&tables, &closed, place, Parsed::Packet, &mut { error }, &opened);
    let expected = Whose {
        subject: OWN,
        direction: Direction::Ingress,
        reply: true,
    };
    assert_eq!(whose(verdict), (DropReason::Policy, expected));
}
