// SPDX-License-Identifier: Apache-2.0
//! The binary `netpol`.

use clap::Parser;

fn main() -> anyhow::Result<std::process::ExitCode> {
    netpol_agent::cli::run(netpol_agent::cli::Cli::parse())
}
