// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask image --twice`: builds the commit a second time, from a clone in another place with
//! a target folder and an eBPF toolchain of its own, and compares what came out.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    Arguments,
    archive::{self, Image},
    sbom,
};
use crate::workspace::{Workspace, output, run};

/// Refuses what a clone would not have.
///
/// # Errors
/// If git does not run, or files were changed since the last commit.
pub fn is_possible(workspace: &Workspace) -> Result<()> {
    let changed = output(&mut git(
        workspace,
        &["status", "--porcelain", "--untracked-files=no"],
    ))?;
    ensure!(
        changed.is_empty(),
        "the second build is of the last commit, and files were changed since:\n{}",
        changed.trim_end()
    );
    Ok(())
}

/// Builds again what `arguments` ask for, and compares it with the archive of the first build.
///
/// # Errors
/// If the build fails, or any digest is another one. Both archives are kept then.
pub fn check(workspace: &Workspace, arguments: &Arguments, first: &Path) -> Result<()> {
    let place = workspace.target.join("image-again");
    if place.exists() {
        fs::remove_dir_all(&place).with_context(|| format!("cannot remove {}", place.display()))?;
    }
    println!("image: building again in {}", workspace.show(&place));
    let second = build(workspace, arguments, &place)?;
    let (one, other) = (read(first)?, read(&second)?);
    let differ = differences(&one, &other);
    if !differ.is_empty() {
        bail!(
            "two builds of one commit differ in {}; they are {} and {}",
            differ.join(", "),
            first.display(),
            second.display()
        );
    }
    ensure!(
        fs::read(first)? == fs::read(&second)?,
        "the digests are the same, the archives are not: {} and {}",
        first.display(),
        second.display()
    );
    println!("image: twice the same, index {}", other.digest);
    fs::remove_dir_all(&place).with_context(|| format!("cannot remove {}", place.display()))
}

/// Clones and builds, and returns the archive.
fn build(workspace: &Workspace, arguments: &Arguments, place: &Path) -> Result<PathBuf> {
    let (clone, target) = (place.join("clone"), place.join("elsewhere"));
    let archive = place.join("netpol-image.tar");
    run(Command::new("git")
        .args(["clone", "--quiet"])
        .arg(&workspace.root)
        .arg(&clone))?;
    if arguments.sbom {
        sbom::lend(workspace, &target)?;
    }
    let mut cargo = workspace.cargo();
    cargo
        .current_dir(&clone)
        .env("CARGO_TARGET_DIR", &target)
        .args(["run", "--quiet", "--package", "xtask", "--", "image"])
        .args(["--tag", &arguments.tag, "--output"])
        .arg(&archive);
    for architecture in &arguments.arch {
        cargo.args(["--arch", architecture.oci()]);
    }
    if arguments.sbom {
        cargo.arg("--sbom");
    }
    run(&mut cargo).context("the second build")?;
    Ok(archive)
}

fn read(path: &Path) -> Result<Image> {
    archive::read(path).with_context(|| format!("{} does not read back", path.display()))
}

/// What of two images has not the same digest, or is in one of them only.
fn differences(one: &Image, other: &Image) -> Vec<String> {
    let (one, other) = (one.digests(), other.digests());
    let mut names: Vec<_> = one.keys().chain(other.keys()).collect();
    names.sort();
    names.dedup();
    let differ = names
        .into_iter()
        .filter(|name| one.get(*name) != other.get(*name));
    differ.cloned().collect()
}

fn git(workspace: &Workspace, arguments: &[&str]) -> Command {
    let mut git = Command::new("git");
    git.arg("-C").arg(&workspace.root).args(arguments);
    git
}

#[cfg(test)]
mod tests {
    use super::{super::labels, *};

    fn image(programs: [&[u8]; 2]) -> Image {
        let path = std::env::temp_dir().join(format!("netpol-xtask-twice-{}", std::process::id()));
        let part = |(architecture, program): (&str, &[u8])| archive::Part {
            architecture: architecture.to_owned(),
            program: program.to_vec(),
            sbom: None,
        };
        let parts: Vec<_> = ["amd64", "arm64"].into_iter().zip(programs).map(part).collect();
        archive::write(&path, "netpol:test", &labels::fixed(), &parts).unwrap();
        let image = archive::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        image
    }

    #[test]
    fn one_byte_of_a_program_shows_up_to_the_index() {
        let one = image([b"a", b"b"]);
        assert!(differences(&one, &image([b"a", b"b"])).is_empty());
        assert_eq!(
            differences(&one, &image([b"a", b"c"])),
            ["arm64: layer", "arm64: manifest", "arm64: program", "index"]
        );
    }
}
