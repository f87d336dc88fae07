// SPDX-License-Identifier: Apache-2.0
//! The leak test: a pod sends all kinds of packets to two isolated pods while policies change. What
//! they receive is checked against what every version of the policies allows. `NETPOL_SEED` repeats
//! a run's frames; `NETPOL_TEST_LONG` makes it a minute.

#[path = "leak/attack.rs"]
mod attack;
#[path = "leak/ip.rs"]
mod ip;
#[path = "leak/judge.rs"]
mod judge;
#[path = "leak/upper.rs"]
mod upper;
#[path = "leak/world.rs"]
mod world;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use attack::Attack;
use judge::Judge;
use netpol_tests::{
    capture::{Capture, Seen, Wire},
    privilege::can_enforce,
    random::Random,
};
use world::{ATTACKER, CLOSED, NARROW, World};

const SHORT: Duration = Duration::from_secs(5);
const LONG: Duration = Duration::from_secs(60);

/// Result of an attack.
struct Outcome {
    sent: u64,
    versions: u64,
    narrow: (Judge, Seen),
    closed: (Judge, Seen),
}

fn seed() -> u64 {
    if let Ok(text) = std::env::var("NETPOL_SEED") {
        return text.parse().expect("NETPOL_SEED: a number");
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |time| time.as_nanos() as u64)
}

/// Attacks for `time`, while policies change if `churn` is set.
fn attack(world: &World, seed: u64, time: Duration, churn: bool) -> Outcome {
    let captures = [NARROW, CLOSED].map(|pod| {
        let judge = Arc::new(Mutex::new(world.judge(pod)));
        let seat = Arc::clone(&judge);
        let netns = world.lab.site(pod).unwrap().netns;
        let see = move |frame: &[u8]| seat.lock().unwrap().see(frame);
        (judge, Capture::start(&netns, "eth0", see).unwrap())
    });
    let wire = Wire::open(&world.lab.site(ATTACKER).unwrap().netns, "eth0").unwrap();
    let over = AtomicBool::new(false);
    let (sent, versions) = thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut attack = Attack::new(world, Random(seed));
            let (start, mut sent) = (Instant::now(), 0);
            while start.elapsed() < time {
                for frame in attack.next() {
                    sent += u64::from(wire.send(&frame).unwrap());
                }
            }
            over.store(true, Ordering::Relaxed);
            sent
        });
        let mut versions = 0;
        while churn && !over.load(Ordering::Relaxed) {
            versions += 1;
            world.apply(versions);
        }
        (sender.join().unwrap(), versions as u64)
    });
    let [narrow, closed] = captures.map(|(judge, capture)| {
        let (_, seen) = capture.finish().unwrap();
        let judge = Arc::into_inner(judge).expect("the capture is over").into_inner();
        let mut judge = judge.unwrap();
        judge.settle();
        (judge, seen)
    });
    println!("{sent} frames sent, {versions} policy versions applied");
    for (pod, (judge, seen)) in [(NARROW, &narrow), (CLOSED, &closed)] {
        println!(
            "{pod}: {} frames captured, {} lost, {judge}",
            seen.frames, seen.lost
        );
    }
    Outcome {
        sent,
        versions,
        narrow,
        closed,
    }
}

#[test]
fn a6_c1_c5_f2_f3_f4_f5_nothing_denied_reaches_the_victims_while_policies_change() {
    if !can_enforce("leak") {
        return;
    }
    let (seed, world) = (seed(), World::new());
    println!("NETPOL_SEED={seed}");
    let long = std::env::var_os("NETPOL_TEST_LONG").is_some();
    let outcome = attack(&world, seed, if long { LONG } else { SHORT }, true);
    for (pod, (judge, seen)) in [(NARROW, &outcome.narrow), (CLOSED, &outcome.closed)] {
        assert!(
            judge.leaks() == 0 && seen.lost == 0,
            "NETPOL_SEED={seed}, {pod}: {judge}"
        );
    }
    // Allowed traffic must have arrived all the time, or nothing was tested.
    let narrow = &outcome.narrow.0;
    for kind in ["TCP", "UDP", "later fragment", "ICMP error"] {
        for family in ["IPv4", "IPv6"] {
            assert!(
                narrow.count(family, kind) > 10,
                "hardly any {family} {kind}: {narrow}"
            );
        }
    }
    assert!(outcome.sent > 10_000 && outcome.versions > 20);
}

/// Without an agent, each kind of denied frame arrives, and is recognized as a leak.
#[test]
fn a_node_without_an_agent_leaks_everything() {
    if !can_enforce("leak") {
        return;
    }
    let (seed, mut world) = (seed(), World::new());
    println!("NETPOL_SEED={seed}");
    world.lab.agent.stop().unwrap();
    world.lab.agent.cleanup().unwrap();
    let outcome = attack(&world, seed, Duration::from_secs(2), false);
    for (judge, _) in [&outcome.narrow, &outcome.closed] {
        for leak in judge::LEAKS {
            assert!(judge.leaked(leak) > 0, "NETPOL_SEED={seed}, no {leak}: {judge}");
        }
    }
}
