// SPDX-License-Identifier: Apache-2.0
//! Attacks of neighbours on the link: link-local addresses, others' MAC addresses, packets for
//! others. And what the link needs to work (rules A6, A9, F1).

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv6Addr, SocketAddrV6, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use netpol_tests::{
    lab::{DENY_ALL, Lab},
    node::Site,
    probe::Outcome,
    raw::{self, Wire},
};
use nix::net::if_::if_nametoindex;

use crate::{
    bound::{endpoint, mac_inside, wait_until_endpoint},
    shared::{lab, policy_of_a},
};

const PORT: u16 = 9_000;
/// Nothing answers at these ports: two hosts that answer each other would never stop.
const PORTS: (u16, u16) = (5_400, 5_401);
/// Time limit for what must arrive, on a busy machine.
const LONG: Duration = Duration::from_secs(20);
/// Time to wait for what must not arrive.
const PATIENCE: Duration = Duration::from_millis(400);

/// Waits until a pod's link-local address is bound, and returns it.
fn link_local(lab: &Lab, pod: &str) -> Ipv6Addr {
    wait_until_endpoint(lab, pod, |endpoint| endpoint.link_local != [0; 16]);
    endpoint(lab, pod).unwrap().link_local.into()
}

fn wire(site: &Site) -> Wire {
    let device = if site.name.contains('/') { "eth0" } else { "cni0" };
    Wire::open(&site.netns, device).unwrap()
}

fn of_family(site: &Site, ipv4: bool) -> IpAddr {
    let mut addresses = site.addresses.iter();
    *addresses.find(|address| address.is_ipv4() == ipv4).unwrap()
}

/// Returns true if a packet that ends with `mark` came.
fn arrives(at: &Wire, patience: Duration, mark: &[u8]) -> bool {
    let is_it = |packet: &[u8]| packet.ends_with(mark);
    at.listen(patience, is_it)
        .unwrap()
        .iter()
        .any(|packet| is_it(packet))
}

/// Returns true if an ordinary socket of one pod connects to a link-local address.
fn connects(from: &Site, to: Ipv6Addr, patience: Duration) -> bool {
    let attempt = from.netns.run(|| {
        let to = SocketAddrV6::new(to, PORT, 0, if_nametoindex("eth0")?);
        match TcpStream::connect_timeout(&to.into(), patience) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::TimedOut => Ok(false),
            Err(error) => Err(error.into()),
        }
    });
    attempt.unwrap()
}

fn listener(site: &Site) -> TcpListener {
    let bound = site
        .netns
        .run(|| Ok(TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT))?));
    bound.unwrap()
}

/// Both ends of a policy that allows all but one pod: that pod connects, and is connected to, under
/// `fe80::`.
#[test]
fn a9_a_pod_met_under_its_link_local_address_is_that_pod() {
    let Some(lab) = lab(&[]) else {
        return;
    };
    let sites = ["shop/a", "shop/b", "other/c"].map(|pod| lab.site(pod).unwrap());
    let ends = ["shop/a", "shop/b", "other/c"].map(|pod| link_local(&lab, pod));
    let _listeners = sites.each_ref().map(listener);
    let [a, b, c] = &sites;
    for (from, to) in [(b, ends[0]), (c, ends[0]), (a, ends[1]), (a, ends[2])] {
        assert!(connects(from, to, LONG), "open: {} -> {to}", from.name);
    }
    let block = format!(
        "{{ipBlock: {{cidr: '::/0', except: ['{}/128']}}}}",
        of_family(c, false)
    );
    let by_block = format!("ingress: [{{from: [{block}]}}]\n  egress: [{{to: [{block}]}}]");
    let selected = "{podSelector: {matchLabels: {app: b}}}";
    let by_selector = format!("ingress: [{{from: [{selected}]}}]\n  egress: [{{to: [{selected}]}}]");
    for rules in [by_block, by_selector] {
        lab.apply("a.yaml", &policy_of_a(&rules)).unwrap();
        assert!(connects(b, ends[0], LONG), "b -> a, {rules}");
        assert!(connects(a, ends[1], LONG), "a -> b, {rules}");
        assert!(!connects(c, ends[0], PATIENCE), "c -> a, {rules}");
        assert!(!connects(a, ends[2], PATIENCE), "a -> c, {rules}");
    }
}

