// SPDX-License-Identifier: Apache-2.0
//! Frames on the interfaces of real pods: with their IP header outside of the linear buffer, with a
//! tag beside them, in fragments. `shop/a` is isolated in both directions and may use UDP 53 and
//! TCP 80; `shop/b` and `other/c` are not isolated.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::Result;
use netpol_agent::{datapath::CounterReader, evaluate::Packet};
use netpol_common::{
    abi::{Counters, Direction, DropReason, Endpoint},
    parse::protocol,
};
use netpol_tests::{
    frames::{
        headers::{self, ETHERNET, with_tag},
        opening,
    },
    lab::Lab,
    privilege::can_enforce,
    wire::Wire,
};

const SUITE: &str = "frames";
const POLICY: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: a}
spec:
  podSelector: {matchLabels: {app: a}}
  policyTypes: [Ingress, Egress]
  ingress: [{ports: [{port: 80}, {protocol: UDP, port: 53}]}]
  egress: [{ports: [{port: 80}, {protocol: UDP, port: 53}]}]
";

pub(super) struct Wires {
    pub(super) a: Wire,
    pub(super) b: Wire,
    pub(super) c: Wire,
    counters: CounterReader,
    /// Number of the next frame: every frame has a unique source MAC address.
    next: u32,
    pub(super) lab: Lab,
}

pub(super) fn wires() -> Option<Wires> {
    can_enforce(SUITE).then(|| Wires::new().unwrap())
}

impl Wires {
    fn new() -> Result<Self> {
        let pods = [("shop/a", "app: a"), ("shop/b", "app: b"), ("other/c", "app: c")];
        let lab = Lab::new(&pods, &[("a.yaml", POLICY)])?;
        // The pods' hooks must handle malformed packets here, not netfilter on the bridge.
        let settings = ["iptables", "ip6tables"].map(|of| format!("net/bridge/bridge-nf-call-{of}"));
        for setting in &settings {
            lab.node.netns().sysctl(&[(setting, "0")])?;
        }
        let mut batch = "link set cni0 mtu 9000\n".to_owned();
        for (name, _) in pods {
            batch += &format!("link set {} mtu 9000\n", lab.node.veth(name)?);
            let netns = lab.node.pod(name)?.netns;
            netns.ip("link set eth0 mtu 9000\n")?;
        }
        lab.node.netns().ip(&batch)?;
        let open = |name| Wire::open(&lab.node.pod(name)?.netns, "eth0");
        let (a, b, c) = (open("shop/a")?, open("shop/b")?, open("other/c")?);
        let counters = CounterReader::open(lab.agent.pin_path())?;
        forget_macs(&lab, pods.len())?;
        let next = 0;
        Ok(Self {
            a,
            b,
            c,
            counters,
            next,
            lab,
        })
    }

    pub(super) fn address(&self, pod: &str, ipv4: bool) -> IpAddr {
        let addresses = self.lab.node.pod(pod).unwrap().addresses;
        addresses
            .into_iter()
            .find(|address| address.is_ipv4() == ipv4)
            .unwrap()
    }

    /// Returns the packet that opens a connection from one pod to another.
    pub(super) fn frame(&self, from: &str, to: &str, ipv4: bool, number: u8, port: u16) -> Vec<u8> {
        let packet = Packet {
            source: self.address(from, ipv4),
            destination: self.address(to, ipv4),
            protocol: number,
            port: Some(port),
        };
        opening(&packet, 40_000)
    }

    /// Sets the frame's MAC addresses: the receiver's, and a unique source.
    pub(super) fn addressed(&mut self, frame: &[u8], to: [u8; 6]) -> (Vec<u8>, [u8; 6]) {
        self.next += 1;
        let [one, two, three, four] = self.next.to_be_bytes();
        let mac = [2, 0x66, one, two, three, four];
        let mut frame = frame.to_vec();
        frame[..6].copy_from_slice(&to);
        frame[6..12].copy_from_slice(&mac);
        (frame, mac)
    }

