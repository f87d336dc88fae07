// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask test`.

use std::{collections::BTreeSet, env, fs};

use anyhow::{Context as _, Result};

use crate::{
    build::Binaries,
    image, kernels, kube_tools, packages, toolchain,
    workspace::{Workspace, run as run_command},
};

/// What a suite that does not run here writes a line with into the report: `not run: SUITE:
/// REASON`.
const NOT_RUN: &str = "not run: ";

/// Environment variable: how many tests of a suite run at a time.
const THREADS: &str = "RUST_TEST_THREADS";

/// Most tests wait for packets that must not come: one more than there are cores keeps these busy.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from) + 1
}

/// What to test.
#[derive(clap::Args)]
pub struct Arguments {
    /// Run the cases that take minutes, too (sets NETPOL_TEST_LONG for the suites)
    #[arg(long)]
    long: bool,
    /// Fail if a suite cannot run on this machine (also with the environment variable CI)
    #[arg(long)]
    require_all: bool,
    /// Do not build the image, and leave out the suite that starts it: a build of some minutes
    #[arg(long)]
    no_image: bool,
    /// Run suites in kernels of Debian, under QEMU, instead of here: all, amd64, arm64, oldest,
    /// newest, or one as 6.1 or 6.12-arm64
    #[arg(
        long,
        value_name = "KERNEL,...",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "all",
        value_delimiter = ','
    )]
    kernels: Vec<kernels::Choice>,
    /// Write the table of docs/kernels.md
    #[arg(long, requires = "kernels")]
    write: bool,
    /// Run only tests whose name contains one of these
    filter: Vec<String>,
}

/// Runs all suites, documentation tests included.
///
/// # Errors
/// If something that the suites need cannot be had, or a test fails.
pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    if !arguments.kernels.is_empty() {
        return kernels::run(
            workspace,
            &kernels::Run {
                choices: &arguments.kernels,
                filter: &arguments.filter,
                write: arguments.write,
            },
        );
    }
    packages::install()?;
    toolchain::prepare(workspace)?;
    // One suite needs them, which says so if they are not there.
    let kube_tools = kube_tools::prepare(workspace)
        .inspect_err(|error| println!("kube-tools: {error:#}"))
        .ok();
    let netpol = Binaries::development(workspace)?.path("netpol")?;
    let image = (!arguments.no_image)
        .then(|| image::build(workspace))
        .transpose()?;

    let report = workspace.target.join("netpol-test-report");
    fs::write(&report, "").with_context(|| format!("cannot write {}", report.display()))?;
    let mut cargo = workspace.cargo_with_programs();
    cargo
        .args(["test", "--no-fail-fast", "--"])
        .args(&arguments.filter);
    cargo.env("NETPOL_BIN", netpol).env("NETPOL_TEST_REPORT", &report);
    if env::var_os(THREADS).is_none() {
        cargo.env(THREADS, threads().to_string());
    }
    if let Some(tools) = kube_tools {
        cargo
            .env("NETPOL_HELM", tools.helm)
            .env("NETPOL_KUBECTL", tools.kubectl);
    }
    if let Some(image) = image {
        cargo.env("NETPOL_IMAGE", image);
    }
    if arguments.long {
        cargo.env("NETPOL_TEST_LONG", "1");
    }
    if arguments.require_all || env::var_os("CI").is_some_and(|value| !value.is_empty()) {
        cargo.env("NETPOL_REQUIRE_ALL", "1");
    }
    let result = run_command(&mut cargo);

    let text = fs::read_to_string(&report).with_context(|| format!("cannot read {}", report.display()))?;
    for line in summary(&text) {
        println!("{line}");
    }
    result
}

/// One line a suite that did not run, whatever the number of its tests that said so.
fn summary(report: &str) -> Vec<String> {
    let not_run: BTreeSet<&str> = report.lines().filter(|line| line.starts_with(NOT_RUN)).collect();
    if not_run.is_empty() {
        return vec!["test: no suite was left out".to_owned()];
    }
    let headline = format!("test: {} left out on this machine:", not_run.len());
    std::iter::once(headline)
        .chain(not_run.into_iter().map(|line| format!("  {line}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::summary;

    #[test]
    fn a_suite_that_did_not_run_is_named_once() {
        let report = "not run: real packets: not root\nnoise\nnot run: real packets: not root\nnot run: api: no server\n";
        assert_eq!(
            summary(report),
            [
                "test: 2 left out on this machine:",
                "  not run: api: no server",
                "  not run: real packets: not root"
            ]
        );
        assert_eq!(summary(""), ["test: no suite was left out"]);
    }
}
