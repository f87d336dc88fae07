// SPDX-License-Identifier: Apache-2.0
//! Plans over random clusters and random changes: every prefix of a plan is safe (rule B4), failed
//! writes open nothing (rule L1), and changes leave what a fresh start makes. `NETPOL_CASES` scales
//! the number of cases.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    io,
};

use netpol_agent::{
    compile::{Compiled, Compiler, Passage, compile},
    model::{Direction, Node, ObjectKey, Snapshot},
    sync::{Desired, Memory, Plan, Put, Report, Settings, State, Write, apply, plan},
};
use netpol_common::abi::{Endpoint, POLICY_DENY, POLICY_UNRESTRICTED, SENDER_AMBIGUOUS};
use netpol_common::tag;
use netpol_tests::{
    kernel::{Idle, Probe, passes},
    lookup,
    random::{Random, any_change, change, cluster, little_restricted_room, nodes, packet, service_packet},
    seeds,
};
use proptest::prelude::*;

#[path = "plan/failures.rs"]
mod failures;
#[path = "plan/forwards.rs"]
mod forwards;
#[path = "plan/life.rs"]
mod life;
#[path = "plan/meanwhile.rs"]
mod meanwhile;
#[path = "plan/open_flows.rs"]
mod open_flows;
#[path = "plan/shared.rs"]
mod shared;

const PROBES: usize = 60;
/// The uplink.
const DEVICE: u32 = 2;
/// The bridge with all pods.
const BRIDGE: u32 = 3;

/// The kernel's state of a node, and the agent's memory.
struct Bench {
    node: Node,
    state: State,
    memory: Memory,
    /// Compiles changes incrementally, if set.
    compiler: Option<RefCell<Compiler>>,
    /// Interfaces whose pod is not known yet.
    unknown: BTreeSet<u32>,
}

impl Bench {
    fn new(keeps: bool) -> Self {
        let node = nodes().swap_remove(0);
        Self {
            node,
            state: State::default(),
            memory: Memory::default(),
            compiler: keeps.then(RefCell::default),
            unknown: BTreeSet::new(),
        }
    }

    fn plan(&self, snapshot: &Snapshot) -> (Compiled, Plan) {
        let compiled = match &self.compiler {
            Some(compiler) => compiler.borrow_mut().compile(snapshot, &self.node),
            None => compile(snapshot, &self.node),
        };
        let pods: BTreeMap<u32, ObjectKey> = compiled
            .endpoints
            .keys()
            .map(|key| (interface(key), key.clone()))
            .filter(|(ifindex, _)| !self.unknown.contains(ifindex))
            .collect();
        let present: BTreeSet<u32> = (100..110).collect();
        let desired = Desired {
            compiled: &compiled,
            pods: &pods,
            present: &present,
            devices: &BTreeSet::from([DEVICE]),
            closed: &BTreeSet::new(),
            bridges: &present.iter().map(|ifindex| (*ifindex, BRIDGE)).collect(),
            links: &BTreeMap::new(),
            settings: Settings::default(),
        };
        let plan = plan(&self.state, &self.memory, desired);
        (compiled, plan)
    }

    fn apply(&mut self, plan: Plan) {
        let report = self.apply_with(plan, |_| Ok(()));
        assert_eq!(report.failures, []);
    }

    /// Makes each write as `write` says.
    fn apply_with(&mut self, plan: Plan, write: impl FnMut(&Write) -> io::Result<()>) -> Report {
        apply(plan, &mut self.state, &mut self.memory, &mut Idle(write))
    }

    /// Applies all writes except one, which fails.
    fn apply_but_one(&mut self, plan: Plan, random: &mut Random) {
        let mut left = random.below(plan.writes().count() + 1);
        self.apply_with(plan, |_| {
            let fails = left == 0;
            left = left.wrapping_sub(1);
            if fails {
                Err(io::Error::from_raw_os_error(28))
            } else {
                Ok(())
            }
        });
    }
}

/// Leaves out all but the first writes of a plan.
fn cut_off(plan: &mut Plan, mut made: usize) {
    for writes in plan.stages.values_mut() {
        writes.truncate(made);
        made -= writes.len();
    }
}

/// Returns a pod's interface, by the number in its name.
fn interface(key: &ObjectKey) -> u32 {
    100 + key.name.trim_start_matches("pod-").parse::<u32>().expect("pod-N")
}