    pub(super) fn counted(&self, direction: Direction, reason: DropReason) -> u64 {
        let mut counters: Counters = self.counters.read(direction).unwrap();
        counters.dropped(reason).packets
    }

    /// Waits until this many were dropped for a reason.
    pub(super) fn await_drops(&self, direction: Direction, reason: DropReason, wanted: u64) {
        let started = Instant::now();
        loop {
            let found = self.counted(direction, reason);
            if found == wanted {
                return;
            }
            assert!(
                found < wanted && started.elapsed() < Duration::from_secs(10),
                "{direction:?} {reason:?}: {found} instead of {wanted}"
            );
            std::thread::yield_now();
        }
    }

    /// Readdresses a frame for `shop/a` to `shop/b`, which accepts none for others (rule A9).
    fn to_b(&self, frame: &[u8]) -> Vec<u8> {
        let octets = |address| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let mut frame = frame.to_vec();
        for ipv4 in [true, false] {
            let [from, to] = ["shop/a", "shop/b"].map(|pod| octets(self.address(pod, ipv4)));
            if let Some(at) = frame.windows(from.len()).position(|octets| octets == from) {
                frame[at..at + to.len()].copy_from_slice(&to);
            }
        }
        frame
    }

    /// Asserts that each frame is dropped for a reason where `shop/a` sends it (`sent`: with its
    /// own address) and where it would receive it, and reaches `shop/b` from `other/c`.
    fn expect_dropped(&mut self, sent: &[Vec<u8>], frames: &[Vec<u8>], reason: DropReason) {
        let before = Direction::ALL.map(|direction| self.counted(direction, reason));
        let (a, b, c) = (self.a.mac, self.b.mac, self.c.mac);
        for frame in sent {
            let (frame, _) = self.addressed(frame, c);
            self.a.send(&frame).unwrap();
        }
        for frame in frames {
            let (frame, _) = self.addressed(frame, a);
            self.c.send(&frame).unwrap();
        }
        for (direction, before) in Direction::ALL.into_iter().zip(before) {
            self.await_drops(direction, reason, before + frames.len() as u64);
        }
        for frame in frames {
            let frame = self.to_b(frame);
            let (frame, mac) = self.addressed(&frame, b);
            self.c.send(&frame).unwrap();
            self.b.receive_from(mac).unwrap();
        }
    }
}

#[test]
fn f2_frames_cut_short_at_every_byte_on_the_wire() {
    let Some(mut wires) = wires() else { return };
    let mut cut = Vec::new();
    for ipv4 in [true, false] {
        for (number, port) in [(protocol::UDP, 53), (protocol::TCP, 80)] {
            let frame = wires.frame("other/c", "shop/a", ipv4, number, port);
            cut.extend((ETHERNET..frame.len()).map(|length| frame[..length].to_vec()));
        }
    }
    wires.expect_dropped(&cut, &cut, DropReason::Malformed);
}

/// The kernel removes the outer tag of a received frame before the hooks, and keeps it beside the
/// frame.
#[test]
fn f2_tagged_frames_on_the_wire() {
    let Some(mut wires) = wires() else { return };
    let ways = [("shop/a", "other/c"), ("other/c", "shop/a")];
    let udp = ways.map(|(from, to)| wires.frame(from, to, true, protocol::UDP, 53));
    let arp = [&[2; 12][..], &[0x08, 0x06], &[0; 28]].concat();
    let [sent, received] = [0, 1].map(|way| {
        let mut tagged = vec![
            with_tag(&udp[way], [0x81, 0x00]),
            with_tag(&udp[way], [0x88, 0xa8]),
        ];
        tagged.push(with_tag(&tagged[0], [0x88, 0xa8]));
        tagged.push(with_tag(&tagged[0], [0x81, 0x00]));
        tagged.push(with_tag(&arp, [0x81, 0x00]));
        tagged
    });
    wires.expect_dropped(&sent, &received, DropReason::Vlan);
    let [sent, received] = udp
        .map(|udp| [[0x88, 0x47], [0x88, 0xcc], [0x12, 0x34]].map(|ether_type| with_tag(&udp, ether_type)));
    wires.expect_dropped(&sent, &received, DropReason::EtherType);
}

