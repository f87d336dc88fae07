// SPDX-License-Identifier: Apache-2.0
//! The real programs and maps in this kernel, packet by packet: compared with the corpus, and with
//! the evaluator on random clusters. `NETPOL_CASES` is the number of packets; `NETPOL_SEED` repeats
//! a run.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use netpol_agent::{
    compile::{Compiled, compile},
    datapath::CounterReader,
    evaluate::{Evaluation, Packet, Side, Why, evaluate, evaluate_service},
    model::{Direction, Node, ObjectKey, Snapshot},
};
use netpol_common::abi::{self, DropReason};
use netpol_tests::{
    cases::{Case, Expectation, Step, Translated, load_all},
    frames,
    frontend_verdict::{chooses_elsewhere, frontend_verdict},
    lookup,
    progrun::{Bench, local_pods, on_bench},
    random::{Random, cluster, nodes, packet, service_packet},
};

#[path = "progrun/flows.rs"]
mod flows;
#[path = "progrun/grace.rs"]
mod grace;
#[path = "progrun/leaving.rs"]
mod leaving;
#[path = "progrun/longest.rs"]
mod longest;
#[path = "progrun/races.rs"]
mod races;
#[path = "progrun/restricted.rs"]
mod restricted;
#[path = "progrun/told.rs"]
mod told;

const SUITE: &str = "progrun";
const PACKETS_A_CLUSTER: usize = 300;

/// Returns the interface by which a packet came to the node; 0 if the node made it.
fn came_in_by(bench: &Bench, node: &Node, addresses: &BTreeMap<IpAddr, u32>, packet: &Packet) -> u32 {
    let from_pod = addresses.get(&packet.source);
    match from_pod {
        Some(ifindex) => *ifindex,
        None if node.addresses.contains(&packet.source) => 0,
        None => bench.uplink(),
    }
}

/// Returns the verdict of a node's two hooks on the packet that opens a connection; `None` if it
/// passes no hook of this node.
fn hooks(
    bench: &mut Bench,
    node: &Node,
    addresses: &BTreeMap<IpAddr, u32>,
    packet: &Packet,
) -> Result<[(Direction, Option<bool>); 2]> {
    let mut verdicts = [(Direction::Egress, None), (Direction::Ingress, None)];
    let ends = [packet.source, packet.destination].map(|address| addresses.get(&address).copied());
    if ends[0].is_some() && ends[0] == ends[1] {
        return Ok(verdicts); // A1: such a packet never leaves the pod.
    }
    for ((direction, verdict), ifindex) in verdicts.iter_mut().zip(ends) {
        let Some(ifindex) = ifindex else { continue };
        let ingress_ifindex = match direction {
            Direction::Egress => ifindex,
            Direction::Ingress => came_in_by(bench, node, addresses, packet),
        };
        *verdict = Some(bench.opens(*direction, ifindex, ingress_ifindex, packet)?);
    }
    Ok(verdicts)
}

/// Describes where a node's hooks drop the packet of an expectation through a Service: on its way
/// to the frontend, or to the backend.
fn by_service(
    bench: &mut Bench,
    case: &Case,
    step: &Step,
    node: &Node,
    addresses: &BTreeMap<IpAddr, u32>,
    expectation: &Expectation,
) -> Result<Option<String>> {
    let packet = step.packet(&case.nodes, expectation)?;
    let sender = addresses.get(&packet.source).copied();
    if let Some(ifindex) = sender
        && !bench.opens(Direction::Egress, ifindex, ifindex, &packet)?
    {
        return Ok(Some(format!("egress at {}", node.name)));
    }
    let Some(Translated { packet, seen }) = step.translated(&case.nodes, expectation)? else {
        return Ok(Some("no way there".to_owned()));
    };
    let Some(&ifindex) = addresses.get(&packet.destination) else {
        let Some(came_by) = sender.filter(|_| !node.addresses.contains(&packet.destination)) else {
            return Ok(None);
        };
        let leaving = Packet {
            source: seen,
            ..packet
        };
        let passes = bench.leaves(came_by, &leaving)?;
        return Ok((!passes).then(|| format!("leaving {}", node.name)));
    };
    let of_other_node = case
        .nodes
        .iter()
        .any(|other| other != node && other.addresses.contains(&seen));
    let came_by = sender.filter(|_| !of_other_node).unwrap_or(bench.uplink());
    let arrives = Packet {
        source: seen,
        ..packet
    };
    let passes = bench.opens(Direction::Ingress, ifindex, came_by, &arrives)?;
    Ok((!passes).then(|| format!("ingress at {}", node.name)))
}

