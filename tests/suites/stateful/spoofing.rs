// SPDX-License-Identifier: Apache-2.0
//! A pod can only send with its own address (rule A6), and nobody becomes the node by its address
//! (rule A3).

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use netpol_common::abi::DropReason;
use netpol_tests::{
    capture,
    lab::{DENY_ALL, Lab},
    probe::Outcome,
    raw::{self, Wire},
};

use crate::shared::{LONG, PATIENCE, dropped, lab, of_family, policy, udp_at, wait_for_drops, wire};

const FORGED: &[u8] = b"forged source";
const SITES: [&str; 4] = ["shop/a", "other/c", "node", "outside"];

/// Returns true if a packet that ends with `mark` came.
fn arrives(at: &Wire, patience: Duration, mark: &[u8]) -> bool {
    let is_it = |packet: &[u8]| packet.ends_with(mark);
    at.listen(patience, is_it)
        .unwrap()
        .iter()
        .any(|packet| is_it(packet))
}

#[test]
fn a6_a3_nothing_that_a_pod_sends_with_another_source_arrives_anywhere() {
    let Some(lab) = lab(&[]) else {
        return;
    };
    for isolated in [false, true] {
        if isolated {
            lab.apply("deny.yaml", DENY_ALL).unwrap();
        }
        let forger = wire(&lab, "shop/b");
        let witnesses = SITES.map(|site| wire(&lab, site));
        let bridge = witnesses[2].mac();
        let gates = [witnesses[0].mac(), witnesses[1].mac(), bridge, bridge];
        let before = dropped(&lab, DropReason::Spoofed);
        let mut sent = 0;
        for ipv4 in [true, false] {
            let nowhere: IpAddr = if ipv4 { "203.0.113.9" } else { "2001:db8:7::9" }
                .parse()
                .unwrap();
            let mut sources: Vec<IpAddr> = SITES
                .iter()
                .flat_map(|site| lab.site(site).unwrap().addresses)
                .filter(|address| address.is_ipv4() == ipv4)
                .collect();
            sources.push(nowhere);
            for (site, gate) in SITES.iter().zip(gates) {
                let to = of_family(&lab.site(site).unwrap(), ipv4);
                for &source in sources.iter().filter(|&&source| source != to) {
                    let segment = raw::udp(source, to, (5353, 5353), FORGED);
                    forger
                        .send(gate, &raw::ip(source, to, 17, &segment, None))
                        .unwrap();
                    sent += 1;
                }
            }
        }
        wait_for_drops(&lab, DropReason::Spoofed, before + sent);
        assert_eq!(dropped(&lab, DropReason::Spoofed), before + sent);
        for (site, witness) in SITES.iter().zip(&witnesses) {
            assert!(
                !arrives(witness, PATIENCE / 4, FORGED),
                "{site}, isolated: {isolated}"
            );
        }
        println!("{sent} packets with another source, isolated: {isolated}: all dropped");

        // Such packets arrive with its own address.
        for (ipv4, mark) in [(true, b"own 4"), (false, b"own 6")] {
            let source = of_family(&lab.site("shop/b").unwrap(), ipv4);
            for ((site, gate), witness) in SITES.iter().zip(gates).zip(&witnesses) {
                let to = of_family(&lab.site(site).unwrap(), ipv4);
                let segment = raw::udp(source, to, (5353, 5353), mark);
                forger
                    .send(gate, &raw::ip(source, to, 17, &segment, None))
                    .unwrap();
                let open = !isolated || *site == "node";
                let patience = if open { LONG } else { PATIENCE / 4 };
                assert_eq!(arrives(witness, patience, mark), open, "{site}");
            }
        }
    }
}