/// Packets with their IP header outside of the linear buffer: jumbo frames, and segments before
/// segmentation.
#[test]
fn f3_headers_behind_the_linear_part() {
    let Some(mut wires) = wires() else { return };
    let long = |wires: &Wires, from, to, ipv4, port| {
        let frame = wires.frame(from, to, ipv4, protocol::UDP, port);
        headers::with_payload(&frame, 8000)
    };
    let segments = |wires: &Wires, from, to, port| {
        let mut frame = wires.frame(from, to, true, protocol::TCP, port);
        frame[ETHERNET + 20 + 13] = 0x10; // ACK: segments of a SYN are none.
        headers::with_payload(&frame, 30_000)
    };
    for (from, to, direction) in [
        ("other/c", "shop/a", Direction::Ingress),
        ("shop/a", "other/c", Direction::Egress),
    ] {
        let frames = |wires: &Wires, udp, tcp| {
            [
                (long(wires, from, to, true, udp), None),
                (long(wires, from, to, false, udp), None),
                (segments(wires, from, to, tcp), Some(1000)),
            ]
        };
        let malformed = wires.counted(direction, DropReason::Malformed);
        for (frame, segment) in frames(&wires, 53, 80) {
            let receiver = if to == "shop/a" { wires.a.mac } else { wires.c.mac };
            let (frame, mac) = wires.addressed(&frame, receiver);
            let (sender, receiver) = if to == "shop/a" {
                (&wires.c, &wires.a)
            } else {
                (&wires.a, &wires.c)
            };
            sender.send_scattered(&frame, segment).unwrap();
            assert_eq!(receiver.receive_from(mac).unwrap(), frame.len());
        }
        for (frame, segment) in frames(&wires, 54, 81) {
            let receiver = if to == "shop/a" { wires.a.mac } else { wires.c.mac };
            let sender = if to == "shop/a" { &wires.c } else { &wires.a };
            let before = wires.counters.read(direction).unwrap().policy;
            let mut mine = frame.clone();
            mine[..6].copy_from_slice(&receiver);
            sender.send_scattered(&mine, segment).unwrap();
            // Others are dropped meanwhile, but none as large.
            let started = Instant::now();
            while wires.counters.read(direction).unwrap().policy.bytes < before.bytes + frame.len() as u64 {
                assert!(
                    started.elapsed() < Duration::from_secs(10),
                    "{direction:?}: not dropped"
                );
                std::thread::yield_now();
            }
        }
        assert_eq!(wires.counted(direction, DropReason::Malformed), malformed);
    }
}

/// Removes the MAC addresses from the endpoints; zeros mean that the agent knows none. These tests
/// identify each frame by its own source. The agent last writes an endpoint when it has found the
/// pod's link-local address.
fn forget_macs(lab: &Lab, pods: usize) -> Result<()> {
    let pin = netpol_agent::datapath::pin_folder(lab.agent.pin_path()).join("endpoints");
    let map = aya::maps::Map::HashMap(aya::maps::MapData::from_pin(pin)?);
    let mut map = aya::maps::HashMap::<_, u32, Endpoint>::try_from(map)?;
    let started = Instant::now();
    let found = loop {
        let found: Vec<(u32, Endpoint)> = map.iter().collect::<Result<_, _>>()?;
        let whole = found
            .iter()
            .filter(|(_, endpoint)| endpoint.link_local != [0; 16]);
        if whole.count() == pods {
            break found;
        }
        anyhow::ensure!(
            started.elapsed() < Duration::from_secs(20),
            "link-local addresses: {found:?}"
        );
        std::thread::yield_now();
    };
    for (ifindex, endpoint) in found {
        let endpoint = Endpoint {
            mac: [0; 6],
            ..endpoint
        };
        map.insert(ifindex, endpoint, 0)?;
    }
    Ok(())
}
