// SPDX-License-Identifier: Apache-2.0
//! Wiring: starts the stages, connects them and stops them.

mod ahead;
pub mod bind;
mod memory;
mod others;
mod reconcile;
mod standing;
mod troubles;

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use ipnet::IpNet;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use self::ahead::Startup;
use self::reconcile::Reconciler;
use crate::{
    causes::causes,
    datapath::{self, Datapath, interfaces},
    observe::{self, status::Status},
    progress::Progress,
    records,
    sync::Settings,
    watch::{self as source, Source},
};

/// First pause before failed writes are tried again; it doubles up to [`RETRY_LAST`].
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// Pause between checks of a part of the flow table for expired flows.
const EXPIRY: Duration = Duration::from_secs(10);
/// Longest pause before failed writes are tried again.
const RETRY_LAST: Duration = Duration::from_secs(30);

/// The agent's options.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where objects come from.
    pub source: Source,
    /// The node's name.
    pub node_name: String,
    /// How to open the datapath.
    pub datapath: datapath::Options,
    /// Where libcni keeps its results.
    pub cni_results: PathBuf,
    /// What the programs are told.
    pub settings: Settings,
    /// Where to serve metrics and health.
    pub listen: Option<SocketAddr>,
    /// Where to answer `netpol explain`.
    pub socket: Option<PathBuf>,
    /// Treatment of a new pod's traffic before its policy is programmed.
    pub startup: Startup,
    /// Address ranges of this node's pods; if empty, the Node's.
    pub pod_cidrs: Vec<IpNet>,
    /// Time between comparisons with the kernel.
    pub resync: Duration,
}

