// SPDX-License-Identifier: Apache-2.0
//! `netpol mount-bpffs`.

use std::{fs::File, path::PathBuf};

use anyhow::Context;
use clap::Args;
use nix::sched::{CloneFlags, setns};

use super::read::say;
use crate::datapath::bpffs::{self, MOUNT_POINT};

/// Arguments of `netpol mount-bpffs`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The mount namespace to mount it in, as a file: `/proc/1/ns/mnt` of the node, for a container
    /// that has the node's /proc. Default: that of this process.
    #[arg(long, value_name = "FILE")]
    mount_namespace: Option<PathBuf>,
}

/// Mounts bpffs if it is not mounted. No other thread may run.
///
/// # Errors
/// The namespace cannot be entered, or mounting fails.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if let Some(path) = &arguments.mount_namespace {
        let attempt = || format!("entering the mount namespace {}", path.display());
        let namespace = File::open(path).with_context(attempt)?;
        setns(namespace, CloneFlags::CLONE_NEWNS).with_context(attempt)?;
    }
    if bpffs::mount_if_missing()? {
        say(&format!("mounted bpffs on {MOUNT_POINT}"));
    } else {
        say(&format!("bpffs is mounted on {MOUNT_POINT} already"));
    }
    Ok(())
}
