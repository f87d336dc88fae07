// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask demo`.

use std::{path::PathBuf, process::Command};

use anyhow::Result;

use crate::{
    build::Binaries,
    packages, toolchain,
    workspace::{Workspace, run as run_command},
};

/// What to show.
#[derive(clap::Args)]
pub struct Arguments {
    /// Folder of manifests; the demo's own if absent
    folder: Option<PathBuf>,
    /// Leave nodes, pods and agent running, and say how to look into them
    #[arg(long)]
    keep: bool,
}

/// Builds the agent and runs the demo with it.
///
/// # Errors
/// If something that it needs cannot be had, or the demo fails: a cell of its matrix is wrong.
pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    packages::install()?;
    toolchain::prepare(workspace)?;
    let binaries = Binaries::development(workspace)?;
    let mut demo = Command::new(binaries.path("netpol-demo")?);
    demo.args(&arguments.folder)
        .env("NETPOL_BIN", binaries.path("netpol")?);
    if arguments.keep {
        demo.arg("--keep");
    }
    run_command(&mut demo)
}