/// Plays a case on each of its nodes, through all steps. Returns what is not as expected.
fn play(bench: &mut Bench, case: &Case, interfaces: &mut BTreeMap<ObjectKey, u32>) -> Result<Vec<String>> {
    let mut dropped: BTreeMap<(usize, usize), Vec<String>> = BTreeMap::new();
    for node in &case.nodes {
        for (index, step) in case.steps.iter().enumerate() {
            for key in step.snapshot.pods.keys() {
                let next = interfaces.len();
                let all = bench.interfaces();
                interfaces
                    .entry(key.clone())
                    .or_insert_with(|| all[next % all.len()]);
            }
            let (pods, addresses) = local_pods(&step.snapshot, node, |key| interfaces[key]);
            bench.enforce(&step.snapshot, node, &pods)?;
            for (line, expectation) in step.expectations.iter().enumerate() {
                let packet = step.packet(&case.nodes, expectation)?;
                if expectation.via.is_some() {
                    let by = by_service(bench, case, step, node, &addresses, expectation)?;
                    dropped.entry((index, line)).or_default().extend(by);
                    continue;
                }
                for (direction, passes) in hooks(bench, node, &addresses, &packet)? {
                    if passes == Some(false) {
                        let by = format!("{direction} at {}", node.name);
                        dropped.entry((index, line)).or_default().push(by);
                    }
                }
            }
        }
    }
    let mut wrong = Vec::new();
    for (index, step) in case.steps.iter().enumerate() {
        for (line, expectation) in step.expectations.iter().enumerate() {
            let by = dropped.get(&(index, line)).filter(|by| !by.is_empty());
            let closed = step.is_closed_as_a_whole(&case.nodes, expectation)?;
            if by.is_none() != (expectation.allowed && !closed) {
                let (name, rules) = (&case.name, case.rules.join(" "));
                let wanted = match (expectation.allowed, closed) {
                    (_, true) => "closed as a whole",
                    (true, false) => "allowed",
                    (false, false) => "denied",
                };
                wrong.push(format!(
                    "{name} ({rules}) step {index}: {expectation} must be {wanted}: {by:?}"
                ));
            }
        }
    }
    Ok(wrong)
}

#[test]
fn corpus() {
    on_bench(SUITE, 16, |bench| {
        let (mut wrong, mut interfaces) = (Vec::new(), BTreeMap::new());
        for case in load_all()? {
            let pods: BTreeSet<_> = case
                .steps
                .iter()
                .flat_map(|step| step.snapshot.pods.keys())
                .collect();
            let seats = bench.interfaces().len();
            ensure!(pods.len() <= seats, "{}: more than {seats} pods", case.name);
            if interfaces.len() + pods.len() > seats {
                interfaces.clear();
            }
            wrong.extend(play(bench, &case, &mut interfaces).context(case.name.clone())?);
            bench.check_maps()?;
        }
        assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
        ensure!(bench.runs() > 100, "only {} packets", bench.runs());
        Ok(())
    });
}

/// Compares one hook's verdict with its side of the evaluation.
fn compare(
    snapshot: &Snapshot,
    packet: &Packet,
    direction: Direction,
    passes: bool,
    side: &Side,
) -> Result<()> {
    ensure!(
        passes == side.allowed,
        "{direction} of {packet:?}: the kernel {}, the evaluator says {side:?}\n{:#?}\n{:#?}\n{:#?}",
        if passes { "passes it" } else { "drops it" },
        snapshot.namespaces,
        snapshot.pods,
        snapshot.policies
    );
    Ok(())
}

