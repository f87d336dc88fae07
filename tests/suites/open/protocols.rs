// SPDX-License-Identifier: Apache-2.0
//! SCTP connections and pings that are older than the pods' programs (rule C6), as the kernel's
//! connection tracking knows them. The packets are made by hand: the test chooses the opener, and
//! nobody else answers.

use std::{fmt, net::IpAddr, time::Duration};

use netpol_tests::{
    pair::End,
    privilege::can_enforce,
    proxy::Mode,
    raw::{self, Wire},
};

use super::{SEEDED, SUITE, World};

/// Ports of an SCTP connection; the first is the opener's, and also the identifier of pings.
const PORTS: (u16, u16) = (40_000, 7000);
/// Silence that counts as a loss.
const PATIENCE: Duration = Duration::from_millis(700);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sctp,
    Ping,
}

/// Two pods with a connection of a kind, in one family.
struct Talk {
    kind: Kind,
    names: [&'static str; 2],
    /// The opener's address, then the other's.
    addresses: [IpAddr; 2],
    wires: [Wire; 2],
    /// Number of the last packet.
    number: u8,
}

impl Talk {
    fn new(world: &World, kind: Kind, names: [&'static str; 2], ipv4: bool) -> Self {
        let sites = names.map(|name| world.site(name));
        for site in &sites {
            let settings = ["net/ipv4/icmp_echo_ignore_all", "net/ipv6/icmp/echo_ignore_all"];
            site.netns.sysctl(&settings.map(|name| (name, "1"))).unwrap();
        }
        let addresses = [&sites[0], &sites[1]].map(|site| {
            let mut all = site.addresses.iter();
            *all.find(|address| address.is_ipv4() == ipv4).unwrap()
        });
        Self {
            kind,
            names,
            addresses,
            wires: sites.map(|site| Wire::open(&site.netns, "eth0").unwrap()),
            number: 0,
        }
    }

    /// Sends a packet from an end. Returns true if it arrives.
    fn arrives(&self, end: End, ports: (u16, u16), bytes: &[u8]) -> bool {
        let [own, other] = match end {
            End::Opener => [0, 1],
            End::Opened => [1, 0],
        };
        let [from, to] = [own, other].map(|end| self.addresses[end]);
        let (protocol, segment) = match (self.kind, end) {
            (Kind::Sctp, End::Opener) => (132, raw::sctp(ports, bytes)),
            (Kind::Sctp, End::Opened) => (132, raw::sctp((ports.1, ports.0), bytes)),
            (Kind::Ping, _) => raw::echo(from, to, end == End::Opener, ports.0, bytes),
        };
        let packet = raw::ip(from, to, protocol, &segment, None);
        self.wires[own].send(self.wires[other].mac(), &packet).unwrap();
        let seen = self.wires[other].listen(PATIENCE, |seen| seen == packet).unwrap();
        seen.contains(&packet)
    }

    /// Opens the connection, with an answer.
    fn open(&self) {
        match self.kind {
            Kind::Ping => {
                assert!(self.arrives(End::Opener, PORTS, b"opens"));
                assert!(self.arrives(End::Opened, PORTS, b"opens"));
            }
            Kind::Sctp => {
                const TAGS: [u32; 2] = [0x1111_1111, 0x2222_2222];
                let [init, init_ack] = TAGS.map(|tag| {
                    let numbers = [tag, 0xffff, 0x0001_0001, 1].map(u32::to_be_bytes);
                    numbers.concat()
                });
                let handshake: [(End, u32, u8, &[u8]); 4] = [
                    (End::Opener, 0, 1, &init),
                    (End::Opened, TAGS[0], 2, &init_ack),
                    (End::Opener, TAGS[1], 10, b"cook"),
                    (End::Opened, TAGS[0], 11, b""),
                ];
                for (end, tag, kind, value) in handshake {
                    let chunk = raw::sctp_chunk(tag, kind, value);
                    assert!(self.arrives(end, PORTS, &chunk), "{self} chunk {kind}");
                }
            }
        }
    }

    /// Sends another packet from an end. Returns true if it arrives.
    fn says(&mut self, end: End, ports: (u16, u16)) -> bool {
        self.number += 1;
        let bytes = match (self.kind, end) {
            (Kind::Ping, _) => vec![self.number; 16],
            (Kind::Sctp, End::Opener) => raw::sctp_chunk(0x2222_2222, 0, &[self.number; 16]),
            (Kind::Sctp, End::Opened) => raw::sctp_chunk(0x1111_1111, 0, &[self.number; 16]),
        };
        self.arrives(end, ports, &bytes)
    }
}

impl fmt::Display for Talk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [from, to] = self.addresses;
        let [of, at] = self.names;
        write!(f, "{:?} {of} ({from}) -> {at} ({to})", self.kind)
    }
}

/// A connection that policy allows to its opener continues with a reply, and one that it denies
/// does not, although the replies alone would be allowed: pod a may send to all, pod b may receive
/// from all.
fn are_seeded(kind: Kind, entry: &str) {
    if !can_enforce(SUITE) {
        return;
    }
    let world = World::with_rules(Mode::Iptables, true);
    let open = |names| [true, false].map(|ipv4| Talk::new(&world, kind, names, ipv4));
    let mut allowed = open(["shop/a", "shop/b"]);
    let mut denied: Vec<Talk> = open(["other/c", "shop/a"]).into();
    denied.extend(open(["shop/b", "other/c"]));
    for talk in allowed.iter().chain(&denied) {
        talk.open();
    }
    let table = world.node.netns().run(|| {
        let path = "/proc/thread-self/net/nf_conntrack";
        Ok(std::fs::read_to_string(path)?)
    });
    let table = table.unwrap();
    let entries = table.lines().filter(|line| line.contains(entry));
    assert_eq!(entries.count(), 6, "{entry}: {table}");
    let agent = world.start();
    agent.wait_for_line(0, SEEDED).unwrap();
    for talk in &mut allowed {
        assert!(talk.says(End::Opened, PORTS), "{talk}: its reply is lost");
        assert!(talk.says(End::Opener, PORTS), "{talk}");
        let other = (PORTS.0 + 1, PORTS.1);
        assert!(!talk.says(End::Opened, other), "{talk}: a reply to nothing");
    }
    for talk in &mut denied {
        assert!(!talk.says(End::Opened, PORTS), "{talk}: a reply arrives");
        assert!(!talk.says(End::Opener, PORTS), "{talk}: it goes on");
    }
}

#[test]
fn c6_open_connections_of_sctp_go_on_or_are_cut() {
    are_seeded(Kind::Sctp, " sctp ");
}

#[test]
fn c6_open_pings_go_on_or_are_cut() {
    are_seeded(Kind::Ping, " icmp");
}
