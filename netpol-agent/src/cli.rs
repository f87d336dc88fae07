// SPDX-License-Identifier: Apache-2.0
//! The command line.

pub mod agent;
pub mod cleanup;

use std::io::IsTerminal;

use clap::{Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

/// Default of `--log`. The client library logs each failed request at its own level; the watch stage says once what it means.
const LOG: &str = "info,kube_client=off,kube_runtime=off";

/// Enforces Kubernetes NetworkPolicy on the pods of one node, with eBPF programs at their interfaces.
#[derive(Debug, Parser)]
#[command(name = "netpol", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Form of the log lines on standard error.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// What to log: a level (error, warn, info, debug, trace), or levels by module, e.g. `info,netpol_agent::sync=debug`.
    #[arg(
        long,
        global = true,
        value_name = "FILTER",
        default_value = LOG,
        env = "NETPOL_LOG"
    )]
    pub log: String,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch the cluster, or a folder of manifests, and enforce its policies on this node until stopped.
    Agent(agent::Arguments),
    /// Stop enforcing: remove the programs, links and maps that agents put on this node, and nothing else.
    Cleanup(cleanup::Arguments),
}

/// Form of the log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Runs a command.
///
/// # Errors
/// Whatever made it fail, with what was attempted.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    let filter =
        EnvFilter::try_new(&cli.log).map_err(|error| anyhow::anyhow!("--log {:?}: {error}", cli.log))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match cli.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    match cli.command {
        Command::Agent(arguments) => agent::run(arguments),
        Command::Cleanup(arguments) => cleanup::run(&arguments),
    }
}