/// A pod gives itself a second link-local address, which no policy knows, and another pod's.
#[test]
fn a6_a_pod_sends_with_one_link_local_address() {
    let Some(lab) = lab(&[]) else {
        return;
    };
    let (thief, victim) = (lab.site("other/c").unwrap(), lab.site("shop/a").unwrap());
    let own = link_local(&lab, "other/c");
    let to = link_local(&lab, "shop/a");
    let (from, at) = (wire(&thief), wire(&victim));
    let second: Ipv6Addr = "fe80::bad".parse().unwrap();
    for (source, passes, mark) in [
        (second, false, b"second 1"),
        (link_local(&lab, "shop/b"), false, b"other's "),
        (own, true, b"its own "),
    ] {
        let segment = raw::udp(source.into(), to.into(), PORTS, mark);
        let packet = raw::ip(source.into(), to.into(), 17, &segment, None);
        from.send(at.mac(), &packet).unwrap();
        let patience = if passes { LONG } else { PATIENCE };
        assert_eq!(arrives(&at, patience, mark), passes, "{source}");
    }
}

/// Makes an ICMPv6 message as the link needs it, with the maximum hop limit.
fn on_link(source: Ipv6Addr, to: Ipv6Addr, kind: u8, rest: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let (source, to) = (source.into(), to.into());
    let (protocol, message) = raw::icmp(source, to, [kind, 0], rest, payload);
    let mut packet = raw::ip(source, to, protocol, &message, None);
    packet[7] = 255;
    packet
}

/// A pod without an address asks if one is taken (RFC 4862), and sends nothing else.
#[test]
fn a6_f1_without_a_source_a_pod_only_asks_for_an_address() {
    let Some(lab) = lab(&[]) else {
        return;
    };
    let (asker, other) = (lab.site("other/c").unwrap(), lab.site("shop/a").unwrap());
    let (from, at) = (wire(&asker), wire(&other));
    let none = Ipv6Addr::UNSPECIFIED;
    let IpAddr::V6(to) = of_family(&other, false) else {
        unreachable!("of that family")
    };
    let segment = raw::udp(none.into(), to.into(), PORTS, b"a datagram of nobody");
    let datagram = raw::ip(none.into(), to.into(), 17, &segment, None);
    let echo = on_link(none, to, 128, [0; 4], b"an echo of nobody");
    for packet in [datagram, echo] {
        from.send(at.mac(), &packet).unwrap();
        assert!(!arrives(&at, PATIENCE, &packet), "{packet:x?}");
    }
    let question = on_link(none, to, 135, [0; 4], &to.octets());
    from.send(at.mac(), &question).unwrap();
    assert!(arrives(&at, LONG, &question), "a question for an address");
}

/// A routed packet looked like neighbour discovery where the pod sent it, and is an ordinary packet
/// where it arrives.
#[test]
fn a6_neighbour_discovery_that_is_routed_is_from_who_sent_it() {
    let Some(lab) = lab(&[]) else {
        return;
    };
    let [sender, other, pod] = ["other/c", "shop/b", "shop/a"].map(|name| lab.site(name).unwrap());
    let [own, others, to] = [&sender, &other, &pod].map(|site| match of_family(site, false) {
        IpAddr::V6(address) => address,
        IpAddr::V4(_) => unreachable!("of that family"),
    });
    let outside: Ipv6Addr = "2001:db8:7::9".parse().unwrap();
    let (from, at, router) = (wire(&sender), wire(&pod), wire(&lab.site("node").unwrap()).mac());
    for (source, passes) in [(own, true), (others, false), (outside, false)] {
        for kind in [133, 134, 135, 136, 137] {
            let mark = format!("{kind} of {source}, routed, and long enough");
            let packet = on_link(source, to, kind, [0; 4], mark.as_bytes());
            from.send(router, &packet).unwrap();
            let patience = if passes { LONG } else { PATIENCE / 4 };
            assert_eq!(arrives(&at, patience, mark.as_bytes()), passes, "{mark}");
        }
    }
    // On the link nobody routes it.
    let question = on_link(others, to, 135, [0; 4], &to.octets());
    from.send(at.mac(), &question).unwrap();
    assert!(!arrives(&at, PATIENCE, &question), "unicast, of another");
}

