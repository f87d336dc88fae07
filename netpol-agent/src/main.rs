// SPDX-License-Identifier: Apache-2.0
//! The binary `netpol`.

use std::{io::Write as _, process::ExitCode};

use clap::Parser;

fn main() -> ExitCode {
    netpol_agent::cli::run(netpol_agent::cli::Cli::parse()).unwrap_or_else(|error| {
        // The causes, not a backtrace, whatever the environment asks for: these are for operators.
        // What cannot be written changes nothing.
        let _ = writeln!(std::io::stderr(), "Error: {error:#}");
        ExitCode::FAILURE
    })
}