#[test]
fn a6_an_address_that_a_pod_gives_itself_is_not_its_own() {
    let Some(lab) = lab(&[]) else {
        return;
    };
    let (thief, owner) = (lab.site("other/c").unwrap(), lab.site("shop/a").unwrap());
    for address in &owner.addresses {
        let length = if address.is_ipv4() { 24 } else { 64 };
        let command = format!("addr add {address}/{length} dev eth0 nodad\n");
        thief.netns.ip(&command).unwrap();
    }
    for isolated in [false, true] {
        if isolated {
            lab.apply("deny.yaml", DENY_ALL).unwrap();
        }
        let witnesses = ["shop/b", "outside", "node"].map(|site| wire(&lab, site));
        let mut count = dropped(&lab, DropReason::Spoofed);
        for stolen in &owner.addresses {
            let socket = udp_at(&thief, *stolen, 0);
            for site in ["shop/b", "outside", "node"] {
                let to = of_family(&lab.site(site).unwrap(), stolen.is_ipv4());
                socket.send_to(FORGED, SocketAddr::new(to, 5353)).unwrap();
                count += 1;
            }
        }
        wait_for_drops(&lab, DropReason::Spoofed, count);
        for witness in &witnesses {
            assert!(!arrives(witness, PATIENCE / 4, FORGED));
        }
        // It still is itself.
        lab.expect("other/c", "outside", &Outcome::Reached);
        let to_b = if isolated {
            Outcome::Silent
        } else {
            Outcome::Reached
        };
        lab.expect("other/c", "shop/b", &to_b);
    }
}

#[test]
fn a3_the_nodes_address_from_outside_is_not_the_node() {
    let Some(lab) = lab(&[]) else {
        return;
    };
    let forger = wire(&lab, "outside");
    let gate = Wire::open(lab.node.netns(), "uplink0").unwrap().mac();
    let pod = lab.site("shop/a").unwrap();
    for isolated in [false, true] {
        if isolated {
            lab.apply("deny.yaml", DENY_ALL).unwrap();
        }
        // Fills the pod's neighbour entry: without it, the first packet would wait.
        lab.expect("node", "shop/a", &Outcome::Reached);
        for source in lab.node.site().addresses {
            let victim = wire(&lab, "shop/a");
            let to = of_family(&pod, source.is_ipv4());
            let segment = raw::udp(source, to, (10250, 5353), FORGED);
            forger
                .send(gate, &raw::ip(source, to, 17, &segment, None))
                .unwrap();
            // The kernel forwards IPv6 packets with an address of its own, but not IPv4 ones.
            let forwarded = source.is_ipv6() && !isolated;
            assert_eq!(
                arrives(&victim, if forwarded { LONG } else { PATIENCE }, FORGED),
                forwarded,
                "{source}, isolated: {isolated}"
            );
        }
    }
}

/// Makes an end of a VXLAN on the node, as Flannel does.
fn tunnel(lab: &Lab) {
    lab.node
        .netns()
        .ip("link add flannel.1 address 02:f1:a0:00:04:00 type vxlan id 1 local 198.51.100.1 dstport 8472 nolearning\n\
             link set flannel.1 up\n")
        .unwrap();
}