/// A packet for another's address, with the pod's MAC address, does not enter the pod, isolated or
/// not.
#[test]
fn a9_a_packet_for_another_address_does_not_enter_a_pod() {
    let Some(lab) = lab(&[]) else {
        return;
    };
    let (sender, other, pod) = ("shop/b", "other/c", "shop/a");
    let [sender, other, pod] = [sender, other, pod].map(|name| lab.site(name).unwrap());
    let (from, at) = (wire(&sender), wire(&pod));
    for isolated in [false, true] {
        if isolated {
            // The other pod may be reached: the first pod's policy does not concern it.
            lab.apply("a.yaml", &policy_of_a("ingress: [{}]")).unwrap();
        }
        for ipv4 in [true, false] {
            let source = of_family(&sender, ipv4);
            let nowhere: IpAddr = if ipv4 { "203.0.113.9" } else { "2001:db8:7::9" }
                .parse()
                .unwrap();
            let cases = [
                (of_family(&other, ipv4), false, b"to other"),
                (nowhere, false, b"nowhere "),
                (of_family(&pod, ipv4), true, b"its own "),
            ];
            for (to, passes, mark) in cases {
                let segment = raw::udp(source, to, PORTS, mark);
                from.send(at.mac(), &raw::ip(source, to, 17, &segment, None))
                    .unwrap();
                let patience = if passes { LONG } else { PATIENCE };
                assert_eq!(arrives(&at, patience, mark), passes, "{to}, isolated: {isolated}");
            }
        }
    }
}

/// A pod claims, by a frame of its own, that another's MAC address is behind its port of the
/// bridge.
#[test]
fn a6_a_pod_does_not_take_another_pods_mac_address_in_the_bridge() {
    let Some(lab) = lab(&[]) else {
        return;
    };
    let [thief, victim, sender] = ["other/c", "shop/b", "shop/a"].map(|name| lab.site(name).unwrap());
    for pod in ["other/c", "shop/b", "shop/a"] {
        link_local(&lab, pod);
    }
    let (taken, at_victim, from) = (wire(&thief), wire(&victim), wire(&sender));
    let forger = netpol_tests::capture::Wire::open(&thief.netns, "eth0").unwrap();
    for ipv4 in [true, false] {
        let (source, to) = (of_family(&thief, ipv4), of_family(&sender, ipv4));
        let segment = raw::udp(source, to, PORTS, b"I am here");
        let packet = raw::ip(source, to, 17, &segment, None);
        let ether_type: [u8; 2] = if ipv4 { [8, 0] } else { [0x86, 0xdd] };
        // An IP packet with its own address, ARP, and something else.
        let frames = [
            [&from.mac()[..], &at_victim.mac(), &ether_type, &packet].concat(),
            [&[0xff; 6][..], &at_victim.mac(), &[8, 6], &[0; 46]].concat(),
            [&[0xff; 6][..], &at_victim.mac(), &[0x88, 0xb5], &[0; 46]].concat(),
        ];
        for (number, frame) in frames.iter().enumerate() {
            assert!(forger.send(frame).unwrap());
            let mark = format!("for the victim {number} {ipv4}");
            let (source, to) = (of_family(&sender, ipv4), of_family(&victim, ipv4));
            let segment = raw::udp(source, to, PORTS, mark.as_bytes());
            from.send(at_victim.mac(), &raw::ip(source, to, 17, &segment, None))
                .unwrap();
            assert!(arrives(&at_victim, LONG, mark.as_bytes()), "{mark}");
            assert!(!arrives(&taken, PATIENCE, mark.as_bytes()), "{mark}");
        }
    }
}

/// A bridge floods frames for unknown destinations, and a pod's interface may accept them all.
#[test]
fn a9_flooded_unicast_does_not_enter_a_pod() {
    let Some(lab) = lab(&[]) else {
        return;
    };
    let [sender, pod] = ["shop/b", "shop/a"].map(|name| lab.site(name).unwrap());
    for pod in ["shop/b", "shop/a"] {
        link_local(&lab, pod);
    }
    let (from, at) = (wire(&sender), wire(&pod));
    pod.netns.ip("link set eth0 promisc on\n").unwrap();
    for ipv4 in [true, false] {
        let (source, to) = (of_family(&sender, ipv4), of_family(&pod, ipv4));
        for (mac, passes, mark) in [
            ([2, 0, 0, 0, 0, 0x42], false, b"flooded "),
            (at.mac(), true, b"its own "),
        ] {
            let segment = raw::udp(source, to, PORTS, mark);
            from.send(mac, &raw::ip(source, to, 17, &segment, None)).unwrap();
            let patience = if passes { LONG } else { PATIENCE };
            assert_eq!(arrives(&at, patience, mark), passes, "{to} by {mac:?}");
        }
    }
}

