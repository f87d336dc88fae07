// SPDX-License-Identifier: Apache-2.0
//! A container under runc: starts it, runs programs in it, stops it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::spec::{self, Given};
use crate::agent::Log;

/// Time limit for anything in a container.
const DEADLINE: Duration = Duration::from_secs(60);

/// A container, removed on drop.
#[derive(Debug)]
pub struct Container {
    name: String,
    /// The bundle and runc's state.
    folder: TempDir,
    runc: Child,
    log: Arc<Log>,
}

impl Container {
    /// Starts a container, without waiting.
    ///
    /// # Errors
    /// If the manifest is not supported, or runc cannot be started.
    pub fn start(given: &Given<'_>) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("netpol-test-{}-{number}", std::process::id());
        let folder = tempfile::Builder::new().prefix("netpol-container-").tempdir()?;
        let config = serde_json::to_vec_pretty(&spec::config(given)?)?;
        fs::write(folder.path().join("config.json"), config)?;
        let mut runc = runc(folder.path());
        runc.arg("run")
            .arg("--bundle")
            .arg(folder.path())
            .arg("--pid-file");
        runc.arg(folder.path().join("pid")).arg(&name);
        let mut runc = runc
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting runc (package runc)")?;
        let log = Arc::default();
        if let Some(stderr) = runc.stderr.take() {
            Log::follow(&log, stderr);
        }
        Ok(Self {
            name,
            folder,
            runc,
            log,
        })
    }

    /// Waits for a log line that contains `text`.
    ///
    /// # Errors
    /// If the container ends or time runs out first; with its log.
    pub fn wait_for_line(&self, text: &str) -> Result<String> {
        self.log.wait_for_line(0, text, DEADLINE)
    }

    /// Returns its log.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// Returns its process id on the node.
    ///
    /// # Errors
    /// If it never ran.
    pub fn pid(&self) -> Result<u32> {
        let text =
            fs::read_to_string(self.folder.path().join("pid")).context("the container did not start")?;
        Ok(text.trim().parse()?)
    }

    /// Runs a program in it, as `kubectl exec` does.
    ///
    /// # Errors
    /// If that cannot be started.
    pub fn exec(&self, words: &[&str]) -> Result<Output> {
        let mut exec = runc(self.folder.path());
        exec.arg("exec").arg(&self.name).args(words).stdin(Stdio::null());
        exec.output().context("starting runc exec")
    }

    /// Sends a signal to its process, and waits for its end.
    ///
    /// # Errors
    /// If it does not end in time; with its log.
    pub fn end(&mut self, signal: &str) -> Result<ExitStatus> {
        let sent = runc(self.folder.path())
            .args(["kill", &self.name, signal])
            .status()?;
        ensure!(sent.success(), "runc kill {signal}: {sent}\n{}", self.log());
        self.wait()
    }

    /// Waits until its process ends by itself.
    ///
    /// # Errors
    /// If it does not end in time; with its log.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let until = Instant::now() + DEADLINE;
        self.log
            .wait_for_end(until.saturating_duration_since(Instant::now()))?;
        self.runc.wait().context("waiting for runc")
    }
}

fn runc(folder: &Path) -> Command {
    let root: PathBuf = folder.join("runc");
    let mut runc = Command::new("runc");
    runc.arg("--root").arg(root);
    runc
}

impl Drop for Container {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the container's log:\n{}", self.log());
        }
        let _ = runc(self.folder.path())
            .args(["delete", "--force", &self.name])
            .stderr(Stdio::null())
            .status();
        let _ = self.runc.wait();
    }
}
