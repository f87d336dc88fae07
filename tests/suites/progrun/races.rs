// SPDX-License-Identifier: Apache-2.0
//! Values that are replaced while programs read them: the kernel gives the memory of a replaced
//! value to the next one at once, even for another key. One CPU replaces the values of two keys,
//! without changing them. Another CPU runs a program that must always return the same.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use aya::maps::{HashMap, Map, MapData};
use netpol_agent::{
    datapath::{CounterReader, attach::Hook, pin_folder},
    evaluate::Packet,
    model::ProtocolMatch,
    sync::{EntryKey, Put, Write},
};
use netpol_common::abi::{
    ACTION_ACCEPT, Address, Counters, Direction, DropReason, Endpoint, Identity, POLICY_DENY,
    POLICY_UNRESTRICTED, Peer, PolicyMatch, PolicyValue, PortValue, bpf_spin_lock,
};
use netpol_tests::{
    frames,
    progrun::{Bench, Rewriter, on_bench},
};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    sys::prctl::set_timerslack,
    unistd::Pid,
};
use zerocopy::IntoBytes as _;

use super::{SUITE, Stage, tcp};

/// Duration of a race: without the programs' check, some ten wrong verdicts on a busy machine.
const LONG: Duration = Duration::from_secs(10);
/// Number of runs in a row.
const RUNS: u32 = 200_000;

const CLOSED: &str = "10.244.0.10";
const OPEN: &str = "10.244.0.11";
const OTHER: &str = "10.244.0.20";

/// Key and value.
type Entry<'a> = (&'a [u8], &'a [u8]);

/// Two pods: one may do nothing and the other everything.
struct Pods<'a> {
    bench: &'a mut Bench,
    counters: CounterReader,
    /// The closed one, then the open one.
    values: [(u32, Endpoint); 2],
    /// Interface of a third pod, which is open.
    other: u32,
}

impl Pods<'_> {
    fn run(test: impl FnOnce(&mut Pods<'_>) -> Result<()> + Send) {
        on_bench(SUITE, 8, |bench| {
            let Stage { addresses, .. } = Stage::of(bench, "ports")?;
            let at = |text: &str| addresses[&text.parse::<IpAddr>().unwrap()];
            let pin = pin_folder(bench.pin_path()).join("endpoints");
            let mut endpoints: HashMap<_, u32, Endpoint> =
                Map::HashMap(MapData::from_pin(pin)?).try_into()?;
            let mut values = Vec::new();
            for (ifindex, policy) in [(at(CLOSED), POLICY_DENY), (at(OPEN), POLICY_UNRESTRICTED)] {
                let endpoint = Endpoint {
                    ingress_policy: policy,
                    egress_policy: policy,
                    ..endpoints.get(&ifindex, 0)?
                };
                endpoints.insert(ifindex, endpoint, 0)?;
                values.push((ifindex, endpoint));
            }
            let counters = CounterReader::open(bench.pin_path())?;
            let values = values.try_into().ok().context("two pods")?;
            test(&mut Pods {
                bench,
                counters,
                values,
                other: at(OTHER),
            })
        });
    }

    fn counted(&self, direction: Direction, reason: DropReason) -> u64 {
        let mut counters: Counters = self.counters.read(direction).unwrap();
        counters.dropped(reason).packets
    }

    /// Runs a hook's program on a frame while two entries of a map are replaced. Returns the number
    /// of runs.
    fn race(
        &mut self,
        (map, entries): (&str, &[Entry<'_>]),
        (hook, ifindex, came_by): (Hook, u32, u32),
        frame: &[u8],
    ) -> Result<u64> {
        let mut rewriter = Rewriter::load(
            &pin_folder(self.bench.pin_path()),
            map,
            entries,
            map == "endpoints",
        )?;
        let (done, writes) = (AtomicBool::new(false), AtomicU64::new(0));
        let mut runs = 0;
        thread::scope(|scope| {
            let writer = scope.spawn(|| {
                on_cpu(1)?;
                while !done.load(Ordering::Relaxed) {
                    rewriter.run(RUNS)?;
                    writes.fetch_add(2 * u64::from(RUNS), Ordering::Relaxed);
                }
                anyhow::Ok(())
            });
            let interrupter = scope.spawn(|| interrupt(&done));
            on_cpu(0)?;
            let until = Instant::now() + LONG;
            let ran = (|| {
                while Instant::now() < until && !writer.is_finished() {
                    self.bench.time(hook, ifindex, came_by, frame, RUNS)?;
                    runs += u64::from(RUNS);
                }
                anyhow::Ok(())
            })();
            done.store(true, Ordering::Relaxed);
            writer.join().unwrap()?;
            interrupter.join().unwrap()?;
            ran
        })?;
        println!("{hook}, {map}: {runs} runs, {} writes", writes.into_inner());
        Ok(runs)
    }
}

/// With a single CPU nothing races.
fn on_cpu(number: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(number)?;
    sched_setaffinity(Pid::from_raw(0), &set).context("a race needs two CPUs")
}

/// Interrupts the program: only a reader that pauses is overtaken.
#[expect(
    clippy::disallowed_methods,
    reason = "the clock's interrupts are what it is for"
)]
fn interrupt(done: &AtomicBool) -> Result<()> {
    on_cpu(0)?;
    set_timerslack(1)?;
    while !done.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_micros(3));
    }
    Ok(())
}