/// Rule A2 lets a pod send anything to its node. What a tunnel's end there decapsulates has the
/// addresses that the pod wrote inside.
#[test]
fn a6_a5_what_the_node_unpacks_is_still_the_pods() {
    let from_elsewhere = policy(
        "a",
        "app: a",
        "ingress: [{from: [{ipBlock: {cidr: 10.244.1.0/24}}]}]",
    );
    let nothing = policy("b", "app: b", "egress: []");
    let Some(lab) = lab(&[("a.yaml", &from_elsewhere), ("b.yaml", &nothing)]) else {
        return;
    };
    tunnel(&lab);
    let [a, b, c, outside] =
        ["shop/a", "shop/b", "other/c", "outside"].map(|name| of_family(&lab.site(name).unwrap(), true));
    let elsewhere: IpAddr = "10.244.1.5".parse().unwrap();
    let node: IpAddr = "198.51.100.1".parse().unwrap();
    let [bridge, uplink] = ["cni0", "uplink0"].map(|device| capture::mac(lab.node.netns(), device).unwrap());
    let witnesses = ["shop/a", "outside"].map(|site| wire(&lab, site));
    let pack = |outer: IpAddr, inner: IpAddr, to: IpAddr, mark: &[u8]| {
        let datagram = raw::ip(inner, to, 17, &raw::udp(inner, to, (5353, 5353), mark), None);
        let frame = [
            &[
                8, 0, 0, 0, 0, 0, 1, 0, 2, 0xf1, 0xa0, 0, 4, 0, 2, 0, 0, 0, 0, 9, 8, 0,
            ][..],
            &datagram,
        ]
        .concat();
        raw::ip(
            outer,
            node,
            17,
            &raw::udp(outer, node, (4000, 8472), &frame),
            None,
        )
    };
    // Another node does this all the time.
    let real = pack(outside, elsewhere, a, b"another node");
    wire(&lab, "outside").send(uplink, &real).unwrap();
    assert!(arrives(&witnesses[0], LONG, b"another node"), "the tunnel works");
    for (from, source, inner, to, witness) in [
        ("other/c", c, elsewhere, a, 0),
        ("other/c", c, outside, a, 0),
        ("shop/b", b, elsewhere, a, 0),
        ("shop/b", b, b, a, 0),
        ("shop/b", b, c, outside, 1),
        ("shop/b", b, b, outside, 1),
        ("shop/b", b, elsewhere, outside, 1),
    ] {
        let mark = format!("inside {inner} to {to}");
        let packet = pack(source, inner, to, mark.as_bytes());
        wire(&lab, from).send(bridge, &packet).unwrap();
        let arrived = arrives(&witnesses[witness], PATIENCE / 4, mark.as_bytes());
        assert!(!arrived, "{from}: {mark}");
    }
    // With its own address the pod may go wherever it may without a tunnel.
    let own = pack(c, c, outside, b"its own");
    wire(&lab, "other/c").send(bridge, &own).unwrap();
    assert!(arrives(&witnesses[1], LONG, b"its own"));
}

