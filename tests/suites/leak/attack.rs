// SPDX-License-Identifier: Apache-2.0
//! Makes the attacker's packets: of every kind, to every address that may lead to a victim, valid
//! or broken in one way.

use std::net::IpAddr;

use netpol_tests::{random::Random, services::Frontend};

use crate::{
    ip,
    upper::{self, Ends},
    world::{ATTACKER, CLOSED, FRIEND, NARROW, World},
};

/// Source MAC of all frames with a VLAN tag, which a capture does not show.
pub const VLAN_SOURCE: [u8; 6] = [0x02, 0, 0, 0, 0x81, 0];

const BROADCAST: [u8; 6] = [0xff; 6];

/// Destination of a packet.
#[derive(Debug, Clone, Copy)]
struct Target {
    address: IpAddr,
    mac: [u8; 6],
    ports: (u16, u16),
}

/// Picks one of several values.
pub fn pick<T: Copy>(random: &mut Random, of: &[T]) -> T {
    of[random.below(of.len())]
}

/// Returns true once in `times`.
pub fn once_in(random: &mut Random, times: usize) -> bool {
    random.below(times) == 0
}

/// Makes endless frames, the same for the same seed and world.
pub struct Attack {
    random: Random,
    mac: [u8; 6],
    own: [IpAddr; 2],
    targets: Vec<Target>,
    /// Sources other than the attacker's.
    others: Vec<IpAddr>,
}

impl Attack {
    /// Makes an attack on a world.
    pub fn new(world: &World, random: Random) -> Self {
        let mut targets = Vec::new();
        let bridge = world.bridge();
        let parse = |text: &str| text.parse::<IpAddr>().unwrap();
        for pod in [NARROW, CLOSED] {
            let mac = world.mac(pod);
            // To the bridge, to the node as a router, and to every port of the bridge.
            for mac in [mac, mac, mac, mac, bridge, BROADCAST, [2, 0, 0, 0, 0, 0x99]] {
                targets.extend(world.addresses(pod).map(|address| Target {
                    address,
                    mac,
                    ports: (8080, 5353),
                }));
            }
        }
        let node = world.lab.site("node").unwrap().addresses;
        for service in &world.services {
            let virtual_ips = Frontend::ALL.map(|frontend| service.addresses(frontend)).concat();
            targets.extend(virtual_ips.into_iter().map(|address| Target {
                address,
                mac: bridge,
                ports: (80, 53),
            }));
            targets.extend(node.iter().map(|&address| Target {
                address,
                mac: bridge,
                ports: service.node_ports(),
            }));
        }
        for (address, mac) in [
            ("255.255.255.255", BROADCAST),
            ("10.244.0.255", BROADCAST),
            ("224.0.0.1", [0x01, 0, 0x5e, 0, 0, 1]),
            ("239.1.2.3", [0x01, 0, 0x5e, 1, 2, 3]),
            ("ff02::1", [0x33, 0x33, 0, 0, 0, 1]),
            ("ff05::1:3", [0x33, 0x33, 0, 1, 0, 3]),
        ] {
            targets.push(Target {
                address: parse(address),
                mac,
                ports: (8080, 5353),
            });
        }
        let mut others: Vec<IpAddr> = [FRIEND, NARROW, CLOSED]
            .iter()
            .flat_map(|pod| world.addresses(pod))
            .chain(node)
            .collect();
        others.extend(
            [
                "0.0.0.0",
                "::",
                "127.0.0.1",
                "::1",
                "224.0.0.1",
                "ff02::1",
                "198.51.100.10",
                "2001:db8:1::10",
                "203.0.113.7",
                "2001:db8:7::7",
                "fe80::1",
                "fe80::c0de",
            ]
            .map(parse),
        );
        Self {
            random,
            mac: world.mac(ATTACKER),
            own: world.addresses(ATTACKER),
            targets,
            others,
        }
    }

    /// Makes a packet: a frame, or its fragments.
    pub fn next(&mut self) -> Vec<Vec<u8>> {
        let random = &mut self.random;
        let target = pick(random, &self.targets);
        let ipv4 = target.address.is_ipv4();
        let mut source = self.own[usize::from(!ipv4)];
        if once_in(random, 6) {
            let others: Vec<IpAddr> = self
                .others
                .iter()
                .copied()
                .filter(|ip| ip.is_ipv4() == ipv4)
                .collect();
            source = pick(random, &others);
        }
        let ends = Ends {
            source,
            destination: target.address,
            ports: target.ports,
        };
        let (protocol, payload) = upper::packet(random, &ends);
        let packets = if ipv4 {
            ip::v4(random, &ends, protocol, &payload)
        } else {
            ip::v6(random, &ends, protocol, &payload)
        };
        let mut frames: Vec<_> = packets
            .iter()
            .map(|packet| self.frame(target.mac, if ipv4 { 0x0800 } else { 0x86dd }, packet))
            .collect();
        if once_in(&mut self.random, 8) {
            frames.iter_mut().for_each(|frame| self.damage(frame));
        }
        frames
    }

    fn frame(&mut self, mac: [u8; 6], ether_type: u16, packet: &[u8]) -> Vec<u8> {
        let mut frame = [&mac[..], &self.mac, &ether_type.to_be_bytes(), packet].concat();
        if once_in(&mut self.random, 20) {
            frame[6..12].copy_from_slice(&VLAN_SOURCE);
            let tag: &[u8] = match self.random.below(4) {
                0 => &[0x81, 0, 0, 0],
                1 => &[0x81, 0, 0, 7],
                2 => &[0x88, 0xa8, 0, 1],
                _ => &[0x88, 0xa8, 0, 1, 0x81, 0, 0, 2],
            };
            frame.splice(12..12, tag.iter().copied());
        }
        frame
    }

    /// Truncates a frame, changes its EtherType, or changes any byte after the MAC addresses,
    /// without repairing checksums.
    fn damage(&mut self, frame: &mut Vec<u8>) {
        let random = &mut self.random;
        match random.below(3) {
            0 => frame.truncate(14 + random.below(frame.len() - 13)),
            1 => {
                // Not ARP, which always passes and would mislead the victims.
                let ether_type = pick(
                    random,
                    &[0x88ccu16, 0x8847, 0x8864, 0x0600, 0x0800, 0x86dd, 0x05dc],
                );
                frame[12..14].copy_from_slice(&ether_type.to_be_bytes());
            }
            _ => {
                let at = 14 + random.below(frame.len() - 14).min(60);
                frame[at] = random.below(256) as u8;
            }
        }
    }
}
