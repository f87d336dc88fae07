// SPDX-License-Identifier: Apache-2.0
//! The soak: pods come and go, policies change, the agent is killed at random, also while it
//! starts, is upgraded and rolled back. All the while no packet of an allowed connection may be
//! lost and no denied packet may come. The last quarter leaves the agent alone: its memory and
//! descriptors stay what they are.
//!
//! `NETPOL_SOAK_SECONDS` sets the length, `NETPOL_SEED` repeats the events of a run, as far as time
//! allows. `NETPOL_SOAK_OTHER` names a binary with another ABI version, for the upgrades; without
//! it, what is pinned gets the name of another version. `NETPOL_SOAK_ATTACH` is `tcx` or `clsact`.

#[path = "soak/diary.rs"]
mod diary;
#[path = "soak/guests.rs"]
mod guests;
#[path = "soak/resources.rs"]
mod resources;
#[path = "soak/storm.rs"]
mod storm;
#[path = "soak/traffic.rs"]
mod traffic;
#[path = "soak/ward.rs"]
mod ward;
#[path = "soak/world.rs"]
mod world;

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use diary::Diary;
use netpol_tests::{node::Site, privilege::can_enforce};
use resources::{Footprint, Usage};
use storm::{Counts, Storm};
use traffic::{BUSY, IDLE, Talk, lost, open_anew, wait_for_the_wire};
use ward::{Stranger, Ward};
use world::World;

/// The length in CI.
const SECONDS: u64 = 100;
/// Memory, in KiB, that the agent may have more after the calm than before it.
const GROWTH: u64 = 24 * 1024;
/// Changes and pods until the memory for them is there.
const WARM: usize = 12;
/// Connections that are allowed, by their ends.
const ALLOWED: [(&str, &str); 3] = [
    ("shop/client", "shop/server"),
    ("outside", "shop/server"),
    ("shop/client", "outside"),
];
/// Sites whose TCP connections are all allowed, and among each other.
const COUNTED: [&str; 3] = ["shop/client", "shop/server", "outside"];

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}: a number")))
}

fn seed() -> u64 {
    number("NETPOL_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.map_or(0, |time| time.as_nanos() as u64)
    })
}

#[test]
fn b3_b4_c2_c6_no_allowed_packet_is_lost_and_no_denied_one_comes_whatever_befalls_the_agent() {
    if !can_enforce("soak") {
        return;
    }
    let seed = seed();
    let seconds = number("NETPOL_SOAK_SECONDS").unwrap_or(SECONDS);
    println!("NETPOL_SEED={seed} NETPOL_SOAK_SECONDS={seconds}");
    let diary = Arc::new(Diary::new(seed));
    let mut world = World::new(Arc::clone(&diary)).unwrap();
    let soaked = soak(&mut world, seed, seconds * 1000);
    diary.end();
    if let Err(error) = soaked {
        diary.fault(format!("{error:#}"));
    }
    world.keep_log();
    let faults = diary.faults();
    if !faults.is_empty() {
        let kept = diary.keep(&world.logs);
        panic!(
            "NETPOL_SEED={seed}: events and logs are in {}\n{}",
            kept.display(),
            faults.join("\n")
        );
    }
}

/// Traffic that lasts all the time.
struct Lasting {
    talks: Vec<Talk>,
    anew: std::thread::JoinHandle<u64>,
}

impl Lasting {
    fn start(world: &World) -> Result<Self> {
        let sites = ALLOWED.map(|(from, to)| [from, to].map(|name| world.site(name).unwrap()));
        let mut talks = Vec::new();
        for [from, to] in &sites {
            wait_for_the_wire(from, to)?;
            for pace in [BUSY, IDLE] {
                talks.push(Talk::open(from, to, pace, &world.diary)?);
            }
        }
        let [from, to] = sites[0].clone();
        let anew = open_anew(from, to, Arc::clone(&world.diary));
        Ok(Self { talks, anew })
    }

    /// Ends it. Returns the numbers of messages and of new connections.
    fn end(self) -> (u64, u64) {
        let anew = self.anew.join().unwrap();
        (self.talks.into_iter().map(Talk::end).sum(), anew)
    }
}

