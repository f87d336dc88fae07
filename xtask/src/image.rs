// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask image`: the agent as an OCI image archive that `ctr image import` takes, written
//! without Docker.

mod archive;
mod elf;
mod labels;
pub mod program;
mod sbom;
mod twice;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use archive::{Found, Part};

use crate::{
    architecture::Architecture,
    packages, toolchain,
    workspace::{Workspace, output},
};

/// The name that `deploy/netpol.yaml` has.
const TAG: &str = concat!("netpol:", env!("CARGO_PKG_VERSION"));

/// Where to, and under which name.
#[derive(clap::Args)]
pub struct Arguments {
    /// The archive to write; netpol-image.tar in the target folder if absent
    #[arg(long)]
    output: Option<PathBuf>,
    /// The image's name
    #[arg(long, value_name = "NAME", default_value = TAG)]
    tag: String,
    /// Architectures to build for; this machine's if absent
    #[arg(long, value_delimiter = ',')]
    arch: Vec<Architecture>,
    /// Add a bill of materials (CycloneDX) for each architecture, also as a file beside the archive
    #[arg(long)]
    sbom: bool,
    /// Build the commit again, in another place, and fail if that gives other bytes
    #[arg(long)]
    twice: bool,
}

impl Arguments {
    /// Where the archive is written.
    fn path(&self, workspace: &Workspace) -> PathBuf {
        let default = || workspace.target.join("netpol-image.tar");
        self.output.clone().unwrap_or_else(default)
    }
}

/// Builds the image of `cargo xtask image` without arguments, for the suite that starts it. Returns
/// the archive.
///
/// # Errors
/// As [`run`].
pub fn build(workspace: &Workspace) -> Result<PathBuf> {
    let arguments = Arguments {
        output: None,
        tag: TAG.to_owned(),
        arch: Vec::new(),
        sbom: false,
        twice: false,
    };
    run(workspace, &arguments)?;
    Ok(arguments.path(workspace))
}

/// Builds the static binaries, writes the archive, and reads it back.
///
/// # Errors
/// If a build fails, a binary is not static or does not start alone, or the archive cannot be
/// written.
pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    if arguments.twice {
        twice::is_possible(workspace)?;
    }
    toolchain::prepare(workspace)?;
    let own = Architecture::of_this_machine()?;
    let mut architectures = arguments.arch.clone();
    if architectures.is_empty() {
        architectures.push(own);
    }
    let path = arguments.path(workspace);
    let mut parts = Vec::new();
    for architecture in architectures {
        parts.push(part(workspace, architecture, arguments.sbom)?);
    }
    archive::write(&path, &arguments.tag, &labels::of(workspace), &parts)
        .with_context(|| format!("cannot write {}", path.display()))?;
    let image = archive::read(&path).with_context(|| format!("{} does not read back", path.display()))?;
    for Found { part, .. } in &image.parts {
        check_programs(&part.program)
            .with_context(|| format!("{} is not fit to be shipped", path.display()))?;
        if part.architecture == own.oci() && packages::is_root()? {
            check_start(&workspace.target, &part.program)?;
        }
        if let Some(sbom) = &part.sbom {
            let beside = path.with_extension(format!("{}.cdx.json", part.architecture));
            fs::write(&beside, sbom).with_context(|| format!("cannot write {}", beside.display()))?;
            println!("image: {}", workspace.show(&beside));
        }
    }
    for (name, digest) in image.digests() {
        println!("image: {name} {digest}");
    }
    println!("image: {} as {}", workspace.show(&path), image.name);
    if arguments.twice {
        twice::check(workspace, arguments, &path)?;
    }
    Ok(())
}

/// Makes what the image of an architecture is made of.
fn part(workspace: &Workspace, architecture: Architecture, with_sbom: bool) -> Result<Part> {
    let netpol = program::build(workspace, architecture)?;
    let program = fs::read(&netpol).with_context(|| format!("cannot read {}", netpol.display()))?;
    let is_static =
        elf::is_static(&program).with_context(|| format!("{} is no program", netpol.display()))?;
    if !is_static {
        bail!(
            "{} asks for a dynamic linker; an image from scratch has none",
            netpol.display()
        );
    }
    ensure!(
        elf::architecture(&program)? == architecture.elf(),
        "{} is not for {}",
        netpol.display(),
        architecture.oci()
    );
    let sbom = with_sbom.then(|| sbom::of(workspace, architecture)).transpose()?;
    Ok(Part {
        architecture: architecture.oci().to_owned(),
        program,
        sbom,
    })
}