/// A socket of the node receives at more than the node's own addresses: broadcast and multicast
/// ones, those that routers share, those that `route_localnet` allows, and the virtual IPs of IPVS
/// mode.
#[test]
fn a6_what_the_node_unpacks_is_the_pods_wherever_it_was_sent() {
    const MACS: [[u8; 6]; 2] = [[2, 0xf1, 0xa0, 0, 4, 0], [2, 0xf1, 0xa0, 0, 6, 0]];
    let from_elsewhere = policy(
        "a",
        "app: a",
        "ingress: [{from: [{ipBlock: {cidr: 10.244.1.0/24}}, {podSelector: {matchLabels: {app: b}}}]}]",
    );
    let Some(mut lab) = lab(&[("a.yaml", &from_elsewhere)]) else {
        return;
    };
    let node = lab.node.netns();
    node.ip(
        "link add flannel.1 address 02:f1:a0:00:04:00 type vxlan id 1 local 198.51.100.1 dstport 8472 nolearning\n\
         link set flannel.1 up\n\
         link add flannel-v6.1 address 02:f1:a0:00:06:00 type vxlan id 1 local 2001:db8:1::1 dstport 8473 nolearning udp6zerocsumrx\n\
         link set flannel-v6.1 up\n\
         link add kube-ipvs0 type bridge\n\
         addr add 10.96.0.9/32 dev kube-ipvs0\n",
    )
    .unwrap();
    node.sysctl(&[
        ("net/ipv4/conf/cni0/route_localnet", "1"),
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/flannel-v6.1/rp_filter", "0"),
    ])
    .unwrap();
    lab.agent.stop().unwrap();
    lab.agent.restart().unwrap();
    let [a, b, c] = ["shop/a", "shop/b", "other/c"].map(|name| lab.site(name).unwrap());
    let outside = of_family(&lab.site("outside").unwrap(), true);
    let bridge = capture::mac(lab.node.netns(), "cni0").unwrap();
    let witnesses = ["shop/a", "outside"].map(|site| wire(&lab, site));
    let from = wire(&lab, "other/c");
    let [own, to] = [&c, &a].map(|site| of_family(site, true));
    for outer in [
        "198.51.100.1",
        "198.51.100.255",
        "10.244.0.255",
        "255.255.255.255",
        "224.0.0.1",
        "127.0.0.1",
        "127.1.2.3",
        "10.96.0.9",
        "2001:db8:1::1",
        "2001:db8:1::",
        "fd00:10:244::",
        "ff02::1",
    ] {
        let outer: IpAddr = outer.parse().unwrap();
        let (mac, port) = if outer.is_ipv4() {
            (MACS[0], 8472)
        } else {
            (MACS[1], 8473)
        };
        let send = |inner: IpAddr, to: IpAddr, mark: &[u8]| {
            // Nothing answers there: two hosts that answer each other would never stop.
            let datagram = raw::ip(inner, to, 17, &raw::udp(inner, to, (5400, 5401), mark), None);
            let header = [8, 0, 0, 0, 0, 0, 1, 0];
            let frame = [&header[..], &mac, &[2, 0, 0, 0, 0, 9, 8, 0], &datagram].concat();
            let source = of_family(&c, outer.is_ipv4());
            let segment = raw::udp(source, outer, (4000, port), &frame);
            let gate = match outer {
                IpAddr::V4(group) if group.is_multicast() => [1, 0, 0x5e, 0, 0, 1],
                IpAddr::V6(group) if group.is_multicast() => [0x33, 0x33, 0, 0, 0, 1],
                IpAddr::V4(all) if all.octets()[3] == 255 => [0xff; 6],
                _ => bridge,
            };
            from.send(gate, &raw::ip(source, outer, 17, &segment, None))
                .unwrap();
        };
        // The node does decapsulate it, and the pod may go there without a tunnel.
        let mark = format!("its own by {outer}");
        send(own, outside, mark.as_bytes());
        assert!(arrives(&witnesses[1], LONG, mark.as_bytes()), "{mark}");
        for inner in [of_family(&b, true), "10.244.1.5".parse().unwrap()] {
            let mark = format!("{inner} by {outer}");
            send(inner, to, mark.as_bytes());
            assert!(!arrives(&witnesses[0], PATIENCE / 4, mark.as_bytes()), "{mark}");
        }
    }
}

/// Seen in practice: an answer to another pod's question, forged in a tunnel of the node's.
#[test]
fn a6_what_the_node_unpacks_answers_for_nobody_else() {
    let isolated = policy("a", "app: a", "ingress: []\n  egress: [{}]");
    let Some(lab) = lab(&[("a.yaml", &isolated)]) else {
        return;
    };
    tunnel(&lab);
    lab.node
        .netns()
        .sysctl(&[("net/ipv4/conf/all/rp_filter", "0")])
        .unwrap();
    let [a, b, c] = ["shop/a", "shop/b", "other/c"].map(|name| lab.site(name).unwrap());
    let outside = lab.site("outside").unwrap();
    let bridge = capture::mac(lab.node.netns(), "cni0").unwrap();
    let [asking, own] = [&a, &c].map(|site| of_family(site, true));
    let node: IpAddr = "198.51.100.1".parse().unwrap();
    let from = wire(&lab, "other/c");
    // Nothing answers there.
    const PORT: u16 = 5401;
    for answering in [&b, &outside] {
        let answers = of_family(answering, true);
        let question = udp_at(&a, asking, 0);
        let port = question.local_addr().unwrap().port();
        question.send_to(b"question", (answers, PORT)).unwrap();
        question.set_read_timeout(Some(PATIENCE)).unwrap();
        let datagram = raw::udp(answers, asking, (PORT, port), b"forged");
        let inner = raw::ip(answers, asking, 17, &datagram, None);
        let header = [
            8, 0, 0, 0, 0, 0, 1, 0, 2, 0xf1, 0xa0, 0, 4, 0, 2, 0, 0, 0, 0, 9, 8, 0,
        ];
        let segment = raw::udp(own, node, (4000, 8472), &[&header[..], &inner].concat());
        let before = dropped(&lab, DropReason::UnknownSender);
        from.send(bridge, &raw::ip(own, node, 17, &segment, None))
            .unwrap();
        wait_for_drops(&lab, DropReason::UnknownSender, before + 1);
        // The host that was asked still answers.
        let answer = udp_at(answering, answers, PORT);
        answer.send_to(b"answer", (asking, port)).unwrap();
        let mut buffer = [0; 16];
        question.set_read_timeout(Some(LONG)).unwrap();
        let length = question.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"answer", "{}", answering.name);
    }
}

