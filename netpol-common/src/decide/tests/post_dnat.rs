// SPDX-License-Identifier: Apache-2.0
//! Tests ways around the post-DNAT check of a backend (rule A5), and around the sender of a packet.

use super::*;
use crate::abi::{NO_INTERFACE, SENDER_AMBIGUOUS};

const POD: [u8; 4] = [10, 244, 0, 10];
const VIRTUAL: [u8; 4] = [10, 96, 0, 1];
const DENIED: [u8; 4] = [10, 244, 1, 10];
const ALLOWED: [u8; 4] = [10, 244, 1, 9];
const BRIDGE: u32 = 2;
const UPLINK: u32 = 3;
const ANYONE: u32 = 20;
const SERVICE: u32 = 30;
const DENIED_CLASS: u32 = 40;
const OPEN: u32 = 8;

/// A pod behind the bridge. It may reach everyone except one pod of another node, and all backends
/// of the Service that the agent knows.
fn isolated() -> (Memory, Endpoint) {
    let tables = Memory::default();
    let pod = endpoint(POLICY_UNRESTRICTED, OPEN);
    for (address, identity, flags) in [
        (VIRTUAL, ANYONE, 0),
        (ALLOWED, ANYONE, 0),
        (DENIED, DENIED_CLASS, 0),
        (NODE, 2, IDENTITY_NODE),
    ] {
        tables.put_identity(address, identity, flags);
    }
    for identity in [ANYONE, SERVICE] {
        tables.put_policy(OPEN, identity, None, ACTION_ACCEPT);
    }
    for (address, port) in [(VIRTUAL, 80), ([0; 4], 30_080)] {
        let key = (Address::from_ipv4(address), protocol::TCP, port);
        tables.frontends.borrow_mut().insert(key, SERVICE);
    }
    tables
        .pods
        .borrow_mut()
        .insert(Address::from_ipv4(POD), (OWN, OPEN));
    tables
        .senders
        .borrow_mut()
        .extend([((BRIDGE, 0), SENDER_AMBIGUOUS), ((BRIDGE, pod.number()), OWN)]);
    (tables, pod)
}

fn to(address: [u8; 4], port: u16, tcp_flags: u8) -> Packet {
    Packet {
        source: Address::from_ipv4(POD),
        destination: Address::from_ipv4(address),
        ..from_client(protocol::TCP, port, tcp_flags)
    }
}

/// Returns true if a packet from the pod leaves the node after kube-proxy translated its
/// destination or source.
fn leaves(tables: &Memory, pod: &Endpoint, sent: Packet, translated: Packet) -> bool {
    tables.tag.set(0);
    if !sends(tables, pod, sent) {
        return false;
    }
    let place = Place {
        direction: Direction::Egress,
        ifindex: UPLINK,
        ingress_ifindex: BRIDGE,
        tag: tables.tag.get(),
    };
    match sender_to_judge(tables, &place, &translated) {
        0 => true,
        OWN => of_pod(tables, pod, &place, None, &mut { translated }) == Verdict::Forward,
        _ => false,
    }
}

/// Fragments that the kernel makes of an IPv6 packet do not tell by which bridge it came.
#[test]
fn a3_a5_the_tag_tells_the_sender_of_a_fragment_without_an_interface() {
    let (tables, pod) = isolated();
    let mut senders = tables.senders.borrow_mut();
    senders.extend([((0, 0), SENDER_AMBIGUOUS), ((0, pod.number()), OWN)]);
    drop(senders);
    let sender = |source, fragment_header, tag| {
        let packet = Packet {
            source: Address::from_ipv4(source),
            fragment_header,
            ..to(DENIED, 8080, ACK)
        };
        let place = Place {
            direction: Direction::Egress,
            ifindex: UPLINK,
            ingress_ifindex: 0,
            tag,
        };
        sender_to_judge(&tables, &place, &packet)
    };
    assert_eq!(sender(POD, true, pod.tag(true)), OWN);
    assert_eq!(sender(NODE, true, pod.tag(true)), OWN, "masqueraded");
    assert_eq!(sender(POD, true, pod.tag(false)), 0, "a reply");
    assert_eq!(sender(POD, true, 0), OWN, "a tag that someone overwrote");
    assert_eq!(sender(POD, false, 0), 0, "no fragment");
    tables.socket.set(true);
    assert_eq!(sender(NODE, true, 0), 0, "the node's own");
}

