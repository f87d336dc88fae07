// SPDX-License-Identifier: Apache-2.0
//! The command line.

pub mod agent;
mod ask;
pub mod cleanup;
pub mod explain;
mod lifetimes;
pub mod log;
pub mod matrix;
pub mod mount;
mod read;
pub mod rollout;
pub mod status;
mod stop;
pub mod sysdump;
pub mod verify;

use std::{process::ExitCode, sync::LazyLock};

use clap::{Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::datapath::object;

/// Default of `--log`. The client library logs each failed request at its own level; stage watch
/// reports once what it means.
const LOG: &str = "info,kube_client=off,kube_runtime=off";
/// Default of `--log` for commands that print their answer.
const QUIET: &str = "error,kube_client=off,kube_runtime=off";

/// Enforces Kubernetes NetworkPolicy on the pods of one node, with eBPF programs at their
/// interfaces.
#[derive(Debug, Parser)]
#[command(name = "netpol", version, long_version = long_version())]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
    /// Format of the log lines on standard error.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// What to log: a level (error, warn, info, debug, trace), or levels by module, e.g.
    /// `info,netpol_agent::sync=debug`. Default: info for agent, cleanup, rollout and mount-bpffs,
    /// error for the other commands, without the log of the client library.
    #[arg(long, global = true, value_name = "FILTER", env = "NETPOL_LOG")]
    pub log: Option<String>,
}

/// Returns what `--version` prints after the name. `-V` prints only the number.
fn long_version() -> &'static str {
    static TEXT: LazyLock<String> =
        LazyLock::new(|| format!("{}\n{}", env!("CARGO_PKG_VERSION"), object::described()));
    &TEXT
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch the cluster, or a folder of manifests, and enforce its policies on this node until
    /// stopped.
    Agent(agent::Arguments),
    /// Stop enforcing: remove the programs, links and maps that agents put on this node, and
    /// nothing else.
    Cleanup(cleanup::Arguments),
    /// Tell whether two ends can connect, and why: the rule that allows it, or what each other rule
    /// lacks to allow it.
    Explain(explain::Arguments),
    /// Show who reaches whom, for every pair of pods.
    Matrix(matrix::Arguments),
    /// Show how this node's agent is: what it enforces, what it does not and why, and how full its
    /// maps are.
    Status(status::Arguments),
    /// Write one archive for a bug report: status, maps, programs, links, routes, qdiscs, logs,
    /// kernel and versions, without Secrets.
    Sysdump(sysdump::Arguments),
    /// Test on a live node that the agent enforces: two scratch pods, connections that are allowed
    /// and denied.
    Verify(verify::Arguments),
    /// Wait until a DaemonSet is ready on every node that it is for.
    Rollout(rollout::Arguments),
    /// Mount bpffs on /sys/fs/bpf, if it is not mounted there.
    MountBpffs(mount::Arguments),
}

/// Format of the log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Runs a command.
///
/// # Errors
/// Whatever made the command fail, with what it attempted.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let default = match cli.command {
        Command::Agent(_) | Command::Cleanup(_) | Command::Rollout(_) | Command::MountBpffs(_) => LOG,
        _ => QUIET,
    };
    let log = cli.log.as_deref().unwrap_or(default);
    let filter = EnvFilter::try_new(log).map_err(|error| anyhow::anyhow!("--log {log:?}: {error}"))?;
    // The others say little, and `mount-bpffs` may have one thread only.
    let apart = matches!(cli.command, Command::Agent(_));
    let _waiting = log::begin(filter, cli.log_format, apart)?;
    match cli.command {
        Command::Agent(arguments) => agent::run(arguments).map(|()| ExitCode::SUCCESS),
        Command::Cleanup(arguments) => cleanup::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Explain(arguments) => Ok(explain::run(arguments)),
        Command::Matrix(arguments) => Ok(matrix::run(arguments)),
        Command::Status(arguments) => Ok(status::run(&arguments)),
        Command::Sysdump(arguments) => Ok(sysdump::run(arguments)),
        Command::Verify(arguments) => Ok(verify::run(&arguments)),
        Command::Rollout(arguments) => rollout::run(arguments).map(|()| ExitCode::SUCCESS),
        Command::MountBpffs(arguments) => mount::run(&arguments).map(|()| ExitCode::SUCCESS),
    }
}
