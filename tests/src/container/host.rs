// SPDX-License-Identifier: Apache-2.0
//! The folders of a node that `hostPath` volumes use, by their types.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::Value;
use tempfile::TempDir;

/// A folder that is the node's root, with its own bpffs where a node has it. Its mounts are
/// private, as on a node without systemd.
#[derive(Debug)]
pub struct Host {
    folder: TempDir,
    bpffs: PathBuf,
}

impl Host {
    /// Makes the folder, and mounts bpffs at `/sys/fs/bpf` in it.
    ///
    /// # Errors
    /// Without `CAP_SYS_ADMIN`.
    pub fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("netpol-host-").tempdir()?;
        let bpffs = folder.path().join("sys/fs/bpf");
        fs::create_dir_all(&bpffs)?;
        let host = Self { folder, bpffs };
        host.mount_bpffs()?;
        Ok(host)
    }

    /// Mounts bpffs, as the node's init does.
    ///
    /// # Errors
    /// Without `CAP_SYS_ADMIN`.
    pub fn mount_bpffs(&self) -> Result<()> {
        let none = None::<&str>;
        mount(
            Some("bpf"),
            &self.bpffs,
            Some("bpf"),
            MsFlags::empty(),
            Some("mode=700"),
        )
        .context("mounting bpffs")?;
        mount(none, &self.bpffs, none, MsFlags::MS_PRIVATE, none).context("making bpffs private")
    }

    /// Unmounts bpffs, which removes everything pinned there.
    ///
    /// # Errors
    /// If it is not mounted.
    pub fn unmount_bpffs(&self) -> Result<()> {
        umount2(&self.bpffs, MntFlags::MNT_DETACH).context("unmounting bpffs")
    }

    /// Returns the real location of a path of the node.
    pub fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path.trim_start_matches('/'))
    }

    /// Returns the folder of a `hostPath` volume, prepared as a kubelet does by its type.
    ///
    /// # Errors
    /// If the node lacks what the type requires.
    pub fn volume(&self, host_path: &Value) -> Result<PathBuf> {
        let named = host_path["path"].as_str().context("a hostPath without a path")?;
        let path = self.path(named);
        match host_path["type"].as_str() {
            Some("Directory") => ensure!(
                path.is_dir(),
                "hostPath type check failed: {named} is not a directory"
            ),
            Some("DirectoryOrCreate") => fs::create_dir_all(&path)?,
            other => bail!("hostPath {named} has type {other:?}, which is not known here"),
        }
        Ok(path)
    }

    /// Returns true if the mount of a path propagates the mounts in it. If it does not, a runtime
    /// starts no container with a mount that must receive them.
    ///
    /// # Errors
    /// If the mounts cannot be read.
    pub fn is_shared(path: &Path) -> Result<bool> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let of_path = mounts
            .lines()
            .filter_map(|line| Some((line.split(' ').nth(4)?, line)))
            .filter(|(point, _)| path.starts_with(point))
            .max_by_key(|(point, _)| point.len());
        Ok(of_path.is_some_and(|(_, line)| line.contains(" shared:") || line.contains(" master:")))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        while umount2(&self.bpffs, MntFlags::MNT_DETACH).is_ok() {}
    }
}
