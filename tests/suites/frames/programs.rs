// SPDX-License-Identifier: Apache-2.0
//! Runs single frames through the programs: from `shop/api` to `shop/web`, which accepts TCP 80,
//! UDP 53 and SCTP from its namespace.

use std::net::IpAddr;

use anyhow::{Context, Result};
use netpol_agent::{datapath::CounterReader, evaluate::Packet, model};
use netpol_common::{
    abi::{Direction, DropReason},
    parse::{MAX_EXTENSION_HEADERS, protocol},
};
use netpol_tests::{
    cases::load_all,
    frames::{
        MAC,
        headers::{self, ETHERNET, IPV6, behind_ip, put, with_extensions, with_options, with_tag},
        membership, opening,
    },
    fuzz::{grow::shortest, to_hex},
    progrun::{Bench, local_pods, on_bench},
};

const SUITE: &str = "frames";

/// Pods by address, in one family.
struct Family {
    source: IpAddr,
    destination: IpAddr,
    icmp: u8,
}

impl Family {
    fn both() -> [Self; 2] {
        let of = |[source, destination]: [&str; 2], icmp| Self {
            source: source.parse().expect("an address"),
            destination: destination.parse().expect("an address"),
            icmp,
        };
        [
            of(["10.244.0.11", "10.244.0.10"], protocol::ICMP),
            of(["fd00:10:244::11", "fd00:10:244::10"], protocol::ICMPV6),
        ]
    }

    /// Returns the packet that opens a connection.
    fn frame(&self, number: u8, port: u16) -> Vec<u8> {
        let packet = Packet {
            source: self.source,
            destination: self.destination,
            protocol: number,
            port: Some(port),
        };
        opening(&packet, 40_000)
    }

    /// Returns the allowed packets, of every protocol with ports.
    fn allowed(&self) -> [Vec<u8>; 3] {
        [
            self.frame(protocol::TCP, 80),
            self.frame(protocol::UDP, 53),
            self.frame(protocol::SCTP, 9),
        ]
    }
}

/// The two pods.
struct Pods<'a> {
    bench: &'a mut Bench,
    counters: CounterReader,
    /// Isolated for ingress.
    web: u32,
    /// Not isolated.
    api: u32,
}

impl Pods<'_> {
    fn run(test: impl FnOnce(&mut Pods<'_>) -> Result<()> + Send) {
        on_bench(SUITE, 8, |bench| {
            let mut cases = load_all()?.into_iter();
            let case = cases.find(|case| case.name == "ports").context("no such case")?;
            let (snapshot, node) = (&case.steps[0].snapshot, &case.nodes[0]);
            let keys: Vec<_> = snapshot.pods.keys().collect();
            let seats = bench.interfaces().to_vec();
            let (pods, addresses) = local_pods(snapshot, node, |key| {
                seats[keys.iter().position(|other| *other == key).unwrap_or_default()]
            });
            bench.enforce(snapshot, node, &pods)?;
            let [api, web] =
                ["10.244.0.11", "10.244.0.10"].map(|text| addresses[&text.parse::<IpAddr>().unwrap()]);
            let counters = CounterReader::open(bench.pin_path())?;
            test(&mut Pods {
                bench,
                counters,
                web,
                api,
            })
        });
    }

    /// Compares the verdict at the isolated pod, and the one counter that moved, with `reason`. The
    /// other pod must accept the frame.
    fn expect(&mut self, frame: &[u8], reason: Option<DropReason>) -> Result<()> {
        let shown = || to_hex(&frame[..frame.len().min(200)]);
        self.bench.forget_flows()?;
        let before = self.counters.read(Direction::Ingress)?;
        let passes = self
            .bench
            .passes(model::Direction::Ingress, self.web, self.api, frame)?;
        assert_eq!(passes, reason.is_none(), "expected {reason:?}: {}", shown());
        let mut wanted = before;
        let counter = match reason {
            Some(reason) => wanted.dropped(reason),
            None => &mut wanted.forwarded,
        };
        counter.packets += 1;
        counter.bytes += frame.len() as u64;
        let after = self.counters.read(Direction::Ingress)?;
        wanted.flows_created = after.flows_created;
        assert_eq!(after, wanted, "counters: {}", shown());
        let (api, web) = (self.api, self.web);
        let own = to_api(frame);
        for (direction, came_by, frame) in [
            (model::Direction::Ingress, web, &own[..]),
            (model::Direction::Egress, api, frame),
        ] {
            assert!(
                self.bench.passes(direction, api, came_by, frame)?,
                "{direction} of a pod that is not isolated: {}",
                shown()
            );
        }
        Ok(())
    }
}

