// SPDX-License-Identifier: Apache-2.0
//! The BPF file system: maps and links that are pinned there outlive the agent.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use thiserror::Error;
use tracing::info;

/// Where bpffs is mounted by convention (Documentation/bpf of the kernel).
pub const MOUNT_POINT: &str = "/sys/fs/bpf";

/// Why the folder for pins cannot be used.
#[derive(Debug, Error)]
pub enum BpffsError {
    /// Mounting failed.
    #[error(
        "mounting bpffs on {MOUNT_POINT}: give the agent CAP_SYS_ADMIN, or mount it before: \
         mount -t bpf bpf {MOUNT_POINT} (in a pod: a hostPath volume of {MOUNT_POINT})"
    )]
    Mount(#[source] nix::Error),
    /// The path is on another file system.
    #[error(
        "{path} is not on bpffs, where maps and links are pinned: choose a --pin-path below {MOUNT_POINT}"
    )]
    NotBpffs {
        /// The folder.
        path: PathBuf,
    },
    /// Another process uses the pins.
    #[error("another netpol process works on {path}: stop it first")]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// A folder or file operation failed.
    #[error("{what} {path}")]
    Io {
        /// What was attempted.
        what: &'static str,
        /// The folder or file.
        path: PathBuf,
        /// The error.
        #[source]
        error: io::Error,
    },
}

/// Only root can open the folder. Maps show what is enforced, and whoever can open a folder can
/// take its lock.
const PRIVATE: u32 = 0o700;

/// Mounts bpffs at its usual place, if it is not mounted there. Returns true if it was not.
///
/// # Errors
/// Permission is missing, or the kernel has no bpffs.
pub fn mount_if_missing() -> Result<bool, BpffsError> {
    if is_bpffs(Path::new(MOUNT_POINT)) {
        return Ok(false);
    }
    mount(
        Some("bpf"),
        MOUNT_POINT,
        Some("bpf"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        Some(format!("mode={PRIVATE:o}").as_str()),
    )
    .map_err(BpffsError::Mount)?;
    Ok(true)
}

/// Makes a folder on bpffs, for root only. Mounts bpffs at its usual place if needed.
///
/// # Errors
/// The path is not on bpffs, or permission is missing.
pub fn make_folder(folder: &Path) -> Result<(), BpffsError> {
    if folder.starts_with(MOUNT_POINT) && mount_if_missing()? {
        info!(path = MOUNT_POINT, "mounted bpffs");
    }
    let existing = folder
        .ancestors()
        .find(|ancestor| ancestor.exists())
        .unwrap_or(Path::new("/"));
    if !is_bpffs(existing) {
        return Err(BpffsError::NotBpffs {
            path: folder.to_owned(),
        });
    }
    let failed = |what| {
        move |error| BpffsError::Io {
            what,
            path: folder.to_owned(),
            error,
        }
    };
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(PRIVATE);
    builder.create(folder).map_err(failed("creating"))?;
    // An earlier agent may have made it accessible to others.
    fs::set_permissions(folder, Permissions::from_mode(PRIVATE)).map_err(failed("closing to others"))
}

/// Exclusive use of the pins below a folder. It ends with the process.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held, not read")] Flock<File>);

/// Locks the pins below an existing folder.
///
/// # Errors
/// Another process holds the lock.
pub fn lock(folder: &Path) -> Result<Lock, BpffsError> {
    let file = File::open(folder).map_err(|error| BpffsError::Io {
        what: "opening",
        path: folder.to_owned(),
        error,
    })?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map(Lock)
        .map_err(|(_, _)| BpffsError::InUse {
            path: folder.to_owned(),
        })
}

/// The mount of bpffs that a folder is on.
pub fn root(folder: &Path) -> PathBuf {
    let above = folder.ancestors().take_while(|above| is_bpffs(above));
    above.last().unwrap_or(folder).to_owned()
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|statfs| statfs.filesystem_type() == BPF_FS_MAGIC)
}

/// Lists a folder, sorted.
///
/// # Errors
/// It cannot be read.
pub fn list(folder: &Path) -> Result<Vec<PathBuf>, BpffsError> {
    let read = || -> io::Result<Vec<PathBuf>> {
        let mut paths: Vec<PathBuf> = fs::read_dir(folder)?
            .map(|entry| Ok(entry?.path()))
            .collect::<io::Result<_>>()?;
        paths.sort();
        Ok(paths)
    };
    read().map_err(|error| BpffsError::Io {
        what: "reading",
        path: folder.to_owned(),
        error,
    })
}

/// Gives a pin another path on the same bpffs.
///
/// # Errors
/// There is none, or it cannot be moved.
pub fn rename(from: &Path, to: &Path) -> Result<(), BpffsError> {
    fs::rename(from, to).map_err(|error| BpffsError::Io {
        what: "renaming",
        path: from.to_owned(),
        error,
    })
}

/// Removes a pin, or a folder with all pins and folders in it. Accepts that it is already gone.
///
/// # Errors
/// The first that cannot be removed.
pub fn remove_all(path: &Path) -> Result<(), BpffsError> {
    if path.is_dir() {
        for within in list(path)? {
            remove_all(&within)?;
        }
    }
    remove(path)
}

/// Removes a pin, or an empty folder. Accepts that it is already gone.
///
/// # Errors
/// It cannot be removed.
pub fn remove(path: &Path) -> Result<(), BpffsError> {
    let removed = if path.is_dir() {
        fs::remove_dir(path)
    } else {
        fs::remove_file(path)
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(BpffsError::Io {
            what: "removing",
            path: path.to_owned(),
            error,
        }),
        _ => Ok(()),
    }
}
