// SPDX-License-Identifier: Apache-2.0
//! Builds the eBPF programs with the toolchain that `cargo xtask` keeps in the target folder, for
//! the agent to embed.
//!
//! Without that toolchain the agent is built with no programs in it, and says so: a plain `cargo
//! check`, a language server or a documentation build needs stable Rust only. What is meant to be
//! run fails to build instead: `cargo xtask` sets [`REQUIRED`].

mod paths;
mod toolchain;

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use toolchain::Toolchain;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// If it is set, a build without programs is an error.
const REQUIRED: &str = "NETPOL_REQUIRE_EBPF";

fn main() -> Result<()> {
    println!("cargo::rustc-check-cfg=cfg(netpol_ebpf_object)");
    let out = PathBuf::from(variable("OUT_DIR")?);
    let toolchain = Toolchain::find(&out)?;
    let stamp = toolchain.stamp();
    watch_from_now_on(&stamp);
    for path in [
        "../netpol-ebpf",
        "../netpol-common",
        "../Cargo.toml",
        "../Cargo.lock",
        "build",
    ] {
        println!("cargo::rerun-if-changed={path}");
    }
    println!("cargo::rerun-if-changed={}", stamp.display());

    if !toolchain.is_ready()? {
        // Only now: where there are programs, a change of these changes nothing, and must not build
        // the agent anew.
        println!("cargo::rerun-if-env-changed={REQUIRED}");
        println!("cargo::rerun-if-env-changed={}", toolchain::FOLDER);
        let missing = format!(
            "no eBPF toolchain for this compiler in {}",
            toolchain.folder.display()
        );
        if env::var_os(REQUIRED).is_some() {
            return Err(format!("{missing}, and {REQUIRED} is set: no netpol without its datapath").into());
        }
        println!(
            "cargo::warning=netpol is built without its datapath, and will not enforce: {missing}. `cargo xtask build` \
             gets one and builds with it."
        );
        return Ok(());
    }
    let target = toolchain.folder.with_file_name("ebpf");
    let object = build(&toolchain, &target)?;
    let copy = out.join("netpol-ebpf.o");
    fs::copy(&object, &copy)
        .map_err(|error| format!("cannot copy {} to {}: {error}", object.display(), copy.display()))?;
    println!("cargo::rustc-cfg=netpol_ebpf_object");
    Ok(())
}

/// Makes an empty stamp if there is none: cargo runs this script on each build if a file that it
/// watches is missing. Where that cannot be made, it does.
fn watch_from_now_on(stamp: &Path) {
    let folder = stamp.parent().map(fs::create_dir_all);
    if folder.is_some_and(|made| made.is_ok())
        && let Ok(file) = fs::OpenOptions::new().write(true).create_new(true).open(stamp)
    {
        // Older than this run, or cargo would take it for a change.
        let _ = file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(86_400));
    }
}

/// Builds the object in a target folder of its own, as the outer cargo holds the lock of the other
/// one.
fn build(toolchain: &Toolchain, target_dir: &Path) -> Result<PathBuf> {
    let target = match variable("CARGO_CFG_TARGET_ENDIAN")?.as_str() {
        "big" => "bpfeb-unknown-none",
        _ => "bpfel-unknown-none",
    };
    let mut cargo = Command::new(variable("CARGO")?);
    cargo
        .args([
            "build",
            "--release",
            "--package",
            "netpol-ebpf",
            "--bin",
            "netpol-ebpf",
        ])
        .args(["--target", target, "-Z", "build-std=core", "--target-dir"])
        .arg(target_dir)
        .current_dir("..")
        .env("RUSTC_BOOTSTRAP", "1");
    let linker = toolchain.linker();
    let linker = linker.to_str().ok_or("the target folder's path is not UTF-8")?;
    let mut flags = paths::remapped("..")?;
    flags.extend([
        // One object for all architectures: this concerns the kernel's registers, which only
        // probes look at.
        "--cfg=bpf_target_arch=\"x86_64\"".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        // In order, the backend leaves even memset of three bytes to a loop over bytes.
        "-Clink-arg=--disable-expand-memcpy-in-order".to_owned(),
        format!("-Clinker={linker}"),
    ]);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    // Set by the outer cargo for its own target, and by `cargo clippy` for its own compiler.
    for key in ["RUSTC", "RUSTC_WORKSPACE_WRAPPER", "CLIPPY_ARGS", "RUSTFLAGS"] {
        cargo.env_remove(key);
    }
    let wrapper = toolchain.folder.join("bin/rustc");
    let rustc = if wrapper.is_file() {
        wrapper.into_os_string()
    } else {
        variable("RUSTC")?.into()
    };
    // bpf-linker loads the LLVM that the compiler came with.
    let sysroot = Command::new(variable("RUSTC")?)
        .args(["--print", "sysroot"])
        .output()?;
    let sysroot = String::from_utf8(sysroot.stdout)?;
    let lib = Path::new(sysroot.trim_end()).join("lib");
    let searched = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let searched = env::join_paths(std::iter::once(lib).chain(env::split_paths(&searched)))?;
    cargo.env("RUSTC", rustc).env("LD_LIBRARY_PATH", searched);

    let status = cargo.status()?;
    if !status.success() {
        return Err(format!("the eBPF programs do not build ({status}); cargo's messages are above").into());
    }
    Ok(target_dir.join(target).join("release/netpol-ebpf"))
}

fn variable(name: &str) -> Result<String> {
    env::var(name).map_err(|error| format!("{name}: {error}").into())
}