/// Rule A2 opens the path to the node, not to the owner of the frame's MAC address.
#[test]
fn a2_what_is_for_the_node_reaches_no_other_pod() {
    let Some(lab) = lab(&[("b.yaml", &policy("b", "app: b", "egress: []"))]) else {
        return;
    };
    let (witness, other) = (wire(&lab, "other/c"), lab.site("other/c").unwrap());
    for (from, open) in [("shop/a", true), ("shop/b", false)] {
        let (site, sender) = (lab.site(from).unwrap(), wire(&lab, from));
        let arrives_by = |to: IpAddr, mac, open| {
            let source = of_family(&site, to.is_ipv4());
            let mark = format!("{from} to {to} by {mac:x?}");
            let segment = raw::udp(source, to, (5353, 5353), mark.as_bytes());
            sender
                .send(mac, &raw::ip(source, to, 17, &segment, None))
                .unwrap();
            let patience = if open { LONG } else { PATIENCE / 4 };
            assert_eq!(arrives(&witness, patience, mark.as_bytes()), open, "{mark}");
        };
        for mac in [witness.mac(), [0xff; 6]] {
            for to in &lab.site("node").unwrap().addresses {
                arrives_by(*to, mac, false);
            }
            // What is for the pod arrives by both.
            for to in &other.addresses {
                arrives_by(*to, mac, open);
            }
        }
    }
}

/// `::ffff:a.b.c.d` in an IPv6 header is nobody's address. A policy about the IPv4 address in it
/// does not open that path.
#[test]
fn a2_f2_an_ipv4_address_in_an_ipv6_header_is_not_that_address() {
    let rules = "egress: [{to: [{ipBlock: {cidr: 198.51.100.0/24}}]}]";
    let Some(lab) = lab(&[("b.yaml", &policy("b", "app: b", rules))]) else {
        return;
    };
    let router = capture::mac(lab.node.netns(), "cni0").unwrap();
    let witnesses = ["outside", "other/c"].map(|site| wire(&lab, site));
    for (from, open) in [("shop/a", true), ("shop/b", false)] {
        let (source, sender) = (of_family(&lab.site(from).unwrap(), false), wire(&lab, from));
        // What the policy allows, and the node.
        for mapped in ["::ffff:198.51.100.10", "::ffff:10.244.0.1"] {
            let to: IpAddr = mapped.parse().unwrap();
            for (witness, mac) in witnesses.iter().zip([router, witnesses[1].mac()]) {
                let mark = format!("{from} to {to} by {mac:x?}");
                let segment = raw::udp(source, to, (5353, 5353), mark.as_bytes());
                let packet = raw::ip(source, to, 17, &segment, None);
                sender.send(mac, &packet).unwrap();
                // The address is not that of the pod with the MAC address either (rule A9).
                let open = open && mac == router;
                let patience = if open { LONG } else { PATIENCE / 4 };
                assert_eq!(arrives(witness, patience, mark.as_bytes()), open, "{mark}");
            }
        }
    }
}
