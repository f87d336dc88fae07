// SPDX-License-Identifier: Apache-2.0
//! Fragments get the verdict of the first one (rule C5): those that the kernel makes of large
//! datagrams, and those that are forged to get past.

use std::net::{IpAddr, SocketAddr};

use netpol_common::abi::DropReason;
use netpol_tests::{
    capture,
    lab::Lab,
    raw::{self, Part, Wire},
};

use crate::shared::{LONG, PATIENCE, dropped, lab, of_family, policy, udp_at, wire};

const RULES: &str = "ingress: [{ports: [{protocol: UDP, port: 7000}, {port: 7000}]}]\n  \
                     egress: [{ports: [{protocol: UDP, port: 7000}, {port: 7000}]}]";
const ALLOWED: u16 = 7000;
const DENIED: u16 = 7001;

/// Makes the node reassemble and refragment packets on the bridge, as with kube-proxy, or not.
fn bridge_netfilter(lab: &Lab, on: bool) {
    let value = if on { "1" } else { "0" };
    let keys = ["iptables", "ip6tables"].map(|which| format!("net/bridge/bridge-nf-call-{which}"));
    let settings = keys.each_ref().map(|key| (key.as_str(), value));
    lab.node.netns().sysctl(&settings).unwrap();
    if on {
        let track = "table inet track { chain arriving { type filter hook prerouting priority 0; ct state new counter; }; }\n";
        lab.node.netns().feed("nft", &["-f", "-"], track).unwrap();
    }
}

#[test]
fn c5_large_datagrams_arrive_where_they_are_allowed_and_nothing_of_them_elsewhere() {
    let (a, b) = (policy("a", "app: a", RULES), policy("b", "app: b", RULES));
    let Some(lab) = lab(&[("a.yaml", &a), ("b.yaml", &b)]) else {
        return;
    };
    for netfilter in [false, true] {
        bridge_netfilter(&lab, netfilter);
        for (from, to) in [
            ("shop/a", "shop/b"),
            ("shop/a", "outside"),
            ("outside", "shop/a"),
            ("other/c", "shop/a"),
        ] {
            for ipv4 in [true, false] {
                let what = format!("{from} -> {to}, IPv4 {ipv4}, bridge netfilter {netfilter}");
                large_datagrams(&lab, from, to, ipv4, &what);
            }
        }
    }
    assert!(dropped(&lab, DropReason::Fragment) > 0);
}

fn large_datagrams(lab: &Lab, from: &str, to: &str, ipv4: bool, what: &str) {
    let (source, destination) = (lab.site(from).unwrap(), lab.site(to).unwrap());
    let (here, there) = (of_family(&source, ipv4), of_family(&destination, ipv4));
    let sender = udp_at(&source, here, 0);
    let receivers = [ALLOWED, DENIED].map(|port| udp_at(&destination, there, port));
    let datagram: Vec<u8> = (0..8000u16).map(|number| number as u8).collect();
    let arrivals = wire(lab, to);
    for _ in 0..3 {
        sender
            .send_to(&datagram, SocketAddr::new(there, ALLOWED))
            .unwrap();
        let mut received = vec![0; 9000];
        let length = receivers[0].recv(&mut received).unwrap_or_else(|error| {
            panic!("{what}: what is allowed does not arrive: {error}");
        });
        assert!(received[..length] == datagram, "{what}: it was changed");
    }
    let is_ours = |packet: &[u8]| raw::addresses(packet) == Some((here, there));
    let parts = arrivals.listen(PATIENCE / 8, |_| false).unwrap();
    let parts = parts.iter().filter(|packet| is_ours(packet)).count();
    assert!(
        parts >= 18,
        "{what}: only {parts} packets, so these were no fragments"
    );

    let arrivals = wire(lab, to);
    for _ in 0..3 {
        sender.send_to(&datagram, SocketAddr::new(there, DENIED)).unwrap();
    }
    let parts = arrivals.listen(PATIENCE, is_ours).unwrap();
    assert!(
        !parts.iter().any(|packet| is_ours(packet)),
        "{what}: a fragment of what is denied arrived"
    );
}

/// Sends forged fragments, with a witness at the receiver's end.
struct Forger {
    forger: Wire,
    witness: Wire,
    here: IpAddr,
    there: IpAddr,
    next: u16,
}

/// A fragment to send: its offset, its bytes, whether others follow.
type Piece<'a> = (u16, &'a [u8], bool);

