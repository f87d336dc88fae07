// SPDX-License-Identifier: Apache-2.0
//! Plays the demo.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use netpol_agent::{model, watch::directory};
use nix::sys::signal::{SigSet, Signal};

use super::{
    changes,
    kept::{self, Kept},
    matrix::{Answers, Matrix},
    scene::Scene,
    stage,
};
use netpol_tests::{
    agent::Agent,
    manifests::ManifestDir,
    netns,
    node::{Node, Plan, Site},
    privilege,
    probe::{Outcome, PATIENCE, Prober},
    server::Servers,
};

/// Maximum number of wrong connections that are listed.
const MOST_LISTED: usize = 100;
/// Time limit for the network to come up.
const SETTLING: Duration = Duration::from_secs(20);

/// Options of the demo.
#[derive(Debug, Clone)]
pub struct Options {
    /// Folder of manifests; it is only read.
    pub folder: PathBuf,
    /// Leave everything running.
    pub keep: bool,
}

/// Plays the demo. Returns true if every cell was what the policies say.
///
/// # Errors
/// If it cannot be finished; what it made is removed.
pub fn run(options: &Options) -> Result<bool> {
    let played = play(options);
    if played.is_err() {
        kept::wipe_current();
    }
    played
}

fn play(options: &Options) -> Result<bool> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the demo makes network namespaces and loads eBPF: run it as root"
    );
    ensure!(
        privilege::binary().is_some(),
        "no agent: build netpol first, or set {}",
        privilege::BINARY
    );
    let plan = Plan::first("node-a");
    let scene = Scene::read(&options.folder, &plan)?;
    let mut kept = if options.keep {
        Kept::fresh()?
    } else {
        Kept::passing()
    };
    let mut node = Node::with_prefix(plan.clone(), kept.prefix.clone())?;
    node.add_pods(&scene.pods)?;

    let whole = rehearsed(&scene)?;
    let (services, left_out) = stage::services(&whole);
    let externals = stage::externals(&whole, &plan);
    let matrix = Matrix::new(sites(&mut node, &externals)?, services);
    let servers = Servers::new()?;
    let prober = Prober::new()?;
    for site in &matrix.sites {
        servers.add(site, &matrix.services)?;
    }

    introduce(options, &scene, &whole, left_out, &matrix);
    let manifests = if options.keep {
        ManifestDir::kept(&kept.manifests)?
    } else {
        ManifestDir::new()?
    };
    manifests.write("pods.yaml", &scene.base)?;
    settle(&matrix, &prober)?;
    let agent = Agent::start_at(&node, manifests.path(), &kept.pin_path)?;
    kept.watch_over(&agent);
    let nodes = [model::Node {
        name: plan.name,
        addresses: node.site().addresses.into_iter().collect(),
        ..model::Node::default()
    }];

    let ask = || matrix.ask(&prober, manifests.path(), &nodes);
    let differences = one_by_one(&scene, &matrix, &agent, &manifests, ask)?;
    conclude(&differences);
    if options.keep {
        drop(servers);
        kept.leave(&node, &matrix, agent)?;
    }
    Ok(differences.is_empty())
}

/// Returns the objects with all policies active.
fn rehearsed(scene: &Scene) -> Result<model::Snapshot> {
    let rehearsal = ManifestDir::new()?;
    rehearsal.write("pods.yaml", &scene.base)?;
    for act in &scene.policies {
        rehearsal.write(&act.file, &act.text)?;
    }
    directory::load(rehearsal.path()).context("loading the manifests")
}

/// Adds one policy after the other, and prints what each changes. Returns what is not as the
/// policies say.
fn one_by_one(
    scene: &Scene,
    matrix: &Matrix,
    agent: &Agent,
    manifests: &ManifestDir,
    ask: impl Fn() -> Result<Answers>,
) -> Result<Vec<String>> {
    let mut differences = Vec::new();
    let mut answers = ask()?;
    let mut note = |title: &str, answers: &Answers| {
        let found = matrix.differences(answers);
        if !found.is_empty() {
            println!("  ! {} connections are not what the policies say", found.len());
        }
        differences.extend(
            found
                .into_iter()
                .map(|difference| format!("{title}: {difference}")),
        );
    };
    println!("No policy\n{}\n", matrix.table(&answers));
    note("no policy", &answers);
    for act in &scene.policies {
        let revision = agent.revision();
        manifests.write(&act.file, &act.text)?;
        agent.wait_for_revision_after(revision)?;
        let after = ask()?;
        println!("\n{} ({})", act.title, act.file);
        if !act.comment.is_empty() {
            println!("  {}", act.comment);
        }
        let lines = changes::describe(matrix, &answers, &after);
        if lines.is_empty() {
            println!("  nothing changes");
        }
        for line in lines {
            println!("  {line}");
        }
        note(&act.title, &after);
        answers = after;
    }
    println!("\nAll policies\n{}\n", matrix.table(&answers));
    Ok(differences)
}