#[test]
fn a5_a_backend_that_the_agent_no_longer_knows_is_judged_where_it_leaves() {
    for (address, port) in [(VIRTUAL, 80), (NODE, 30_080)] {
        let (tables, pod) = isolated();
        let syn = to(address, port, SYN);
        assert!(leaves(&tables, &pod, syn, to(ALLOWED, 8080, SYN)));
        assert!(
            !leaves(&tables, &pod, syn, to(DENIED, 8080, SYN)),
            "kube-proxy has a backend that the agent has not: {address:?}"
        );
        // An open connection goes on to the backend that the kernel's connection tracking
        // remembers.
        let (sent, translated) = (to(address, port, ACK), to(DENIED, 8080, ACK));
        tables.raise_epoch();
        assert!(!leaves(&tables, &pod, sent, translated), "{address:?}");
        assert!(leaves(&tables, &pod, sent, to(ALLOWED, 8080, ACK)));
        tables.frontends.borrow_mut().clear();
        tables.raise_epoch();
        assert!(
            !leaves(&tables, &pod, sent, translated),
            "the Service is gone, its connections are not: {address:?}"
        );
        assert!(leaves(&tables, &pod, sent, to(ALLOWED, 8080, ACK)));
    }
}

/// Holds before kube-proxy has rules for a Service, and after it had them.
#[test]
fn a9_what_nobody_translated_leaves_only_if_its_address_is_allowed() {
    for action in [ACTION_ACCEPT, ACTION_DEFER] {
        for (identity, passes) in [(ANYONE, true), (DENIED_CLASS, false)] {
            let (tables, pod) = isolated();
            tables
                .policies
                .borrow_mut()
                .retain(|(_, key, _)| key.identity != SERVICE);
            tables.put_policy(OPEN, SERVICE, None, action);
            tables.put_identity(VIRTUAL, identity, 0);
            for flags in [SYN, ACK] {
                let packet = to(VIRTUAL, 80, flags);
                assert_eq!(
                    leaves(&tables, &pod, packet, packet),
                    passes,
                    "action {action}, identity {identity}"
                );
            }
        }
    }
}

/// Connection tracking takes up a TCP connection in its middle, and translates it like a new one.
#[test]
fn a5_a_service_at_the_node_is_closed_to_segments_that_open_nothing() {
    let (tables, pod) = isolated();
    tables
        .policies
        .borrow_mut()
        .retain(|(_, key, _)| key.identity != SERVICE);
    let key = (Address::from_ipv4(NODE), protocol::TCP, 443);
    tables.frontends.borrow_mut().insert(key, SERVICE);
    for port in [30_080, 443] {
        for flags in [SYN, ACK, FIN | ACK, 0] {
            let (sent, translated) = (to(NODE, port, flags), to(DENIED, 8080, flags));
            assert!(
                !leaves(&tables, &pod, sent, translated),
                "port {port}, flags {flags:#x}"
            );
        }
    }
}

/// The gateway of a bridge may be another device than the bridge: one of its VLANs, or a VRF around
/// it. A pod may also be gone while its packets are still on their way.
#[test]
fn a5_what_is_deferred_is_closed_where_its_sender_is_not_found() {
    let (tables, pod) = isolated();
    tables.policies.borrow_mut().clear();
    tables.put_policy(OPEN, SERVICE, None, ACTION_DEFER);
    assert!(sends(&tables, &pod, to(VIRTUAL, 80, SYN)));
    let tag = tables.tag.get();
    assert!(tag::is_deferred(tag));
    tables.senders.borrow_mut().remove(&(BRIDGE, pod.number()));
    let gateway = 77;
    for (source, came_by) in [(POD, gateway), (NODE, gateway), (POD, BRIDGE), (NODE, BRIDGE)] {
        let translated = Packet {
            source: Address::from_ipv4(source),
            ..to(DENIED, 8080, SYN)
        };
        let leaving = Place {
            direction: Direction::Egress,
            ifindex: UPLINK,
            ingress_ifindex: came_by,
            tag,
        };
        assert_ne!(
            sender_to_judge(&tables, &leaving, &translated),
            0,
            "to another node"
        );
        let backend = Endpoint {
            id: 9,
            ..endpoint(POLICY_UNRESTRICTED, POLICY_UNRESTRICTED)
        };
        let place = Place {
            ifindex: 12,
            direction: Direction::Ingress,
            ..leaving
        };
        for parsed in [Parsed::Packet, Parsed::Unreadable(DropReason::Malformed)] {
            let verdict = decided(&tables, &backend, place, parsed, translated);
            assert!(
                matches!(verdict, Verdict::Drop(_)),
                "to a pod of this node, {parsed:?}"
            );
        }
    }
}

