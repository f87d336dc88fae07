// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench`.

use std::{path::PathBuf, process::Command};

use anyhow::Result;

use crate::{
    build::Binaries,
    packages, toolchain,
    workspace::{Workspace, run as run_command},
};

/// What to measure, and what to do with it.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only the figures of a group, or those of it whose names begin so
    #[arg(long, value_name = "GROUP[/NAME]")]
    only: Option<String>,
    /// Fewer repetitions and sizes: a first look
    #[arg(long)]
    quick: bool,
    /// Folder for bench.json and the pictures; netpol-bench in the target folder if absent
    #[arg(long)]
    out: Option<PathBuf>,
    /// Say what changed since a saved run
    #[arg(long, value_name = "FILE.json")]
    compare: Option<PathBuf>,
    /// Replace BENCHMARKS.md by this run; with --only, by the run that is in the folder with these
    /// figures instead of its own
    #[arg(long, conflicts_with = "quick")]
    write: bool,
}

/// Builds everything optimised, and measures.
///
/// # Errors
/// If something that it needs cannot be had, or something cannot be measured.
pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    packages::install()?;
    packages::install_for_bench()?;
    toolchain::prepare(workspace)?;
    let binaries = Binaries::optimised(workspace)?;
    let mut bench = Command::new(binaries.path("netpol-bench")?);
    bench.env("NETPOL_BIN", binaries.path("netpol")?);
    let out = arguments
        .out
        .clone()
        .unwrap_or_else(|| workspace.target.join("netpol-bench"));
    bench.arg("--out").arg(out);
    if let Some(only) = &arguments.only {
        bench.args(["--only", only]);
    }
    if let Some(compare) = &arguments.compare {
        bench.arg("--compare").arg(compare);
    }
    if arguments.quick {
        bench.arg("--quick");
    }
    if arguments.write {
        bench.arg("--write");
    }
    run_command(&mut bench)
}
