// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask test --kernels`: boots kernels of Debian under QEMU, and runs suites in them.

mod console;
mod guest;
mod initramfs;
mod modules;
mod table;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    str::FromStr,
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    build::Binaries,
    packages, toolchain,
    workspace::{Workspace, run as run_command},
};

/// A version of Linux, and the Debian release whose cloud kernel it is.
struct Kernel {
    name: &'static str,
    debian: &'static str,
    /// What the agent must say if the programs do not run there.
    refuses: Option<&'static str>,
}

/// From the oldest to the newest.
const KERNELS: [Kernel; 4] = [
    Kernel {
        name: "5.10",
        debian: "bullseye",
        refuses: Some("which Linux 5.12 has"),
    },
    Kernel {
        name: "6.1",
        debian: "bookworm",
        refuses: None,
    },
    Kernel {
        name: "6.12",
        debian: "trixie",
        refuses: None,
    },
    Kernel {
        name: "newest",
        debian: "sid",
        refuses: None,
    },
];

/// Which kernels to boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// All of them.
    All,
    /// The one with this index.
    One(usize),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let last = KERNELS.len() - 1;
        match text {
            "all" => Ok(Self::All),
            "oldest" => match KERNELS.iter().position(|kernel| kernel.refuses.is_none()) {
                Some(index) => Ok(Self::One(index)),
                None => Err("no kernel runs the programs".to_owned()),
            },
            _ => match KERNELS.iter().position(|kernel| kernel.name == text) {
                Some(index) => Ok(Self::One(index)),
                None => Err(format!(
                    "no such kernel: all, oldest, {}, {}",
                    KERNELS[..last]
                        .iter()
                        .map(|kernel| kernel.name)
                        .collect::<Vec<_>>()
                        .join(", "),
                    KERNELS[last].name
                )),
            },
        }
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
    packages::install_for_kernels()?;
    toolchain::prepare(workspace)?;
    let programs = programs(workspace)?;
    let folder = workspace.target.join("kernels");
    let common = initramfs::common(workspace, &folder, &programs)?;
    let mut rows = Vec::new();
    let mut failed = Vec::new();
    for kernel in chosen(run.choices) {
        let files = files(workspace, &folder, kernel)?;
        let initrd = initramfs::of_kernel(&files, &common)?;
        println!(
            "kernels: booting Linux {} of Debian {}",
            files.release, kernel.debian
        );
        let start = Instant::now();
        let outcome = guest::boot(&files, &initrd, run.filter, kernel.refuses)?;
        let seconds = start.elapsed().as_secs();
        println!(
            "kernels: Linux {}: {} in {seconds} s",
            files.release,
            outcome.summary(kernel.refuses)
        );
        if !outcome.is_as_expected(kernel.refuses) {
            failed.push(files.release.clone());
        }
        rows.push(table::Row::new(kernel.debian, &files.release, &outcome));
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
    let is_chosen = |index| {
        choices.iter().any(|choice| match choice {
            Choice::All => true,
            Choice::One(one) => *one == index,
        })
    };
    let kernels = KERNELS.iter().enumerate();
    kernels
        .filter(|(index, _)| is_chosen(*index))
        .map(|(_, kernel)| kernel)
        .collect()
}

/// What a kernel boots from.
struct Files {
    /// As `uname -r` says.
    release: String,
    /// Folder with `vmlinuz`, `modules` and `busybox`.
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
        run_command(Command::new("sh").arg(script).arg(kernel.debian).arg(&folder))
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
    agent: PathBuf,
    suites: Vec<(&'static str, PathBuf)>,
}

/// Builds them as `cargo xtask test` does, so that one build serves both.
fn programs(workspace: &Workspace) -> Result<Programs> {
    let agent = Binaries::development(workspace)?.path("netpol")?;
    let mut cargo = workspace.cargo_with_programs();
    cargo.args(["test", "--no-run", "--package", "netpol-tests"]);
    for suite in SUITES {
        cargo.args(["--test", suite]);
    }
    let built = Binaries::build(&mut cargo)?;
    let suites = SUITES.map(|suite| Ok((suite, built.path(suite)?)));
    Ok(Programs {
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
