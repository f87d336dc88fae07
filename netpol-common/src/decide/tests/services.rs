// SPDX-License-Identifier: Apache-2.0
//! Tests Services: judged by the backends of their frontends, and again where the backend is known.

use super::*;
use crate::abi::{IDENTITY_REMOTE_NODE, SENDER_AMBIGUOUS};

const POD: [u8; 4] = [10, 244, 0, 10];
const VIRTUAL: [u8; 4] = [10, 96, 0, 1];
const ELSEWHERE: [u8; 4] = [192, 168, 0, 2];
/// A host that every policy here allows, and that a Service claims.
const OUTSIDE: [u8; 4] = [198, 51, 100, 7];
const CLIENT_IFINDEX: u32 = 11;
const CLIENT_NUMBER: u16 = 5;
const ANYONE: u32 = 20;
const NOBODY: u32 = 21;
const SERVICE: u32 = 30;
const POD_CLASS: u32 = 40;
const OPEN: u32 = 8;

/// A pod whose egress policy allows a block around all nodes and hosts, but no virtual addresses.
/// For the Service it says `action`.
fn sender(action: u32) -> (Memory, Endpoint) {
    let tables = Memory::default();
    for (address, identity, flags) in [
        (VIRTUAL, NOBODY, 0),
        (OUTSIDE, ANYONE, 0),
        (NODE, 2, IDENTITY_NODE),
        (ELSEWHERE, ANYONE, IDENTITY_REMOTE_NODE),
    ] {
        tables.put_identity(address, identity, flags);
    }
    tables.put_policy(OPEN, ANYONE, None, ACTION_ACCEPT);
    tables.put_policy(OPEN, SERVICE, None, action);
    for (address, port) in [(VIRTUAL, 80), (OUTSIDE, 443), (NODE, 53), ([0; 4], 30_080)] {
        let key = (Address::from_ipv4(address), protocol::TCP, port);
        tables.frontends.borrow_mut().insert(key, SERVICE);
    }
    let key = (Address::from_ipv4(NODE), protocol::UDP, 53);
    tables.frontends.borrow_mut().insert(key, SERVICE);
    (tables, endpoint(POLICY_UNRESTRICTED, OPEN))
}

fn to(address: [u8; 4], port: u16) -> Packet {
    Packet {
        source: Address::from_ipv4(POD),
        destination: Address::from_ipv4(address),
        ..from_client(protocol::TCP, port, SYN)
    }
}

#[test]
fn a5_a_frontend_is_judged_by_its_backends() {
    for (action, passes) in [(ACTION_ACCEPT, true), (ACTION_DEFER, true), (0, false)] {
        let (tables, pod) = sender(action);
        for (address, port) in [(VIRTUAL, 80), (NODE, 30_080)] {
            assert_eq!(sends(&tables, &pod, to(address, port)), passes, "{address:?}");
            assert_eq!(
                tables.tag.take(),
                if passes { pod.tag(true) } else { 0 },
                "what kube-proxy makes of it is not known yet"
            );
        }
        // Another node chooses the backend.
        assert_eq!(
            sends(&tables, &pod, to(ELSEWHERE, 30_080)),
            action == ACTION_ACCEPT
        );
        for (address, port) in [
            (OUTSIDE, 444),
            (NODE, 30_081),
            (ELSEWHERE, 30_081),
            (OUTSIDE, 30_080),
        ] {
            assert!(
                sends(&tables, &pod, to(address, port)),
                "no frontend: {address:?}"
            );
        }
        let udp = Packet {
            protocol: protocol::UDP,
            ..to(VIRTUAL, 80)
        };
        assert!(!sends(&tables, &pod, udp), "another protocol is another frontend");
    }
}

/// What says that the address itself is allowed is the entry of the frontend, and its missing says
/// that it is not, or that the frontend is closed (rule L2).
#[test]
fn l2_a_frontend_without_an_entry_is_closed_whatever_its_address_is() {
    let (tables, pod) = sender(0);
    for (address, port) in [(OUTSIDE, 443), (VIRTUAL, 80), (NODE, 53)] {
        assert!(!sends(&tables, &pod, to(address, port)), "{address:?}");
    }
    // Other ports, and other protocols, are no frontends.
    for packet in [to(OUTSIDE, 444), to(NODE, 54)] {
        assert!(sends(&tables, &pod, packet), "{packet:?}");
    }
}