/// Returns the same frame for the other pod, which accepts only its own.
fn to_api(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    for Family {
        source, destination, ..
    } in Family::both()
    {
        let octets = |address| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let (web, api) = (octets(destination), octets(source));
        if let Some(at) = frame.windows(web.len()).position(|window| window == web) {
            frame[at..at + api.len()].copy_from_slice(&api);
        }
    }
    frame
}

/// Returns frames unchanged and with headers before the upper layer's.
fn with_headers(frame: &[u8]) -> Vec<Vec<u8>> {
    if !headers::is_ipv6(frame) {
        return (0..=10)
            .map(|words| with_options(frame, &vec![1; words * 4]))
            .collect();
    }
    let kinds = [
        protocol::HOP_BY_HOP,
        protocol::ROUTING,
        protocol::DESTINATION_OPTIONS,
        protocol::AH,
        protocol::FRAGMENT,
    ];
    let mut frames = vec![frame.to_vec(), with_extensions(frame, &kinds, 2, 0x50)];
    for kind in kinds {
        for (units, filling) in [(0, 0), (1, 0), (3, 0x50), (40, 1)] {
            frames.push(with_extensions(frame, &[kind], units, filling));
        }
    }
    frames
}

#[test]
fn f3_the_port_is_that_behind_all_headers() {
    Pods::run(|pods| {
        for family in Family::both() {
            for frame in family.allowed() {
                for frame in with_headers(&frame) {
                    pods.expect(&frame, None)?;
                }
            }
            for (number, port) in [
                (protocol::TCP, 81),
                (protocol::TCP, 53),
                (protocol::UDP, 80),
                (protocol::UDP, 0x5050),
            ] {
                for frame in with_headers(&family.frame(number, port)) {
                    pods.expect(&frame, Some(DropReason::Policy))?;
                }
            }
        }
        Ok(())
    });
}

#[test]
fn f4_protocols_without_ports_are_not_allowed_by_ports() {
    const ESP: u8 = 50;
    const NO_NEXT_HEADER: u8 = 59;
    Pods::run(|pods| {
        for family in Family::both() {
            // Mobility, HIP and Shim6 headers look like extension headers, but receivers do not
            // treat them as such.
            for number in [
                ESP,
                NO_NEXT_HEADER,
                47,
                135,
                139,
                140,
                253,
                254,
                0xff,
                family.icmp,
            ] {
                for frame in with_headers(&family.frame(number, 80)) {
                    pods.expect(&frame, Some(DropReason::Policy))?;
                }
            }
        }
        // Nothing after it, not even a byte.
        let mut bare = Family::both()[1].frame(NO_NEXT_HEADER, 0)[..ETHERNET + IPV6].to_vec();
        headers::fit(&mut bare);
        pods.expect(&bare, Some(DropReason::Policy))
    });
}

/// Headers that only look like extension headers, with an allowed port after them.
#[test]
fn f4_no_port_is_read_behind_protocols_of_their_own() {
    Pods::run(|pods| {
        let [v4, v6] = Family::both();
        for number in [135, 139, 140, 253, 254] {
            for port in [80, 81] {
                let hidden = with_extensions(&v6.frame(protocol::TCP, port), &[number], 1, 0);
                pods.expect(&hidden, Some(DropReason::Policy))?;
            }
        }
        let mut hidden = v4.frame(protocol::TCP, 80);
        hidden[ETHERNET + 9] = protocol::AH;
        pods.expect(&hidden, Some(DropReason::Policy))
    });
}