/// Compares random packets at the hooks of one node with the evaluator. Returns the numbers of
/// checks at frontends and at backends.
fn differ(bench: &mut Bench, random: &mut Random, snapshot: &Snapshot, node: &Node) -> Result<[usize; 2]> {
    let (pods, addresses) = local_pods(snapshot, node, |key| {
        let number: usize = key.name.trim_start_matches("pod-").parse().expect("pod-N");
        bench.interfaces()[number]
    });
    bench.enforce(snapshot, node, &pods)?;
    let compiled = compile(snapshot, node);
    let mut asked = [0; 2];
    let strangers: Vec<Node> = nodes()
        .into_iter()
        .filter(|other| other.name != node.name)
        .collect();
    for _ in 0..PACKETS_A_CLUSTER {
        let packet = packet(random, snapshot);
        if evaluate_service(snapshot, &nodes(), &packet).is_some() {
            // A host that a Service claims.
            let more = differ_by_service(bench, snapshot, node, &compiled, &addresses, &packet)?;
            asked = [asked[0] + more[0], asked[1] + more[1]];
            continue;
        }
        let Evaluation { egress, ingress } = evaluate(snapshot, &nodes(), &packet);
        // Where the packet is received, the egress policy of a sender on this node is checked again
        // (rule A5).
        let received = if addresses.contains_key(&packet.source) && !egress.allowed {
            &egress
        } else {
            &ingress
        };
        let sides = [&egress, received];
        for ((direction, passes), side) in hooks(bench, node, &addresses, &packet)?.into_iter().zip(sides) {
            let Some(passes) = passes else { continue };
            ensure!(
                side.why != Why::NotEnforced,
                "{direction} of {packet:?} is at a hook, but {side:?}"
            );
            compare(snapshot, &packet, direction, passes, side)?;
        }
        if let Some(packet) = service_packet(random, snapshot) {
            let more = differ_by_service(bench, snapshot, node, &compiled, &addresses, &packet)?;
            asked = [asked[0] + more[0], asked[1] + more[1]];
        }
        // A3: a packet that the node only forwards is judged like any other, even with the node's
        // address.
        if let Some(&ifindex) = addresses.get(&packet.destination)
            && node.addresses.contains(&packet.source)
        {
            let passes = bench.opens(Direction::Ingress, ifindex, bench.uplink(), &packet)?;
            let side = evaluate(snapshot, &strangers, &packet).ingress;
            compare(snapshot, &packet, Direction::Ingress, passes, &side)?;
        }
    }
    Ok(asked)
}

/// Compares both checks of a packet to a Service: at the frontend, and at each backend that is a
/// pod of the node.
#[expect(
    clippy::too_many_lines,
    reason = "one packet on its way through both judgements"
)]
fn differ_by_service(
    bench: &mut Bench,
    snapshot: &Snapshot,
    node: &Node,
    compiled: &Compiled,
    addresses: &BTreeMap<IpAddr, u32>,
    packet: &Packet,
) -> Result<[usize; 2]> {
    let mut asked = [0; 2];
    let Some(backends) = evaluate_service(snapshot, &nodes(), packet) else {
        return Ok(asked); // A headless Service.
    };
    let sender = addresses.get(&packet.source).copied();
    if let Some(ifindex) = sender {
        let passes = bench.opens(Direction::Egress, ifindex, ifindex, packet)?;
        let mut endpoints = compiled.endpoints.values();
        asked[0] += 1;
        let isolated = endpoints
            .any(|endpoint| endpoint.addresses.contains(&packet.source) && endpoint.egress.is_some());
        let said = frontend_verdict(snapshot, &nodes(), packet, &backends);
        let elsewhere = chooses_elsewhere(&nodes(), node, packet);
        // Perhaps nobody translates it: then it goes to the owner of the address (rule A9).
        let itself =
            lookup::is_virtual(compiled, packet) && evaluate(snapshot, &nodes(), packet).egress.allowed;
        let lets = |said: &&str| *said == "accept" || *said == "defer" && !elsewhere || itself;
        ensure!(
            if isolated {
                said.iter().any(|said| lets(said) == passes)
            } else {
                passes
            },
            "{packet:?}: the kernel {} it, isolated {isolated}, expected {said:?} of {backends:#?}\n{:#?}\n{:#?}\n{:#?}\n{:#?}\n{:#?}\n{:#?}",
            if passes { "passes" } else { "drops" },
            snapshot.pods,
            snapshot.policies,
            snapshot.services,
            snapshot.endpoint_slices,
            snapshot.limits,
            compiled.diagnostics
        );
    }
    let mut services = snapshot.services.values();
    let is_cluster_ip = services.any(|service| service.cluster_ips.contains(&packet.destination));
    let own = |address: &&IpAddr| address.is_ipv4() == packet.source.is_ipv4();
    let masquerade = *node
        .addresses
        .iter()
        .find(own)
        .context("a node without an address")?;
    let strangers: Vec<Node> = nodes()
        .into_iter()
        .filter(|other| other.name != node.name)
        .collect();
    for (address, port, evaluation) in &backends {
        let Some(&ifindex) = addresses.get(address) else {
            continue;
        };
        let hairpin = *address == packet.source;
        if sender.is_none() && !is_cluster_ip {
            continue; // Another node masquerades it.
        }
        let arrives = Packet {
            source: if hairpin || !is_cluster_ip {
                masquerade
            } else {
                packet.source
            },
            destination: *address,
            port: Some(*port),
            ..*packet
        };
        let ingress = if hairpin || is_cluster_ip {
            evaluation.ingress.clone()
        } else {
            evaluate(snapshot, &strangers, &arrives).ingress
        };
        let sides = [
            Some(&evaluation.egress).filter(|_| sender.is_some()),
            Some(&ingress),
        ];
        let denied = sides.into_iter().flatten().find(|side| !side.allowed);
        let came_by = sender.unwrap_or(bench.uplink());
        let passes = bench.opens(Direction::Ingress, ifindex, came_by, &arrives)?;
        compare(
            snapshot,
            &arrives,
            Direction::Ingress,
            passes,
            denied.unwrap_or(&ingress),
        )?;
        asked[1] += 1;
    }
    Ok(asked)
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}: {text:?} is no number")),
    )
}

