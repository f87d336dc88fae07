// SPDX-License-Identifier: Apache-2.0
//! Reads an OCI image archive as a runtime does: from the index to the layers, by their digests.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Environment variable with the archive that `cargo xtask image` wrote.
pub const IMAGE: &str = "NETPOL_IMAGE";

/// Returns the archive to test.
///
/// # Errors
/// A message, if there is none.
pub fn archive() -> Result<PathBuf, String> {
    match env::var_os(IMAGE).map(PathBuf::from) {
        Some(path) if path.is_file() => Ok(path),
        Some(path) => Err(format!(
            "no image: {IMAGE} is {}, which is no file",
            path.display()
        )),
        None => Err(format!(
            "no image: {IMAGE} is not set; `cargo xtask test` builds one and sets it"
        )),
    }
}

/// An unpacked image.
#[derive(Debug, Clone)]
pub struct Image {
    /// The root file system.
    pub root: PathBuf,
    /// Its configuration for containers.
    pub config: Value,
}

impl Image {
    /// Unpacks an archive into an existing folder.
    ///
    /// # Errors
    /// If it is not what a runtime expects.
    pub fn unpack(archive: &Path, folder: &Path) -> Result<Self> {
        let (layout, root) = (folder.join("layout"), folder.join("root"));
        tar::Archive::new(File::open(archive)?)
            .unpack(&layout)
            .with_context(|| format!("unpacking {}", archive.display()))?;
        fs::create_dir(&root)?;
        let blob = |descriptor: &Value| -> Result<PathBuf> {
            let digest = descriptor["digest"]
                .as_str()
                .context("a descriptor without a digest")?;
            let path = layout.join("blobs").join(digest.replace(':', "/"));
            let size = fs::metadata(&path)
                .with_context(|| path.display().to_string())?
                .len();
            ensure!(descriptor["size"] == size, "{digest} has another size");
            Ok(path)
        };
        let json = |path: &Path| -> Result<Value> {
            serde_json::from_slice(&fs::read(path)?).with_context(|| path.display().to_string())
        };
        let index = json(&blob(&json(&layout.join("index.json"))?["manifests"][0])?)?;
        let architecture = match env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let manifest = index["manifests"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|entry| entry["platform"]["architecture"] == architecture)
            .with_context(|| format!("no image for {architecture}"))?;
        let manifest = json(&blob(manifest)?)?;
        for layer in manifest["layers"].as_array().context("no layers")? {
            let mut layer = tar::Archive::new(File::open(blob(layer)?)?);
            layer.set_preserve_permissions(true);
            layer.unpack(&root)?;
        }
        let config = json(&blob(&manifest["config"])?)?["config"].clone();
        Ok(Self { root, config })
    }
}
