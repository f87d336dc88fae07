// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask test --kernels`: boots kernels of Debian under QEMU, and runs suites in them.

mod console;
mod guest;
mod initramfs;
mod modules;
mod table;

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    fs,
    path::{Path, PathBuf},
    process::Command,
    str::FromStr,
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum as _;

use crate::{
    architecture::Architecture,
    build::Binaries,
    image::program,
    packages, toolchain,
    workspace::{Workspace, run as run_command},
};

/// A version of Linux, and the Debian release whose cloud kernel it is.
struct Kernel {
    name: &'static str,
    debian: &'static str,
    architecture: Architecture,
    /// What the agent must say if the programs do not run there.
    refuses: Option<&'static str>,
}

/// For each architecture, from the oldest to the newest.
const KERNELS: [Kernel; 6] = [
    Kernel {
        name: "5.10",
        debian: "bullseye",
        architecture: Architecture::Amd64,
        refuses: Some("which Linux 5.12 has"),
    },
    Kernel {
        name: "6.1",
        debian: "bookworm",
        architecture: Architecture::Amd64,
        refuses: None,
    },
    Kernel {
        name: "6.12",
        debian: "trixie",
        architecture: Architecture::Amd64,
        refuses: None,
    },
    Kernel {
        name: "newest",
        debian: "sid",
        architecture: Architecture::Amd64,
        refuses: None,
    },
    Kernel {
        name: "6.1-arm64",
        debian: "bookworm",
        architecture: Architecture::Arm64,
        refuses: None,
    },
    Kernel {
        name: "6.12-arm64",
        debian: "trixie",
        architecture: Architecture::Arm64,
        refuses: None,
    },
];

/// Which kernels to boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// All of them.
    All,
    /// Those for an architecture.
    Of(Architecture),
    /// The one with this index.
    One(usize),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(architecture) = Architecture::from_str(text, false) {
            return Ok(Self::Of(architecture));
        }
        let position = match text {
            "all" => return Ok(Self::All),
            "oldest" => KERNELS.iter().position(|kernel| kernel.refuses.is_none()),
            _ => KERNELS.iter().position(|kernel| kernel.name == text),
        };
        position.map(Self::One).ok_or_else(|| {
            let names = KERNELS.map(|kernel| kernel.name).join(", ");
            format!("no such kernel: all, amd64, arm64, oldest, {names}")
        })
    }
}

/// Suites that run in the guests.
const SUITES: [&str; 3] = ["kernels", "progrun", "namespaces"];

/// What runs in the guests.
pub struct Run<'a> {
    /// The kernels.
    pub choices: &'a [Choice],
    /// Only tests whose name contains one of these; no table is made of them.
    pub filter: &'a [String],
    /// Write the table of docs/kernels.md.
    pub write: bool,
}

/// Boots each kernel and runs the suites in it. Prints the table of what was found.
///
/// # Errors
/// If something that the guests need cannot be had, a guest does not boot or end, or a test fails.
pub fn run(workspace: &Workspace, run: &Run<'_>) -> Result<()> {
    packages::install()?;
    let kernels = chosen(run.choices);
    let emulators: BTreeSet<_> = kernels
        .iter()
        .map(|kernel| kernel.architecture.emulator())
        .collect();
    packages::install_for_kernels(&Vec::from_iter(emulators))?;
    toolchain::prepare(workspace)?;
    let mut rows = Vec::new();
    let mut failed = Vec::new();
    let mut archives = BTreeMap::new();
    for kernel in kernels {
        let folder = folder(workspace, kernel.architecture);
        let common = match archives.entry(kernel.architecture.oci()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let programs = programs(workspace, kernel.architecture)?;
                place.insert(initramfs::common(workspace, &folder, &programs)?)
            }
        };
        let files = files(workspace, &folder, kernel)?;
        let initrd = initramfs::of_kernel(&files, common)?;
        println!(
            "kernels: booting Linux {} of Debian {} ({})",
            files.release,
            kernel.debian,
            kernel.architecture.oci()
        );
        let start = Instant::now();
        let outcome = guest::boot(kernel, &files, &initrd, run.filter)?;
        let seconds = start.elapsed().as_secs();
        println!(
            "kernels: Linux {}: {} in {seconds} s",
            files.release,
            outcome.summary(kernel.refuses)
        );
        if !outcome.is_as_expected(kernel.refuses) {
            failed.push(files.release.clone());
        }
        rows.push(table::Row::new(kernel, &files.release, &outcome));
    }
    let lines = table::of(&rows);
    print!("\n{lines}\n");
    ensure!(failed.is_empty(), "failed on Linux {}", failed.join(", "));
    if run.write {
        ensure!(
            run.filter.is_empty() && rows.len() == KERNELS.len(),
            "the table is of all kernels and all tests"
        );
        table::write(&workspace.root, &lines)?;
    }
    Ok(())
}

