// SPDX-License-Identifier: Apache-2.0
//! What the guests boot into: two archives behind each other, of which the first is the same for
//! all kernels.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use super::{Files, Programs, empty, modules, tool};
use crate::workspace::{Workspace, output, run};

/// The first process.
const INIT: &str = include_str!("init.sh");

/// What the suites start; for another architecture, debian-kernel.sh has the same. busybox has the
/// rest.
const TOOLS: [&str; 4] = ["ip", "tc", "bridge", "nft"];

/// Makes the archive of the suites, the agent, the tools, and the libraries of them.
pub fn common(workspace: &Workspace, folder: &Path, programs: &Programs) -> Result<PathBuf> {
    let root = folder.join("root");
    empty(&root)?;
    for name in ["proc", "sys", "dev", "tmp", "run", "bin"] {
        let path = root.join(name);
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
    }
    put(&root.join("init"), INIT.as_bytes())?;
    let suites = programs
        .suites
        .iter()
        .map(|(name, path)| (format!("suites/{name}"), path));
    let started: Vec<_> = [("netpol".to_owned(), &programs.agent)]
        .into_iter()
        .chain(suites)
        .collect();
    if programs.own {
        let mut all = Vec::new();
        for (place, path) in started {
            stripped(path, &root.join(place))?;
            all.push(path.clone());
        }
        for name in TOOLS {
            let path = tool(name)?;
            put(&root.join("bin").join(name), &read(&path)?)?;
            all.push(path);
        }
        for library in libraries(&all)? {
            put(&below(&root, &library), &read(&library)?)?;
        }
    } else {
        for (place, path) in started {
            put(&root.join(place), &read(path)?)?;
        }
    }
    // The suites read the corpus where they were built.
    let cases = workspace.root.join("tests/cases");
    copy(&cases, &below(&root, &cases))?;
    let archive = folder.join("common.cpio");
    pack(&root, &archive)?;
    Ok(archive)
}

/// Adds a kernel's modules, and its release's busybox and tools.
pub fn of_kernel(files: &Files, common: &Path) -> Result<PathBuf> {
    let root = files.folder.join("root");
    empty(&root)?;
    put(&root.join("bin/busybox"), &read(&files.folder.join("busybox"))?)?;
    let tools = files.folder.join("tools");
    if tools.is_dir() {
        copy(&tools, &root)?;
    }
    let mut order = String::new();
    for (name, bytes) in modules::in_order(&files.folder.join("modules"))? {
        put(&root.join(format!("modules/{name}.ko")), &bytes)?;
        order.push_str(&name);
        order.push('\n');
    }
    put(&root.join("modules/order"), order.as_bytes())?;
    let archive = files.folder.join("own.cpio");
    pack(&root, &archive)?;
    let both = files.folder.join("initrd");
    let bytes = [read(common)?, read(&archive)?].concat();
    fs::write(&both, bytes).with_context(|| format!("cannot write {}", both.display()))?;
    Ok(both)
}

/// The shared libraries of programs, the dynamic linker included.
fn libraries(programs: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let text = output(Command::new("ldd").args(programs))?;
    let mut found: Vec<PathBuf> = text
        .split_whitespace()
        .filter(|word| word.starts_with('/') && !word.ends_with(':'))
        .map(PathBuf::from)
        .collect();
    found.sort();
    found.dedup();
    ensure!(!found.is_empty(), "ldd names no libraries");
    Ok(found)
}

/// Copies what is in a folder to another one.
fn copy(folder: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let entry = entry?;
        let (path, place) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &place)?;
        } else {
            put(&place, &read(&path)?)?;
        }
    }
    Ok(())
}

/// A file's place below another root.
fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Writes a program.
fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    let written = || {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, bytes)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))
    };
    written().with_context(|| format!("cannot write {}", path.display()))
}

/// Copies a program without what only debuggers read.
fn stripped(from: &Path, to: &Path) -> Result<()> {
    put(to, &[])?;
    run(Command::new("strip")
        .arg("--strip-debug")
        .arg("-o")
        .arg(to)
        .arg(from))
}

/// Packs all files below a folder as the kernel unpacks them.
fn pack(root: &Path, archive: &Path) -> Result<()> {
    let names = output(Command::new("find").current_dir(root).args([".", "-print0"]))?;
    let file = fs::File::create(archive).with_context(|| format!("cannot write {}", archive.display()))?;
    let mut cpio = Command::new("cpio")
        .current_dir(root)
        .args(["--create", "--null", "--quiet", "--format=newc", "--owner=+0:+0"])
        .stdin(Stdio::piped())
        .stdout(file)
        .spawn()
        .context("cannot start cpio")?;
    let mut input = cpio.stdin.take().context("cpio has no input")?;
    input
        .write_all(names.as_bytes())
        .context("cannot write to cpio")?;
    drop(input);
    let status = cpio.wait().context("cannot wait for cpio")?;
    ensure!(status.success(), "cpio: {status}");
    Ok(())
}