fn introduce(options: &Options, scene: &Scene, whole: &model::Snapshot, left_out: usize, matrix: &Matrix) {
    let here = std::env::current_dir().unwrap_or_default();
    println!(
        "netpol demo: {} pods on one node, policies of {}",
        scene.pods.len(),
        options
            .folder
            .strip_prefix(here)
            .unwrap_or(&options.folder)
            .display()
    );
    for note in &scene.notes {
        println!("note: {note}");
    }
    if left_out > 0 {
        println!("note: {left_out} more ports are named by policies and not asked");
    }
    for diagnostic in whole.diagnostics.keys() {
        println!("note: {diagnostic}");
    }
    println!(
        "{} connections are made for each matrix, IPv4 and IPv6.\n\n{}\n",
        matrix.len(),
        matrix.legend()
    );
}

fn conclude(differences: &[String]) {
    if differences.is_empty() {
        println!("Every cell, at every step, is what the policies say.");
    } else {
        println!(
            "{} connections were not what the policies say:",
            differences.len()
        );
        for difference in differences.iter().take(MOST_LISTED) {
            println!("  ! {difference}");
        }
        if differences.len() > MOST_LISTED {
            println!("  and {} more", differences.len() - MOST_LISTED);
        }
    }
}

/// Returns the pods, then the node by its address on the bridge, then the outside's addresses.
fn sites(node: &mut Node, externals: &[IpAddr]) -> Result<Vec<Site>> {
    let mut sites = node.pods();
    let mut own = node.site();
    own.addresses.truncate(2);
    sites.push(Site {
        name: format!("{} (the node)", own.name),
        ..own
    });
    sites.push(node.outside());
    for &address in externals {
        node.add_external(address)?;
        let netns = Arc::clone(&node.outside().netns);
        sites.push(Site {
            name: address.to_string(),
            netns,
            addresses: vec![address],
        });
    }
    Ok(sites)
}

/// Removes what a demo made when a signal ends the process. Call it before any thread is started.
///
/// # Errors
/// If signals cannot be blocked.
pub fn on_signals() -> Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block().context("blocking signals")?;
    thread::spawn(move || {
        let signal = signals.wait();
        eprintln!(
            "\n{}: removing what was made",
            signal.map_or("a signal", Signal::as_str)
        );
        kept::wipe_current();
        std::process::exit(130);
    });
    Ok(())
}

/// Returns the command that lists the namespaces with a prefix, for messages.
pub(super) fn listing(prefix: &str) -> String {
    netns::names(prefix).join(" ")
}

/// Returns the file of the node's namespace, by prefix.
pub(super) fn node_netns(prefix: &str) -> PathBuf {
    Path::new(netns::FOLDER).join(format!("{prefix}node-a"))
}

/// Waits until the new network carries packets everywhere: links come up one after another. Nothing
/// is enforced yet.
fn settle(matrix: &Matrix, prober: &Prober) -> Result<()> {
    let until = Instant::now() + SETTLING;
    let mut waiting = matrix.probes.clone();
    while !waiting.is_empty() {
        let outcomes = prober.probe_once(&waiting, PATIENCE)?;
        let mut outcomes = outcomes.iter();
        waiting.retain(|_| {
            outcomes
                .next()
                .is_some_and(|outcome| *outcome != Outcome::Reached)
        });
        if Instant::now() > until {
            let first = waiting.first().map(ToString::to_string).unwrap_or_default();
            ensure!(
                waiting.is_empty(),
                "without any agent, {} connections are not made after {SETTLING:?}, first {first}",
                waiting.len()
            );
        }
    }
    Ok(())
}