/// A port that masquerade wrote on a packet is no port that the pod opened.
#[test]
fn c1_what_leaves_masqueraded_opens_no_way_back_by_its_port() {
    let (tables, pod) = isolated();
    tables
        .policies
        .borrow_mut()
        .retain(|(_, key, _)| key.identity != SERVICE);
    tables.put_policy(OPEN, SERVICE, None, ACTION_DEFER);
    let pod = Endpoint {
        ingress_policy: POLICY_DENY,
        ..pod
    };
    let masqueraded = Packet {
        source: Address::from_ipv4(NODE),
        source_port: 5353u16.to_be_bytes(),
        ..to(ALLOWED, 8080, SYN)
    };
    assert!(leaves(&tables, &pod, to(VIRTUAL, 80, SYN), masqueraded));
    let stranger = Packet {
        source: Address::from_ipv4(ALLOWED),
        destination: Address::from_ipv4(POD),
        source_port: 8080u16.to_be_bytes(),
        ..from_client(protocol::TCP, 5353, ACK)
    };
    assert!(
        !receives(&tables, &pod, stranger),
        "the pod never sent from that port"
    );
}

/// A pod may write the field itself before its packets leave its namespace. A priority tag (VLAN
/// 0), say, is removed only after `from_pod`.
#[test]
fn a1_a_tag_that_a_pod_wrote_itself_does_not_pass() {
    let (tables, pod) = isolated();
    let pod = Endpoint {
        egress_policy: POLICY_UNRESTRICTED,
        ..pod
    };
    for reason in [
        DropReason::Vlan,
        DropReason::Fragment,
        DropReason::ExtensionHeaders,
    ] {
        let forged = tag::new(99, false);
        tables.tag.set(forged);
        let place = Place {
            tag: forged,
            ..at(Direction::Egress, false)
        };
        let verdict = decided(
            &tables,
            &pod,
            place,
            Parsed::Unreadable(reason),
            Packet::default(),
        );
        assert_eq!(verdict, Verdict::Forward);
        assert_eq!(tables.tag.get(), pod.tag(true), "{reason:?}");
    }
}

/// Holds without tags, too: two pods behind one bridge, known by its ports, whose packets get the
/// same masqueraded port one after the other.
#[test]
fn c3_one_senders_flow_is_not_anothers_without_tags() {
    let (tables, _) = isolated();
    tables.put_identity(POD, ANYONE, 0);
    let (first, second) = (11, 12);
    for (address, ifindex, policy) in [(CLIENT, first, OPEN), ([10, 244, 0, 12], second, POLICY_DENY)] {
        tables
            .pods
            .borrow_mut()
            .insert(Address::from_ipv4(address), (ifindex, policy));
    }
    let backend = Endpoint {
        id: 9,
        ..endpoint(POLICY_UNRESTRICTED, POLICY_UNRESTRICTED)
    };
    let packet = Packet {
        source: Address::from_ipv4(NODE),
        ..from_client(protocol::UDP, 5353, 0)
    };
    let by = |ifindex| {
        let place = Place {
            ingress_ifindex: ifindex,
            ..at(Direction::Ingress, false)
        };
        decided(&tables, &backend, place, Parsed::Packet, packet)
    };
    assert_eq!(by(first), Verdict::Forward);
    assert!(matches!(by(second), Verdict::Drop(_)), "its egress is closed");
    assert_eq!(by(first), Verdict::Forward);
}

/// A flow that was denied to a client behind masquerade stays in the table. The node may later get
/// the same port for a probe of its own.
#[test]
fn a2_a_probe_is_answered_on_a_port_that_a_denied_client_had() {
    let (tables, pod) = web();
    tables.put_policy(WEB, 2, None, ACTION_ACCEPT);
    let masqueraded = Packet {
        source: Address::from_ipv4(NODE),
        ..from_client(protocol::TCP, 80, SYN)
    };
    assert!(receives(&tables, &pod, masqueraded));
    assert!(sends(&tables, &pod, reversed(masqueraded, SYN | ACK)));
    let closed = Endpoint {
        ingress_policy: POLICY_DENY,
        ..pod
    };
    assert!(!receives(
        &tables,
        &closed,
        Packet {
            tcp_flags: RST,
            ..masqueraded
        }
    ));
    tables.wait(600 * SECOND);
    let probe = at(Direction::Ingress, true);
    assert_eq!(
        decided(&tables, &closed, probe, Parsed::Packet, masqueraded),
        Verdict::Forward
    );
    assert!(sends(&tables, &closed, reversed(masqueraded, SYN | ACK)));
}