/// The old binding counts, although the pod took another's MAC address while no agent ran.
#[test]
fn a6_the_link_of_a_pod_outlives_a_restart_of_the_agent() {
    let Some(mut lab) = lab(&[]) else {
        return;
    };
    let [thief, victim, sender] = ["other/c", "shop/b", "shop/a"].map(|name| lab.site(name).unwrap());
    for pod in ["other/c", "shop/b", "shop/a"] {
        link_local(&lab, pod);
    }
    let before = endpoint(&lab, "other/c").unwrap();
    assert_eq!(mac_inside(&thief.netns), text_of(before.mac));
    let taken: Ipv6Addr = endpoint(&lab, "shop/b").unwrap().link_local.into();
    lab.agent.stop().unwrap();
    let mac = mac_inside(&victim.netns);
    let batch = format!(
        "link set eth0 address {mac}\naddr flush dev eth0 scope link\naddr add {taken}/64 dev eth0 nodad\n"
    );
    thief.netns.ip(&batch).unwrap();
    lab.agent.restart().unwrap();
    let after = endpoint(&lab, "other/c").unwrap();
    assert_eq!((after.mac, after.link_local), (before.mac, before.link_local));
    let (at_thief, at_victim, from) = (wire(&thief), wire(&victim), wire(&sender));
    for ipv4 in [true, false] {
        let (own, to) = (of_family(&thief, ipv4), of_family(&sender, ipv4));
        let segment = raw::udp(own, to, PORTS, b"I am here");
        at_thief
            .send(from.mac(), &raw::ip(own, to, 17, &segment, None))
            .unwrap();
        assert!(!arrives(&from, PATIENCE, b"I am here"), "{own}");
        let (source, to) = (of_family(&sender, ipv4), of_family(&victim, ipv4));
        let segment = raw::udp(source, to, PORTS, b"for the victim");
        from.send(at_victim.mac(), &raw::ip(source, to, 17, &segment, None))
            .unwrap();
        assert!(arrives(&at_victim, LONG, b"for the victim"), "{to}");
        assert!(!arrives(&at_thief, PATIENCE, b"for the victim"), "{to}");
    }
}

/// Returns the type of a group membership message, and its sender.
fn about_groups(packet: &[u8]) -> Option<(u8, IpAddr)> {
    let source = raw::addresses(packet)?.0;
    match packet[0] >> 4 {
        4 if packet[9] == 2 => Some((packet[usize::from(packet[0] & 0xf) * 4], source)),
        6 if packet[6] == 0 && packet[40] == 58 => Some((packet[48], source)),
        _ => None,
    }
}

/// The bridge queries groups, and forgets those that do not answer. An isolated pod can still be
/// found by IPv6.
#[test]
fn f1_isolated_pods_answer_a_querier_and_are_found_after_its_interval() {
    let Some(lab) = lab(&[("deny.yaml", DENY_ALL)]) else {
        return;
    };
    let (pod, node) = (lab.site("shop/a").unwrap(), lab.site("node").unwrap());
    let own = link_local(&lab, "shop/a");
    let (inside, bridge) = (wire(&pod), wire(&node));
    // Times are in hundredths of a second.
    node.netns
        .ip("link set cni0 type bridge mcast_snooping 1 mcast_query_use_ifaddr 1 mcast_startup_query_interval 50 \
             mcast_query_interval 100 mcast_query_response_interval 20 mcast_membership_interval 250 mcast_querier 1\n")
        .unwrap();
    let [v4, _] = [true, false].map(|ipv4| of_family(&pod, ipv4));
    // A host that has heard a query of an older version answers in that version.
    let kinds = [(0x11, [0x16, 0x22], v4), (130, [131, 143], own.into())];
    for (query, reports, from) in kinds {
        let group = "239.1.2.3".parse().unwrap();
        let member = pod.netns.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.join_multicast_v4(&group, &v4.to_string().parse()?)?;
            Ok(socket)
        });
        let _member = member.unwrap();
        let asks = |packet: &[u8]| about_groups(packet).is_some_and(|(kind, _)| kind == query);
        let seen = inside.listen(LONG, asks).unwrap();
        assert!(seen.iter().any(|packet| asks(packet)), "no query {query}");
        let answers = |packet: &[u8]| {
            reports
                .map(|kind| Some((kind, from)))
                .contains(&about_groups(packet))
        };
        let seen = bridge.listen(LONG, answers).unwrap();
        assert!(
            seen.iter().any(|packet| answers(packet)),
            "no report {reports:?} from {from}"
        );
    }
    // After four queries, everything learnt before is forgotten.
    for _ in 0..4 {
        let asks = |packet: &[u8]| about_groups(packet).is_some_and(|(kind, _)| kind == 130);
        let seen = inside.listen(LONG, asks).unwrap();
        assert!(seen.iter().any(|packet| asks(packet)));
    }
    node.netns.ip("neigh flush dev cni0\n").unwrap();
    lab.expect("node", "shop/a", &Outcome::Reached);
    lab.expect("shop/b", "shop/a", &Outcome::Silent);
}

fn text_of(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
