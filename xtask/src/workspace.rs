// SPDX-License-Identifier: Apache-2.0
//! Where the workspace and its target folder are, and how commands are run in it.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// The checkout that xtask was built from.
pub struct Workspace {
    /// The folder with the workspace's `Cargo.toml`.
    pub root: PathBuf,
    /// Cargo's target folder, wherever the user's configuration puts it.
    pub target: PathBuf,
}

impl Workspace {
    /// Asks cargo for the folders.
    ///
    /// # Errors
    /// If cargo does not run or its answer cannot be read.
    pub fn find() -> Result<Self> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let answer = output(cargo().current_dir(here).args([
            "metadata",
            "--format-version=1",
            "--no-deps",
            "--offline",
        ]))?;
        let answer: serde_json::Value = serde_json::from_str(&answer).context("cargo metadata: not JSON")?;
        let folder = |key: &str| match answer[key].as_str() {
            Some(path) => Ok(PathBuf::from(path)),
            None => bail!("cargo metadata: no {key} in the answer"),
        };
        Ok(Self {
            root: folder("workspace_root")?,
            target: folder("target_directory")?,
        })
    }

    /// `cargo`, started in the workspace's root.
    pub fn cargo(&self) -> Command {
        let mut command = cargo();
        command.current_dir(&self.root);
        command
    }

    /// The same, for what is meant to be run: a build of the agent without eBPF programs fails. The
    /// toolchain must be ready.
    pub fn cargo_with_programs(&self) -> Command {
        let mut command = self.cargo();
        command
            .env("NETPOL_EBPF_TOOLCHAIN", self.toolchain())
            .env("NETPOL_REQUIRE_EBPF", "1");
        command
    }

    /// Where the eBPF toolchain is.
    pub fn toolchain(&self) -> PathBuf {
        self.target.join("ebpf-toolchain")
    }

    /// A path as a message shows it: relative to the root where it is below it.
    pub fn show<'a>(&self, path: &'a Path) -> std::path::Display<'a> {
        path.strip_prefix(&self.root).unwrap_or(path).display()
    }
}

/// The cargo that runs us, without the variables that `cargo run` set for xtask: build scripts of
/// dependencies watch some of them, and would run again each time a build comes through xtask.
fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (key, _) in env::vars_os() {
        let name = key.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&key);
        }
    }
    command
}

/// Runs a command with our own stdout and stderr.
///
/// # Errors
/// If it cannot be started or does not end with success.
pub fn run(command: &mut Command) -> Result<()> {
    let line = line(command);
    let status = command
        .status()
        .with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() {
        bail!("`{line}`: {status}");
    }
    Ok(())
}

/// Runs a command and returns what it printed; stderr is shown in the error only.
///
/// # Errors
/// If it cannot be started, does not end with success, or prints what is not UTF-8.
pub fn output(command: &mut Command) -> Result<String> {
    let line = line(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{line}`"))?;
    if !output.status.success() {
        bail!(
            "`{line}`: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{line}`: output is not UTF-8"))
}

/// Writes a file so that a reader finds the old or the new text, whole.
///
/// # Errors
/// If it cannot be written.
pub fn replace(path: &Path, text: &str) -> Result<()> {
    let temporary = path.with_extension("new");
    fs::write(&temporary, text).with_context(|| format!("cannot write {}", temporary.display()))?;
    fs::rename(&temporary, path).with_context(|| format!("cannot write {}", path.display()))
}

fn line(command: &Command) -> String {
    let mut line = OsString::from(command.get_program());
    for argument in command.get_args() {
        line.push(" ");
        line.push(argument);
    }
    line.to_string_lossy().into_owned()
}
