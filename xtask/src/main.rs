// SPDX-License-Identifier: Apache-2.0
//! Development commands: `cargo xtask --help`.

mod architecture;
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

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::{Arguments, Command};

    const DOCKERFILE: &str = include_str!("../../deploy/Dockerfile");

    #[test]
    fn the_dockerfile_calls_xtask_with_arguments_that_it_takes() {
        let line = DOCKERFILE
            .lines()
            .find_map(|line| line.strip_prefix("RUN cargo xtask "))
            .expect("a call of xtask");
        for architecture in ["amd64", "arm64"] {
            let line = line.replace("${TARGETARCH}", architecture);
            let words = line.trim_end_matches('\\').split_whitespace();
            let parsed = Arguments::try_parse_from(std::iter::once("xtask").chain(words)).unwrap();
            assert!(matches!(parsed.command, Command::Image(_)));
        }
    }

    #[test]
    fn the_dockerfile_has_the_oldest_compiler_and_ends_from_scratch() {
        let rust = concat!("ARG RUST=", env!("CARGO_PKG_RUST_VERSION"));
        assert!(DOCKERFILE.contains(rust), "{rust}");
        let (_, last) = DOCKERFILE.rsplit_once("\nFROM ").expect("stages");
        assert!(last.starts_with("scratch\n"), "{last}");
        assert!(last.ends_with("\nENTRYPOINT [\"/netpol\"]\n"), "{last}");
    }
}
