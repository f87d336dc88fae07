// SPDX-License-Identifier: Apache-2.0
//! Tests MAC addresses, link-local addresses, and whom a packet is for (rules A6, A9, F1).

use super::*;
use crate::abi::{ENDPOINT_FORWARDS, ENDPOINT_PENDING};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 8];
const LINK_LOCAL: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
const OWN6: [u8; 16] = [0xfd, 0, 0, 0x10, 0x02, 0x44, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x0a];
const EVERYONE: [u8; 6] = [0xff; 6];

const SPOOFED: DropReason = DropReason::Spoofed;
const NOT_OWN: DropReason = DropReason::NotOwnAddress;

fn pod() -> Endpoint {
    Endpoint {
        mac: MAC,
        ipv6: OWN6,
        link_local: LINK_LOCAL,
        ..endpoint(POLICY_UNRESTRICTED, POLICY_UNRESTRICTED)
    }
}

fn link(destination: [u8; 6], source: [u8; 6]) -> [u32; 3] {
    let [a, b, c, d, e, f] = destination;
    let [g, h, i, j, k, l] = source;
    [[a, b, c, d], [e, f, g, h], [i, j, k, l]].map(u32::from_ne_bytes)
}

fn v4(last: u8) -> Address {
    Address::from_ipv4([10, 244, 0, last])
}

fn v6(first: [u8; 2], last: u8) -> Address {
    let mut octets = [0; 16];
    (octets[0], octets[1], octets[15]) = (first[0], first[1], last);
    Address::from_ipv6(octets)
}

/// Returns why a packet between these addresses is dropped; UDP unless said otherwise.
fn reason(pod: &Endpoint, direction: Direction, parsed: Parsed, packet: Packet) -> Option<DropReason> {
    let mac = if pod.mac == [0; 6] { MAC } else { pod.mac };
    let link = match direction {
        _ if packet.link != [0; 3] => packet.link,
        Direction::Ingress => link(mac, OTHER_MAC),
        Direction::Egress => link(OTHER_MAC, mac),
    };
    let packet = Packet { link, ..packet };
    let tables = Memory::default();
    tables.forwards.borrow_mut().push((OWN, v4(200)));
    match decided(&tables, pod, at(direction, false), parsed, packet) {
        Verdict::Forward => None,
        Verdict::Drop(drop) => Some(drop.reason),
    }
}

fn udp(source: Address, destination: Address) -> Packet {
    Packet {
        source,
        destination,
        protocol: protocol::UDP,
        ..Packet::default()
    }
}

const KINDS: [Parsed; 5] = [
    Parsed::Packet,
    Parsed::Neighbour,
    Parsed::Unreadable(DropReason::EtherType),
    Parsed::Unreadable(DropReason::Vlan),
    Parsed::Unreadable(DropReason::Malformed),
];

#[test]
fn a6_a_frame_from_another_mac_address_is_spoofed_whatever_is_in_it() {
    for kind in KINDS {
        for (mac, expected) in [
            (MAC, None),
            (OTHER_MAC, Some(SPOOFED)),
            ([0; 6], Some(SPOOFED)),
            (EVERYONE, Some(SPOOFED)),
            ([1, 0, 0x5e, 0, 0, 1], Some(SPOOFED)),
            ([3, 0, 0, 0, 0, 7], Some(SPOOFED)),
        ] {
            let packet = Packet {
                link: link(OTHER_MAC, mac),
                ..udp(v4(10), v4(11))
            };
            assert_eq!(
                reason(&pod(), Direction::Egress, kind, packet),
                expected,
                "{kind:?} {mac:?}"
            );
            let unknown = Endpoint { mac: [0; 6], ..pod() };
            assert_eq!(
                reason(&unknown, Direction::Egress, kind, packet),
                None,
                "not known yet"
            );
        }
        for octet in 0..6 {
            let mut mac = MAC;
            mac[octet] ^= 0x10;
            let packet = Packet {
                link: link(OTHER_MAC, mac),
                ..udp(v4(10), v4(11))
            };
            assert_eq!(reason(&pod(), Direction::Egress, kind, packet), Some(SPOOFED));
        }
    }
}

