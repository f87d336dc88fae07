// SPDX-License-Identifier: Apache-2.0
//! `netpol matrix`.

use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, ValueEnum};

use super::read::{self, Reading};
use crate::{
    explain::Port,
    matrix::{Pair, matrix, ports_of_policies},
    watch::Source,
};

/// Arguments of `netpol matrix`.
#[derive(Debug, Args)]
#[command(after_help = "\
Judges every ordered pair of different pods that have addresses of a common family. Pods on the
host's network, finished pods and pods without an address are left out. The packet that opens a
connection is judged; traffic to a Service is traffic to its backends.

The matrix shows what policies say. Whether a node enforces them, only its agent knows (netpol
explain without --source).

Exit code: 0, or 2 if there is no answer.

Examples:
  netpol matrix --source ./manifests --port 80/TCP --port 53/UDP
  netpol matrix --source kube -o html > matrix.html")]
pub struct Arguments {
    /// Where to read the objects: `kube` for a cluster's API server, or a folder of manifests.
    #[arg(long, value_name = "kube|DIR", default_value = "kube", env = "NETPOL_SOURCE")]
    source: Source,
    /// Port by number, e.g. 80/TCP, icmp, or ip/NUMBER. Can be given several times. Default: every
    /// port that a policy names: both ends of a range, each number that a pod gives a named port,
    /// and 80 for an entry with only a protocol. If policies name none, all ports have the same
    /// verdict, and the default is 80/TCP.
    #[arg(long = "port", value_name = "PORT/PROTOCOL")]
    ports: Vec<Port>,
    /// Format of the matrix.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(flatten)]
    reading: Reading,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For a terminal.
    Table,
    /// A list of pairs.
    Json,
    /// One self-contained page.
    Html,
}

/// Prints the matrix and returns the exit code.
pub fn run(arguments: Arguments) -> ExitCode {
    read::exit(show(arguments))
}

fn show(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let (snapshot, nodes) = arguments.reading.read(arguments.source)?;
    let mut ports = arguments.ports;
    if ports.is_empty() {
        ports = ports_of_policies(&snapshot);
    }
    let mut seen = std::collections::BTreeSet::new();
    ports.retain(|port| seen.insert(*port));
    let matrix = matrix(&snapshot, &nodes, &ports);
    let text = match arguments.output {
        Output::Table => matrix.to_string(),
        Output::Json => {
            let pairs: Vec<Pair> = matrix.pairs().collect();
            serde_json::to_string_pretty(&pairs).context("writing JSON")? + "\n"
        }
        Output::Html => matrix.html(),
    };
    read::print(&text)?;
    Ok(ExitCode::SUCCESS)
}
