// SPDX-License-Identifier: Apache-2.0
//! The binary `netpol`.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    netpol_agent::cli::run(netpol_agent::cli::Cli::parse()).unwrap_or_else(|error| {
        netpol_agent::cli::log::tell(&error);
        ExitCode::FAILURE
    })
}