/// Runs the agent until `stop`. The process ends when the first stage fails. The kernel keeps
/// enforcing (rule B3), and a supervisor restarts the agent.
///
/// # Errors
/// The stage that ended, with its error.
#[expect(
    clippy::too_many_lines,
    reason = "the order in which stages start and stop, read from top to bottom"
)]
pub async fn run(options: Options, stop: CancellationToken) -> anyhow::Result<()> {
    let started = Instant::now();
    raise_descriptor_limit();
    let _lock = datapath::lock(&options.datapath.pin_path)?;
    for left in datapath::alone(&options.datapath.pin_path)? {
        warn!(
            pins = %left.display(),
            "an agent that no longer runs left pins here; while its programs are attached, packets have to be allowed by \
             them, too: remove them by `netpol cleanup --pin-path` with this folder"
        );
    }
    let (snapshots_in, mut snapshots) = watch::channel(None);
    let (drafts_in, mut drafts) = watch::channel(None);
    let (interfaces_in, mut interfaces) = watch::channel(None);
    let progress = Progress::default();
    let mut stages = JoinSet::new();
    // Lists take as long as the API server does, and loading takes as long as the kernel does: they
    // run in parallel.
    stages.spawn(stage(
        "watch",
        source::run(
            options.source.clone(),
            source::Outlet {
                snapshots: snapshots_in,
                drafts: drafts_in,
            },
            progress.clone(),
            stop.clone(),
        ),
    ));
    let mut cidrs = pod_cidrs(&options);
    let mut datapath =
        tokio::task::block_in_place(|| Datapath::open(&options.datapath)).context("opening the datapath")?;
    let state = datapath
        .read()
        .context("reading back what an earlier agent enforced")?;
    info!(
        node = options.node_name,
        mechanism = %datapath.mechanism(),
        endpoints = state.endpoints.len(),
        identities = state.identities.len(),
        policies = state.policies.len(),
        pin_path = %options.datapath.pin_path.display(),
        "datapath open"
    );

    let (records_in, mut records) = watch::channel(None);
    let bindings = bind::stored_bindings(&datapath.bindings().context("reading back what interfaces were")?);
    let sights = bindings
        .iter()
        .map(|(ifindex, binding)| (*ifindex, binding.sight()))
        .collect();
    let (settled_in, settled) = watch::channel(BTreeSet::new());
    let (status_in, status) = watch::channel(Arc::new(Status {
        checks_checksums: datapath.checks_checksums(),
        asks_tracking: datapath.asks_tracking(),
        mechanism: datapath.mechanism().to_string(),
        ..Status::default()
    }));
    let reread = Arc::new(Notify::new());
    stages.spawn(stage(
        "interfaces",
        interfaces::watch(
            interfaces_in,
            sights,
            settled,
            reread.clone(),
            progress.clone(),
            stop.clone(),
        ),
    ));
    stages.spawn(stage(
        "records",
        records::run(
            options.cni_results.clone(),
            records_in,
            progress.clone(),
            stop.clone(),
        ),
    ));
    if options.startup == Startup::Strict {
        stages.spawn(stage(
            "routes",
            interfaces::watch_routes(reread.clone(), stop.clone()),
        ));
    }
    let events = datapath
        .take_events()
        .context("the eBPF object has no ring buffer of events")?;
    stages.spawn(stage(
        "events",
        observe::events::run(events, status.clone(), stop.clone()),
    ));
    if options.datapath.log_level > 0 {
        stages.spawn(stage(
            "program log",
            observe::program_log::run(datapath.take_log()?, stop.clone()),
        ));
    }
    let server = match options.listen {
        Some(address) => {
            let counters = datapath::CounterReader::open(&options.datapath.pin_path)?;
            Some((observe::http::bind(address).await?, counters))
        }
        None => None,
    };
    stages.spawn(stage(
        "onlookers",
        observe::apart::run(observe::onlookers(
            server,
            status.clone(),
            progress.clone(),
            stop.clone(),
        )),
    ));

    let (inspections_in, mut inspections) = mpsc::channel(1);
    let (scratch_in, mut scratch) = watch::channel(false);
    if let Some(path) = &options.socket {
        match observe::socket::bind(path).await {
            Ok(listener) => {
                let known = observe::socket::Known {
                    node_name: options.node_name.clone(),
                    source: options.source.to_string(),
                    pin_path: options.datapath.pin_path.clone(),
                    started,
                    progress: progress.clone(),
                    inspections: inspections_in,
                    scratch: scratch_in,
                    snapshots: snapshots.clone(),
                    interfaces: interfaces.clone(),
                    status: status.clone(),
                };
                stages.spawn(stage(
                    "socket",
                    observe::socket::run(listener, known, stop.clone()),
                ));
            }
            Err(error) => warn!(
                error = causes(&error),
                "netpol explain cannot ask this agent, nor can netpol status"
            ),
        }
    }

    let mut reconciler = Reconciler::new(
        datapath,
        state,
        bindings,
        options.clone(),
        (status_in, settled_in),
        progress,
    );
    let mut resync = tokio::time::interval_at(Instant::now() + options.resync, options.resync);
    let mut expiry = tokio::time::interval_at(Instant::now() + EXPIRY, EXPIRY);
    expiry.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut retry = RETRY_FIRST;
    let mut retry_at: Option<Instant> = None;
    let mut reread_if_waiting = false;
    let mut ahead = false;
    let mut asked_at_start = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            ended = stages.join_next() => match ended {
                Some(Ok(Ok(name))) if stop.is_cancelled() => info!(stage = name, "stage ended"),
                Some(Ok(Ok(name))) => anyhow::bail!("stage {name} ended"),
                Some(Ok(Err(error))) => return Err(error),
                Some(Err(error)) => return Err(error).context("a stage panicked"),
                None => break,
            },
            Ok(()) = snapshots.changed() => {
                reconciler.set_snapshot(snapshots.borrow_and_update().as_ref());
                reread_if_waiting = true;
                ahead = true;
            }
            Ok(()) = drafts.changed() => {
                let draft = drafts.borrow_and_update().clone();
                let waits = snapshots.has_changed().is_ok_and(|changed| changed)
                    || interfaces.has_changed().is_ok_and(|changed| changed);
                if let Some(draft) = draft.filter(|_| !waits) {
                    tokio::task::block_in_place(|| reconciler.compile_draft(&draft));
                }
                continue;
            }
            Ok(()) = interfaces.changed() => {
                reconciler.set_interfaces(interfaces.borrow_and_update().clone());
                ahead = true;
                // What must be closed comes first.
                while reconciler.is_strict() && ahead && !stop.is_cancelled() {
                    ahead = tokio::task::block_in_place(|| reconciler.attach_ahead());
                }
            }
            Some(told) = next(&mut cidrs) => {
                reconciler.set_pod_cidrs(told);
                ahead = true;
                continue;
            }
            () = std::future::ready(()), if ahead => {
                ahead = tokio::task::block_in_place(|| reconciler.attach_ahead());
                continue;
            }
            Ok(()) = records.changed() => reconciler.set_records(records.borrow_and_update().clone()),
            () = sleep_until(reconciler.next_overdue()) => {}
            Ok(()) = scratch.changed() => reconciler.hold_scratch(*scratch.borrow_and_update()),
            Some(asked) = inspections.recv() => {
                let found = tokio::task::block_in_place(|| reconciler.reread());
                // Who asked may have left.
                let _ = asked.send(found);
                ahead = true;
            }
            _ = resync.tick() => {
                reconciler.reread();
                ahead = true;
            }
            _ = expiry.tick() => {
                if tokio::task::block_in_place(|| reconciler.expire_flows()) {
                    expiry.reset_immediately();
                }
                continue;
            }
            () = sleep_until(retry_at) => {}
        }
        if stop.is_cancelled() {
            break;
        }
        let complete = tokio::task::block_in_place(|| reconciler.reconcile());
        // Nobody removed ended flows while no agent ran.
        if !asked_at_start && reconciler.has_applied() {
            asked_at_start = true;
            expiry.reset_immediately();
        }
        // The event for a new pod's address may have been missed.
        if std::mem::take(&mut reread_if_waiting) && reconciler.is_waiting() {
            reread.notify_one();
        }
        retry_at = (!complete).then(|| Instant::now() + retry);
        retry = if complete {
            RETRY_FIRST
        } else {
            (retry * 2).min(RETRY_LAST)
        };
    }
    while let Some(ended) = stages.join_next().await {
        if let Ok(Err(error)) = ended {
            return Err(error);
        }
    }
    info!("stopped");
    Ok(())
}

