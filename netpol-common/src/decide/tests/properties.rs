// SPDX-License-Identifier: Apache-2.0
//! Tests any policy, any packet, and any order of packets and changes.

use proptest::prelude::*;
use std::vec::Vec;

use super::*;

const PORTS: [u16; 4] = [79, 80, 81, 8080];

/// Entries of policies 1 and 2 for identities 0 to 2. Of two entries for the same traffic, the
/// first counts.
fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let protocol = prop::sample::select(&[protocol::TCP, protocol::UDP][..]);
    let port = (
        protocol,
        prop::sample::select(&PORTS[..]),
        prop::sample::select(&[0u32, 8, 15, 16][..]),
    );
    let one = (1..3u32, 0..3u32, prop::option::weighted(0.8, port), 0..4u32);
    prop::collection::vec(one, 0..24).prop_map(|all| {
        let mut entries: Vec<Entry> = Vec::new();
        for (policy, identity, part, action) in all {
            let action = if action == 0 { 0 } else { ACTION_ACCEPT };
            let part = part.map(|(protocol, port, bits)| {
                (protocol, u32::from(port) >> (16 - bits) << (16 - bits), bits)
            });
            let new = entry(
                policy,
                identity,
                part.map(|(protocol, port, bits)| (protocol, port as u16, bits)),
                action,
            );
            if entries.iter().all(|old| (old.0, old.1) != (new.0, new.1)) {
                entries.push(new);
            }
        }
        entries
    })
}

fn policy_id() -> impl Strategy<Value = u32> {
    prop::sample::select(&[POLICY_UNRESTRICTED, 1, 1, 2, 2, POLICY_DENY][..])
}

fn packets() -> impl Strategy<Value = Packet> {
    const KINDS: [(u8, u8); 5] = [
        (protocol::TCP, SYN),
        (protocol::TCP, ACK),
        (protocol::TCP, RST),
        (protocol::UDP, 0),
        (47, 0),
    ];
    let port = || prop::sample::select(&PORTS[..]);
    (prop::sample::select(&KINDS[..]), port(), port(), 0..4u8, 0..4u8).prop_map(
        |((protocol, tcp_flags), source, destination, from, to)| {
            let ported = protocol != 47;
            let port = |port: u16| if ported { port.to_be_bytes() } else { [0; 2] };
            Packet {
                source: Address::from_ipv4([10, 0, 0, from]),
                destination: Address::from_ipv4([10, 0, 0, to]),
                source_port: port(source),
                destination_port: port(destination),
                protocol,
                tcp_flags,
                ..Packet::default()
            }
        },
    )
}

fn direction() -> impl Strategy<Value = Direction> {
    prop::sample::select(&Direction::ALL[..])
}

/// 10.0.0.0 to 10.0.0.2 have the identities 0 to 2. The last of them is the node. 10.0.0.3 is a
/// stranger.
fn tables(entries: &[Entry]) -> Memory {
    let tables = Memory::default();
    for identity in 0..3u8 {
        let flags = if identity == 2 { IDENTITY_NODE } else { 0 };
        tables.put_identity([10, 0, 0, identity], u32::from(identity), flags);
    }
    tables.policies.borrow_mut().extend_from_slice(entries);
    tables
}

/// Restates a policy's verdict on a connection that the pod's side opens in a direction, by asking
/// the entries one by one.
fn restated(
    entries: &[Entry],
    policy: u32,
    direction: Direction,
    remote: Address,
    protocol: u8,
    port: [u8; 2],
) -> bool {
    let last = remote.octets[15];
    if policy == POLICY_UNRESTRICTED || (direction == Direction::Egress && last == 2) {
        return true;
    }
    let identity = if last < 3 { u32::from(last) } else { IDENTITY_NONE };
    let mut best: Option<(u32, u32)> = None;
    for (bits, key, value) in entries {
        let matches = key.policy == policy
            && key.identity == identity
            && match bits.checked_sub(72) {
                None => true,
                Some(port_bits) => {
                    let ignored = 16 - port_bits;
                    let block = |port: [u8; 2]| u32::from(u16::from_be_bytes(port)) >> ignored;
                    key.protocol == protocol && block(key.port) == block(port)
                }
            };
        if matches && best.is_none_or(|(longest, _)| longest < *bits) {
            best = Some((*bits, value.action));
        }
    }
    best.is_some_and(|(_, action)| action == ACTION_ACCEPT)
}