/// A client of the node may have any number, also that of a frontend at the node's address.
#[test]
fn a2_replies_to_the_node_are_not_for_a_frontend_at_its_address() {
    let (tables, pod) = sender(0);
    let reply = |address| Packet {
        tcp_flags: SYN | ACK,
        ..to(address, 53)
    };
    assert!(sends(&tables, &pod, reply(NODE)));
    assert!(!sends(&tables, &pod, to(NODE, 53)));
    let key = (Address::from_ipv4(OUTSIDE), protocol::TCP, 53);
    tables.frontends.borrow_mut().insert(key, SERVICE);
    assert!(!sends(&tables, &pod, reply(OUTSIDE)), "not the node's");
}

/// A Service with an address as its ExternalIP, for which kube-proxy may have no rules (yet). The
/// agent defers where policy allows the address.
#[test]
fn a9_a_service_closes_no_way_to_an_address_that_is_allowed() {
    for action in [ACTION_ACCEPT, ACTION_DEFER] {
        let (tables, pod) = sender(action);
        let request = to(OUTSIDE, 443);
        assert!(sends(&tables, &pod, request), "action {action}");
        assert_eq!(
            tables.tag.get(),
            pod.tag(true),
            "kube-proxy may lead it elsewhere"
        );
        let place = leaving(tables.tag.get());
        assert_eq!(
            of_pod(&tables, &pod, &place, None, &mut { request }),
            Verdict::Forward
        );
        let closed = Endpoint {
            ingress_policy: POLICY_DENY,
            ..pod
        };
        tables.raise_epoch();
        assert!(
            receives(&tables, &closed, reversed(request, SYN | ACK)),
            "C1, action {action}"
        );
    }
}

#[test]
fn a9_a_service_opens_no_way_to_an_address_that_is_denied() {
    for action in [ACTION_ACCEPT, ACTION_DEFER, 0] {
        let (tables, pod) = sender(action);
        // Another pod, another node, and a host outside that a Service claims.
        for (port, flags) in [(1, 0), (2, IDENTITY_REMOTE_NODE), (3, 0)] {
            let claimed = [192, 0, 2, port];
            tables.put_identity(claimed, NOBODY, flags);
            let key = (Address::from_ipv4(claimed), protocol::TCP, 80);
            tables.frontends.borrow_mut().insert(key, SERVICE);
            let request = to(claimed, 80);
            assert_eq!(sends(&tables, &pod, request), action != 0);
            for deferred in [true, false] {
                // Holds without a tag, too: someone overwrote it.
                let place = leaving(if deferred { pod.tag(true) } else { 0 });
                let left = of_pod(&tables, &pod, &place, None, &mut { request });
                assert!(matches!(left, Verdict::Drop(_)), "action {action}, {claimed:?}");
            }
        }
    }
}

/// A node-local DNS cache, say, has the ClusterIP of the Service that it stands in for.
#[test]
fn a2_a_virtual_address_that_the_node_has_itself_is_open() {
    for action in [ACTION_ACCEPT, ACTION_DEFER] {
        for protocol in [protocol::TCP, protocol::UDP] {
            let (tables, pod) = sender(action);
            let request = Packet {
                protocol,
                ..to(NODE, 53)
            };
            assert!(
                sends(&tables, &pod, request),
                "action {action} protocol {protocol}"
            );
            // If kube-proxy leads the packet to a pod, that backend is judged, and its answers
            // come.
            assert_eq!(tables.tag.get(), pod.tag(true));
            let closed = Endpoint {
                ingress_policy: POLICY_DENY,
                ..pod
            };
            assert!(receives(&tables, &closed, reversed(request, SYN | ACK)));
        }
    }
}

#[test]
fn a2_replies_to_the_node_are_no_node_ports() {
    let (tables, pod) = sender(0);
    let reply = Packet {
        tcp_flags: SYN | ACK,
        ..to(NODE, 30_080)
    };
    assert!(sends(&tables, &pod, reply));
    assert!(!sends(&tables, &pod, to(NODE, 30_080)));
}