/// Packets of which each kind is among them.
const MANY: usize = 20_000;

#[test]
fn kernel_says_what_the_evaluator_says() {
    let packets = number("NETPOL_CASES").unwrap_or(100_000) as usize;
    let of_clock = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.as_nanos() as u64)
    };
    let seed = number("NETPOL_SEED").unwrap_or_else(of_clock);
    on_bench(SUITE, 10, |bench| {
        let mut random = Random(seed);
        let (mut clusters, mut asked) = (0, [0; 2]);
        while bench.runs() < packets {
            clusters += 1;
            let snapshot = cluster(&mut random);
            for node in nodes() {
                let more = differ(bench, &mut random, &snapshot, &node)
                    .with_context(|| format!("NETPOL_SEED={seed}, cluster {clusters}, {}", node.name))?;
                asked = [asked[0] + more[0], asked[1] + more[1]];
            }
            if clusters % 16 == 0 {
                bench.check_maps()?;
            }
        }
        println!(
            "{} packets on {clusters} clusters, of them {asked:?} at frontends and behind them, seed {seed}",
            bench.runs()
        );
        // Few packets are of few clusters, and some of those have no Services.
        ensure!(
            packets < MANY || asked.iter().all(|count| count * 20 > packets),
            "only {asked:?} of {packets} packets are by Services"
        );
        Ok(())
    });
}

/// A case's first step, enforced as its first node.
struct Stage {
    snapshot: Snapshot,
    node: Node,
    pods: BTreeMap<u32, ObjectKey>,
    /// The interfaces of its local pods.
    addresses: BTreeMap<IpAddr, u32>,
}

impl Stage {
    fn of(bench: &mut Bench, name: &str) -> Result<Self> {
        let case = load_all()?
            .into_iter()
            .find(|case| case.name == name)
            .context("no such case")?;
        let (snapshot, node) = (case.steps[0].snapshot.clone(), case.nodes[0].clone());
        let keys: Vec<ObjectKey> = snapshot.pods.keys().cloned().collect();
        let seats = bench.interfaces().to_vec();
        let position = |key: &ObjectKey| keys.iter().position(|other| other == key);
        let (pods, addresses) = local_pods(&snapshot, &node, |key| {
            seats[position(key).expect("a pod of the case")]
        });
        bench.enforce(&snapshot, &node, &pods)?;
        Ok(Self {
            snapshot,
            node,
            pods,
            addresses,
        })
    }
}

fn tcp(source: &str, destination: &str) -> Packet {
    let parse = |text: &str| text.parse().expect("an address");
    Packet {
        source: parse(source),
        destination: parse(destination),
        protocol: 6,
        port: Some(80),
    }
}