fn probes(random: &mut Random, snapshots: [&Snapshot; 2], compiled: &Compiled) -> Vec<Probe> {
    let keys: Vec<_> = compiled.endpoints.keys().collect();
    if keys.is_empty() {
        return Vec::new();
    }
    (0..PROBES)
        .map(|index| {
            let ifindex = interface(keys[random.below(keys.len())]);
            if index % 4 < 2
                && let Some(packet) = service_packet(random, snapshots[index % 2])
            {
                return Probe {
                    ifindex,
                    direction: Direction::Egress,
                    remote: packet.destination,
                    protocol: packet.protocol,
                    port: packet.port.unwrap_or(0),
                };
            }
            let packet = packet(random, snapshots[index % 2]);
            Probe {
                ifindex,
                direction: [Direction::Ingress, Direction::Egress][random.below(2)],
                remote: packet.source,
                protocol: packet.protocol,
                port: packet.port.unwrap_or(0),
            }
        })
        .collect()
}

type Change = fn(&mut Random, &Snapshot) -> Snapshot;

/// Checks a property on seeds: with benches that compile each snapshot separately, and with benches
/// that compile only changes (true), also with changes of all kinds.
fn run(share: u32, test: impl Fn(u64, bool, Change) -> Result<(), TestCaseError>) {
    seeds::hold("plan", 3 * share, |seed| {
        let named = |name| move |error| TestCaseError::fail(format!("{name}: {error}"));
        test(seed, false, change)?;
        test(seed, true, change).map_err(named("compiling changes"))?;
        test(seed, true, any_change).map_err(named("compiling changes of all kinds"))
    });
}

/// Returns a pod, isolated for egress, whose packets the post-DNAT check would not recognize or
/// never see. Services do not matter: connections outlive those that opened them. After `failed`
/// writes a device may lack its program, which is reported and delays nothing. A number may also be
/// unused: packets with it that are still to be judged are then dropped
/// (`a5_what_is_deferred_is_closed_where_its_sender_is_not_found`).
fn unmet(state: &State, failed: bool) -> Option<u32> {
    let isolated = |policy: u32| state.policies.contains_key(&policy);
    let tells = |bridge: u32, ifindex: u32, number: u16| {
        let told = state.senders.get(&(bridge, number.into()));
        state.senders.get(&(bridge, 0)) == Some(&SENDER_AMBIGUOUS)
            && (told == Some(&ifindex) || failed && told.is_none())
    };
    // Bridge 0: the kernel does not name the interface.
    let known = |ifindex: u32, number: u16| {
        tells(BRIDGE, ifindex, number)
            && tells(0, ifindex, number)
            && (failed || state.attached_devices.contains(&DEVICE))
    };
    let endpoints = state.endpoints.iter();
    endpoints
        .filter(|(ifindex, endpoint)| state.attached.contains(ifindex) && isolated(endpoint.egress_policy))
        .find(|(ifindex, endpoint)| !known(**ifindex, endpoint.number()))
        .map(|(ifindex, _)| *ifindex)
}

#[test]
fn b4_every_prefix_of_a_plan_for_one_change_is_before_or_after() {
    run(250, |seed, keeps, change| {
        let mut random = Random(seed);
        let mut bench = Bench::new(keeps);
        let mut before = little_restricted_room(cluster(&mut random), seed);
        let (_, first) = bench.plan(&before);
        bench.apply(first);
        for _ in 0..4 {
            let after = change(&mut random, &before);
            if random.below(4) == 0 {
                bench.memory = Memory::default(); // The agent was restarted.
            }
            let (compiled, plan) = bench.plan(&after);
            let probes = probes(&mut random, [&before, &after], &compiled);
            let old: Vec<bool> = probes.iter().map(|probe| passes(&bench.state, probe)).collect();
            let mut done = bench.state.clone();
            plan.writes().for_each(|write| done.record(write));
            let mut state = bench.state.clone();
            for (step, write) in plan.writes().enumerate() {
                state.record(write);
                prop_assert_eq!(
                    unmet(&state, false),
                    None,
                    "seed {}: after write {} of\n{:#?}",
                    seed,
                    step,
                    plan.stages
                );
                for (probe, old) in probes.iter().zip(&old) {
                    let (now, new) = (passes(&state, probe), passes(&done, probe));
                    prop_assert!(
                        now == *old || now == new,
                        "seed {seed}: after write {step} ({write:?}) of\n{:#?}\n{probe:?} passes: {now}, before {old}, after {new}",
                        plan.stages
                    );
                }
            }
            bench.apply(plan);
            before = after;
        }
        Ok(())
    });
}

/// Returns what a flow is compared with: the number of the policy that judged it, and the epoch.
fn judged_under(state: &State, probe: &Probe) -> Option<(u32, u32, u32)> {
    let endpoint = state
        .endpoints
        .get(&probe.ifindex)
        .filter(|_| state.attached.contains(&probe.ifindex))?;
    let policy = match probe.direction {
        Direction::Ingress => endpoint.ingress_policy,
        Direction::Egress => endpoint.egress_policy,
    };
    Some((endpoint.id, policy, state.config.epoch))
}