#[expect(
    clippy::too_many_lines,
    reason = "the soak from start to end, its steps in order"
)]
fn soak(world: &mut World, seed: u64, length: u64) -> Result<()> {
    let diary = Arc::clone(&world.diary);
    let counted: Vec<Site> = COUNTED.iter().map(|name| world.site(name).unwrap()).collect();
    let counted: Vec<&Site> = counted.iter().collect();
    let [client, _, outside] = counted[..] else {
        unreachable!("three sites")
    };
    let [stranger_site, mute_site] = ["other/stranger", "other/mute"].map(|name| world.site(name).unwrap());
    let before = lost(&counted)?;

    // Who must not get what, and who sends it.
    let stranger = Stranger::start(&stranger_site, true, &diary);
    let mute = Stranger::start(&mute_site, true, &diary);
    let closed_client = Stranger::start(client, false, &diary);
    let far = Stranger::start(outside, false, &diary);
    let ward = |name: &str, from: &[&Site]| Ward::new(world.site(name).unwrap(), from, &diary);
    let everybody = [&stranger_site, &mute_site, outside];
    let wards = [
        ward("shop/client", &everybody),
        ward("shop/server", &everybody[..2]),
        ward("other/stranger", &[&mute_site, client]),
    ];
    let swing = ward("shop/swing", &[&stranger_site]);
    let mut watches = Vec::new();
    for ward in wards.iter().chain([&swing]) {
        watches.push(ward.watch()?);
        ward.close();
    }
    for site in [&wards[0].site, &wards[1].site, &swing.site] {
        stranger.aim(site);
        mute.aim(site);
    }
    far.aim(client);
    for sender in [&mute, &closed_client] {
        sender.aim(&stranger_site);
    }

    let lasting = Lasting::start(world)?;
    let start = world.seen.settled(world.agent.pin_path())?;
    let strangers = vec![
        (&stranger_site, &stranger),
        (&mute_site, &mute),
        (client, &closed_client),
        (outside, &far),
    ];
    let mut storm = Storm::new(world, seed, strangers, &swing);
    let blown = blow(&mut storm, &diary, length, &start);
    let counts = std::mem::take(&mut storm.counts);
    drop(storm);

    diary.end();
    let (messages, anew) = lasting.end();
    let mut captured = 0;
    for watch in watches {
        let (_, seen) = watch.finish()?;
        ensure!(seen.lost == 0, "a capture lost {} frames", seen.lost);
        captured += seen.frames;
    }
    let denied: u64 = [stranger, mute, closed_client, far]
        .map(Stranger::join)
        .iter()
        .sum();
    let usage = blown?;
    let after = lost(&counted)?;
    ensure!(after == before, "{} TCP segments lost", after - before);
    let came: u64 = wards.iter().map(|ward| ward.came()).sum();
    ensure!(came == 0, "{came} denied packets came");
    tell(world, &counts, &usage);
    println!(
        "allowed: {messages} messages of connections that were open all the time, {} of guests', {anew} new connections, \
         {} TCP segments; none lost",
        counts.left.messages,
        segments(&counted)?
    );
    println!(
        "denied: {denied} packets sent, none came while denied; {} came to the swing while it was open, {} to guests that \
         strict mode had not closed yet; {captured} frames captured",
        swing.came(),
        counts.left.early
    );
    for (what, count) in [
        ("messages", messages),
        ("new connections", anew),
        ("denied packets", denied),
        ("couples of guests", counts.left.couples),
        ("versions", counts.versions),
        ("kills", counts.kills + counts.kills_in_changes),
    ] {
        ensure!(count > 0, "no {what}: nothing was tested");
    }
    finish(world)
}

/// Uses of the agent before and after the calm.
type Calm = [Usage; 2];

/// Makes events until the time is over, in the last quarter without harm to the agent.
fn blow(storm: &mut Storm<'_>, diary: &Diary, length: u64, start: &Footprint) -> Result<Calm> {
    let end = diary.now() + length;
    while !diary.is_over() && diary.now() < end - length / 4 {
        storm.blow()?;
    }
    ensure!(!diary.is_over(), "the storm ended early");
    diary.event("the calm");
    storm.empty()?;
    for _ in 0..WARM {
        storm.breathe()?;
    }
    storm.empty()?;
    let before = storm.world.usage()?;
    while !diary.is_over() && diary.now() < end {
        storm.breathe()?;
    }
    ensure!(!diary.is_over(), "the calm ended early");
    storm.empty()?;
    let after = storm.world.usage()?;
    ensure!(
        after.descriptors == before.descriptors && after.resident <= before.resident + GROWTH,
        "in the calm the agent's use grew from {before:?} to {after:?}"
    );
    let pins = storm.world.agent.pin_path();
    storm.world.seen.becomes(pins, start)?;
    Ok([before, after])
}

fn segments(sites: &[&Site]) -> Result<u64> {
    let read = sites
        .iter()
        .map(|site| netpol_tests::pair::Segments::read(&site.netns));
    let read: Vec<_> = read.collect::<Result<_>>()?;
    Ok(read.iter().map(|of| of.received).sum())
}

fn tell(world: &World, counts: &Counts, [before, after]: &Calm) {
    println!(
        "{} events: {} changes, {} couples of guests, {} swings; {} kills, {} while things changed, {} in a start, {} stops; \
         {} versions and {} of counters and events",
        world.diary.length(),
        counts.changes,
        counts.left.couples,
        counts.swings,
        counts.kills,
        counts.kills_in_changes,
        counts.kills_in_a_start,
        counts.stops,
        counts.versions,
        counts.counters
    );
    let resident = world.lives.iter().map(|usage| usage.resident);
    let descriptors = world.lives.iter().map(|usage| usage.descriptors);
    println!(
        "{} lives of the agent ended with {} to {} KiB and {} to {} descriptors; the last one had {} KiB and {} before the \
         calm, {} KiB and {} after it",
        world.lives.len(),
        resident.clone().min().unwrap_or_default(),
        resident.max().unwrap_or_default(),
        descriptors.clone().min().unwrap_or_default(),
        descriptors.max().unwrap_or_default(),
        before.resident,
        before.descriptors,
        after.resident,
        after.descriptors
    );
    let mut errors: Vec<&str> = world.errors.iter().map(String::as_str).collect();
    errors.dedup();
    println!("{} errors in the agent's logs", errors.len());
    for error in errors.iter().take(5) {
        println!("  {error}");
    }
}

/// Removes what the agent left: nothing of it stays in the kernel.
fn finish(world: &mut World) -> Result<()> {
    world.end_life(false)?;
    world.agent.cleanup()?;
    let nothing = Footprint {
        pins: 0,
        maps: 0,
        programs: 0,
    };
    let pins = world.agent.pin_path();
    world.seen.becomes(pins, &nothing).context("after netpol cleanup")
}