#[test]
fn l1_an_interface_without_an_endpoint_is_closed_to_all_but_the_node() {
    on_bench(SUITE, 1, |bench| {
        let (ifindex, uplink) = (bench.interfaces()[0], bench.uplink());
        let packet = tcp("10.244.0.11", "10.244.0.10");
        assert!(!bench.opens(Direction::Ingress, ifindex, uplink, &packet)?);
        assert!(!bench.opens(Direction::Egress, ifindex, ifindex, &packet)?);
        assert!(bench.opens(Direction::Ingress, ifindex, 0, &packet)?);
        Ok(())
    });
}

#[expect(clippy::too_many_lines, reason = "a table of frames")]
#[test]
fn f1_f2_c5_frames_that_are_no_packets() {
    let ethernet =
        |ether_type: [u8; 2], payload: &[u8]| [&frames::MAC[..], &frames::MAC, &ether_type, payload].concat();
    let udp = |source: &str, destination: &str, protocol| {
        let packet = Packet {
            protocol,
            ..tcp(source, destination)
        };
        frames::opening(&packet, 40_000)
    };
    let (v4, v6) = (
        ["10.244.0.20", "10.244.0.10"],
        ["fd00:10:244::20", "fd00:10:244::10"],
    );
    let neighbour = |source, destination| {
        let mut solicitation = udp(source, destination, 58);
        (solicitation[14 + 7], solicitation[14 + 40]) = (255, 135);
        [ethernet([0x08, 0x06], &[0; 28]), solicitation]
    };
    let unjudged = |v4: [&str; 2], v6: [&str; 2]| {
        let mut fragment = udp(v4[0], v4[1], 17);
        fragment[14 + 7] = 3;
        let mut options = udp(v4[0], v4[1], 17);
        options[14] = 0x4f; // More options than there are bytes.
        let mut chain = udp(v6[0], v6[1], 60);
        chain[14 + 5] += 80;
        chain.extend([0; 80]);
        vec![
            (DropReason::Malformed, options),
            (DropReason::Malformed, ethernet([0x08, 0x00], &[0x44; 40])),
            (
                DropReason::Malformed,
                udp(v4[0], v4[1], 6)[..14 + 20 + 19].to_vec(),
            ),
            (
                DropReason::Malformed,
                udp(v6[0], v6[1], 17)[..14 + 40 + 7].to_vec(),
            ),
            (DropReason::EtherType, ethernet([0x88, 0x47], &[0; 40])),
            (DropReason::Vlan, ethernet([0x81, 0x00], &[0; 40])),
            (DropReason::Fragment, fragment),
            (DropReason::ExtensionHeaders, chain),
        ]
    };
    on_bench(SUITE, 8, |bench| {
        let Stage { addresses, .. } = Stage::of(bench, "deny-all-special")?;
        let [open, closed] = v4.map(|address| addresses[&address.parse::<IpAddr>().expect("an address")]);
        let counters = CounterReader::open(bench.pin_path())?;
        for (direction, side) in [
            (Direction::Ingress, abi::Direction::Ingress),
            (Direction::Egress, abi::Direction::Egress),
        ] {
            let (source, destination) = match direction {
                Direction::Ingress => (v6[0], v6[1]),
                Direction::Egress => (v6[1], v6[0]),
            };
            for frame in neighbour(source, destination) {
                assert!(bench.passes(direction, closed, bench.uplink(), &frame)?);
            }
            // A pod sends with its own address, and receives what is for it.
            let turned = |[open, closed]: [&'static str; 2]| [closed, open];
            let (to_closed, to_open) = (unjudged(v4, v6), unjudged(turned(v4), turned(v6)));
            let frames = match direction {
                Direction::Ingress => to_open.into_iter().zip(to_closed),
                Direction::Egress => to_closed.into_iter().zip(to_open),
            };
            for ((reason, of_open), (_, of_closed)) in frames {
                let count = || anyhow::Ok(counters.read(side)?.dropped(reason).packets);
                let before = count()?;
                assert!(
                    bench.passes(direction, open, bench.uplink(), &of_open)?,
                    "{reason:?}"
                );
                assert_eq!(count()?, before, "{reason:?}");
                assert!(
                    !bench.passes(direction, closed, bench.uplink(), &of_closed)?,
                    "{reason:?}"
                );
                assert_eq!(count()?, before + 1, "{reason:?}");
            }
        }
        Ok(())
    });
}
