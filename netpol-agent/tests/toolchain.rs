// SPDX-License-Identifier: Apache-2.0
//! The build script finds the eBPF toolchain in every layout of cargo's folders, and a build that
//! must have programs fails without. Each case is a real cargo build, of a package whose build
//! script is ours or asks the same question.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tempfile::TempDir;

/// Prints what [`Toolchain::find`] finds.
const ASKS: &str = r#"
#[path = "TOOLCHAIN_RS"]
#[allow(dead_code)]
mod toolchain;
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;
fn variable(name: &str) -> Result<String> {
    Ok(std::env::var(name)?)
}
fn main() -> Result<()> {
    let found = toolchain::Toolchain::find(std::path::Path::new(&variable("OUT_DIR")?))?;
    println!("cargo::warning=found {} ready {}", found.folder.display(), found.is_ready()?);
    Ok(())
}
"#;

struct Package {
    folder: TempDir,
}

impl Package {
    /// With the build script of the agent, or one that prints what that would use.
    fn new(asks: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("build");
        let script = if asks {
            let path = folder.path().join("asks.rs");
            let toolchain = build.join("toolchain.rs");
            fs::write(&path, ASKS.replace("TOOLCHAIN_RS", toolchain.to_str().unwrap())).unwrap();
            path
        } else {
            build.join("main.rs")
        };
        let manifest = format!(
            "[package]\nname = \"asks\"\nedition = \"2024\"\nbuild = {script:?}\n[lib]\npath = \"lib.rs\"\n[workspace]\n"
        );
        fs::write(folder.path().join("Cargo.toml"), manifest).unwrap();
        fs::write(folder.path().join("lib.rs"), "").unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(name)
    }

    fn build(&self, arguments: &[&str], environment: &[(&str, &Path)]) -> Output {
        let mut cargo = Command::new(env!("CARGO"));
        for (key, _) in env::vars_os() {
            let name = key.to_string_lossy();
            if name.starts_with("CARGO_") || name.starts_with("NETPOL_") || name.starts_with("RUSTC") {
                cargo.env_remove(&key);
            }
        }
        cargo.args(["build", "--offline"]).args(arguments);
        cargo
            .envs(environment.iter().copied())
            .current_dir(self.folder.path());
        cargo.output().unwrap()
    }

    /// Builds, and takes the folder found and whether it is ready from what the script says.
    fn ask(&self, arguments: &[&str], environment: &[(&str, &Path)]) -> (PathBuf, bool) {
        let output = self.build(arguments, environment);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let found = said
            .lines()
            .find_map(|line| line.split_once(": found ")?.1.split_once(" ready "));
        let (folder, ready) = found.unwrap_or_else(|| panic!("{said}"));
        (folder.into(), ready.parse().unwrap())
    }
}

/// Makes a toolchain as `cargo xtask toolchain` does, as far as a build script looks at it.
fn make_toolchain(target: &Path) -> PathBuf {
    let folder = target.join("ebpf-toolchain");
    fs::create_dir_all(folder.join("bin")).unwrap();
    fs::write(folder.join("bin/bpf-linker"), "").unwrap();
    let ask = |argument: &[&str]| {
        let answer = Command::new("rustc").args(argument).output().unwrap().stdout;
        String::from_utf8(answer).unwrap()
    };
    let stamp = format!(
        "{}\n{}{}",
        folder.display(),
        ask(&["--print", "sysroot"]),
        ask(&["-vV"])
    );
    fs::write(folder.join("stamp"), stamp).unwrap();
    folder
}

fn triple() -> String {
    format!("{}-unknown-linux-gnu", env::consts::ARCH)
}

