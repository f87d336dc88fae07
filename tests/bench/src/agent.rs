// SPDX-License-Identifier: Apache-2.0
//! The agent by cluster size: time of a change from its event to the kernel, time of a start,
//! memory and CPU time. The agent runs as its DaemonSet starts it, on a node with 110 real pods,
//! with a real API server that holds all objects.

mod figures;
mod kernel;
mod load;
mod packets;
mod process;

use std::time::Duration;

use anyhow::{Context, Result};

use super::{
    Figure, Run, Target,
    changes::{Crowd, Effort, LOCAL, Mover, Stage, Timed, lists},
    memory,
};
use figures::{Figures, GROUP};
use load::Percent;
use netpol_tests::{agent::Agent, privilege};

/// Target for a change of one object to reach the kernel, ms. Not for a namespace with thousands of
/// pods.
const CHANGE: f64 = 10.0;
/// Target for the agent's own part of a start, from start to enforcement, s.
const START: f64 = 1.5;
/// Target for a new pod of the node to reach the kernel, ms.
const NEW_POD: f64 = 15.0;
/// Target for memory at the smallest size and at the largest, MB.
const SMALL: f64 = 20.0;
const LARGE: f64 = 150.0;
/// CPU time that counts as none, percent: a few clock ticks a minute.
const NOTHING: f64 = 0.1;

/// Ratio of two measurements of the same thing on a busy machine.
const NOISE: f64 = 1.1;
/// Starts at each size.
const STARTS: usize = 3;

/// Sizes, and how much to measure at each.
struct Scale {
    pods: &'static [usize],
    policies: &'static [usize],
    /// True to measure every number of pods with every number of policies; else only sizes that
    /// grow together.
    grid: bool,
    elsewhere: usize,
    effort: Effort,
    idle: Duration,
    churn: Duration,
}

const FULL: Scale = Scale {
    pods: &[LOCAL, 10_000, 100_000],
    policies: &[10, 1000, 10_000],
    grid: true,
    elsewhere: 10_000,
    effort: Effort {
        samples: 200,
        time: Duration::from_secs(8),
    },
    idle: Duration::from_secs(60),
    churn: Duration::from_secs(20),
};

const QUICK: Scale = Scale {
    pods: &[LOCAL, 2000],
    policies: &[10, 200],
    grid: false,
    elsewhere: 1000,
    effort: Effort {
        samples: 30,
        time: Duration::from_secs(1),
    },
    idle: Duration::from_secs(3),
    churn: Duration::from_secs(2),
};

/// Measures all sizes.
///
/// # Errors
/// If a cluster cannot be made, or the agent does not get ready.
pub fn measure(run: &mut Run) -> Result<()> {
    if let Err(why) = privilege::api_server() {
        run.add(Figure::missing(GROUP, "change", "ms", &why));
        return Ok(());
    }
    let scale = if run.is_quick() { QUICK } else { FULL };
    let mut figures = Figures::new(run);
    for (row, &pods) in scale.pods.iter().enumerate() {
        let mut stage = Stage::new(Crowd {
            pods,
            ..Crowd::default()
        })?;
        for (column, &policies) in scale.policies.iter().enumerate() {
            // Sizes that grow together are measured in full.
            let close = row == column;
            if close || scale.grid {
                stage.grow(policies)?;
                scene(&mut figures, &scale, &mut stage, close)?;
            }
        }
        if row == 0 {
            drop(stage);
            let mut stage = Stage::new(Crowd {
                pods,
                policies: scale.policies[0],
                elsewhere: scale.elsewhere,
            })?;
            scene(&mut figures, &scale, &mut stage, false)?;
        }
    }
    Ok(())
}

/// Measures everything at one size. `close` adds the slow measurements, and single changes.
fn scene(figures: &mut Figures<'_>, scale: &Scale, stage: &mut Stage, close: bool) -> Result<()> {
    figures.at(stage.crowd);
    let smallest = Crowd {
        pods: scale.pods[0],
        policies: scale.policies[0],
        elsewhere: 0,
    };
    let limit = if stage.crowd == smallest { SMALL } else { LARGE };
    if stage.crowd == smallest {
        kernel::measure(figures, stage)?;
    }
    let agent = &starts(figures, stage)?;
    stage.bring_newcomers()?;
    let stage = &*stage;
    if close {
        let Percent(idle) = load::idle(agent, scale.idle)?;
        figures.add(
            "cpu_idle",
            "% of a CPU",
            idle,
            Some(Target::AtMost(NOTHING)),
            IDLE,
        );
    }
    resident(figures, agent, ["memory", "memory_peak"], limit, SETTLED)?;
    let packets = packets::denied(stage, agent)?;
    let same = (stage.crowd.elsewhere > 0).then_some(Target::RatioAtMost(NOISE));
    figures.samples("packet_denied", "ns", packets, same, PACKET);
    changes(figures, scale, stage, agent, close)?;
    if close {
        let (Percent(busy), delays) = load::churn(stage, agent, scale.churn)?;
        figures.add("cpu_churn", "% of a CPU", busy, None, CHURN);
        figures.times("change_churn", delays, None, CHURN);
    }
    resident(
        figures,
        agent,
        ["memory_after", "memory_after_peak"],
        limit,
        AFTER,
    )?;
    let parameters = figures.parameters();
    let run = figures.run();
    if run.wants("memory", "agent") {
        memory::add(run, "agent", agent.pin_path(), &parameters)?;
    }
    Ok(())
}