#[test]
fn b4_an_endpoint_is_not_taken_for_another() {
    Pods::run(|pods| {
        let values = pods.values;
        let bytes = values
            .each_ref()
            .map(|(ifindex, value)| (ifindex.as_bytes(), value.as_bytes()));
        let uplink = pods.bench.uplink();
        // An unknown EtherType: only the endpoint is looked up.
        let frame = [0; 60];
        let (closed, _) = values[0];
        let before = pods.counters.read(Direction::Ingress)?.forwarded.packets;
        let runs = pods.race(("endpoints", &bytes), (Hook::ToPod, closed, uplink), &frame)?;
        let passed = pods.counters.read(Direction::Ingress)?.forwarded.packets - before;
        assert_eq!(passed, 0, "of {runs} frames passed to a closed pod");
        Ok(())
    });
}

/// The post-DNAT check of packets from a pod of this node (rule A5).
#[test]
fn a5_b4_a_senders_policy_is_not_taken_for_anothers() {
    Pods::run(|pods| {
        let values = pods.values;
        let bytes = values
            .each_ref()
            .map(|(ifindex, value)| (ifindex.as_bytes(), value.as_bytes()));
        // A reset makes no flow: each run looks into the policy.
        let mut frame = frames::opening(&tcp(CLOSED, OTHER), 40_000);
        frame[14 + 20 + 13] = 4;
        let (closed, _) = values[0];
        let before = pods.counters.read(Direction::Ingress)?.forwarded.packets;
        let other = pods.other;
        let runs = pods.race(("endpoints", &bytes), (Hook::ToPod, other, closed), &frame)?;
        let passed = pods.counters.read(Direction::Ingress)?.forwarded.packets - before;
        assert_eq!(passed, 0, "of {runs} frames passed that a closed pod sent");
        Ok(())
    });
}

/// A packet that leaves the node without a tag is known by its source. The agent never rewrites an
/// unchanged entry, so the sender's stays in place and those of others are replaced.
#[test]
fn a5_b4_a_sender_is_found_by_its_address_while_others_are_replaced() {
    Pods::run(|pods| {
        let keys = [OPEN, OTHER]
            .map(|text| Address::from_ipv4(text.parse::<std::net::Ipv4Addr>().unwrap().octets()));
        let [_, open] = pods.values.map(|(ifindex, _)| ifindex);
        let other = pods.other;
        let bytes = [
            (keys[0].as_bytes(), open.as_bytes()),
            (keys[1].as_bytes(), other.as_bytes()),
        ];
        let (uplink, bridge) = (pods.bench.uplink(), pods.bench.bridge());
        let mut frame = frames::opening(&tcp(CLOSED, OTHER), 40_000);
        frame[14 + 20 + 13] = 4;
        let before = pods.counted(Direction::Egress, DropReason::EgressBackend);
        let runs = pods.race(("local_pods", &bytes), (Hook::ToNetwork, uplink, bridge), &frame)?;
        let dropped = pods.counted(Direction::Egress, DropReason::EgressBackend) - before;
        let untold = pods.counted(Direction::Egress, DropReason::UnknownSender);
        assert_eq!(
            runs - dropped - untold,
            0,
            "of {runs} frames of a closed pod left"
        );
        Ok(())
    });
}

