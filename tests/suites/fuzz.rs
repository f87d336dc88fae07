// SPDX-License-Identifier: Apache-2.0
//! Runs damaged frames through the real programs and their mirror in userspace. `NETPOL_CASES` is
//! the number of frames; `NETPOL_SEED` repeats a run. `cargo xtask test --long` plays ten million
//! frames.

use std::{
    path::PathBuf,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Result, bail, ensure};
use netpol_agent::datapath::attach::Hook;
use netpol_common::abi::Endpoint;
use netpol_tests::{
    fuzz::{
        grow::{SHORTEST, Scene, shortest},
        play::{Pair, Step, Tally},
        seeds,
        shrink::shrink,
    },
    progrun::{Bench, on_bench},
    random::Random,
    tables::Mirror,
};

#[path = "fuzz/entries.rs"]
mod entries;

const SUITE: &str = "fuzz";
/// Seed of every ordinary run.
const FIXED_SEED: u64 = 1;
const SHORT: u64 = 30_000;
const LONG: u64 = 10_000_000;
/// Frames for one cluster, starting with empty flow tables.
const BATCH: usize = 1000;
/// More flows than a batch can make.
const FLOWS: u32 = 32_768;
const PODS: usize = 10;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}: {text:?} is no number")),
    )
}

fn of_clock() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_nanos() as u64)
}

fn runnable(steps: &[Step]) -> bool {
    steps.iter().all(|step| step.frame.len() >= shortest(&step.frame))
}

/// Reduces a batch in which the two sides differ, and describes it.
fn report(pair: &mut Pair<'_>, steps: Vec<Step>, difference: &str) -> Result<String> {
    let mut error = None;
    let least = shrink(steps, |steps| {
        runnable(steps)
            && match pair.play(steps, &mut Tally::new()) {
                Ok(difference) => difference.is_some(),
                Err(failure) => {
                    error = Some(failure);
                    false
                }
            }
    });
    if let Some(error) = error {
        return Err(error.context(difference.to_owned()));
    }
    let what = pair.play(&least, &mut Tally::new())?;
    let frames: Vec<String> = least.iter().map(Step::to_string).collect();
    Ok(format!(
        "{difference}\nshrunk to: {}\n{}",
        what.as_deref().unwrap_or("nothing: it does not happen again"),
        frames.join("\n")
    ))
}

/// Plays frames in batches, each on another cluster.
fn run(bench: &mut Bench, seed: u64, frames: u64) -> Result<()> {
    let mut random = Random(seed);
    let corpus: Vec<Vec<u8>> = seeds::load()?.into_values().collect();
    let (mut made, mut verdicts, mut done) = (Tally::new(), Tally::new(), 0);
    let started = Instant::now();
    while done < frames {
        let mut scene = Scene::new(bench, &mut random)?;
        let mut mirror = Mirror::new(bench.read()?);
        let mut pair = Pair::new(bench, &mut mirror)?;
        let count = BATCH.min((frames - done) as usize);
        let steps = scene.steps(&mut random, &corpus, count, &mut made);
        if let Some(difference) = pair.play(&steps, &mut verdicts)? {
            bail!(
                "NETPOL_SEED={seed}, after {done} frames: {}",
                report(&mut pair, steps, &difference)?
            );
        }
        done += count as u64;
    }
    let rate = done as f64 / started.elapsed().as_secs_f64();
    println!("{done} frames, seed {seed}, {rate:.0} a second\nmade: {made:?}\nverdicts: {verdicts:?}");
    if frames >= SHORT {
        for verdict in [
            "forwarded",
            "policy",
            "malformed",
            "ether_type",
            "vlan",
            "fragment",
            "extension_headers",
            "no_endpoint",
            "egress_backend",
            "unknown_sender",
        ] {
            ensure!(verdicts.contains_key(verdict), "no frame was {verdict}");
        }
    }
    Ok(())
}

#[test]
fn f2_f3_kernel_and_userspace_say_the_same_of_damaged_frames() {
    let long = std::env::var_os("NETPOL_TEST_LONG").is_some();
    let frames = number("NETPOL_CASES").unwrap_or(if long { LONG } else { SHORT });
    let seeds = match number("NETPOL_SEED") {
        Some(seed) => vec![seed],
        None if long => vec![of_clock()],
        None => vec![FIXED_SEED, of_clock()],
    };
    on_bench(SUITE, PODS, |bench| {
        bench.restart(FLOWS)?;
        bench.set_events_per_second(u32::MAX);
        seeds.into_iter().try_for_each(|seed| run(bench, seed, frames))
    });
}

/// A mirror with a single mistake is caught, and the frame that shows it is small.
#[test]
fn a_difference_is_found_and_shrunk() {
    on_bench(SUITE, PODS, |bench| {
        bench.restart(FLOWS)?;
        let mut random = Random(FIXED_SEED);
        for _ in 0..50 {
            let mut scene = Scene::new(bench, &mut random)?;
            let mut state = bench.read()?;
            let isolated = |endpoint: &&mut Endpoint| endpoint.ingress_policy != 0;
            let Some(endpoint) = state.endpoints.values_mut().find(isolated) else {
                continue;
            };
            endpoint.ingress_policy = 0;
            let mac = endpoint.mac;
            let mut mirror = Mirror::new(state);
            let mut pair = Pair::new(bench, &mut mirror)?;
            let steps = scene.steps(&mut random, &[], BATCH, &mut Tally::new());
            let Some(difference) = pair.play(&steps, &mut Tally::new())? else {
                bail!("an endpoint that is not isolated is none that is");
            };
            let least = shrink(steps, |steps| {
                runnable(steps) && pair.play(steps, &mut Tally::new()).unwrap().is_some()
            });
            assert_eq!(least.len(), 1, "{difference}");
            assert_eq!(least[0].met.hook, Hook::ToPod);
            // An empty frame of an unknown EtherType shows it, if it is addressed to a group or to
            // the pod's MAC address.
            let Some((to, rest)) = least[0].frame.split_at_checked(6) else {
                bail!("an empty frame");
            };
            assert_eq!(rest, [0; SHORTEST - 6]);
            assert!(to == mac || to == [1, 0, 0, 0, 0, 0], "{to:?}");
            return Ok(());
        }
        bail!("no cluster has an isolated pod")
    });
}

#[test]
fn the_corpus_holds_what_is_built() {
    let built = seeds::built();
    if std::env::var_os("NETPOL_BLESS").is_some() {
        let mut all = seeds::load().unwrap_or_default();
        all.extend(built.clone());
        seeds::save(&all).unwrap();
    }
    let corpus = seeds::load().unwrap();
    for (name, frame) in built {
        assert_eq!(
            corpus.get(&name),
            Some(&frame),
            "{name}: NETPOL_BLESS=1 cargo test -p netpol-tests --test fuzz"
        );
    }
}

/// Returns the folder for the seeds of the fuzz target `frame`, if they are wanted as files.
fn seed_folder() -> Option<PathBuf> {
    std::env::var_os("NETPOL_FUZZ_SEEDS").map(PathBuf::from)
}