/// These frames pass an isolated pod. With any identifying byte changed, the policy for ICMPv6 or
/// IGMP decides.
#[test]
fn f1_messages_about_groups_pass_and_nothing_that_looks_like_them() {
    Pods::run(|pods| {
        for (name, frame) in membership::messages() {
            let v6 = headers::is_ipv6(&frame);
            let ingress = model::Direction::Ingress;
            let mut passes = |frame: &[u8]| pods.bench.passes(ingress, pods.web, pods.api, frame);
            assert!(passes(&frame)?, "{name}");
            // Group bit, group, hop limit, options, destination, and a unicast frame of it.
            let told: &[usize] = if v6 {
                &[0, 5, ETHERNET + 7, ETHERNET + 42, ETHERNET + 24, ETHERNET + 39]
            } else {
                &[0, 5, ETHERNET + 8, ETHERNET + 20, ETHERNET + 16, ETHERNET + 19]
            };
            for at in told {
                for flip in [0x01, 0x40] {
                    let mut wrong = frame.clone();
                    wrong[*at] ^= flip;
                    assert!(
                        !passes(&wrong)?,
                        "{name} with another byte {at}: {}",
                        to_hex(&wrong)
                    );
                }
            }
        }
        Ok(())
    });
}

#[test]
fn a6_a9_frames_have_the_pods_mac_address() {
    Pods::run(|pods| {
        let tcp = Family::both()[0].frame(protocol::TCP, 80);
        let arp = [&MAC[..], &MAC, &[0x08, 0x06], &[0; 46]].concat();
        for (frame, at) in [(&tcp, 0), (&arp, 0), (&tcp, 6), (&arp, 6)] {
            let (direction, pod, by) = match at {
                0 => (model::Direction::Ingress, pods.web, pods.api),
                _ => (model::Direction::Egress, pods.api, pods.api),
            };
            assert!(pods.bench.passes(direction, pod, by, frame)?);
            for byte in at..at + 6 {
                let mut wrong = frame.clone();
                wrong[byte] ^= 0x20;
                assert!(
                    !pods.bench.passes(direction, pod, by, &wrong)?,
                    "{direction}: byte {byte}"
                );
            }
        }
        Ok(())
    });
}

#[test]
fn f3_more_extension_headers_than_are_walked() {
    let udp = Family::both()[1].frame(protocol::UDP, 53);
    Pods::run(|pods| {
        for length in 0..20 {
            let frame = with_extensions(&udp, &vec![protocol::DESTINATION_OPTIONS; length], 0, 0);
            let reason = (length > MAX_EXTENSION_HEADERS).then_some(DropReason::ExtensionHeaders);
            pods.expect(&frame, reason)?;
        }
        Ok(())
    });
}

/// Truncated on the wire, with the old length in the IP header, and truncated by the sender, with a
/// new one.
#[test]
fn f2_frames_cut_short_at_every_byte() {
    Pods::run(|pods| {
        for family in Family::both() {
            let mut frames: Vec<Vec<u8>> = family.allowed().to_vec();
            // Of SCTP, the common header is needed.
            let end = behind_ip(&frames[2]) + 12;
            frames[2].truncate(end);
            headers::fit(&mut frames[2]);
            for frame in frames {
                let chained = if headers::is_ipv6(&frame) {
                    with_extensions(
                        &frame,
                        &[protocol::HOP_BY_HOP, protocol::AH, protocol::FRAGMENT],
                        1,
                        0,
                    )
                } else {
                    with_options(&frame, &[1; 40])
                };
                for frame in [frame, chained] {
                    pods.expect(&frame, None)?;
                    for length in shortest(&frame)..frame.len() {
                        let mut cut = frame[..length].to_vec();
                        pods.expect(&cut, Some(DropReason::Malformed))?;
                        headers::fit(&mut cut);
                        pods.expect(&cut, Some(DropReason::Malformed))?;
                    }
                }
            }
        }
        Ok(())
    });
}

