// SPDX-License-Identifier: Apache-2.0
//! Group `wire`: traffic between pods on a bridge and across VXLAN, without enforcement, with the
//! agent and with the kernel's packet filters. All clusters exist side by side and are measured in
//! turn.

pub mod filters;
mod programs;
pub mod traffic;
pub mod world;

use std::time::Duration;

use anyhow::{Context as _, Result};

use self::{
    traffic::Kind,
    world::{Variant, Way, World},
};
use super::{Figure, Run, Target};

const GROUP: &str = "wire";
/// Minimum share of the rate without an agent that must remain.
const LEAST: f64 = 0.97;
const POLICIES: [u32; 3] = [1, 100, 1000];

/// Duration of a measurement, and of a quick one; each repetition has two. Throughput takes at
/// least a second.
const HOW_LONG: (Duration, Duration) = (Duration::from_millis(300), Duration::from_millis(100));

const YARDSTICK: &str = "a yardstick: the same policies, IPv4 only, as rules in the forward hook behind one that lets \
                         connections pass that are known";
const IN_PROGRAMS: &str = "time in the agent's programs, as the kernel counts it, in a measurement of its own: what of a difference is theirs. Several CPUs may \
                           be in programs at once, and counting takes some of the time";
const BEST: &str = "the best twentieth of a second (throughput: tenth) of two measurements a repetition";

/// Measures the group.
///
/// # Errors
/// Without root or eBPF, or if traffic fails.
pub fn measure(run: &mut Run) -> Result<()> {
    let kinds: Vec<Kind> = Kind::ALL
        .into_iter()
        .filter(|kind| run.wants(GROUP, kind.name()))
        .collect();
    if kinds.is_empty() {
        return Ok(());
    }
    let mut variants = vec![Variant::NoAgent, Variant::Netpol(0)];
    variants.extend(POLICIES.map(Variant::Netpol));
    variants.extend(POLICIES.map(Variant::Nftables));
    variants.extend(POLICIES.map(Variant::Ipset));
    let worlds = variants.into_iter().map(World::new).collect::<Result<Vec<_>>>()?;
    let how_long = if run.is_quick() { HOW_LONG.1 } else { HOW_LONG.0 };

    for kind in kinds {
        for way in Way::ALL {
            let mut samples: Vec<Vec<f64>> = vec![Vec::new(); worlds.len()];
            for _ in 0..run.repetitions() {
                let mut best = vec![0.0; worlds.len()];
                // Forth and back, so that each is measured at two moments, and none always follows
                // the same other.
                for index in (0..worlds.len()).chain((0..worlds.len()).rev()) {
                    let (from, to) = worlds[index].ends(way)?;
                    let variant = worlds[index].variant;
                    let measured = kind
                        .measure(&from, &to, how_long)
                        .with_context(|| format!("{variant}, {} policies", variant.policies()))?;
                    best[index] = measured.max(best[index]);
                }
                samples
                    .iter_mut()
                    .zip(best)
                    .for_each(|(samples, best)| samples.push(best));
            }
            add(run, kind, way, &worlds, samples);
            add_programs(run, kind, way, &worlds, how_long)?;
        }
    }
    Ok(())
}

/// Adds the share of the time that the agent's programs take, where policies select the pods.
fn add_programs(run: &mut Run, kind: Kind, way: Way, worlds: &[World], how_long: Duration) -> Result<()> {
    let enforcing = |world: &&World| matches!(world.variant, Variant::Netpol(1..));
    for world in worlds.iter().filter(enforcing) {
        let (from, to) = world.ends(way)?;
        let mut samples = Vec::new();
        for _ in 0..run.repetitions() {
            samples.push(programs::share(|| kind.measure(&from, &to, how_long).map(drop))?);
        }
        let figure = Figure::new(
            GROUP,
            &format!("{}_in_programs", kind.name()),
            "% of the time",
            samples,
        );
        let figure = figure.at("way", way).at("policies", world.variant.policies());
        run.add(figure.noted(IN_PROGRAMS));
    }
    Ok(())
}

fn add(run: &mut Run, kind: Kind, way: Way, worlds: &[World], samples: Vec<Vec<f64>>) {
    let baseline = samples[0].clone();
    for (world, samples) in worlds.iter().zip(samples) {
        let variant = world.variant;
        let figure = Figure::new(GROUP, kind.name(), kind.unit(), samples)
            .more_is_better()
            .at("way", way)
            .at("with", variant)
            .at("policies", variant.policies());
        run.add(match variant {
            Variant::NoAgent => figure.noted(BEST),
            Variant::Netpol(_) => figure
                .against("no agent", baseline.clone())
                .reaches(Target::RatioAtLeast(LEAST)),
            Variant::Nftables(_) | Variant::Ipset(_) => {
                figure.against("no agent", baseline.clone()).noted(YARDSTICK)
            }
        });
    }
}