#[test]
fn a9_a_frame_for_another_mac_address_is_not_delivered() {
    for kind in KINDS {
        for (mac, expected) in [
            (MAC, None),
            (EVERYONE, None),
            ([0x33, 0x33, 0, 0, 0, 1], None),
            (OTHER_MAC, Some(NOT_OWN)),
            ([0; 6], Some(NOT_OWN)),
        ] {
            let packet = Packet {
                // Not all zeros, which this module takes for a MAC address that is not set.
                link: link(mac, [4; 6]),
                ..udp(v4(11), v4(10))
            };
            assert_eq!(
                reason(&pod(), Direction::Ingress, kind, packet),
                expected,
                "{kind:?} {mac:?}"
            );
        }
    }
}

/// Holds at any pod, isolated or not, and for any sender, the node too.
#[test]
fn a9_unicast_is_delivered_for_an_own_address_only() {
    for (destination, expected) in [
        (v4(10), None),
        (Address::from_ipv6(OWN6), None),
        (Address::from_ipv6(LINK_LOCAL), None),
        (Address::from_ipv4([224, 0, 0, 251]), None),
        (Address::from_ipv4([239, 255, 255, 255]), None),
        (Address::from_ipv4([255; 4]), None),
        (v6([0xff, 2], 0xfb), None),
        (v4(11), Some(NOT_OWN)),
        (v4(255), Some(NOT_OWN)),
        (v4(200), Some(NOT_OWN)),
        (Address::from_ipv4([223, 255, 255, 255]), Some(NOT_OWN)),
        (Address::from_ipv4([240, 0, 0, 1]), Some(NOT_OWN)),
        (v6([0xfe, 0x80], 8), Some(NOT_OWN)),
        (v6([0xfe, 0xff], 8), Some(NOT_OWN)),
        (v6([0xfd, 0], 0x0a), Some(NOT_OWN)),
    ] {
        for kind in [Parsed::Packet, Parsed::Unreadable(DropReason::Malformed)] {
            let packet = udp(v4(11), destination);
            assert_eq!(
                reason(&pod(), Direction::Ingress, kind, packet),
                expected,
                "{destination:?}"
            );
            let closed = Endpoint {
                ingress_policy: POLICY_DENY,
                ..pod()
            };
            let found = reason(&closed, Direction::Ingress, kind, packet);
            assert_eq!(
                found == Some(NOT_OWN),
                expected.is_some(),
                "isolated, {destination:?}"
            );
            let packet = Packet {
                link: link(MAC, OTHER_MAC),
                ..packet
            };
            let by_node = decided(
                &Memory::default(),
                &closed,
                at(Direction::Ingress, true),
                kind,
                packet,
            );
            assert_eq!(
                by_node == Verdict::Forward,
                expected.is_none(),
                "by the node, {destination:?}"
            );
        }
        let neighbour = udp(v4(11), destination);
        assert_eq!(
            reason(&pod(), Direction::Ingress, Parsed::Neighbour, neighbour),
            None,
            "F1"
        );
    }
}

#[test]
fn a9_a_pod_without_an_address_of_a_family_receives_none_of_it() {
    let nobody = Endpoint {
        ipv4: [0; 4],
        ipv6: [0; 16],
        link_local: [0; 16],
        ..pod()
    };
    for destination in [v4(10), Address::from_ipv6(OWN6), Address::from_ipv6(LINK_LOCAL)] {
        let packet = udp(v4(11), destination);
        assert_eq!(
            reason(&nobody, Direction::Ingress, Parsed::Packet, packet),
            Some(NOT_OWN)
        );
    }
    let group = udp(v6([0xfe, 0x80], 1), v6([0xff, 2], 1));
    assert_eq!(reason(&nobody, Direction::Ingress, Parsed::Packet, group), None);
}

#[test]
fn a6_a_pod_has_one_link_local_address() {
    let other = v6([0xfe, 0x80], 8);
    let own = Address::from_ipv6(LINK_LOCAL);
    let unbound = Endpoint {
        link_local: [0; 16],
        ..pod()
    };
    for (pod, source, expected) in [
        (pod(), own, None),
        (pod(), other, Some(SPOOFED)),
        (unbound, own, Some(SPOOFED)),
        (unbound, other, Some(SPOOFED)),
    ] {
        let packet = udp(source, v6([0xff, 2], 0xfb));
        assert_eq!(reason(&pod, Direction::Egress, Parsed::Packet, packet), expected);
        let neighbour = reason(&pod, Direction::Egress, Parsed::Neighbour, packet);
        assert_eq!(
            neighbour, None,
            "F1: how else would it find out that it may have it?"
        );
    }
}

