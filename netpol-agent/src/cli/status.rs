// SPDX-License-Identifier: Apache-2.0
//! `netpol status`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Args, ValueEnum};

use super::{ask::ask, read};
use crate::observe::overview::Overview;

/// Arguments of `netpol status`.
#[derive(Debug, Args)]
#[command(after_help = "\
The agent compares the kernel with what it wrote and attached before it answers. What differs is
shown, and repaired at once.

Exit code: 0 if all conditions are met. 1 if one failed. 2 if there is no answer.

Examples:
  netpol status
  netpol status -o json | jq '.pods[] | select(.state != \"enforced\")'")]
pub struct Arguments {
    /// Format of the answer.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// The agent's socket.
    #[arg(long, value_name = "PATH", default_value = super::agent::SOCKET, env = "NETPOL_SOCKET")]
    socket: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

/// Prints the status and returns the exit code.
pub fn run(arguments: &Arguments) -> ExitCode {
    read::exit(show(arguments))
}

fn show(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let overview: Overview = ask(&arguments.socket, "/status")?;
    let text = match arguments.output {
        Output::Text => overview.to_string(),
        Output::Json => serde_json::to_string_pretty(&overview).context("writing JSON")? + "\n",
    };
    read::print(&text)?;
    Ok(ExitCode::from(u8::from(!overview.is_healthy())))
}