/// One step of a story.
#[derive(Debug, Clone)]
enum Moment {
    Packet(Direction, Packet),
    Policies(u32, u32),
    Epoch,
    Wait(u64),
}

fn moments() -> impl Strategy<Value = Vec<Moment>> {
    let moment = prop_oneof![
        8 => (direction(), packets()).prop_map(|(direction, packet)| Moment::Packet(direction, packet)),
        1 => (policy_id(), policy_id()).prop_map(|(ingress, egress)| Moment::Policies(ingress, egress)),
        1 => Just(Moment::Epoch),
        1 => (0..200u64).prop_map(Moment::Wait),
    ];
    prop::collection::vec(moment, 0..60)
}

/// Puts the pod's own address on its end of the packet (rules A6, A9).
fn honest(direction: Direction, packet: Packet) -> Packet {
    let own = Address::from_ipv4(endpoint(0, 0).ipv4);
    match direction {
        Direction::Ingress => Packet {
            destination: own,
            ..packet
        },
        Direction::Egress => Packet {
            source: own,
            ..packet
        },
    }
}

proptest! {
    #[test]
    fn a_first_packet_gets_what_the_policy_says(
        entries in entries(),
        ingress in policy_id(),
        egress in policy_id(),
        direction in direction(),
        packet in packets(),
        from_node in any::<bool>(),
    ) {
        let (tables, pod) = (tables(&entries), endpoint(ingress, egress));
        let packet = honest(direction, packet);
        let verdict = decided(&tables, &pod, at(direction, from_node), Parsed::Packet, packet);
        let (remote, policy) = match direction {
            Direction::Ingress => (packet.source, ingress),
            Direction::Egress => (packet.destination, egress),
        };
        let allowed = from_node && direction == Direction::Ingress
            || restated(&entries, policy, direction, remote, packet.protocol, packet.destination_port);
        prop_assert_eq!(verdict == Verdict::Forward, allowed);
        if !allowed {
            prop_assert_eq!(tables.flow_count(), 0, "C4");
        }
    }

    /// C1 and C2 at any time: a packet passes only if the policies now in force allow it, or allow
    /// the connection that it answers. It is dropped only if they deny one of the two. It answers
    /// only what passed the other way before.
    #[test]
    fn c2_nothing_passes_that_the_policies_in_force_do_not_allow(entries in entries(), moments in moments()) {
        let tables = tables(&entries);
        let mut pod = endpoint(1, 2);
        let mut passed: Vec<(Direction, Packet)> = Vec::new();
        for moment in moments {
            let (direction, packet) = match moment {
                Moment::Packet(direction, packet) => (direction, honest(direction, packet)),
                Moment::Policies(ingress, egress) => {
                    pod = endpoint(ingress, egress);
                    continue;
                }
                Moment::Epoch => {
                    tables.raise_epoch();
                    continue;
                }
                Moment::Wait(seconds) => {
                    tables.wait(seconds * SECOND);
                    continue;
                }
            };
            let remote = match direction {
                Direction::Ingress => packet.source,
                Direction::Egress => packet.destination,
            };
            let allows = |direction, port| {
                restated(&entries, pod.policy(direction), direction, remote, packet.protocol, port)
            };
            let as_new = allows(direction, packet.destination_port);
            let as_reply = allows(direction.opposite(), packet.source_port);
            let asked = passed.iter().any(|(way, other)| {
                *way != direction && flow_key(&pod, *way, other) == flow_key(&pod, direction, &packet)
            });
            if passes(&tables, &pod, direction, packet) {
                prop_assert!(as_new || (as_reply && asked), "{direction:?} {packet:?}");
                prop_assert!(as_new || packet.tcp_flags != SYN, "a SYN answers nothing");
                passed.push((direction, packet));
            } else {
                prop_assert!(!as_new || (!as_reply && asked), "{direction:?} {packet:?}");
            }
        }
    }
}