/// Raises the soft limit of descriptors, often 1024, to the hard limit: two links are held open for
/// each pod.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        warn!(%error, "raising the limit of open files");
    }
}

/// Pause before the API server is asked for the Node's pod ranges again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Asks for the Node's pod ranges before the lists, until they are told: closing interfaces does
/// not wait for the lists. `None` if the ranges are known already, or come with a folder.
fn pod_cidrs(options: &Options) -> Option<JoinHandle<Vec<IpNet>>> {
    let Source::Kube { kubeconfig } = options.source.clone() else {
        return None;
    };
    if !options.pod_cidrs.is_empty() {
        return None;
    }
    let node = options.node_name.clone();
    Some(tokio::spawn(async move {
        let mut warned = false;
        loop {
            match source::pod_cidrs(kubeconfig.as_deref(), &node).await {
                Ok(told) => return told,
                Err(error) if !warned => {
                    warned = true;
                    warn!(
                        node,
                        error, "the node's pod ranges are not told, and asked for again"
                    );
                }
                Err(_) => {}
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }))
}

/// Waits for a task's result; later calls never return.
async fn next<T>(task: &mut Option<JoinHandle<T>>) -> Option<T> {
    let Some(running) = task else {
        return std::future::pending().await;
    };
    let result = running.await;
    *task = None;
    result.ok()
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Adds a stage's name to its error.
async fn stage<E: Into<anyhow::Error>>(
    name: &'static str,
    run: impl Future<Output = Result<(), E>>,
) -> anyhow::Result<&'static str> {
    run.await
        .map_err(Into::into)
        .with_context(|| format!("stage {name} failed"))?;
    Ok(name)
}
