// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask clippy`: the default members, and the eBPF crate on its own target.

use anyhow::Result;

use crate::{
    toolchain,
    workspace::{Workspace, run as run_command},
};

/// Lints with warnings as errors.
///
/// # Errors
/// If the toolchain cannot be had, or there is a warning.
pub fn run(workspace: &Workspace) -> Result<()> {
    let toolchain = toolchain::prepare(workspace)?;
    run_command(
        workspace
            .cargo()
            .args(["clippy", "--all-targets", "--", "-D", "warnings"]),
    )?;
    let mut ebpf = workspace.cargo();
    ebpf.args(["clippy", "--package", "netpol-ebpf", "--release"])
        .args(["--target", "bpfel-unknown-none", "-Z", "build-std=core"])
        .arg("--target-dir")
        .arg(workspace.target.join("ebpf-clippy"))
        .args(["--", "-D", "warnings"])
        .env("RUSTC_BOOTSTRAP", "1")
        // clippy-driver answers for rustc here, and takes its sysroot from this variable.
        .env("SYSROOT", toolchain.sysroot)
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH),
        );
    if let Some(rustc) = toolchain.rustc {
        ebpf.env("RUSTC", rustc);
    }
    run_command(&mut ebpf)
}