/// The kernels of some choices, each once, from the oldest on.
fn chosen(choices: &[Choice]) -> Vec<&'static Kernel> {
    let is_chosen = |index: usize| {
        choices.iter().any(|choice| match choice {
            Choice::All => true,
            Choice::Of(architecture) => KERNELS[index].architecture == *architecture,
            Choice::One(one) => *one == index,
        })
    };
    let kernels = KERNELS.iter().enumerate();
    kernels
        .filter(|(index, _)| is_chosen(*index))
        .map(|(_, kernel)| kernel)
        .collect()
}

/// Where the files of an architecture's kernels are kept.
fn folder(workspace: &Workspace, architecture: Architecture) -> PathBuf {
    let folder = workspace.target.join("kernels");
    match architecture {
        Architecture::Amd64 => folder,
        Architecture::Arm64 => folder.join("arm64"),
    }
}

/// What a kernel boots from.
struct Files {
    /// As `uname -r` says.
    release: String,
    /// Folder with `vmlinuz`, `modules` and `busybox`; for another architecture than this machine's
    /// with `tools`, too.
    folder: PathBuf,
}

/// Gets the files of a kernel out of Debian's packages, if an earlier run did not.
fn files(workspace: &Workspace, folder: &Path, kernel: &Kernel) -> Result<Files> {
    let folder = folder.join(kernel.debian);
    let release = folder.join("release");
    if !release.is_file() {
        println!(
            "kernels: unpacking the cloud kernel of Debian {} to {}",
            kernel.debian,
            workspace.show(&folder)
        );
        let script = workspace.root.join("xtask/src/kernels/debian-kernel.sh");
        let mut sh = Command::new("sh");
        sh.arg(script).arg(kernel.debian).arg(&folder);
        run_command(sh.arg(kernel.architecture.oci()))
            .with_context(|| format!("getting the kernel of Debian {}", kernel.debian))?;
    }
    let text = fs::read_to_string(&release).with_context(|| format!("cannot read {}", release.display()))?;
    Ok(Files {
        release: text.trim().to_owned(),
        folder,
    })
}

/// What the guests start.
struct Programs {
    /// Whether they are dynamic programs of this machine's architecture; else they are static.
    own: bool,
    agent: PathBuf,
    suites: Vec<(&'static str, PathBuf)>,
}

/// Builds them as `cargo xtask test` does, so that one build serves both; for another architecture,
/// as `cargo xtask image` does: the agent is that of the image.
fn programs(workspace: &Workspace, architecture: Architecture) -> Result<Programs> {
    let own = architecture == Architecture::of_this_machine()?;
    let (agent, mut cargo) = if own {
        let mut cargo = workspace.cargo_with_programs();
        cargo.arg("test");
        (Binaries::development(workspace)?.path("netpol")?, cargo)
    } else {
        let agent = program::build(workspace, architecture)?;
        (agent, program::cargo(workspace, architecture, "test")?)
    };
    cargo.args(["--no-run", "--package", "netpol-tests"]);
    for suite in SUITES {
        cargo.args(["--test", suite]);
    }
    let built = Binaries::build(&mut cargo)?;
    let suites = SUITES.map(|suite| Ok((suite, built.path(suite)?)));
    Ok(Programs {
        own,
        agent,
        suites: suites.into_iter().collect::<Result<_>>()?,
    })
}

/// A program of this machine.
fn tool(name: &str) -> Result<PathBuf> {
    match packages::find(name) {
        Some(path) => Ok(path),
        None => bail!("no program {name} on this machine"),
    }
}

/// Starts the folder of a name anew.
fn empty(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(choices: &[&str]) -> Vec<&'static str> {
        let choices: Vec<_> = choices.iter().map(|choice| choice.parse().unwrap()).collect();
        chosen(&choices).iter().map(|kernel| kernel.name).collect()
    }

    #[test]
    fn kernels_are_chosen_by_version_and_by_architecture() {
        assert_eq!(names(&["oldest", "6.1"]), ["6.1"]);
        assert_eq!(names(&["arm64"]), ["6.1-arm64", "6.12-arm64"]);
        assert_eq!(names(&["6.12-arm64", "newest"]), ["newest", "6.12-arm64"]);
        assert_eq!(names(&["amd64", "arm64"]), names(&["all"]));
        let error = "6.2".parse::<Choice>().unwrap_err();
        assert!(error.ends_with("newest, 6.1-arm64, 6.12-arm64"), "{error}");
    }
}