#[test]
fn c1_replies_of_a_node_port_pass_a_closed_pod() {
    let (tables, pod) = sender(ACTION_ACCEPT);
    let pod = Endpoint {
        ingress_policy: POLICY_DENY,
        ..pod
    };
    let request = to(NODE, 30_080);
    assert!(sends(&tables, &pod, request));
    assert!(receives(&tables, &pod, reversed(request, SYN | ACK)));
    tables.raise_epoch();
    assert!(receives(&tables, &pod, reversed(request, ACK)));
}

#[test]
fn c2_a_service_that_is_no_longer_allowed_loses_its_connections() {
    let (tables, pod) = sender(ACTION_DEFER);
    let request = to(VIRTUAL, 80);
    assert!(sends(&tables, &pod, request));
    tables
        .policies
        .borrow_mut()
        .retain(|(_, key, _)| key.identity != SERVICE);
    tables.raise_epoch();
    let more = Packet {
        tcp_flags: ACK,
        ..request
    };
    assert!(!sends(&tables, &pod, more));
    assert!(!receives(&tables, &pod, reversed(request, ACK)));
}

/// Interface index of the bridge that the pods are behind.
const BRIDGE: u32 = 2;

/// A place at a device by which packets leave, for a packet that came by the bridge.
fn leaving(tag: u16) -> Place {
    Place {
        direction: Direction::Egress,
        ifindex: 3,
        ingress_ifindex: BRIDGE,
        tag,
    }
}

/// A pod that accepts everything, and a client on this node with egress policy `egress`, which
/// allows the pod only on port 80.
fn receiver(egress: u32) -> (Memory, Endpoint) {
    let tables = Memory::default();
    tables.put_identity(CLIENT, CLIENTS, 0);
    tables.put_identity(POD, POD_CLASS, 0);
    tables.put_identity(NODE, 2, IDENTITY_NODE);
    tables.put_policy(OPEN, POD_CLASS, Some((protocol::TCP, 80, 16)), ACTION_ACCEPT);
    // The action of frontends is not enough where the backend is known.
    tables.put_policy(OPEN, POD_CLASS, Some((protocol::TCP, 81, 16)), ACTION_DEFER);
    tables
        .pods
        .borrow_mut()
        .insert(Address::from_ipv4(CLIENT), (CLIENT_IFINDEX, egress));
    tables.senders.borrow_mut().extend([
        ((BRIDGE, 0), SENDER_AMBIGUOUS),
        ((BRIDGE, CLIENT_NUMBER), CLIENT_IFINDEX),
    ]);
    (tables, endpoint(POLICY_UNRESTRICTED, POLICY_UNRESTRICTED))
}

/// Decides at `to_pod` on a packet that came by an interface.
fn came(tables: &Memory, pod: &Endpoint, by: u32, packet: Packet) -> Verdict {
    tagged(tables, pod, (by, 0), packet)
}

/// Decides at `to_pod` on a packet that came by an interface with a tag.
fn tagged(tables: &Memory, pod: &Endpoint, (by, tag): (u32, u16), packet: Packet) -> Verdict {
    let place = Place {
        ingress_ifindex: by,
        tag,
        ..at(Direction::Ingress, false)
    };
    decided(tables, pod, place, Parsed::Packet, packet)
}

fn from(source: [u8; 4], port: u16) -> Packet {
    Packet {
        source: Address::from_ipv4(source),
        ..from_client(protocol::TCP, port, SYN)
    }
}