/// A flow that was allowed and no longer is never counts as judged by the active policy, even if
/// the plan is cut off anywhere and another agent continues, or if a write fails.
#[test]
fn c2_no_flow_outlives_the_verdict_that_let_it_in() {
    run(250, |seed, keeps, change| {
        let mut random = Random(seed);
        let mut bench = Bench::new(keeps);
        let mut before = little_restricted_room(cluster(&mut random), seed);
        let (_, first) = bench.plan(&before);
        bench.apply(first);
        for _ in 0..4 {
            let after = change(&mut random, &before);
            let (compiled, mut plan) = bench.plan(&after);
            let probes = probes(&mut random, [&before, &after], &compiled);
            let old: Vec<_> = probes
                .iter()
                .map(|probe| (passes(&bench.state, probe), judged_under(&bench.state, probe)))
                .collect();
            match random.below(3) {
                0 => {
                    let made = random.below(plan.writes().count() + 1);
                    cut_off(&mut plan, made);
                    bench.apply(plan);
                    bench.memory = Memory::default();
                }
                1 => bench.apply_but_one(plan, &mut random),
                _ => bench.apply(plan),
            }
            let (_, rest) = bench.plan(&after);
            bench.apply(rest);
            for (probe, (passed, under)) in probes.iter().zip(old) {
                prop_assert!(
                    !passed
                        || under.is_none()
                        || passes(&bench.state, probe)
                        || judged_under(&bench.state, probe) != under,
                    "seed {seed}: {probe:?} is denied now, and its flow is still taken for judged"
                );
            }
            before = after;
        }
        Ok(())
    });
}

#[test]
fn what_is_written_says_what_was_compiled() {
    run(250, |seed, keeps, change| {
        let mut random = Random(seed);
        let mut bench = Bench::new(keeps);
        let mut snapshot = little_restricted_room(cluster(&mut random), seed);
        for _ in 0..4 {
            let (compiled, plan) = bench.plan(&snapshot);
            bench.apply(plan);
            for probe in probes(&mut random, [&snapshot, &snapshot], &compiled) {
                let (_, endpoint) = compiled
                    .endpoints
                    .iter()
                    .find(|(key, _)| interface(key) == probe.ifindex)
                    .expect("probed");
                let policy = match probe.direction {
                    Direction::Ingress => endpoint.ingress,
                    Direction::Egress => endpoint.egress,
                };
                let address = lookup::longest_prefix(&compiled, probe.remote);
                let packet = netpol_agent::evaluate::Packet {
                    source: probe.remote,
                    destination: probe.remote,
                    protocol: probe.protocol,
                    port: (probe.port > 0).then_some(probe.port),
                };
                let egress = probe.direction == Direction::Egress;
                let frontend = lookup::frontend(&compiled, &packet).filter(|_| egress);
                let by_address = lookup::is_virtual(&compiled, &packet);
                let allowed = policy.is_none_or(|policy| match frontend {
                    // Another node chooses the backend of its NodePort.
                    Some(class) if address.remote_node && !by_address => {
                        matches!(compiled.passage(policy, class), Some(Passage::Accept(_)))
                    }
                    Some(class) => compiled.passage(policy, class).is_some(),
                    None if egress && address.node => true,
                    None => lookup::longest_match(&compiled, policy, address.class, &packet).is_some(),
                });
                prop_assert_eq!(
                    passes(&bench.state, &probe),
                    allowed,
                    "seed {}: {:?}",
                    seed,
                    probe
                );
            }
            snapshot = change(&mut random, &snapshot);
        }
        Ok(())
    });
}

