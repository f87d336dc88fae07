// SPDX-License-Identifier: Apache-2.0
//! Decides if a suite with real packets can run here. One that cannot says so loudly, and fails
//! where everything must run.

use std::{
    env,
    fs::OpenOptions,
    io::{self, Write},
    path::PathBuf,
    process::Command,
};

use netpol_agent::datapath::object::EBPF_OBJECT;
use nix::unistd::geteuid;

/// Environment variable with a file that collects a line for each suite that was not run.
pub const REPORT: &str = "NETPOL_TEST_REPORT";
/// Environment variable: if set, a suite that cannot run fails.
pub const REQUIRE_ALL: &str = "NETPOL_REQUIRE_ALL";
/// Environment variable with the agent's binary.
pub const BINARY: &str = "NETPOL_BIN";
/// Environment variable with the folder of `kube-apiserver` and `etcd`, as for envtest.
pub const ASSETS: &str = "KUBEBUILDER_ASSETS";

/// Returns true if `suite` can make namespaces; otherwise says why on stderr and in the [`REPORT`].
///
/// # Panics
/// If it cannot, and [`REQUIRE_ALL`] is set.
pub fn can_make_nodes(suite: &str) -> bool {
    settle(suite, obstacle())
}

/// Returns true if `suite` can make namespaces and run the agent in them. As [`can_make_nodes`].
///
/// # Panics
/// If it cannot, and [`REQUIRE_ALL`] is set.
pub fn can_enforce(suite: &str) -> bool {
    settle(suite, obstacle().or_else(no_agent))
}

/// Returns true if `suite` can make namespaces and run the agent and a Kubernetes API server in
/// them. As [`can_make_nodes`].
///
/// # Panics
/// If it cannot, and [`REQUIRE_ALL`] is set.
pub fn can_use_api_server(suite: &str) -> bool {
    settle(suite, obstacle().or_else(no_agent).or_else(|| api_server().err()))
}

/// Returns the folder of `kube-apiserver` and `etcd`, from [`ASSETS`].
///
/// # Errors
/// A message, if it is not set, or lacks one of them.
pub fn api_server() -> Result<PathBuf, String> {
    let folder = env::var_os(ASSETS)
        .filter(|folder| !folder.is_empty())
        .map(PathBuf::from);
    let folder = folder.ok_or_else(|| {
        format!(
            "no API server: {ASSETS} is not set; `tests/apiserver/build.sh DIR` makes one, then set it to DIR"
        )
    })?;
    match ["kube-apiserver", "etcd"]
        .iter()
        .find(|name| !folder.join(name).is_file())
    {
        Some(name) => Err(format!(
            "no API server: {ASSETS} is {}, where no {name} is",
            folder.display()
        )),
        None => Ok(folder),
    }
}

/// Returns true if `suite` can load the programs into the kernel. As [`can_make_nodes`].
///
/// # Panics
/// If it cannot, and [`REQUIRE_ALL`] is set.
pub fn can_load(suite: &str) -> bool {
    let missing = || {
        EBPF_OBJECT
            .is_none()
            .then(|| "this build has no eBPF programs".to_owned())
    };
    settle(suite, obstacle().or_else(missing))
}

/// Returns the agent's binary: from [`BINARY`], otherwise `netpol` in the folder of this program or
/// the one above it.
pub fn binary() -> Option<PathBuf> {
    if let Some(path) = env::var_os(BINARY) {
        return Some(PathBuf::from(path)).filter(|path| path.is_file());
    }
    let program = env::current_exe().ok()?;
    program
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("netpol"))
        .find(|path| path.is_file())
}

fn no_agent() -> Option<String> {
    let none = binary().is_none();
    none.then(|| format!("no agent: {BINARY} names no file, and there is no netpol beside this program"))
}

fn obstacle() -> Option<String> {
    if !geteuid().is_root() {
        return Some("not root: network namespaces cannot be made".to_owned());
    }
    match Command::new("ip").arg("-V").output() {
        Ok(output) if output.status.success() => None,
        _ => Some("no ip tool: install iproute2".to_owned()),
    }
}

/// Returns true if `suite` can run, without an obstacle; otherwise reports it on stderr and in the
/// [`REPORT`].
///
/// # Panics
/// If it cannot, and [`REQUIRE_ALL`] is set.
pub fn settle(suite: &str, obstacle: Option<String>) -> bool {
    let Some(reason) = obstacle else { return true };
    // Not by eprintln!: the test runner would swallow it.
    let _ = writeln!(io::stderr(), "\n*** NOT RUN: {suite}: {reason} ***\n");
    if let Some(report) = env::var_os(REPORT) {
        let file = OpenOptions::new().create(true).append(true).open(&report);
        // In one write: other tests append at the same time.
        let line = format!("not run: {suite}: {reason}\n");
        if let Err(error) = file.and_then(|mut file| file.write_all(line.as_bytes())) {
            eprintln!("writing {}: {error}", report.to_string_lossy());
        }
    }
    assert!(
        env::var_os(REQUIRE_ALL).is_none(),
        "{suite} must run, but: {reason}"
    );
    false
}