#[test]
fn a5_the_backend_is_judged_by_the_policy_of_the_pod_that_sent() {
    let (tables, pod) = receiver(OPEN);
    // Known by its interface or its tag, whatever masquerade wrote. Without a tag, known by its
    // address.
    for (by, tag, source) in [
        (CLIENT_IFINDEX, 0, CLIENT),
        (CLIENT_IFINDEX, 0, NODE),
        (BRIDGE, tag::new(CLIENT_NUMBER, false), NODE),
        (BRIDGE, tag::new(CLIENT_NUMBER, true), NODE),
        (BRIDGE, 0, CLIENT),
        (BRIDGE, tag::new(99, false), CLIENT),
        (BRIDGE, CLIENT_NUMBER << 1, CLIENT),
    ] {
        let came = |packet| tagged(&tables, &pod, (by, tag), packet);
        assert_eq!(came(from(source, 80)), Verdict::Forward);
        for port in [81, 82] {
            let dropped = Verdict::Drop(Drop {
                reason: DropReason::EgressBackend,
                policy: OPEN,
                identity: POD_CLASS,
                whose: Whose::sender(CLIENT_IFINDEX),
            });
            assert_eq!(came(from(source, port)), dropped);
        }
    }
    assert_eq!(
        came(&tables, &pod, 2, from(NODE, 82)),
        Verdict::Forward,
        "nobody's"
    );
    assert_eq!(came(&tables, &pod, 0, from(CLIENT, 82)), Verdict::Forward, "A2");
    let (tables, pod) = receiver(POLICY_UNRESTRICTED);
    assert_eq!(came(&tables, &pod, 2, from(CLIENT, 82)), Verdict::Forward, "I1");
}

#[test]
fn c2_the_senders_policy_counts_for_open_connections_both_ways() {
    for by in [2, CLIENT_IFINDEX] {
        let (tables, pod) = receiver(OPEN);
        let source = if by == 2 { CLIENT } else { NODE };
        let request = from(source, 80);
        assert_eq!(came(&tables, &pod, by, request), Verdict::Forward);
        assert!(sends(&tables, &pod, reversed(request, SYN | ACK)));
        tables.raise_epoch();
        assert!(sends(&tables, &pod, reversed(request, ACK)), "still allowed");
        tables.policies.borrow_mut().clear();
        tables.raise_epoch();
        assert!(
            !sends(&tables, &pod, reversed(request, ACK)),
            "a reply comes first"
        );
        let more = Packet {
            tcp_flags: ACK,
            ..request
        };
        assert!(matches!(came(&tables, &pod, by, more), Verdict::Drop(_)));
    }
}

#[test]
fn a1_a_pod_that_reaches_itself_through_a_service_is_its_own_peer() {
    for (ingress, egress, passes) in [(true, true, true), (true, false, false), (false, true, false)] {
        let tables = Memory::default();
        tables.put_identity(POD, POD_CLASS, 0);
        tables.put_identity(NODE, 2, IDENTITY_NODE);
        let own = Endpoint {
            ingress_policy: WEB,
            ..endpoint(POLICY_UNRESTRICTED, OPEN)
        };
        for (policy, allows) in [(WEB, ingress), (OPEN, egress)] {
            let identity = if allows { POD_CLASS } else { 2 };
            tables.put_policy(policy, identity, None, ACTION_ACCEPT);
        }
        tables
            .pods
            .borrow_mut()
            .insert(Address::from_ipv4(POD), (OWN, OPEN));
        let request = from(NODE, 80);
        assert_eq!(
            came(&tables, &own, OWN, request) == Verdict::Forward,
            passes,
            "ingress {ingress} egress {egress}"
        );
        if passes {
            tables.raise_epoch();
            assert!(sends(&tables, &own, reversed(request, SYN | ACK)));
        }
    }
}

#[test]
fn a5_what_leaves_the_node_is_judged_on_the_backend() {
    let (tables, pod) = sender(ACTION_DEFER);
    let (allowed, denied) = ([10, 244, 1, 9], [10, 244, 1, 10]);
    tables.put_identity(allowed, ANYONE, 0);
    tables.put_identity(denied, POD_CLASS, 0);
    let leaves = |packet: Packet| of_pod(&tables, &pod, &leaving(pod.tag(true)), None, &mut { packet });
    assert_eq!(leaves(to(allowed, 8080)), Verdict::Forward);
    assert_eq!(
        leaves(to(denied, 8080)),
        Verdict::Drop(Drop {
            reason: DropReason::EgressBackend,
            policy: OPEN,
            identity: POD_CLASS,
            whose: Whose::sender(pod.ifindex),
        })
    );
    assert!(
        matches!(leaves(to(VIRTUAL, 80)), Verdict::Drop(_)),
        "nobody translated it, and its address is not allowed"
    );
    let more = Packet {
        tcp_flags: ACK,
        ..to(allowed, 8080)
    };
    assert_eq!(leaves(more), Verdict::Forward);
    tables.policies.borrow_mut().clear();
    assert_eq!(
        leaves(more),
        Verdict::Forward,
        "judged under the same policy and epoch"
    );
    tables.raise_epoch();
    assert!(matches!(leaves(more), Verdict::Drop(_)), "C2");
}

