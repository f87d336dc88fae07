// SPDX-License-Identifier: Apache-2.0
//! Checksums that a device writes after all hooks, at an offset that the frame's sender chose: a
//! pod with the capability NET_RAW can do that.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    thread,
    time::Duration,
};

use anyhow::Result;
use netpol_common::{
    abi::{Direction, DropReason},
    parse::protocol,
};
use netpol_tests::{
    capture::mac,
    frames::headers::{self, ETHERNET},
    netns::NetNs,
    raw::{self, Part},
};
use nix::{errno::Errno, libc};

use super::wire::{Wires, wires};

const IPV4: u16 = 34;
const IPV6: u16 = 54;
/// Ports of an allowed connection.
const PORTS: (u16, u16) = (5000, 53);
/// A denied port.
const CLOSED: u16 = 7001;

/// Makes the kernel compute a device's checksums, as for one that cannot.
fn without_checksum_offload(netns: &NetNs, device: &str) -> Result<()> {
    const SIOCETHTOOL: libc::Ioctl = 0x8946;
    const ETHTOOL_STXCSUM: u32 = 0x17;
    netns.run(|| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
        let mut value = [ETHTOOL_STXCSUM, 0];
        // SAFETY: a structure of integers and bytes, for which zeros are valid.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_data = (&raw mut value).cast();
        // SAFETY: the request names a device and points at a command with its value, which both
        // live through the call.
        let done = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
        Errno::result(done)?;
        Ok(())
    })
}

fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2).map(|pair| {
        let low = pair.get(1).copied().unwrap_or_default();
        u32::from(u16::from_be_bytes([pair[0], low]))
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

/// Makes a UDP packet whose payload makes the checksum from the header on equal `written`.
fn that_sums_to(here: IpAddr, there: IpAddr, written: u16) -> Vec<u8> {
    let mut udp = raw::udp(here, there, PORTS, b"..another than judged");
    udp[6..10].fill(0);
    let word = (u32::from(!written) + 0xffff - sum(&udp)) % 0xffff;
    udp[8..10].copy_from_slice(&(word as u16).to_be_bytes());
    raw::ip(here, there, protocol::UDP, &udp, None)
}

/// The path from `shop/a` to a host outside, whose last device computes checksums in software.
struct Way<'a> {
    wires: &'a Wires,
    router: [u8; 6],
    outside: raw::Wire,
    here: IpAddr,
    there: IpAddr,
}

impl<'a> Way<'a> {
    fn new(wires: &'a Wires, ipv4: bool) -> Self {
        let node = wires.lab.node.netns();
        without_checksum_offload(node, "uplink0").unwrap();
        let outside = wires.lab.node.outside();
        let of_family = |address: &IpAddr| address.is_ipv4() == ipv4;
        Self {
            wires,
            router: mac(node, "cni0").unwrap(),
            here: wires.address("shop/a", ipv4),
            there: outside.addresses.iter().copied().find(of_family).unwrap(),
            outside: raw::Wire::open(&outside.netns, "eth0").unwrap(),
        }
    }

    fn frame(&self, packet: &[u8]) -> Vec<u8> {
        let ether_type: [u8; 2] = if self.here.is_ipv4() { [8, 0] } else { [0x86, 0xdd] };
        [&self.router[..], &self.wires.a.mac, &ether_type, packet].concat()
    }

    /// Returns true if a UDP packet has this end; a packet that an ICMP error quotes ends the same
    /// way.
    fn is(&self, packet: &[u8], end: &[u8]) -> bool {
        let number = if self.here.is_ipv4() { packet[9] } else { packet[6] };
        number == protocol::UDP && packet.ends_with(end)
    }

    fn upper(&self) -> u16 {
        if self.here.is_ipv4() { IPV4 } else { IPV6 }
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.wires.counted(Direction::Egress, reason)
    }

    /// Returns the packets with this end that arrive outside, up to a last one that must arrive.
    fn arrived(&self, end: &[u8]) -> Vec<Vec<u8>> {
        let last = b"this is the last";
        let udp = raw::udp(self.here, self.there, PORTS, last);
        let packet = raw::ip(self.here, self.there, protocol::UDP, &udp, None);
        self.wires.a.send(&self.frame(&packet)).unwrap();
        let patience = Duration::from_secs(10);
        let is_last = |packet: &[u8]| self.is(packet, last);
        let mut packets = self.outside.listen(patience, is_last).unwrap();
        assert!(
            packets.last().is_some_and(|packet| is_last(packet)),
            "the last one came"
        );
        packets.retain(|packet| self.is(packet, end));
        packets
    }
}

const END: &[u8] = b"another than judged";

/// A sender can make devices write a checksum over a port, of a new connection or of a known one.
#[test]
fn f3_a5_a_port_that_a_device_writes_is_not_another_than_the_one_judged() {
    let Some(wires) = wires() else { return };
    for ipv4 in [true, false] {
        let way = Way::new(&wires, ipv4);
        let upper = way.upper();
        let forged = way.frame(&that_sums_to(way.here, way.there, CLOSED));
        let own = way.frame(&that_sums_to(way.here, way.there, 1));
        let before = way.dropped(DropReason::Malformed);
        way.wires.a.send_unfinished(&forged, upper, 2, None).unwrap();
        // The opening packet, its answer and a later packet, with the checksum in its proper place.
        way.wires.a.send_unfinished(&own, upper, 6, None).unwrap();
        let answer = raw::udp(way.there, way.here, (PORTS.1, PORTS.0), b"an answer");
        let answer = raw::ip(way.there, way.here, protocol::UDP, &answer, None);
        assert_eq!(way.arrived(END).len(), 1, "IPv4 {ipv4}: the forged one came");
        let uplink = mac(wires.lab.node.netns(), "uplink0").unwrap();
        way.outside.send(uplink, &answer).unwrap();
        let (from, to) = (&wires.lab.node.pod("shop/a").unwrap().netns, "eth0");
        let pod = raw::Wire::open(from, to).unwrap();
        way.outside.send(uplink, &answer).unwrap();
        let came = pod.listen(Duration::from_secs(10), |packet| packet.ends_with(b"an answer"));
        assert!(came.unwrap().iter().any(|packet| packet.ends_with(b"an answer")));
        for _ in 0..3 {
            way.wires.a.send_unfinished(&forged, upper, 2, None).unwrap();
            way.wires.a.send_unfinished(&own, upper, 6, None).unwrap();
        }
        let arrived = way.arrived(END);
        assert_eq!(arrived.len(), 3, "IPv4 {ipv4}");
        for packet in arrived {
            let at = usize::from(upper) - ETHERNET;
            let port = [packet[at + 2], packet[at + 3]];
            assert_eq!(u16::from_be_bytes(port), PORTS.1);
            assert_ne!(
                [packet[at + 6], packet[at + 7]],
                [0, 0],
                "the checksum is written"
            );
        }
        assert_eq!(way.dropped(DropReason::Malformed), before + 4);
    }
}

/// No other judged byte can be overwritten either, in the first packet or later.
#[test]
fn f3_nothing_that_was_judged_is_written_over() {
    let Some(mut wires) = wires() else { return };
    let malformed = |wires: &Wires, direction| wires.counted(direction, DropReason::Malformed);
    let to = wires.c.mac;
    for (ipv4, upper) in [(true, IPV4), (false, IPV6)] {
        for (number, port, own) in [(protocol::UDP, 53, 6), (protocol::TCP, 80, 16)] {
            let frame = wires.frame("shop/a", "other/c", ipv4, number, port);
            let frame = headers::with_payload(&frame, 60);
            for _ in 0..2 {
                let (legitimate, mac) = wires.addressed(&frame, to);
                wires.a.send_unfinished(&legitimate, upper, own, None).unwrap();
                wires.c.receive_from(mac).unwrap();
                let before = malformed(&wires, Direction::Egress);
                // From the destination address to the end of the header.
                let header = if number == protocol::TCP { 20 } else { 8 };
                let first = if ipv4 { 30 } else { 38 };
                let wrong: Vec<u16> = (first..upper + header).filter(|at| *at != upper + own).collect();
                for at in &wrong {
                    let (forged, _) = wires.addressed(&frame, to);
                    wires.a.send_unfinished(&forged, 20, at - 20, None).unwrap();
                }
                wires.await_drops(
                    Direction::Egress,
                    DropReason::Malformed,
                    before + wrong.len() as u64,
                );
            }
            // Packets of a tunnel in the pod.
            for at in [upper + 20, upper + 30] {
                let (inner, mac) = wires.addressed(&frame, to);
                wires.a.send_unfinished(&inner, at, 6, None).unwrap();
                wires.c.receive_from(mac).unwrap();
            }
        }
    }
}

/// A source address that a device writes is not the pod's, isolated or not.
#[test]
fn a6_an_address_that_a_device_writes_is_not_the_pods() {
    let Some(mut wires) = wires() else { return };
    for (ipv4, source_end) in [(true, 30), (false, 38)] {
        for from in ["shop/a", "other/c"] {
            let (to, mac) = if from == "shop/a" {
                ("other/c", wires.c.mac)
            } else {
                ("shop/b", wires.b.mac)
            };
            let frame = wires.frame(from, to, ipv4, protocol::UDP, 53);
            let before = wires.counted(Direction::Egress, DropReason::Spoofed);
            let places: Vec<u16> = (20..source_end).collect();
            for at in &places {
                let (forged, _) = wires.addressed(&frame, mac);
                let wire = if from == "shop/a" { &wires.a } else { &wires.c };
                wire.send_unfinished(&forged, 20, at - 20, None).unwrap();
            }
            let wanted = before + places.len() as u64;
            wires.await_drops(Direction::Egress, DropReason::Spoofed, wanted);
        }
    }
}

/// Dropped where an isolated pod would receive it, passed between pods that are not isolated.
#[test]
fn f2_f3_a_checksum_in_the_wrong_place_does_not_reach_an_isolated_pod() {
    let Some(mut wires) = wires() else { return };
    for (ipv4, upper) in [(true, IPV4), (false, IPV6)] {
        let (a, b) = (wires.a.mac, wires.b.mac);
        let frame = wires.frame("other/c", "shop/a", ipv4, protocol::UDP, 53);
        for _ in 0..2 {
            let before = wires.counted(Direction::Ingress, DropReason::Malformed);
            let (forged, _) = wires.addressed(&frame, a);
            wires.c.send_unfinished(&forged, upper, 2, None).unwrap();
            wires.await_drops(Direction::Ingress, DropReason::Malformed, before + 1);
            let (legitimate, mac) = wires.addressed(&frame, a);
            wires.c.send_unfinished(&legitimate, upper, 6, None).unwrap();
            wires.a.receive_from(mac).unwrap();
        }
        let frame = wires.frame("other/c", "shop/b", ipv4, protocol::UDP, 53);
        let (forged, mac) = wires.addressed(&frame, b);
        wires.c.send_unfinished(&forged, upper, 2, None).unwrap();
        wires.b.receive_from(mac).unwrap();
    }
}

/// Segments before segmentation, fragments, neighbour discovery.
#[test]
fn f3_c5_f1_what_else_has_no_checksum_yet() {
    let Some(mut wires) = wires() else { return };
    let to = wires.c.mac;
    let mut segments = wires.frame("shop/a", "other/c", true, protocol::TCP, 80);
    segments[usize::from(IPV4) + 13] = 0x10; // ACK: segments of a SYN are none.
    let segments = headers::with_payload(&segments, 30_000);
    let (sent, mac) = wires.addressed(&segments, to);
    wires.a.send_unfinished(&sent, IPV4, 16, Some(1000)).unwrap();
    assert_eq!(wires.c.receive_from(mac).unwrap(), sent.len());
    let (here, there) = (wires.address("shop/a", true), wires.address("other/c", true));
    let udp = raw::udp(here, there, PORTS, &[0; 64]);
    let part = |offset, more| {
        Some(Part {
            identification: 9,
            offset,
            more,
        })
    };
    let fragment = |part| {
        let packet = raw::ip(here, there, protocol::UDP, &udp, part);
        [&[0; 12][..], &[8, 0], &packet].concat()
    };
    let (mine, theirs) = (wires.address("shop/a", false), wires.address("other/c", false));
    let solicitation = raw::ip(
        mine,
        theirs,
        protocol::ICMPV6,
        &[&[135][..], &[0; 31]].concat(),
        None,
    );
    let mut solicitation = [&[0; 12][..], &[0x86, 0xdd], &solicitation].concat();
    solicitation[ETHERNET + 7] = 255;
    let wrong = [
        (segments, IPV4 - 14, 16, Some(1000)),
        (fragment(part(0, true)), IPV4, 6, None),
        (fragment(part(24, false)), IPV4 + 8, 6, None),
        (solicitation.clone(), IPV6, 0, None),
    ];
    for (frame, start, offset, segment) in wrong {
        let before = wires.counted(Direction::Egress, DropReason::Malformed);
        let (frame, _) = wires.addressed(&frame, to);
        let sent = wires.a.send_unfinished(&frame, start, offset, segment);
        // The pod's kernel checks segments too, and never sends those it refuses.
        if segment.is_some() && sent.is_err() {
            continue;
        }
        sent.unwrap();
        wires.await_drops(Direction::Egress, DropReason::Malformed, before + 1);
    }
    let (frame, mac) = wires.addressed(&solicitation, to);
    wires.a.send_unfinished(&frame, IPV6, 2, None).unwrap();
    wires.c.receive_from(mac).unwrap();
}

/// Packets of a tunnel in a pod also have partial checksums and are not segmented yet: their offset
/// is behind everything that is judged.
#[test]
fn f3_a_tunnel_of_a_pods_own_works() {
    let Some(wires) = wires() else { return };
    let netns = |pod| wires.lab.node.pod(pod).unwrap().netns;
    let (a, c) = (netns("shop/a"), netns("other/c"));
    let (here, there) = (wires.address("shop/a", true), wires.address("other/c", true));
    let malformed = || Direction::ALL.map(|direction| wires.counted(direction, DropReason::Malformed));
    let before = malformed();
    for checksum in ["noudpcsum", "udpcsum"] {
        for (netns, local, remote, inner) in [(&a, here, there, 1), (&c, there, here, 2)] {
            let batch = format!(
                "link add tunnel0 type vxlan id 5 local {local} remote {remote} dstport 53 {checksum}\n\
                 addr add 192.168.77.{inner}/24 dev tunnel0\nlink set tunnel0 up\n"
            );
            netns.ip(&batch).unwrap();
        }
        let listener = c.run(|| Ok(TcpListener::bind("192.168.77.2:7")?)).unwrap();
        let sender = thread::spawn({
            let mut stream = a.run(|| Ok(TcpStream::connect("192.168.77.2:7")?)).unwrap();
            move || stream.write_all(&vec![7; 4 << 20])
        });
        let mut received = Vec::new();
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_to_end(&mut received).unwrap();
        sender.join().unwrap().unwrap();
        assert!(
            received == vec![7; 4 << 20],
            "{checksum}: {} bytes",
            received.len()
        );
        for netns in [&a, &c] {
            netns.ip("link del tunnel0\n").unwrap();
        }
    }
    assert_eq!(malformed(), before);
}

/// A packet that the node decapsulates has a checksum offset that was no header's where the pod
/// sent it, and is checked again.
#[test]
fn f3_what_the_node_unpacks_is_not_written_over_either() {
    const PORT: u16 = 4789;
    const IDENTIFIER: u8 = 9;
    let Some(wires) = wires() else { return };
    let node = wires.lab.node.netns();
    let (here, there) = (wires.address("other/c", true), wires.address("shop/a", true));
    let gateway = wires.lab.node.plan().pod_networks()[0];
    let gateway = netpol_tests::node::member(gateway, 1).addr();
    let batch = format!(
        "link add tunnel0 type vxlan id {IDENTIFIER} local {gateway} dstport {PORT}\nlink set tunnel0 up\n"
    );
    node.ip(&batch).unwrap();
    node.sysctl(&[
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/tunnel0/rp_filter", "0"),
    ])
    .unwrap();
    let pod = raw::Wire::open(&wires.lab.node.pod("shop/a").unwrap().netns, "eth0").unwrap();
    let tunnelled = |end: &[u8]| {
        let inner = raw::ip(
            here,
            there,
            protocol::UDP,
            &raw::udp(here, there, PORTS, end),
            None,
        );
        let mut carried = vec![8, 0, 0, 0, 0, 0, IDENTIFIER, 0];
        carried.extend(mac(node, "tunnel0").unwrap());
        carried.extend([2, 0, 0, 0, 0, 1, 8, 0]);
        carried.extend(inner);
        let mut udp = raw::udp(here, gateway, (PORTS.0, PORT), &carried);
        udp[6..8].fill(0);
        let packet = raw::ip(here, gateway, protocol::UDP, &udp, None);
        let router = mac(node, "cni0").unwrap();
        [&router[..], &wires.c.mac, &[8, 0], &packet].concat()
    };
    let inner = IPV4 + 8 + 8 + IPV4;
    for round in ["first", "then"] {
        let before = wires.counted(Direction::Ingress, DropReason::Malformed);
        wires
            .c
            .send_unfinished(&tunnelled(b"forged"), inner, 2, None)
            .unwrap();
        wires.await_drops(Direction::Ingress, DropReason::Malformed, before + 1);
        wires
            .c
            .send_unfinished(&tunnelled(b"good"), inner, 6, None)
            .unwrap();
        let came = pod.listen(Duration::from_secs(10), |packet| packet.ends_with(b"good"));
        let came = came.unwrap();
        assert!(came.iter().any(|packet| packet.ends_with(b"good")), "{round}");
        assert!(!came.iter().any(|packet| packet.ends_with(b"forged")), "{round}");
    }
}

/// The pod's kernel splits a UDP packet that stands for several into fragments. They are judged,
/// and none that overlaps the first one's header passes.
#[test]
fn c5_f3_what_is_to_be_fragmented_is_before_it_is_judged() {
    let Some(mut wires) = wires() else { return };
    let to = wires.c.mac;
    let frame = wires.frame("shop/a", "other/c", true, protocol::UDP, 53);
    let frame = headers::with_payload(&frame, 192);
    let before = wires.counted(Direction::Egress, DropReason::Malformed);
    let (fragments, mac) = wires.addressed(&frame, to);
    wires.a.send_unfinished(&fragments, IPV4, 6, Some(96)).unwrap();
    let first = wires.c.receive_from(mac).unwrap();
    assert_eq!(first, usize::from(IPV4) + 96);
    assert_eq!(wires.c.receive_from(mac).unwrap(), usize::from(IPV4) + 96);
    assert_eq!(wires.counted(Direction::Egress, DropReason::Malformed), before);
    // Of the fragments at 0, 8, 16 and so on, those at 8 and 16.
    let (fragments, _) = wires.addressed(&frame, to);
    wires.a.send_unfinished(&fragments, IPV4, 6, Some(8)).unwrap();
    wires.await_drops(Direction::Egress, DropReason::Malformed, before + 2);
}