/// Starts the program alone, and has it name the programs that are in it.
fn check_start(scratch: &Path, program: &[u8]) -> Result<()> {
    let version = start_alone(scratch, program)?;
    println!(
        "image: starts in an empty root: {}",
        version.trim().replace('\n', ", ")
    );
    ensure!(
        version.contains(&PROGRAMS.join(", ")),
        "the program does not know the eBPF programs that are in it"
    );
    Ok(())
}

/// What the agent enforces with.
const PROGRAMS: [&str; 3] = ["from_pod", "to_network", "to_pod"];

/// Reads the eBPF programs out of the agent's binary.
fn check_programs(program: &[u8]) -> Result<()> {
    let found = elf::embedded_programs(program);
    ensure!(
        found == PROGRAMS,
        "its agent has the eBPF programs [{}], not [{}]",
        found.join(", "),
        PROGRAMS.join(", ")
    );
    Ok(())
}

/// Runs the program with `--version` where there is no other file than itself, and returns what it
/// prints.
fn start_alone(scratch: &Path, program: &[u8]) -> Result<String> {
    use std::os::unix::fs::PermissionsExt as _;
    let root = scratch.join(format!("image-root-{}", std::process::id()));
    fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
    let file = root.join("netpol");
    let started = fs::write(&file, program)
        .and_then(|()| fs::set_permissions(&file, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("cannot write {}", file.display()))
        .and_then(|()| output(Command::new("chroot").arg(&root).args(["/netpol", "--version"])));
    fs::remove_dir_all(&root).with_context(|| format!("cannot remove {}", root.display()))?;
    let version = started?;
    ensure!(
        !version.trim().is_empty(),
        "the program starts in an empty root, but prints no version"
    );
    Ok(version)
}

#[cfg(test)]
mod tests {
    use std::env;

    use super::*;
    use crate::workspace::run as run_command;

    fn compiled(folder: &Path, flags: &[&str]) -> Vec<u8> {
        let source = folder.join("hello.rs");
        fs::write(
            &source,
            "fn main() { println!(\"alone {}\", std::env::args().nth(1).unwrap()) }",
        )
        .unwrap();
        run_command(
            Command::new("rustc")
                .current_dir(folder)
                .args(["-o", "hello"])
                .args(flags)
                .arg(&source),
        )
        .unwrap();
        fs::read(folder.join("hello")).unwrap()
    }

    fn folder(name: &str) -> PathBuf {
        let path = env::temp_dir().join(format!("netpol-xtask-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn the_layer_holds_a_program_that_starts_with_no_other_file() {
        let folder = folder("alone");
        let program = compiled(&folder, &["-C", "target-feature=+crt-static"]);
        assert!(elf::is_static(&program).unwrap());
        let path = folder.join("image.tar");
        let architecture = Architecture::of_this_machine().unwrap();
        assert_eq!(elf::architecture(&program).unwrap(), architecture.elf());
        let part = Part {
            architecture: architecture.oci().to_owned(),
            program: program.clone(),
            sbom: None,
        };
        archive::write(&path, "netpol:test", &labels::fixed(), &[part]).unwrap();
        let image = archive::read(&path).unwrap().parts.remove(0).part;
        assert_eq!(image.program, program);
        if packages::is_root().unwrap() {
            assert_eq!(start_alone(&folder, &image.program).unwrap(), "alone --version\n");
        }
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn an_agent_without_programs_is_not_shipped() {
        let error = check_programs(&fs::read(env::current_exe().unwrap()).unwrap()).unwrap_err();
        assert!(error.to_string().contains("has the eBPF programs []"), "{error}");
    }

    #[test]
    fn a_program_that_needs_a_dynamic_linker_is_told_apart() {
        let folder = folder("dynamic");
        assert!(!elf::is_static(&compiled(&folder, &["-C", "target-feature=-crt-static"])).unwrap());
        fs::remove_dir_all(&folder).unwrap();
    }
}