#[test]
fn c1_replies_and_direct_connections_leave_as_from_pod_let_them() {
    let (tables, pod) = sender(ACTION_DEFER);
    tables.put_policy(OPEN, POD_CLASS, None, ACTION_ACCEPT);
    tables.put_identity(CLIENT, 2, 0);
    let request = from(CLIENT, 80);
    assert_eq!(came(&tables, &pod, 2, request), Verdict::Forward);
    let reply = reversed(request, SYN | ACK);
    assert!(sends(&tables, &pod, reply));
    let before = tables.only_flow();
    let leaves = |packet: &Packet, tag| of_pod(&tables, &pod, &leaving(tag), None, &mut { *packet });
    assert_eq!(leaves(&reply, 0), Verdict::Forward);
    assert_eq!(tables.only_flow(), before, "not counted a second time");
    let opened = reversed(request, SYN);
    assert!(
        matches!(leaves(&opened, 0), Verdict::Drop(_)),
        "a SYN answers nothing"
    );
    assert!(
        matches!(leaves(&reply, pod.tag(true)), Verdict::Drop(_)),
        "what a Service translated is no reply"
    );
}

#[test]
fn a5_a_sender_that_nobody_knows_reaches_no_backend_that_is_not_everyones() {
    let (tables, pod) = receiver(OPEN);
    let key = (Address::from_ipv4(POD), protocol::TCP, 82);
    tables.restricted.borrow_mut().push(key);
    let dropped = Verdict::Drop(Drop {
        reason: DropReason::UnknownSender,
        policy: NO_POLICY,
        identity: IDENTITY_NONE,
        whose: Whose::sender(SENDER_AMBIGUOUS),
    });
    // A deferred packet of a pod that is gone cannot be judged by anybody.
    let gone = (BRIDGE, tag::new(99, true));
    for port in [82, 83] {
        assert_eq!(tagged(&tables, &pod, gone, from(NODE, port)), dropped);
    }
    // Its tag was overwritten.
    for tag in [0, CLIENT_NUMBER << 1] {
        assert_eq!(tagged(&tables, &pod, (BRIDGE, tag), from(NODE, 82)), dropped);
        assert_eq!(
            tagged(&tables, &pod, (BRIDGE, tag), from(NODE, 83)),
            Verdict::Forward
        );
        let packet = from(NODE, 82);
        assert_eq!(sender_to_judge(&tables, &leaving(tag), &packet), SENDER_AMBIGUOUS);
    }
    let uplink = 4;
    for tag in [0, tag::LEFT] {
        assert_eq!(
            tagged(&tables, &pod, (uplink, tag), from(NODE, 82)),
            Verdict::Forward,
            "from outside, another node in this kernel among it"
        );
    }
    for number in [CLIENT_NUMBER, 99] {
        let tag = tag::new(number, false);
        assert_eq!(tagged(&tables, &pod, (uplink, tag), from(NODE, 82)), dropped);
    }
}

#[test]
fn a5_only_what_from_pod_deferred_is_judged_where_it_leaves() {
    let (tables, _) = receiver(OPEN);
    let packet = from(NODE, 82);
    let [judged, deferred] = [false, true].map(|deferred| tag::new(CLIENT_NUMBER, deferred));
    for (came_by, tag, sender) in [
        (BRIDGE, deferred, CLIENT_IFINDEX),
        (BRIDGE, judged, 0),
        (0, deferred, 0),
        (4, deferred, SENDER_AMBIGUOUS),
        (4, judged, SENDER_AMBIGUOUS),
        (4, tag::LEFT, 0),
        (CLIENT_IFINDEX, deferred, CLIENT_IFINDEX),
        (CLIENT_IFINDEX, 0, CLIENT_IFINDEX),
        // A packet that the node forwards back by the device that brought it.
        (3, 0, 0),
    ] {
        let place = Place {
            ingress_ifindex: came_by,
            ..leaving(tag)
        };
        assert_eq!(sender_to_judge(&tables, &place, &packet), sender, "{place:?}");
    }
    let (tables, pod) = sender(ACTION_DEFER);
    tables.put_identity([10, 244, 1, 9], ANYONE, 0);
    let place = leaving(pod.tag(true));
    let passed = of_pod(&tables, &pod, &place, None, &mut to([10, 244, 1, 9], 8080));
    assert_eq!(passed, Verdict::Forward);
}