impl Forger {
    /// Sends pieces of one packet in this order, and returns what arrived of them.
    fn send(&mut self, protocol: u8, pieces: &[Piece<'_>]) -> Vec<Vec<u8>> {
        self.next += 1;
        self.send_again(protocol, pieces)
    }

    /// Like [`Forger::send`], with more pieces of the same packet.
    fn send_again(&mut self, protocol: u8, pieces: &[Piece<'_>]) -> Vec<Vec<u8>> {
        for &(offset, bytes, more) in pieces {
            let part = Part {
                identification: self.next,
                offset,
                more,
            };
            self.put(&raw::ip(self.here, self.there, protocol, bytes, Some(part)));
        }
        let end = raw::udp(self.here, self.there, (4999, ALLOWED), b"end");
        self.put(&raw::ip(self.here, self.there, 17, &end, None));
        let arrived = self
            .witness
            .listen(LONG, |packet| raw::payload(packet) == end)
            .unwrap();
        let ours = arrived
            .iter()
            .filter(|packet| raw::addresses(packet) == Some((self.here, self.there)));
        let mut payloads: Vec<Vec<u8>> = ours.map(|packet| raw::payload(packet).to_vec()).collect();
        assert_eq!(payloads.pop().as_ref(), Some(&end), "the last one arrives");
        payloads
    }

    fn put(&self, packet: &[u8]) {
        self.forger.send(self.witness.mac(), packet).unwrap();
    }
}

#[test]
fn c5_forged_fragments_carry_nothing_past_a_policy() {
    let Some(lab) = lab(&[("a.yaml", &policy("a", "app: a", RULES))]) else {
        return;
    };
    bridge_netfilter(&lab, false);
    // At the receiver's hook, then at the sender's.
    for (from, to) in [("other/c", "shop/a"), ("shop/a", "other/c")] {
        for ipv4 in [true, false] {
            let (source, destination) = (lab.site(from).unwrap(), lab.site(to).unwrap());
            let (here, there) = (of_family(&source, ipv4), of_family(&destination, ipv4));
            let receiver = udp_at(&destination, there, ALLOWED);
            let mut forger = Forger {
                forger: wire(&lab, from),
                witness: wire(&lab, to),
                here,
                there,
                next: 100,
            };
            forged(&mut forger, ipv4);
            let mut datagrams = Vec::new();
            let mut buffer = [0; 2000];
            while let Ok(length) = receiver.recv(&mut buffer) {
                if &buffer[..length] != b"end" {
                    datagrams.push(buffer[..length].to_vec());
                }
            }
            assert_eq!(datagrams, [[b'.'; 64], [b'.'; 64]], "in order, and late");
        }
    }
}

fn forged(forger: &mut Forger, ipv4: bool) {
    const NOTHING: [Vec<u8>; 0] = [];
    let udp = |port: u16| raw::udp(forger.here, forger.there, (5000, port), &[b'.'; 64]);
    let (good, bad) = (udp(ALLOWED), udp(DENIED));
    let pieces = |bytes: &[u8]| [bytes[..32].to_vec(), bytes[32..56].to_vec(), bytes[56..].to_vec()];
    let [first, second, third] = pieces(&good);
    let [bad_first, bad_second, bad_third] = pieces(&bad);

    let arrived = forger.send(17, &[(0, &first, true), (32, &second, true), (56, &third, false)]);
    assert_eq!(arrived, [&first[..], &second, &third], "allowed, in order");
    let arrived = forger.send(
        17,
        &[
            (0, &bad_first, true),
            (32, &bad_second, true),
            (56, &bad_third, false),
        ],
    );
    assert_eq!(arrived, NOTHING, "denied, in order");

    let arrived = forger.send(17, &[(56, &third, false), (32, &second, true), (0, &first, true)]);
    assert_eq!(arrived, [&first[..]], "those before the first are not let in");
    let arrived = forger.send_again(17, &[(32, &second, true), (56, &third, false)]);
    assert_eq!(arrived, [&second[..], &third], "those after it are");
    let arrived = forger.send(
        17,
        &[
            (56, &bad_third, false),
            (32, &bad_second, true),
            (0, &bad_first, true),
        ],
    );
    assert_eq!(arrived, NOTHING, "denied, out of order");
    let arrived = forger.send(17, &[(32, &second, true), (56, &third, false)]);
    assert_eq!(arrived, NOTHING, "without a first");

    // Over the judged header: the same place again, the ports only, what follows them.
    let arrived = forger.send(
        17,
        &[
            (0, &first, true),
            (0, &bad_first, true),
            (0, &bad[..8], true),
            (8, &bad[8..32], true),
            (16, &bad[16..56], true),
        ],
    );
    assert_eq!(arrived, [&first[..]], "overlapping");
    let arrived = forger.send_again(17, &[(24, &[b'!'; 16], true)]);
    assert_eq!(arrived, [[b'!'; 16]], "over the payload of what is allowed");

    // Too small for the header, or a fragment that no link makes.
    let tcp = raw::tcp(forger.here, forger.there, (5000, ALLOWED), 2);
    let arrived = forger.send(6, &[(0, &tcp[..8], true), (8, &tcp[8..], false)]);
    assert_eq!(arrived, NOTHING, "a tiny first fragment of TCP");
    let arrived = forger.send(
        6,
        &[
            (0, &tcp[..16], true),
            (16, &tcp[16..], false),
            (24, &tcp[..], false),
        ],
    );
    assert_eq!(arrived, NOTHING, "without the end of the TCP header");
    let arrived = forger.send(17, &[(0, &good[..8], true), (8, &good[8..], false)]);
    assert_eq!(arrived, [&good[..8]], "the rest of a tiny first fragment of UDP");
    if !ipv4 {
        // The ports are in the second fragment, after an extension header in the first.
        let options = [17, 0, 1, 4, 0, 0, 0, 0];
        let arrived = forger.send(60, &[(0, &options, true), (8, &good, false), (24, &good, false)]);
        assert_eq!(arrived, NOTHING, "a first fragment without an upper header");
    }
}

/// A fragment to the broadcast MAC address is one buffer for all ports of the bridge and for the
/// node. If the node reassembles it with others, to refragment the whole, it overwrites headers of
/// what a pod is about to receive.
#[test]
fn c5_a_fragment_arrives_as_it_was_judged() {
    let Some(lab) = lab(&[("a.yaml", &policy("a", "app: a", RULES))]) else {
        return;
    };
    bridge_netfilter(&lab, true);
    bridge_netfilter(&lab, false);
    let bridge = capture::mac(lab.node.netns(), "cni0").unwrap();
    let (source, destination) = (lab.site("other/c").unwrap(), lab.site("shop/a").unwrap());
    let (forger, witness) = (wire(&lab, "other/c"), wire(&lab, "shop/a"));
    for ipv4 in [true, false] {
        let (here, there) = (of_family(&source, ipv4), of_family(&destination, ipv4));
        let piece = |offset, bytes: &[u8], more| {
            let part = Part {
                identification: 200,
                offset,
                more,
            };
            raw::ip(here, there, 17, bytes, Some(part))
        };
        let udp = |port: u16| raw::udp(here, there, (5000, port), &[b'.'; 64]);
        let first = piece(0, &udp(ALLOWED)[..32], true);
        let last = piece(32, &udp(ALLOWED)[32..], false);
        let denied = piece(0, &udp(DENIED)[..32], true);
        let end = raw::ip(
            here,
            there,
            17,
            &raw::udp(here, there, (4999, ALLOWED), b"end"),
            None,
        );
        forger.send(witness.mac(), &first).unwrap();
        forger.send(bridge, &denied).unwrap();
        forger.send([0xff; 6], &last).unwrap();
        forger.send(witness.mac(), &end).unwrap();
        let mut arrived = witness.listen(LONG, |packet| packet == end).unwrap();
        let neighbours = |packet: &[u8]| !ipv4 && packet[6] == 58;
        arrived.retain(|packet| raw::addresses(packet) == Some((here, there)) && !neighbours(packet));
        assert_eq!(arrived[..2], [first, last], "IPv4 {ipv4}");
        // In IPv4, the node's new fragments still belong to the first that was allowed.
        assert!(ipv4 || arrived.len() == 3, "{arrived:?}");
    }
}

/// If the original buffers are too small, the node sends refragmented packets in new buffers,
/// without the incoming interface: as if the node itself had made them. With masquerading they have
/// the node's address, too.
#[test]
fn a3_c5_what_the_node_takes_apart_again_is_not_its_own() {
    let Some(lab) = lab(&[("a.yaml", &policy("a", "app: a", RULES))]) else {
        return;
    };
    bridge_netfilter(&lab, true);
    bridge_netfilter(&lab, false);
    let macs = ["cni0", "uplink0"].map(|device| capture::mac(lab.node.netns(), device).unwrap());
    let ways = [("other/c", macs[0]), ("outside", macs[1])];
    // A known connection keeps its addresses: each gets another port.
    for (masquerade, client) in [(false, 5000), (true, 5001)] {
        if masquerade {
            let table = "table ip6 own { chain leaving { type nat hook postrouting priority 100; oifname \"cni0\" masquerade; }; }\n";
            lab.node.netns().feed("nft", &["-f", "-"], table).unwrap();
        }
        for (from, router) in ways {
            // Packets with more headers than the parser's limit are denied (rule F2).
            for (headers, port, expected) in
                [(7, ALLOWED, 1), (7, DENIED, 0), (9, ALLOWED, 0), (9, DENIED, 0)]
            {
                let arrived = behind_headers(&lab, (from, router), headers, (client, port), 64);
                let what = format!("{from}, masquerade {masquerade}, {headers} headers, port {port}");
                assert_eq!(arrived.len(), expected, "{what}: {arrived:?}");
            }
        }
    }
    // Rule A2: what the node itself sends in fragments.
    let (node, pod) = (lab.site("node").unwrap(), lab.site("shop/a").unwrap());
    for ipv4 in [true, false] {
        let (here, there) = (of_family(&node, ipv4), of_family(&pod, ipv4));
        let receiver = udp_at(&pod, there, DENIED);
        let sender = udp_at(&node, here, 0);
        sender
            .send_to(&[b'.'; 8000], SocketAddr::new(there, DENIED))
            .unwrap();
        let length = receiver.recv(&mut [0; 9000]);
        assert_eq!(length.expect("the node reaches its pods"), 8000, "IPv4 {ipv4}");
    }
}

/// The same for frames that the node only bridges: they still have the socket of the pod that sent
/// them, unless something removes it.
#[test]
fn a3_c5_what_a_pods_socket_sent_is_not_the_nodes_own() {
    let Some(lab) = lab(&[("a.yaml", &policy("a", "app: a", RULES))]) else {
        return;
    };
    bridge_netfilter(&lab, true);
    let pod = capture::mac(&lab.site("shop/a").unwrap().netns, "eth0").unwrap();
    for to in [pod, [0xff; 6]] {
        for (headers, port, passes) in [
            (1, ALLOWED, true),
            (1, DENIED, false),
            (3, ALLOWED, true),
            (3, DENIED, false),
            (9, DENIED, false),
        ] {
            // No fragment smaller than a link must carry: only such are refragmented on a bridge.
            let arrived = behind_headers(&lab, ("other/c", to), headers, (5000, port), 2600);
            let what = format!("to {to:x?}, {headers} headers, port {port}");
            assert_eq!(!arrived.is_empty(), passes, "{what}: {} packets", arrived.len());
        }
    }
}

/// Sends a UDP datagram over IPv6 to `shop/a` in two fragments through a router. Destination
/// options with only padding precede the header of the first. Returns what arrived.
fn behind_headers(
    lab: &Lab,
    (from, router): (&str, [u8; 6]),
    headers: usize,
    ports: (u16, u16),
    size: usize,
) -> Vec<Vec<u8>> {
    let (source, destination) = (lab.site(from).unwrap(), lab.site("shop/a").unwrap());
    let (here, there) = (of_family(&source, false), of_family(&destination, false));
    let (forger, witness) = (wire(lab, from), wire(lab, "shop/a"));
    let mut options = [60, 0, 1, 4, 0, 0, 0, 0].repeat(headers);
    options[8 * (headers - 1)] = 44;
    let udp = raw::udp(here, there, ports, &vec![b'.'; size]);
    let half = size / 16 * 8;
    let id = [0, ports.0 as u8, headers as u8, ports.1 as u8];
    let header = |field: [u8; 2]| [&[17, 0][..], &field, &id].concat();
    let first = [&options[..], &header([0, 1]), &udp[..half]].concat();
    let last = [&header((half as u16).to_be_bytes())[..], &udp[half..]].concat();
    let end = raw::udp(here, there, (4999, ALLOWED), b"end");
    for (protocol, payload) in [(60, first), (44, last), (17, end)] {
        forger
            .send(router, &raw::ip(here, there, protocol, &payload, None))
            .unwrap();
    }
    let ours = |packet: &[u8]| raw::addresses(packet).is_some_and(|(_, to)| to == there) && packet[6] != 58;
    let mut arrived = witness
        .listen(LONG, |packet| ours(packet) && packet.ends_with(b"end"))
        .unwrap();
    arrived.retain(|packet| ours(packet));
    assert!(arrived.pop().unwrap().ends_with(b"end"), "the last one arrives");
    arrived
}