/// A packet for the node leads to no pod, even if it goes to a pod's MAC address.
#[test]
fn a2_a_pods_way_to_the_node_ends_there() {
    let (tables, pod) = isolated();
    tables.policies.borrow_mut().clear();
    let packet = to(NODE, 5353, SYN);
    assert!(sends(&tables, &pod, packet));
    let place = Place {
        direction: Direction::Ingress,
        ifindex: 12,
        ingress_ifindex: OWN,
        tag: tables.tag.get(),
    };
    let other = Endpoint {
        id: 9,
        ..endpoint(POLICY_UNRESTRICTED, POLICY_UNRESTRICTED)
    };
    assert!(matches!(
        decided(&tables, &other, place, Parsed::Packet, packet),
        Verdict::Drop(_)
    ));
}

/// A packet that a pod sent to its node in a tunnel has, once unpacked, the pod's tag and whatever
/// addresses the pod wrote.
#[test]
fn a6_what_the_node_unpacks_is_the_pods() {
    const OTHER: [u8; 4] = [10, 244, 0, 11];
    let tunnel = 77;
    let (tables, isolated) = isolated();
    tables.put_identity(OTHER, ANYONE, 0);
    let (other, id) = (13, 13);
    let free = Endpoint {
        id,
        ipv4: OTHER,
        ..endpoint(POLICY_UNRESTRICTED, POLICY_UNRESTRICTED)
    };
    tables
        .pods
        .borrow_mut()
        .insert(Address::from_ipv4(OTHER), (other, POLICY_UNRESTRICTED));
    tables.senders.borrow_mut().extend([
        ((NO_INTERFACE, isolated.number()), OWN),
        ((NO_INTERFACE, free.number()), other),
    ]);
    let receiver = Endpoint {
        id: 9,
        ipv4: ALLOWED,
        ..endpoint(OPEN, POLICY_UNRESTRICTED)
    };
    for (sender, own, others) in [(isolated, POD, OTHER), (free, OTHER, POD)] {
        for source in [own, others, ALLOWED] {
            tables.tag.set(0);
            let outer = Packet {
                source: Address::from_ipv4(own),
                protocol: protocol::UDP,
                ..to(NODE, 8472, 0)
            };
            assert!(sends(&tables, &sender, outer));
            let inner = Packet {
                source: Address::from_ipv4(source),
                ..to(ALLOWED, 80, SYN)
            };
            let leaving = Place {
                direction: Direction::Egress,
                ifindex: UPLINK,
                ingress_ifindex: tunnel,
                tag: tables.tag.get(),
            };
            let known = sender_to_judge(&tables, &leaving, &inner) != SENDER_AMBIGUOUS;
            assert_eq!(known, source == own, "{own:?} as {source:?} to another node");
            let received = Place {
                direction: Direction::Ingress,
                ifindex: 12,
                ..leaving
            };
            let verdict = decided(&tables, &receiver, received, Parsed::Packet, inner);
            let forged = Verdict::Drop(Drop {
                reason: DropReason::UnknownSender,
                policy: NO_POLICY,
                identity: IDENTITY_NONE,
                whose: Whose::sender(SENDER_AMBIGUOUS),
            });
            assert_eq!(verdict == forged, source != own, "{own:?} as {source:?}");
            let reason = Parsed::Unreadable(DropReason::ExtensionHeaders);
            let open = Endpoint {
                ipv4: ALLOWED,
                ..endpoint(POLICY_UNRESTRICTED, POLICY_UNRESTRICTED)
            };
            let kept = decided(&tables, &open, received, reason, inner) != Verdict::Forward;
            assert_eq!(kept, source != own || own == POD, "{own:?} as {source:?}");
        }
    }
}