/// If the node routed a message of neighbour discovery, it would leave as an ordinary packet from
/// whoever its source names.
#[test]
fn a6_neighbour_discovery_that_is_routed_is_from_an_own_address() {
    let (unspecified, group, partner) = (v6([0, 0], 0), v6([0xff, 2], 1), v6([0xfd, 0], 99));
    let (own, other, link_local) = (Address::from_ipv6(OWN6), v6([0xfd, 0], 8), v6([0xfe, 0x80], 8));
    for (source, destination, passes) in [
        (own, partner, true),
        (other, partner, false),
        (other, group, true),
        (other, link_local, true),
        (link_local, partner, true),
        (unspecified, partner, true),
        (unspecified, group, true),
    ] {
        let packet = Packet {
            protocol: protocol::ICMPV6,
            ..udp(source, destination)
        };
        let dropped = reason(&pod(), Direction::Egress, Parsed::Neighbour, packet);
        let expected = (!passes).then_some(SPOOFED);
        assert_eq!(dropped, expected, "{source:?} to {destination:?}");
        // On the link, the message reaches whom it is for.
        let delivered = reason(&pod(), Direction::Ingress, Parsed::Neighbour, packet);
        assert_eq!(delivered, None, "{source:?} to {destination:?}");
    }
}

/// A message about groups, to the MAC address of its group.
fn membership(source: Address, destination: Address, protocol: u8, mac: [u8; 6]) -> Packet {
    Packet {
        link: link(mac, MAC),
        protocol,
        role: Role::Single,
        ..udp(source, destination)
    }
}

#[test]
fn f1_messages_about_groups_pass_isolated_pods_to_their_group_only() {
    let isolated = Endpoint {
        ingress_policy: POLICY_DENY,
        egress_policy: POLICY_DENY,
        ..pod()
    };
    let groups = [
        (
            Address::from_ipv6(LINK_LOCAL),
            v6([0xff, 2], 0x16),
            protocol::ICMPV6,
            [0x33, 0x33, 0, 0, 0, 0x16],
        ),
        (
            Address::from_ipv6([0; 16]),
            v6([0xff, 2], 0x16),
            protocol::ICMPV6,
            [0x33, 0x33, 0, 0, 0, 0x16],
        ),
        (
            v4(10),
            Address::from_ipv4([239, 130, 2, 3]),
            protocol::IGMP,
            [1, 0, 0x5e, 2, 2, 3],
        ),
        (
            Address::from_ipv4([0; 4]),
            Address::from_ipv4([224, 0, 0, 22]),
            protocol::IGMP,
            [1, 0, 0x5e, 0, 0, 22],
        ),
    ];
    for (source, destination, protocol, mac) in groups {
        for direction in Direction::ALL {
            let packet = membership(source, destination, protocol, mac);
            assert_eq!(
                reason(&isolated, direction, Parsed::Membership, packet),
                None,
                "{packet:?}"
            );
            for wrong in [
                EVERYONE,
                MAC,
                [mac[0], mac[1], mac[2], mac[3], mac[4], mac[5] ^ 1],
            ] {
                let packet = membership(source, destination, protocol, wrong);
                let found = reason(&isolated, direction, Parsed::Membership, packet);
                assert!(found.is_some(), "{direction:?} by {wrong:?}");
            }
        }
    }
}

#[test]
fn a6_messages_about_groups_are_from_an_own_address() {
    let router = [0x33, 0x33, 0, 0, 0, 0x16];
    let systems = [1, 0, 0x5e, 0, 0, 1];
    let unbound = Endpoint {
        link_local: [0; 16],
        ..pod()
    };
    let mld = |source| membership(source, v6([0xff, 2], 0x16), protocol::ICMPV6, router);
    let igmp = |source| {
        membership(
            source,
            Address::from_ipv4([224, 0, 0, 1]),
            protocol::IGMP,
            systems,
        )
    };
    let other = v6([0xfe, 0x80], 8);
    for (pod, packet, expected) in [
        (pod(), mld(Address::from_ipv6(LINK_LOCAL)), None),
        (pod(), mld(other), Some(SPOOFED)),
        (unbound, mld(other), None),
        (unbound, mld(v6([0xfd, 0], 8)), Some(SPOOFED)),
        (pod(), igmp(v4(10)), None),
        (pod(), igmp(Address::from_ipv4([0; 4])), None),
        (pod(), igmp(v4(1)), Some(SPOOFED)),
    ] {
        assert_eq!(
            reason(&pod, Direction::Egress, Parsed::Membership, packet),
            expected,
            "{packet:?}"
        );
    }
}