/// Measures starts, each beside bare lists, because the server's speed varies from minute to
/// minute. Returns the last agent.
fn starts(figures: &mut Figures<'_>, stage: &Stage) -> Result<Agent> {
    let (mut listed, mut alike) = (vec![], vec![]);
    let (mut enforced, mut delays, mut used) = (vec![], vec![], vec![]);
    loop {
        listed.push(stage.bare_lists(lists::COMMON)?.as_secs_f64());
        alike.push(stage.bare_lists(lists::AGENT)?.as_secs_f64());
        let started = stage.start_agent()?;
        let pid = started.agent.pid().context("the agent does not run")?;
        let delay = started.applied.delay.context("the agent tells no delay")?;
        enforced.push(started.enforced_after.as_secs_f64());
        delays.push(delay.as_secs_f64());
        used.push(process::cpu_time(pid)?.as_secs_f64());
        if enforced.len() < STARTS {
            continue;
        }
        let start = |name| Figure::new(GROUP, name, "s", enforced.clone());
        let above = start("start").above("bare lists of pods and policies", listed);
        figures.finish(above, Some(Target::MoreByAtMost(START)), STARTED);
        let above = start("start_of_lists").above("bare lists, asked for as the agent does", alike);
        figures.finish(above, None, ALIKE);
        figures.samples("start_after_lists", "s", delays, None, STARTED);
        figures.samples("start_cpu", "s", used, None, STARTED);
        // Policies that select no pod here are not written.
        let same = (figures.crowd().elsewhere > 0).then_some(Target::RatioAtMost(1.0));
        let writes = started.applied.writes as f64;
        figures.add("start_writes", "writes", writes, same, STARTED);
        return Ok(started.agent);
    }
}

/// Adds current and peak memory.
fn resident(
    figures: &mut Figures<'_>,
    agent: &Agent,
    names: [&str; 2],
    limit: f64,
    note: &str,
) -> Result<()> {
    let memory = process::memory(agent.pid().context("the agent does not run")?)?;
    for (name, bytes) in names.into_iter().zip([memory.resident, memory.peak]) {
        figures.add(name, "MB", bytes as f64 / 1e6, Some(Target::AtMost(limit)), note);
    }
    Ok(())
}

/// Measures single changes, one after the other.
fn changes(
    figures: &mut Figures<'_>,
    scale: &Scale,
    stage: &Stage,
    agent: &Agent,
    close: bool,
) -> Result<()> {
    let pid = agent.pid().context("the agent does not run")?;
    let mut mover = Mover::new(stage, agent, scale.effort)?;
    let before = process::cpu_time(pid)?;
    let mut single: Vec<Timed> = Vec::new();
    single.extend(mover.policies()?);
    single.extend(mover.pods_elsewhere()?);
    single.push(mover.pods_here()?);
    let [newcomers, gone] = mover.newcomers()?;
    single.push(gone);
    let [namespace, large] = mover.namespaces()?;
    single.push(namespace);
    let used = process::cpu_time(pid)?.saturating_sub(before);
    let count: usize = single
        .iter()
        .chain([&newcomers, &large])
        .map(|timed| timed.samples.len())
        .sum();
    figures.add(
        "cpu_change",
        "ms",
        used.as_secs_f64() * 1000.0 / count as f64,
        None,
        EACH,
    );
    let target = Some(Target::AtMost(CHANGE));
    let events = |timed: &Timed| -> Vec<f64> { timed.samples.iter().map(|sample| sample.event).collect() };
    let all = single.iter().flat_map(events).collect();
    figures.times("change", all, target, ANY);
    if !close {
        return Ok(());
    }
    for timed in &single {
        figures.times(&format!("change_{}", timed.name), events(timed), target, CHANGED);
        let target = Some(Target::MoreByAtMost(CHANGE));
        figures.requests(&format!("request_{}", timed.name), timed, target, REQUESTED);
    }
    let name = format!("change_{}", newcomers.name);
    figures.times(&name, events(&newcomers), Some(Target::AtMost(NEW_POD)), NEW);
    let [_, pods, _] = stage.crowd.population();
    let note = format!("a namespace of {pods} pods");
    figures.times(&format!("change_{}", large.name), events(&large), None, &note);
    figures.requests(&format!("request_{}", large.name), &large, None, &note);
    Ok(())
}

const ANY: &str = "all single changes of a policy, a pod or a namespace of a few hundred pods, from the event at the agent to the last write";
const NEW: &str =
    "a pod on this node, whose interface came before, gets its address: its two programs are there by then";
const EACH: &str = "CPU time of the agent by the number of single changes, with all that it does beside: unlike a delay, nearly the same on a busy machine";
const CHANGED: &str = "from the event at the agent to the last write";
const REQUESTED: &str = "from just before the request until the agent says that all is written; a bare watch: until the event comes there";
const ALIKE: &str = "the same starts, above bare lists in the agent's own manner: pods in the server's binary encoding, and 2000 a page, which the agent reaches on its third";
const STARTED: &str = "from the start of the process, and from the last complete list, until everything is enforced; CPU time until then. The \
                       lists come at the API server's pace: bare lists are what someone waits who asks in JSON for 500 objects at a time, and does nothing with them";
const PACKET: &str =
    "a SYN from outside that policy denies, at a pod's ingress, on the maps that the agent wrote";
const SETTLED: &str = "resident a while after the start, and the peak until then";
const AFTER: &str = "resident after all changes, and the peak until then";
const IDLE: &str = "over a minute in a full run, one comparison of all maps included";
const CHURN: &str = "100 changes of pods a second: each comes, becomes one of another app and back, and goes";
