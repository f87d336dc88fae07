// SPDX-License-Identifier: Apache-2.0
//! `netpol-bench`: see the library beside it.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use netpol_bench::Options;

/// Measures what netpol costs, each thing beside what it is held against.
///
/// Exits with 2 if something cannot be measured. A target that is missed is marked, and is no
/// error.
#[derive(Debug, Parser)]
#[command(name = "netpol-bench", version)]
struct Arguments {
    /// Only the figures of a group, or those of it whose names begin so.
    #[arg(long, value_name = "GROUP[/NAME]")]
    only: Option<String>,
    /// Fewer repetitions and sizes: a first look, whose numbers are not for quoting.
    #[arg(long)]
    quick: bool,
    /// Folder for bench.json and the pictures.
    #[arg(long, default_value = "netpol-bench")]
    out: PathBuf,
    /// Say what changed since a saved run.
    #[arg(long, value_name = "FILE.json")]
    compare: Option<PathBuf>,
    /// Replace BENCHMARKS.md by this run; with --only, by the run that is in the folder with these
    /// figures instead of its own.
    #[arg(long, conflicts_with = "quick")]
    write: bool,
}

fn main() -> ExitCode {
    let Arguments {
        only,
        quick,
        out,
        compare,
        write,
    } = Arguments::parse();
    let options = Options {
        only,
        quick,
        out,
        compare,
        write,
    };
    match netpol_bench::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("netpol-bench: {error:#}");
            ExitCode::from(2)
        }
    }
}
