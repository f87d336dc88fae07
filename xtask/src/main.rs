// SPDX-License-Identifier: Apache-2.0
//! Development commands: `cargo xtask --help`.

mod bench;
mod build;
mod clippy;
mod demo;
mod image;
mod kernels;
mod kube_tools;
mod manifests;
mod packages;
mod test;
mod toolchain;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use workspace::Workspace;

/// Build, test and try netpol. Every command first gets what it needs, and says what.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the agent with the eBPF programs in it
    Build(build::Arguments),
    /// Lint everything, the eBPF crate on its own target included; warnings are errors
    Clippy,
    /// Run all suites, and say which could not run on this machine
    Test(test::Arguments),
    /// Enforce policies on a node of network namespaces, and print who reaches whom
    Demo(demo::Arguments),
    /// Measure what netpol costs, and print, save and compare it
    Bench(bench::Arguments),
    /// Write an OCI image archive, without Docker
    Image(image::Arguments),
    /// Write deploy/netpol.yaml and the kustomization's base, from the Helm chart
    Manifests,
    /// Get the eBPF toolchain only: Rust's library source and bpf-linker
    Toolchain,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    let workspace = Workspace::find()?;
    match command {
        Command::Build(arguments) => build::run(&workspace, &arguments),
        Command::Clippy => clippy::run(&workspace),
        Command::Test(arguments) => test::run(&workspace, &arguments),
        Command::Demo(arguments) => demo::run(&workspace, &arguments),
        Command::Bench(arguments) => bench::run(&workspace, &arguments),
        Command::Image(arguments) => image::run(&workspace, &arguments),
        Command::Manifests => manifests::run(&workspace),
        Command::Toolchain => toolchain::prepare(&workspace).map(drop),
    }
}