/// Regression: an answer to another pod's question that came out of a tunnel of the node.
#[test]
fn a6_what_the_node_unpacks_answers_for_nobody_else() {
    const OTHER: [u8; 4] = [10, 244, 0, 11];
    let (tunnel, bridge, writer, asked) = (77, 70, 5, 6);
    let tables = Memory::default();
    let pods = [(OTHER, 13), (ALLOWED, 14)].map(|(ip, ifindex)| (Address::from_ipv4(ip), (ifindex, 0)));
    tables.pods.borrow_mut().extend(pods);
    tables.senders.borrow_mut().extend([
        ((NO_INTERFACE, writer), 13),
        ((NO_INTERFACE, asked), 14),
        ((bridge, writer), 13),
        ((bridge, asked), 14),
        ((bridge, 0), SENDER_AMBIGUOUS),
    ]);
    let pod = endpoint(POLICY_DENY, POLICY_UNRESTRICTED);
    let place = |came_by, tag| Place {
        direction: Direction::Ingress,
        ifindex: OWN,
        ingress_ifindex: came_by,
        tag,
    };
    for protocol in [protocol::TCP, protocol::UDP] {
        let question = Packet {
            protocol,
            ..to(ALLOWED, 53, SYN)
        };
        assert!(sends(&tables, &pod, question));
        let answer = reversed(question, SYN | ACK);
        for (tag, came_by, passes) in [
            (tag::new(asked, false), bridge, true),
            (tag::new(asked, true), bridge, true),
            (tag::new(asked, false), 14, true),
            // From outside, by any way.
            (0, UPLINK, true),
            (tag::LEFT, UPLINK, true),
            // From the asked pod itself, by a tunnel.
            (tag::new(asked, false), tunnel, true),
            (tag::new(writer, false), tunnel, false),
            (tag::new(writer, true), tunnel, false),
            // No pod has this number. By the bridge, it is somebody else's mark.
            (tag::new(9, false), tunnel, false),
            (tag::new(9, false), bridge, true),
            // Translated by the node: a Service answers with its own address.
            (tag::new(writer, false), bridge, true),
        ] {
            for _ in 0..2 {
                // Asks the fast path as well, which must not pass what is dropped.
                let place = place(came_by, tag);
                let continued =
                    crate::decide::fast_path::passes(&tables, &pod, &place, &reversed(question, ACK));
                let passed = decided(&tables, &pod, place, Parsed::Packet, answer) == Verdict::Forward;
                assert_eq!(passed, passes, "{protocol} {tag:#x} by {came_by}");
                assert!(passes || !continued, "{protocol} {tag:#x} by {came_by}");
            }
        }
    }
}

/// Regression: an answer to the node's address, which masquerade gave to the asking pod, has the
/// tag of a judged packet once nothing translates it any more.
#[test]
fn a6_what_leaves_is_from_the_pod_whose_tag_it_has() {
    const OTHER: [u8; 4] = [10, 244, 0, 11];
    let (tunnel, bridge) = (77, 70);
    let (tables, pod) = isolated();
    let number = pod.number();
    let own = (Address::from_ipv4(POD), (OWN, pod.egress_policy));
    tables.pods.borrow_mut().extend([own]);
    tables.senders.borrow_mut().extend([
        ((NO_INTERFACE, number), OWN),
        ((bridge, number), OWN),
        ((bridge, 0), SENDER_AMBIGUOUS),
    ]);
    for (source, came_by, tag, sender) in [
        (POD, bridge, tag::new(number, false), 0),
        (OTHER, bridge, tag::new(number, false), 0),
        (OTHER, OWN, tag::new(number, false), 0),
        (OTHER, NO_INTERFACE, tag::new(number, false), 0),
        (OTHER, UPLINK, tag::LEFT, 0),
        // Unpacked: the pod's own packet is judged, and nothing is believed about others.
        (POD, tunnel, tag::new(number, false), OWN),
        (OTHER, tunnel, tag::new(number, false), SENDER_AMBIGUOUS),
        (OTHER, tunnel, tag::new(number, true), SENDER_AMBIGUOUS),
        (OTHER, tunnel, tag::new(9, false), SENDER_AMBIGUOUS),
    ] {
        let packet = Packet {
            source: Address::from_ipv4(source),
            ..to([192, 0, 2, 7], 80, SYN)
        };
        let place = Place {
            direction: Direction::Egress,
            ifindex: UPLINK,
            ingress_ifindex: came_by,
            tag,
        };
        let found = sender_to_judge(&tables, &place, &packet);
        assert_eq!(found, sender, "{source:?} by {came_by} with {tag:#x}");
    }
}