#[test]
fn the_toolchain_is_found_in_every_layout() {
    let package = Package::new(true);
    let (target, elsewhere, build) = (
        package.path("target"),
        package.path("elsewhere"),
        package.path("build"),
    );
    let triple = triple();
    let for_triple: &[&str] = &["--target", &triple];
    let config = |key: &str, folder: &Path| format!("{key}={:?}", folder.to_str().unwrap());
    let by_config = config("build.target-dir", &elsewhere);
    let elsewhere_by_flag = ["--target-dir", elsewhere.to_str().unwrap(), "--target", &triple];

    let toolchain = make_toolchain(&target);
    // What cargo, and a build script that was mistaken, leave.
    let mistaken = target.join(&triple).join("ebpf-toolchain");
    fs::create_dir_all(&mistaken).unwrap();
    fs::write(mistaken.join("stamp"), "").unwrap();
    fs::write(
        target.join(&triple).join("CACHEDIR.TAG"),
        "Signature: 8a477f597d28d172789f06886806bc55",
    )
    .unwrap();
    for (arguments, environment) in [
        (&[][..], &[][..]),
        (&["--release"], &[]),
        (for_triple, &[]),
        (&[], &[("CARGO_BUILD_BUILD_DIR", build.as_path())]),
        (for_triple, &[("CARGO_BUILD_BUILD_DIR", build.as_path())]),
    ] {
        let found = package.ask(arguments, environment);
        assert_eq!(found, (toolchain.clone(), true), "{arguments:?} {environment:?}");
    }

    // Another target folder has another toolchain, or none: it does not take the one of the usual
    // place.
    assert_eq!(
        package.ask(&[], &[("CARGO_TARGET_DIR", &elsewhere)]),
        (elsewhere.join("ebpf-toolchain"), false)
    );
    let toolchain = make_toolchain(&elsewhere);
    for (arguments, environment) in [
        (&[][..], &[("CARGO_TARGET_DIR", elsewhere.as_path())][..]),
        (for_triple, &[("CARGO_TARGET_DIR", elsewhere.as_path())]),
        (&elsewhere_by_flag, &[]),
        (&["--config", &by_config], &[]),
        (
            for_triple,
            &[
                ("CARGO_TARGET_DIR", elsewhere.as_path()),
                ("CARGO_BUILD_BUILD_DIR", build.as_path()),
            ],
        ),
        (for_triple, &[("NETPOL_EBPF_TOOLCHAIN", toolchain.as_path())]),
    ] {
        let name = format!("{arguments:?} {environment:?}");
        fs::remove_dir_all(build.as_path()).ok();
        fs::remove_dir_all(elsewhere.join("debug")).ok();
        fs::remove_dir_all(target.join(&triple).join("debug")).ok();
        assert_eq!(
            package.ask(arguments, environment),
            (toolchain.clone(), true),
            "{name}"
        );
    }
}

#[test]
fn a_copied_toolchain_is_found_and_is_not_ready() {
    let package = Package::new(true);
    let (target, copy) = (package.path("target"), package.path("copy"));
    let stamp = make_toolchain(&target).join("stamp");
    let copied = make_toolchain(&copy);
    fs::copy(stamp, copied.join("stamp")).unwrap();
    assert_eq!(package.ask(&[], &[("CARGO_TARGET_DIR", &copy)]), (copied, false));
}

#[test]
fn what_must_have_programs_does_not_build_without() {
    let package = Package::new(false);
    let required: &[(&str, &Path)] = &[("NETPOL_REQUIRE_EBPF", Path::new("1"))];
    let triple = triple();
    // First without: what the plain build leaves must not let the other pass.
    for arguments in [&[][..], &["--target", &triple], &["--release"]] {
        let plain = package.build(arguments, &[]);
        let said = String::from_utf8_lossy(&plain.stderr);
        assert!(
            plain.status.success() && said.contains("built without its datapath"),
            "{said}"
        );
        let failed = package.build(arguments, required);
        let said = String::from_utf8_lossy(&failed.stderr);
        assert!(
            !failed.status.success() && said.contains("no netpol without its datapath"),
            "{said}"
        );
    }
    // An empty stamp is nowhere but where the toolchain would be.
    let stamp = package.path("target/ebpf-toolchain/stamp");
    assert_eq!(fs::read(&stamp).unwrap(), b"");
    assert!(
        !package
            .path("target")
            .join(&triple)
            .join("ebpf-toolchain")
            .exists()
    );
}