const POLICY: u32 = 4_000_000;
const FRIEND: u32 = 5_000_000;
const STRANGER: u32 = 5_000_001;
/// Peers elsewhere, of these classes.
const PEERS: [(&str, u32); 2] = [("10.244.9.1", FRIEND), ("10.244.9.2", STRANGER)];
const PORT: u16 = 8080;

/// A pod that only the friend may reach, and resets from the stranger, while entries of both are
/// removed from a map and inserted.
fn strangers(map: &str, entries: &[Entry<'_>]) {
    Pods::run(|pods| {
        let (ifindex, mut endpoint) = pods.values[0];
        endpoint.ingress_policy = POLICY;
        for (address, identity) in PEERS {
            let prefix = address.parse::<IpAddr>()?.into();
            let identity = Identity { identity, flags: 0 };
            pods.bench.write(&Write::Identities(Put(prefix, identity)))?;
        }
        let key = EntryKey {
            identity: FRIEND,
            protocol: Some(ProtocolMatch {
                protocol: 6,
                port: PORT,
                prefix_len: 16,
            }),
        };
        pods.bench.write(&Write::Policies(Put((POLICY, key), ACCEPT)))?;
        pods.bench.write(&Write::Endpoints(Put(ifindex, endpoint)))?;
        let uplink = pods.bench.uplink();
        let frame_of = |peer: &str| {
            let packet = Packet {
                port: Some(PORT),
                ..tcp(peer, CLOSED)
            };
            let mut frame = frames::opening(&packet, 40_000);
            frame[14 + 20 + 13] = 4;
            frame
        };
        let [friend, stranger] = PEERS.map(|(peer, _)| frame_of(peer));
        let before = pods.counters.read(Direction::Ingress)?.forwarded.packets;
        pods.bench.time(Hook::ToPod, ifindex, uplink, &friend, 1)?;
        let passed = pods.counters.read(Direction::Ingress)?.forwarded.packets - before;
        assert_eq!(passed, 1, "the friend passes, without a race");
        let runs = pods.race((map, entries), (Hook::ToPod, ifindex, uplink), &stranger)?;
        let passed = pods.counters.read(Direction::Ingress)?.forwarded.packets - before;
        assert_eq!(passed, 1, "of {runs} frames of a stranger passed");
        Ok(())
    });
}

const ACCEPT: PolicyValue = PolicyValue {
    action: ACTION_ACCEPT,
    rule: 1,
};

#[test]
fn b4_an_address_is_not_taken_for_another() {
    let peers = PEERS.map(|(text, identity)| Peer {
        address: Address::from_ipv4(text.parse::<std::net::Ipv4Addr>().unwrap().octets()),
        class: Identity { identity, flags: 0 },
        lock: bpf_spin_lock::default(),
    });
    strangers(
        "addresses",
        &peers
            .each_ref()
            .map(|peer| (peer.address.as_bytes(), peer.as_bytes())),
    );
}

#[test]
fn b4_a_port_is_not_taken_for_another() {
    let entries = [(FRIEND, ACCEPT), (STRANGER, PolicyValue::default())].map(|(identity, value)| PortValue {
        entry: PolicyMatch {
            policy: POLICY,
            identity,
            protocol: 6,
            port: PORT.to_be_bytes(),
            pad: 0,
        },
        value,
        lock: bpf_spin_lock::default(),
    });
    strangers(
        "ports",
        &entries
            .each_ref()
            .map(|entry| (entry.entry.as_bytes(), entry.as_bytes())),
    );
}