#[test]
fn f2_lengths_that_contradict_the_frame() {
    let [v4, v6] = Family::both();
    let (tcp, udp) = (v4.frame(protocol::TCP, 80), v4.frame(protocol::UDP, 53));
    let (tcp6, udp6) = (v6.frame(protocol::TCP, 80), v6.frame(protocol::UDP, 53));
    let changed = |frame: &[u8], at: usize, number: u16| {
        let mut frame = frame.to_vec();
        put(&mut frame, at, number);
        frame
    };
    let byte = |frame: &[u8], at: usize, number: u8| {
        let mut frame = frame.to_vec();
        frame[at] = number;
        frame
    };
    Pods::run(|pods| {
        let malformed = Some(DropReason::Malformed);
        for total in (0..40).chain([41, 60, 1500, 0xffff]) {
            pods.expect(&changed(&tcp, ETHERNET + 2, total), malformed)?;
        }
        for payload in (0..20).chain([21, 40, 1500, 0xffff]) {
            pods.expect(&changed(&tcp6, ETHERNET + 4, payload), malformed)?;
        }
        for version_and_length in (0x40..0x45).chain(0x4b..=0x4f).chain([0x05, 0x55, 0x65, 0xf5]) {
            pods.expect(&byte(&tcp, ETHERNET, version_and_length), malformed)?;
        }
        for version in [0x00, 0x40, 0x50, 0x70, 0xf0] {
            pods.expect(&byte(&tcp6, ETHERNET, version), malformed)?;
        }
        for frame in [&tcp, &tcp6] {
            for words in (0..5).chain(6..16) {
                pods.expect(&byte(frame, behind_ip(frame) + 12, words << 4), malformed)?;
            }
        }
        for frame in [&udp, &udp6] {
            for length in (0..8).chain([9, 16, 1500, 0xffff]) {
                pods.expect(&changed(frame, behind_ip(frame) + 4, length), malformed)?;
            }
        }
        for frame in [&tcp, &tcp6, &udp, &udp6] {
            pods.expect(&[&frame[..], &[0xff; 46]].concat(), None)?;
        }
        Ok(())
    });
}

#[test]
fn f2_tags_and_unknown_ether_types() {
    Pods::run(|pods| {
        for family in Family::both() {
            for frame in family.allowed() {
                for outer in [[0x81, 0x00], [0x88, 0xa8]] {
                    let tagged = with_tag(&frame, outer);
                    pods.expect(&tagged, Some(DropReason::Vlan))?;
                    for inner in [[0x81, 0x00], [0x88, 0xa8]] {
                        pods.expect(&with_tag(&with_tag(&frame, inner), outer), Some(DropReason::Vlan))?;
                    }
                }
                // A tag before an unknown EtherType is none, and neither is what Linux does not
                // treat as one.
                for ether_type in [
                    [0x91, 0x00],
                    [0x88, 0x47],
                    [0x88, 0x64],
                    [0x88, 0xcc],
                    [0x88, 0x8e],
                    [0x22, 0xf0],
                    [0, 46],
                    [0xff, 0xff],
                ] {
                    pods.expect(&with_tag(&frame, ether_type), Some(DropReason::EtherType))?;
                    let mut named = frame.clone();
                    named[12..14].copy_from_slice(&ether_type);
                    pods.expect(&named, Some(DropReason::EtherType))?;
                }
            }
        }
        Ok(())
    });
}

/// The largest frames that the programs can be given here; the wire's tests send larger, scattered
/// ones.
#[test]
fn f3_large_packets() {
    Pods::run(|pods| {
        for family in Family::both() {
            for more in [1400, 1500, 3000, 3600] {
                let frame = headers::with_payload(&family.frame(protocol::UDP, 53), more);
                pods.expect(&frame, None)?;
                let frame = headers::with_payload(&family.frame(protocol::UDP, 54), more);
                pods.expect(&frame, Some(DropReason::Policy))?;
            }
        }
        Ok(())
    });
}
