// SPDX-License-Identifier: Apache-2.0
//! Runs programs inside a network namespace, such as `netpol cleanup`.

use std::{
    os::{fd::AsFd, unix::process::CommandExt},
    path::Path,
    process::Command,
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};

use crate::netns::{self, NetNs};

/// Makes `command` start inside the namespace, with no signal blocked.
pub fn inside<'a>(command: &'a mut Command, netns: &Arc<NetNs>) -> &'a mut Command {
    let netns = Arc::clone(netns);
    // SAFETY: between fork and exec this makes two system calls and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            netns::enter(netns.as_fd())?;
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
            Ok(())
        })
    }
}

/// Runs `netpol cleanup` in the namespace, and checks that the pins are gone.
///
/// # Errors
/// If it fails, or leaves pins behind.
pub fn cleanup(binary: &Path, netns: &Arc<NetNs>, pin_path: &Path) -> Result<()> {
    let mut command = Command::new(binary);
    command.arg("cleanup").arg("--pin-path").arg(pin_path);
    let output = inside(&mut command, netns)
        .output()
        .context("starting netpol cleanup")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "netpol cleanup ended with {}: {said}",
        output.status
    );
    ensure!(
        !pin_path.exists(),
        "netpol cleanup left {} behind: {said}",
        pin_path.display()
    );
    Ok(())
}
