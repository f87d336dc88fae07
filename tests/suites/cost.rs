// SPDX-License-Identifier: Apache-2.0
//! Measures the agent's cost of a change, stage by stage, in clusters of several sizes, without
//! writing to a kernel. Run it by hand:
//! `cargo test --release -p netpol-tests --test cost -- --ignored --nocapture`.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use netpol_agent::{
    compile::Compiler,
    model::{Node, ObjectKey, Snapshot},
    sync::{Desired, Memory, Settings, State, Write, apply, plan},
};
use netpol_tests::{
    kernel::Idle,
    random::Random,
    synthetic::{CHANGES, NODE, Size, change, cluster, policy},
};

/// Returns the CPU time of this thread, ms: other load on the machine does not count.
fn cpu_ms() -> f64 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
    time.tv_sec() as f64 * 1e3 + time.tv_nsec() as f64 / 1e6
}

/// CPU time for compiling, planning and recording, ms; and the number of writes.
type Times = [f64; 4];

#[derive(Default)]
struct Agent {
    compiler: Compiler,
    interfaces: BTreeMap<ObjectKey, u32>,
    state: State,
    memory: Memory,
}

impl Agent {
    fn turn(&mut self, snapshot: &Snapshot) -> Times {
        let node = Node {
            name: NODE.to_owned(),
            addresses: BTreeSet::from(["192.0.2.1".parse().unwrap()]),
            ..Node::default()
        };
        let start = cpu_ms();
        let compiled = self.compiler.compile(snapshot, &node);
        let compiling = cpu_ms() - start;
        for key in compiled.endpoints.keys() {
            let next = 100 + self.interfaces.len() as u32;
            self.interfaces.entry(key.clone()).or_insert(next);
        }
        let pods: BTreeMap<u32, _> = compiled
            .endpoints
            .keys()
            .map(|key| (self.interfaces[key], key.clone()))
            .collect();
        let present = pods.keys().copied().collect();
        let desired = Desired {
            compiled: &compiled,
            pods: &pods,
            present: &present,
            devices: &BTreeSet::from([2]),
            closed: &BTreeSet::new(),
            bridges: &BTreeMap::new(),
            links: &BTreeMap::new(),
            settings: Settings::default(),
        };
        let start = cpu_ms();
        let plan = plan(&self.state, &self.memory, desired);
        let planning = cpu_ms() - start;
        let start = cpu_ms();
        let mut kernel = Idle(|_: &Write| Ok::<(), io::Error>(()));
        let report = apply(plan, &mut self.state, &mut self.memory, &mut kernel);
        [compiling, planning, cpu_ms() - start, report.writes as f64]
    }
}

fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

fn measure(size: Size, rounds: usize) {
    let mut random = Random(7);
    let before = resident();
    let mut snapshot = cluster(&mut random, &size);
    let objects = resident();
    let mut agent = Agent::default();
    let first = agent.turn(&snapshot);
    println!(
        "\n{size:?}: objects {:.0} MB, after the first turn {:.0} MB more; {} policies with {} entries, {} identities",
        objects - before,
        resident() - objects,
        agent.state.policies.len(),
        agent
            .state
            .policies
            .values()
            .map(|entries| entries.len())
            .sum::<usize>(),
        agent.state.identities.len(),
    );
    println!(
        "{:20} compile {:8.2} plan {:8.2} apply {:8.2} writes {:.0}",
        "start", first[0], first[1], first[2], first[3]
    );
    for kind in CHANGES {
        let mut times: Vec<Times> = (0..rounds)
            .map(|nth| {
                change(&mut random, &size, &mut snapshot, kind, nth);
                agent.turn(&snapshot)
            })
            .collect();
        let total = |times: &Times| times[..3].iter().sum::<f64>();
        times.sort_by(|a, b| total(a).total_cmp(&total(b)));
        let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
        let [middle, high] = [at(0.5), at(0.99)];
        println!(
            "{kind:20} total p50 {:8.2} p99 {:8.2} | p50 compile {:7.2} plan {:7.2} apply {:6.2} writes {:4.0} | p99 {:7.2} {:7.2} {:6.2} {:5.0}",
            total(&middle),
            total(&high),
            middle[0],
            middle[1],
            middle[2],
            middle[3],
            high[0],
            high[1],
            high[2],
            high[3]
        );
    }
}

/// Measures the sizes in `NETPOL_SIZES`, as `PODS/POLICIES`, or those of the table in
/// docs/scale.md. `NETPOL_ROUNDS` is the number of rounds of each change.
#[test]
#[ignore = "a measurement: it takes minutes, and says something in a release build only"]
fn stages() {
    let sizes = std::env::var("NETPOL_SIZES").unwrap_or_else(|_| {
        "1000/10 1000/1000 1000/10000 10000/10 10000/1000 10000/10000 100000/10 100000/1000 100000/10000"
            .to_owned()
    });
    let rounds = std::env::var("NETPOL_ROUNDS").map_or(100, |text| text.parse().expect("a number"));
    for size in sizes.split_whitespace() {
        let (pods, policies) = size.split_once('/').expect("PODS/POLICIES");
        let pods = pods.parse().expect("a number");
        measure(
            Size {
                pods,
                local: 110,
                policies: policies.parse().expect("a number"),
                namespaces: 500.min(pods / 10),
            },
            rounds,
        );
    }
}

/// A compiled node shares everything with the previous one, except the prefixes of the changed
/// object.
#[test]
fn one_pod_is_one_prefix_and_a_policy_elsewhere_nothing() {
    let size = Size {
        pods: 2000,
        local: 20,
        policies: 400,
        namespaces: 50,
    };
    let mut random = Random(7);
    let mut snapshot = cluster(&mut random, &size);
    let node = Node {
        name: NODE.to_owned(),
        ..Node::default()
    };
    let mut compiler = Compiler::default();
    let mut before = compiler.compile(&snapshot, &node);
    assert!(before.addresses.len() > 500, "most pods match some peer");
    let mut moved = 0;
    for nth in 0..60 {
        let kind = ["pod added", "pod relabelled", "pod deleted"][nth % 3];
        change(&mut random, &size, &mut snapshot, kind, nth);
        let after = compiler.compile(&snapshot, &node);
        let prefixes = before.addresses.diff(&after.addresses).len();
        assert!(prefixes <= 1, "{kind}: {prefixes} prefixes");
        moved += prefixes;
        before = after;
    }
    assert!(moved > 10, "some of the changes concern this node");
    let mut elsewhere = policy(&mut random, &size, 0);
    elsewhere.key = ObjectKey::new("nowhere", "policy");
    snapshot.policies.insert(elsewhere.key.clone(), elsewhere.into());
    let after = compiler.compile(&snapshot, &node);
    assert!(before.addresses.is_same(&after.addresses) && before.classes.is_same(&after.classes));
    assert!(before.policies.is_same(&after.policies) && before.peers.is_same(&after.peers));
}
