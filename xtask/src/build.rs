// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask build`, and the cargo builds of the other commands.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{toolchain, workspace::Workspace};

/// What to build.
#[derive(clap::Args)]
pub struct Arguments {
    /// Optimise
    #[arg(long)]
    release: bool,
}

/// Builds the agent.
///
/// # Errors
/// If the toolchain cannot be had, or the build fails.
pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    toolchain::prepare(workspace)?;
    let mut cargo = workspace.cargo_with_programs();
    cargo.args(["build", "--package", "netpol-agent"]);
    if arguments.release {
        cargo.arg("--release");
    }
    println!(
        "built {}",
        workspace.show(&Binaries::build(&mut cargo)?.path("netpol")?)
    );
    Ok(())
}

/// The cargo build of the agent, the demo and the benchmarks.
const PROGRAMS: [&str; 8] = [
    "build",
    "--package",
    "netpol-agent",
    "--package",
    "netpol-demo",
    "--package",
    "netpol-bench",
    "--bins",
];

/// The programs of a cargo build, by name.
pub struct Binaries(BTreeMap<String, PathBuf>);

impl Binaries {
    /// Builds the agent, the demo and the benchmarks, in the development profile.
    ///
    /// # Errors
    /// If the build fails.
    pub fn development(workspace: &Workspace) -> Result<Self> {
        Self::build(workspace.cargo_with_programs().args(PROGRAMS))
    }

    /// The same, in the release profile.
    ///
    /// # Errors
    /// If the build fails.
    pub fn optimised(workspace: &Workspace) -> Result<Self> {
        Self::build(workspace.cargo_with_programs().args(PROGRAMS).arg("--release"))
    }

    /// Runs a `cargo build` and notes where it puts the programs: the folder depends on the user's
    /// configuration.
    ///
    /// # Errors
    /// If cargo cannot be started or fails.
    pub fn build(cargo: &mut Command) -> Result<Self> {
        let output = cargo
            .arg("--message-format=json-render-diagnostics")
            .stderr(Stdio::inherit())
            .output()
            .context("cannot start cargo")?;
        if !output.status.success() {
            bail!("cargo build: {}", output.status);
        }
        let programs = String::from_utf8(output.stdout)
            .context("cargo build: output is not UTF-8")?
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter_map(|message| {
                let path = message["executable"].as_str()?;
                Some((
                    message["target"]["name"].as_str()?.to_owned(),
                    PathBuf::from(path),
                ))
            })
            .collect();
        Ok(Self(programs))
    }

    /// The absolute path of a program.
    ///
    /// # Errors
    /// If the build made no program of this name.
    pub fn path(&self, name: &str) -> Result<PathBuf> {
        self.0
            .get(name)
            .cloned()
            .with_context(|| format!("cargo build made no program `{name}`"))
    }
}