/// Masquerade gives a port that is free again to the next connection.
#[test]
fn c3_one_senders_flow_is_not_anothers() {
    let (tables, pod) = receiver(OPEN);
    let (other, number) = ([10, 244, 0, 12], CLIENT_NUMBER + 1);
    let pods = &tables.pods;
    pods.borrow_mut()
        .insert(Address::from_ipv4(other), (CLIENT_IFINDEX + 1, POLICY_DENY));
    tables
        .senders
        .borrow_mut()
        .insert((BRIDGE, number), CLIENT_IFINDEX + 1);
    let packet = Packet {
        protocol: protocol::UDP,
        ..from(NODE, 80)
    };
    tables.put_policy(OPEN, POD_CLASS, Some((protocol::UDP, 80, 16)), ACTION_ACCEPT);
    let by = |number: u16| tagged(&tables, &pod, (BRIDGE, tag::new(number, false)), packet);
    assert_eq!(by(CLIENT_NUMBER), Verdict::Forward);
    assert!(matches!(by(number), Verdict::Drop(_)));
    assert_eq!(by(CLIENT_NUMBER), Verdict::Forward);
}

#[test]
fn a5_a_connection_keeps_its_tag_and_its_replies_have_none_to_judge() {
    let (tables, pod) = sender(ACTION_DEFER);
    let request = to(VIRTUAL, 80);
    assert!(sends(&tables, &pod, request));
    let more = Packet {
        tcp_flags: ACK,
        ..request
    };
    tables.tag.set(0);
    assert!(sends(&tables, &pod, more));
    assert_eq!(tables.tag.get(), pod.tag(true));
    tables.put_identity(CLIENT, ANYONE, 0);
    let asked = reversed(to(CLIENT, 80), SYN);
    assert_eq!(came(&tables, &pod, 4, asked), Verdict::Forward);
    assert!(sends(&tables, &pod, reversed(asked, SYN | ACK)));
    assert_eq!(tables.tag.get(), pod.tag(false));
}

#[test]
fn c5_fragments_of_what_a_service_translated_follow_their_first() {
    use crate::parse::Part;
    let (tables, pod) = receiver(OPEN);
    let part = |part, port| Packet {
        part,
        identification: u32::from(port),
        fragment_protocol: protocol::TCP,
        ..from(NODE, port)
    };
    let later = |port| Packet {
        source_port: [0; 2],
        destination_port: [0; 2],
        ..part(Part::Later, port)
    };
    let by = (BRIDGE, tag::new(CLIENT_NUMBER, true));
    let comes = |packet| tagged(&tables, &pod, by, packet) == Verdict::Forward;
    assert!(
        !comes(later(80)),
        "of an isolated pod, and nobody knows what it is"
    );
    assert!(comes(part(Part::First, 80)));
    assert!(comes(later(80)));
    assert!(!comes(part(Part::First, 82)));
    assert!(!comes(later(82)));
    let outsider = (4, 0);
    assert_eq!(tagged(&tables, &pod, outsider, later(83)), Verdict::Forward);

    let (tables, pod) = sender(ACTION_DEFER);
    tables.put_identity([10, 244, 1, 9], ANYONE, 0);
    let place = leaving(pod.tag(true));
    let leaves = |mut packet: Packet| {
        packet.destination = Address::from_ipv4([10, 244, 1, 9]);
        of_pod(&tables, &pod, &place, None, &mut packet) == Verdict::Forward
    };
    assert!(!leaves(later(80)));
    assert!(leaves(part(Part::First, 80)));
    assert!(leaves(later(80)));
}
