// SPDX-License-Identifier: Apache-2.0
//! Where the eBPF toolchain is that `cargo xtask` keeps in the target folder, and whether it is
//! ready for this compiler.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{Result, variable};

/// Names the toolchain's folder: `cargo xtask` sets it.
pub const FOLDER: &str = "NETPOL_EBPF_TOOLCHAIN";
/// Its name in a target folder.
const NAME: &str = "ebpf-toolchain";
/// The file in it that is written last, and says what all was made for.
const STAMP: &str = "stamp";

/// A toolchain's folder, which may not exist.
pub struct Toolchain {
    /// Its path.
    pub folder: PathBuf,
}

impl Toolchain {
    /// What [`FOLDER`] names; else the one in a folder above `out`, whatever lies between; else the
    /// one in cargo's target folder, which need not be above `out`: there is a `build.build-dir`,
    /// too. Marks that cargo leaves tell nothing: it leaves them in `target/TRIPLE` as well.
    pub fn find(out: &Path) -> Result<Self> {
        if let Some(folder) = env::var_os(FOLDER) {
            let folder = folder.into();
            return Ok(Self { folder });
        }
        let mut above = out.ancestors().map(|above| above.join(NAME));
        let folder = match above.find(|folder| is_written(&folder.join(STAMP))) {
            Some(folder) => folder,
            None => target_folder()?.join(NAME),
        };
        Ok(Self { folder })
    }

    /// Path of the stamp.
    pub fn stamp(&self) -> PathBuf {
        self.folder.join(STAMP)
    }

    /// Path of the linker.
    pub fn linker(&self) -> PathBuf {
        self.folder.join("bin/bpf-linker")
    }

    /// Whether it is there, and was made in this place for the compiler in use: the stamp is the
    /// toolchain's own path, and the sysroot and `rustc -vV` of that compiler.
    pub fn is_ready(&self) -> Result<bool> {
        let ask = |arguments: &[&str]| -> Result<Vec<u8>> {
            Ok(Command::new(variable("RUSTC")?).args(arguments).output()?.stdout)
        };
        let wanted = [
            self.folder.as_os_str().as_encoded_bytes(),
            b"\n",
            &ask(&["--print", "sysroot"])?,
            &ask(&["-vV"])?,
        ]
        .concat();
        Ok(fs::read(self.stamp()).is_ok_and(|stamp| stamp == wanted) && self.linker().is_file())
    }
}

/// An empty stamp only says that somebody looked for one.
fn is_written(stamp: &Path) -> bool {
    fs::metadata(stamp).is_ok_and(|found| found.is_file() && found.len() > 0)
}

/// Asks cargo, which knows its configuration and environment.
fn target_folder() -> Result<PathBuf> {
    let output = Command::new(variable("CARGO")?)
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .output()?;
    let answer = String::from_utf8(output.stdout)?;
    let folder = answer
        .split_once(r#""target_directory":""#)
        .and_then(|(_, rest)| rest.split_once('"'))
        .map(|(folder, _)| folder)
        // An escape of JSON.
        .filter(|folder| !folder.contains('\\'));
    let said = || {
        format!(
            "cargo metadata names no target folder: {}",
            String::from_utf8_lossy(&output.stderr)
        )
    };
    Ok(folder.ok_or_else(said)?.into())
}
