// SPDX-License-Identifier: Apache-2.0
//! A container under runc: started, asked in, stopped.

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

/// How long something in a container may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// A container, removed on drop.
#[derive(Debug)]
pub struct Container {
    name: String,
    /// The bundle, and runc's state.
    folder: TempDir,
    runc: Child,
    log: Arc<Log>,
}

impl Container {
    /// Starts one, and waits for nothing.
    ///
    /// # Errors
    /// If the manifest cannot be followed, or runc not be started.
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

    /// Waits for a line of its log that contains `text`.
    ///
    /// # Errors
    /// With its log, if it ends or time passes before.
    pub fn wait_for_line(&self, text: &str) -> Result<String> {
        self.log.wait_for_line(0, text, DEADLINE)
    }

    /// What it logged.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// Its process, as the node sees it.
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

    /// Sends a signal to its process, and waits until it has ended.
    ///
    /// # Errors
    /// With its log, if it does not end in time.
    pub fn end(&mut self, signal: &str) -> Result<ExitStatus> {
        let sent = runc(self.folder.path())
            .args(["kill", &self.name, signal])
            .status()?;
        ensure!(sent.success(), "runc kill {signal}: {sent}\n{}", self.log());
        self.wait()
    }

    /// Waits until its process has ended by itself.
    ///
    /// # Errors
    /// With its log, if it does not end in time.
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