/// Pods and policies come and go, and the agent restarts now and then: a number in the kernel is
/// never reused.
#[test]
fn c3_numbers_are_never_given_twice() {
    run(1000, |seed, keeps, change| {
        let mut random = Random(seed);
        let mut bench = Bench::new(keeps);
        let mut snapshot = little_restricted_room(cluster(&mut random), seed);
        let mut pods: BTreeMap<u32, (u32, u32)> = BTreeMap::new();
        let mut retired = BTreeSet::new();
        let mut owners = BTreeMap::new();
        for _ in 0..12 {
            let (compiled, plan) = bench.plan(&snapshot);
            bench.apply(plan);
            for (key, pod) in &compiled.endpoints {
                let owner = (key.clone(), pod.uid.clone());
                let id = bench.state.endpoints[&interface(key)].id;
                let known = owners.insert(id, owner.clone());
                prop_assert!(
                    known.is_none_or(|known| known == owner),
                    "endpoint {id} is another pod's: {owner:?}"
                );
            }
            let numbers: BTreeSet<u16> = bench.state.endpoints.values().map(Endpoint::number).collect();
            prop_assert!(
                numbers.len() == bench.state.endpoints.len() && !numbers.contains(&0),
                "seed {seed}"
            );
            for endpoint in bench.state.endpoints.values() {
                prop_assert!(endpoint.id < bench.state.config.next_endpoint, "seed {seed}");
                for policy in [endpoint.ingress_policy, endpoint.egress_policy] {
                    prop_assert!(
                        policy == POLICY_DENY || policy < bench.state.config.next_policy,
                        "seed {seed}"
                    );
                    prop_assert!(!retired.contains(&policy), "seed {seed}: policy {policy} is back");
                }
            }
            let now: BTreeMap<u32, (u32, u32)> = bench
                .state
                .endpoints
                .values()
                .map(|endpoint| (endpoint.id, (endpoint.ingress_policy, endpoint.egress_policy)))
                .collect();
            let in_use: BTreeSet<u32> = now
                .values()
                .flat_map(|(ingress, egress)| [*ingress, *egress])
                .collect();
            let left = pods.values().flat_map(|(ingress, egress)| [*ingress, *egress]);
            retired.extend(left.filter(|policy| {
                ![POLICY_UNRESTRICTED, POLICY_DENY].contains(policy) && !in_use.contains(policy)
            }));
            pods = now;
            snapshot = change(&mut random, &snapshot);
            if random.below(4) == 0 {
                bench.memory = Memory::default();
                owners.clear(); // Nobody remembers the uids.
            }
            if random.below(4) == 0 {
                // After many pods, the numbers in tags wrap around.
                let next = &mut bench.state.config.next_endpoint;
                *next += u32::from(tag::MAX_NUMBER) - 2;
            }
        }
        Ok(())
    });
}

#[test]
fn l1_failed_writes_open_nothing_and_are_made_good() {
    run(250, |seed, keeps, change| {
        let mut random = Random(seed);
        let mut bench = Bench::new(keeps);
        let before = cluster(&mut random);
        let (_, first) = bench.plan(&before);
        bench.apply(first);
        let after = change(&mut random, &before);
        let (compiled, plan) = bench.plan(&after);
        let probes = probes(&mut random, [&before, &after], &compiled);
        let old: Vec<bool> = probes.iter().map(|probe| passes(&bench.state, probe)).collect();
        let mut done = bench.state.clone();
        plan.writes().for_each(|write| done.record(write));
        let full = random.below(6);
        let mut left = random.below(plan.writes().count() + 1);
        let numbers = |state: &State| (state.config.next_endpoint, state.config.next_policy);
        let given = numbers(&bench.state);
        let report = bench.apply_with(plan, |write| {
            let fails = match (full, write) {
                (0, Write::Policies(Put(..))) | (1, Write::Identities(Put(..))) => true,
                (2, Write::Policies(Put(..)) | Write::Identities(Put(..))) => random.below(3) == 0,
                (1 | 2, Write::Frontends(Put(..)) | Write::LocalPods(Put(..))) => random.below(2) == 0,
                (
                    0 | 3,
                    Write::Senders(Put(..)) | Write::Restricted(Put(..)) | Write::AttachedDevices(Put(..)),
                ) => random.below(2) == 0,
                (3, Write::Endpoints(Put(..))) => random.below(2) == 0,
                (4, Write::Config(_)) => true,
                // Any write, from some point on.
                (5, _) => {
                    left = left.saturating_sub(1);
                    left == 0
                }
                _ => false,
            };
            if fails {
                Err(io::Error::from_raw_os_error(28))
            } else {
                Ok(())
            }
        });
        prop_assert_eq!(unmet(&bench.state, true), None, "seed {}: {:#?}", seed, report);
        for (probe, old) in probes.iter().zip(&old) {
            let (now, new) = (passes(&bench.state, probe), passes(&done, probe));
            prop_assert!(
                !now || *old || new,
                "seed {seed}: {probe:?} passes after failed writes: {report:#?}"
            );
        }
        if numbers(&bench.state) == given {
            let used = bench
                .state
                .endpoints
                .values()
                .flat_map(|endpoint| [endpoint.ingress_policy, endpoint.egress_policy]);
            for policy in used.chain(bench.state.policies.keys().copied()) {
                prop_assert!(
                    policy == POLICY_DENY || policy < given.1,
                    "seed {seed}: policy {policy} was not stored as given"
                );
            }
        }
        let (_, plan) = bench.plan(&after);
        bench.apply(plan);
        for probe in &probes {
            prop_assert_eq!(
                passes(&bench.state, probe),
                passes(&done, probe),
                "seed {}: {:?}",
                seed,
                probe
            );
        }
        Ok(())
    });
}
