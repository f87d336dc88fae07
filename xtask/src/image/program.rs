// SPDX-License-Identifier: Apache-2.0
//! Builds the static agent for an architecture, so that the same sources and tools give the same
//! bytes wherever they lie.

use std::{env, fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::{
    architecture::Architecture,
    build::Binaries,
    packages,
    workspace::{Workspace, output, run},
};

/// Builds the agent, and returns its path.
///
/// # Errors
/// As [`cargo`], or if the build fails.
pub fn build(workspace: &Workspace, architecture: Architecture) -> Result<PathBuf> {
    let mut cargo = cargo(workspace, architecture, "build")?;
    cargo.args(["--package", "netpol-agent", "--bin", "netpol"]);
    Binaries::build(&mut cargo)?.path("netpol")
}

/// `cargo build`, or another command, of static programs for an architecture. What all of them link
/// is built once.
///
/// # Errors
/// If the compiler's target, the C compiler or the crates' sources cannot be had.
pub fn cargo(workspace: &Workspace, architecture: Architecture, command: &str) -> Result<Command> {
    let target = architecture.target();
    add_target(target)?;
    let c_compiler = if architecture == Architecture::of_this_machine()? {
        "gcc"
    } else {
        let (program, packages) = architecture.cross_compiler();
        packages::install_cross_compiler(program, &packages)?;
        program
    };
    // The folders with the crates' sources must be there to be found.
    run(workspace.cargo().args(["fetch", "--locked", "--quiet"]))?;
    let mut cargo = workspace.cargo_with_programs();
    cargo
        .args([command, "--locked", "--release", "--target", target])
        .args(["--config", "profile.release.strip=\"debuginfo\""])
        .env(format!("CC_{}", target.replace('-', "_")), c_compiler)
        .env_remove("RUSTFLAGS")
        .env("CARGO_ENCODED_RUSTFLAGS", flags(workspace)?.join("\x1f"));
    Ok(cargo)
}

/// Gets the compiler's library for a target, if it is missing.
fn add_target(target: &str) -> Result<()> {
    let libraries = output(Command::new("rustc").args(["--target", target, "--print", "target-libdir"]))?;
    if PathBuf::from(libraries.trim_end()).is_dir() {
        return Ok(());
    }
    println!("image: adding the target {target} to the Rust toolchain");
    run(Command::new("rustup").args(["target", "add", target]))
        .with_context(|| format!("Rust's library for {target} is missing, and rustup does not get it"))
}

/// The flags of the compiler: a program without a dynamic linker, linked by the linker that Rust
/// brings, and without this machine's paths in it.
fn flags(workspace: &Workspace) -> Result<Vec<String>> {
    let mut flags: Vec<String> = ["-C", "target-feature=+crt-static", "-C", "linker=rust-lld"]
        .map(str::to_owned)
        .into();
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let version = output(Command::new("rustc").arg("-vV"))?;
    let commit = version
        .lines()
        .find_map(|line| line.strip_prefix("commit-hash: "))
        .context("`rustc -vV` prints no commit-hash")?;
    // The last that fits counts.
    let mut places = vec![
        (workspace.root.clone(), ".".to_owned()),
        (workspace.target.clone(), "/target".to_owned()),
        (
            PathBuf::from(sysroot.trim_end()).join("lib/rustlib/src/rust"),
            format!("/rustc/{commit}"),
        ),
    ];
    places.extend(
        registries()?
            .into_iter()
            .map(|folder| (folder, "/cargo".to_owned())),
    );
    flags.extend(
        places
            .iter()
            .map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display())),
    );
    Ok(flags)
}

/// The folders with the sources of crates.
fn registries() -> Result<Vec<PathBuf>> {
    let home = match env::var_os("CARGO_HOME") {
        Some(home) => PathBuf::from(home),
        None => PathBuf::from(env::var_os("HOME").context("HOME is not set")?).join(".cargo"),
    };
    let sources = home.join("registry/src");
    let entries = fs::read_dir(&sources).with_context(|| format!("cannot read {}", sources.display()))?;
    let mut folders = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    folders.sort();
    Ok(folders)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const SOURCE: &str = "include!(env!(\"GENERATED\"));\npub fn here(of: &[u8]) -> u8 { of[1] }\n";

    /// What the compiler makes of a source that names its file, in a checkout of this name.
    fn object(scratch: &Path, name: &str, is_remapped: bool) -> Vec<u8> {
        let root = scratch.join(name);
        let workspace = Workspace {
            target: root.join("target"),
            root,
        };
        fs::create_dir_all(&workspace.target).unwrap();
        let generated = workspace.target.join("generated.rs");
        fs::write(&generated, "pub fn there() { panic!(\"there\") }").unwrap();
        fs::write(workspace.root.join("lib.rs"), SOURCE).unwrap();
        let mut rustc = Command::new("rustc");
        rustc
            .current_dir(&workspace.root)
            .args([
                "--crate-type=lib",
                "--emit=obj",
                "-Cdebuginfo=2",
                "-Ccodegen-units=1",
            ])
            .args(["-o", "lib.o", "lib.rs"])
            .env("GENERATED", &generated);
        if is_remapped {
            rustc.args(flags(&workspace).unwrap());
        }
        run(&mut rustc).unwrap();
        fs::read(workspace.root.join("lib.o")).unwrap()
    }

    #[test]
    fn the_compiler_makes_the_same_wherever_the_sources_lie() {
        let scratch = env::temp_dir().join(format!("netpol-xtask-program-{}", std::process::id()));
        let both = |is_remapped| ["one", "another/place"].map(|name| object(&scratch, name, is_remapped));
        let [one, another] = both(true);
        assert!(one == another);
        let [one, another] = both(false);
        assert!(one != another, "a source that does not show where it lies");
        fs::remove_dir_all(&scratch).unwrap();
    }
}
