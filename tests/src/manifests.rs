// SPDX-License-Identifier: Apache-2.0
//! A folder of manifests that the agent watches. Files appear and change atomically, by rename.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// A temporary folder of manifests.
#[derive(Debug)]
pub struct ManifestDir {
    path: PathBuf,
    temporary: Option<tempfile::TempDir>,
}

impl ManifestDir {
    /// Makes an empty folder, removed on drop.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new() -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("netpol-manifests-")
            .tempdir()
            .context("making a folder")?;
        Ok(Self {
            path: folder.path().to_owned(),
            temporary: Some(folder),
        })
    }

    /// Makes a folder with this name, which stays.
    ///
    /// # Errors
    /// If it cannot be made, or exists.
    pub fn kept(path: &Path) -> Result<Self> {
        fs::create_dir_all(path.parent().unwrap_or(path))?;
        fs::create_dir(path).with_context(|| format!("making folder {}", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
            temporary: None,
        })
    }

    /// Returns its path.
    pub fn path(&self) -> &Path {
        self.temporary.as_ref().map_or(&self.path, |folder| folder.path())
    }

    /// Writes or replaces a file.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let hidden = self.path().join(format!(".{name}.new"));
        fs::write(&hidden, text).with_context(|| format!("writing {}", hidden.display()))?;
        let file = self.path().join(name);
        fs::rename(&hidden, &file).with_context(|| format!("replacing {}", file.display()))
    }

    /// Removes a file.
    ///
    /// # Errors
    /// If it is not there.
    pub fn remove(&self, name: &str) -> Result<()> {
        let file = self.path().join(name);
        fs::remove_file(&file).with_context(|| format!("removing {}", file.display()))
    }
}