#[test]
fn a6_a_pod_sends_and_receives_for_whom_its_namespace_says() {
    let gateway = Endpoint {
        flags: ENDPOINT_FORWARDS,
        ..pod()
    };
    for (pod, last, passes) in [(gateway, 200, true), (gateway, 201, false), (pod(), 200, false)] {
        let sent = reason(&pod, Direction::Egress, Parsed::Packet, udp(v4(last), v4(11)));
        assert_eq!(sent, (!passes).then_some(SPOOFED));
        let received = reason(&pod, Direction::Ingress, Parsed::Packet, udp(v4(11), v4(last)));
        assert_eq!(received, (!passes).then_some(NOT_OWN));
    }
    let elsewhere = Place {
        ifindex: OWN + 1,
        ..at(Direction::Egress, false)
    };
    let tables = Memory::default();
    tables.forwards.borrow_mut().push((OWN, v4(200)));
    let packet = Packet {
        link: link(OTHER_MAC, MAC),
        ..udp(v4(200), v4(11))
    };
    let verdict = decided(&tables, &gateway, elsewhere, Parsed::Packet, packet);
    assert_ne!(verdict, Verdict::Forward, "what another pod may");
}

/// A pod that is met under its link-local address is judged by the identity of that address. The
/// agent gives that identity to the pod (rule A9).
#[test]
fn a9_link_local_addresses_have_identities_flows_and_replies() {
    let (tables, web) = web();
    let pod = Endpoint {
        link_local: LINK_LOCAL,
        ..web
    };
    let client = v6([0xfe, 0x80], 8);
    let request = Packet {
        source: client,
        destination: Address::from_ipv6(LINK_LOCAL),
        ..from_client(protocol::TCP, 80, SYN)
    };
    assert!(!receives(&tables, &pod, request), "nobody's");
    tables.put_address(client, CLIENTS);
    assert!(receives(&tables, &pod, request));
    let reply = Packet {
        source: request.destination,
        destination: request.source,
        source_port: request.destination_port,
        destination_port: request.source_port,
        tcp_flags: SYN | ACK,
        ..request
    };
    assert!(sends(&tables, &pod, reply), "C1");
    let forged = Packet {
        source: v6([0xfe, 0x80], 9),
        ..reply
    };
    assert!(!sends(&tables, &pod, forged));
}

/// The programs are attached before the pod is known. In open mode, a pending endpoint lets
/// everything pass (rule B2). In strict mode there is no endpoint, so only the node may pass (rule
/// L1). Neither has an address to compare packets with.
#[test]
fn b2_l1_without_a_known_pod_addresses_neither_open_nor_close() {
    let pending = Endpoint {
        flags: ENDPOINT_PENDING,
        ..endpoint(POLICY_UNRESTRICTED, POLICY_UNRESTRICTED)
    };
    let pending = Endpoint {
        ipv4: [0; 4],
        ipv6: [0; 16],
        ..pending
    };
    let unknown = Endpoint {
        ingress_policy: POLICY_DENY,
        egress_policy: POLICY_DENY,
        ..Endpoint::default()
    };
    let foreign = link(OTHER_MAC, [2, 0, 0, 0, 0, 9]);
    let tables = Memory::default();
    for (source, destination) in [(v4(66), v4(77)), (v6([0xfd, 0], 66), v6([0xfe, 0x80], 77))] {
        for direction in Direction::ALL {
            let packet = Packet {
                link: foreign,
                ..udp(source, destination)
            };
            assert_eq!(reason(&pending, direction, Parsed::Packet, packet), None);
            for kind in [Parsed::Packet, Parsed::Unreadable(DropReason::Malformed)] {
                let found = reason(&unknown, direction, kind, packet);
                assert!(
                    found.is_some_and(|reason| ![SPOOFED, NOT_OWN].contains(&reason)),
                    "{found:?}"
                );
            }
        }
        let packet = Packet {
            link: foreign,
            ..udp(source, destination)
        };
        let by_node = decided(
            &tables,
            &unknown,
            at(Direction::Ingress, true),
            Parsed::Packet,
            packet,
        );
        assert_eq!(by_node, Verdict::Forward, "A2");
    }
    // Once the pod is known, all its packets are checked, even if its MAC address is not known.
    let known = Endpoint { mac: [0; 6], ..pod() };
    let packet = udp(v4(66), v4(77));
    assert_eq!(
        reason(&known, Direction::Egress, Parsed::Packet, packet),
        Some(SPOOFED)
    );
    assert_eq!(
        reason(&known, Direction::Ingress, Parsed::Packet, packet),
        Some(NOT_OWN)
    );
}
