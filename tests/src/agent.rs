// SPDX-License-Identifier: Apache-2.0
//! The agent as a child process in a node's network namespace, as it runs in production.

mod command;
mod launch;
mod log;

use std::{
    ffi::OsString,
    fs::File,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{netns::NetNs, node::Node, privilege};

pub use command::{cleanup, inside};
pub use launch::Launch;
pub use log::Applied;

pub(crate) use log::Log;

/// Time limit for a start or an applied revision; both need far less.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A running agent. Drop kills it and removes what it left in the kernel, except after
/// [`Agent::detach`].
#[derive(Debug)]
pub struct Agent {
    binary: PathBuf,
    netns: Arc<NetNs>,
    launch: Launch,
    pin_path: PathBuf,
    child: Option<Child>,
    log: Arc<Log>,
    clean: bool,
    deadline: Duration,
}

impl Agent {
    /// Starts the agent on `source`, pinned to a folder named after this process, and waits for its
    /// first revision.
    ///
    /// # Errors
    /// If that does not come; with the agent's log.
    pub fn start(node: &Node, source: &Path) -> Result<Self> {
        Self::start_at(node, source, &free_pin_path())
    }

    /// As [`Agent::start`], pinned to `pin_path`.
    ///
    /// # Errors
    /// As [`Agent::start`].
    pub fn start_at(node: &Node, source: &Path, pin_path: &Path) -> Result<Self> {
        let agent = Self::launch_at(node, Launch::new(source, &node.plan().name), pin_path)?;
        agent.wait_for_revision_after(0)?;
        Ok(agent)
    }

    /// Starts the agent as `launch` says, pinned to a folder named after this process, without
    /// waiting.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn launch(node: &Node, launch: Launch) -> Result<Self> {
        Self::launch_at(node, launch, &free_pin_path())
    }

    fn launch_at(node: &Node, launch: Launch, pin_path: &Path) -> Result<Self> {
        let binary = privilege::binary().with_context(|| format!("no agent: set {}", privilege::BINARY))?;
        let mut agent = Self {
            binary,
            netns: Arc::clone(node.netns()),
            launch,
            pin_path: pin_path.to_owned(),
            child: None,
            log: Arc::default(),
            clean: true,
            deadline: deadline(),
        };
        agent.spawn()?;
        Ok(agent)
    }

    /// Sets another time limit for waits than [`DEADLINE`].
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sets the binary for the next starts, and for the cleanup.
    pub fn set_binary(&mut self, binary: &Path) {
        binary.clone_into(&mut self.binary);
    }

    /// Sets an argument for the next starts.
    pub fn set_argument(&mut self, name: &str, value: &str) {
        let arguments = &mut self.launch.arguments;
        if let Some(at) = arguments.iter().position(|argument| argument == name) {
            arguments.drain(at..at + 2);
        }
        arguments.extend([name.into(), value.into()]);
    }

    /// Sets a variable of the environment for the next starts.
    pub fn set_environment(&mut self, name: &str, value: impl Into<OsString>) {
        self.launch.environment.push((name.to_owned(), value.into()));
    }

    /// Starts the agent again after [`Agent::kill`] or [`Agent::stop`], and waits for its first
    /// revision.
    ///
    /// # Errors
    /// If it still runs, or the revision does not come.
    pub fn restart(&mut self) -> Result<()> {
        self.relaunch()?;
        self.wait_for_revision_after(0)?;
        Ok(())
    }

    /// Starts the agent again after [`Agent::kill`] or [`Agent::stop`], without waiting.
    ///
    /// # Errors
    /// If it still runs, or cannot be started.
    pub fn relaunch(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "the agent still runs");
        self.spawn()
    }

    /// Kills the agent as a crash would (SIGKILL), and waits for its end.
    ///
    /// # Errors
    /// If it does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.end(Signal::SIGKILL).map(|_| ())
    }

    /// Starts the agent again after [`Agent::kill`] or [`Agent::stop`], with a log that nobody
    /// reads here. Does not wait.
    ///
    /// # Errors
    /// If it still runs, or cannot be started.
    pub fn relaunch_unheard(&mut self, log: impl Into<Stdio>) -> Result<()> {
        ensure!(self.child.is_none(), "the agent still runs");
        let mut command = self.command();
        command.stderr(log);
        self.run(command)?;
        Log::follow(&self.log, std::io::empty());
        Ok(())
    }

    /// Asks the agent to stop (SIGTERM), and waits for its end.
    ///
    /// # Errors
    /// If it does not run, or exits with an error.
    pub fn stop(&mut self) -> Result<()> {
        let status = self.end(Signal::SIGTERM)?;
        ensure!(
            status.success(),
            "the agent ended with {status} after SIGTERM\n{}",
            self.log()
        );
        Ok(())
    }

    /// Waits until the agent ends by itself, and returns how.
    ///
    /// # Errors
    /// If it does not run, or goes on.
    pub fn wait_for_end(&mut self) -> Result<std::process::ExitStatus> {
        self.log.wait_for_end(self.deadline)?;
        let mut child = self.child.take().context("the agent does not run")?;
        child.wait().context("waiting for the agent to end")
    }

    /// Returns the folder of its pins.
    pub fn pin_path(&self) -> &Path {
        &self.pin_path
    }

    /// Returns its socket, which is named after the folder of its pins.
    pub fn socket(&self) -> PathBuf {
        let name = self.pin_path.file_name().unwrap_or_default();
        std::env::temp_dir().join(name).with_extension("sock")
    }

    /// Returns its process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Returns the last revision that it logged as applied since its last start; 0 if none.
    pub fn revision(&self) -> u64 {
        self.log.revision()
    }

    /// Waits for an applied revision above `revision`, and returns it.
    ///
    /// # Errors
    /// If the agent ends or [`DEADLINE`] passes first; with its log.
    pub fn wait_for_revision_after(&self, revision: u64) -> Result<u64> {
        self.log.wait_for_revision_after(revision, self.deadline)
    }

    /// Waits for a log line about a revision above `revision`, after the first `seen` lines, and
    /// returns its content.
    ///
    /// # Errors
    /// If the agent ends or `deadline` passes first; with its log.
    pub fn wait_for_applied(&self, seen: usize, revision: u64, deadline: Duration) -> Result<Applied> {
        self.log.wait_for_applied(seen, revision, deadline)
    }

    /// Returns what it logged about applied revisions after the first `seen` lines.
    pub fn applied_since(&self, seen: usize) -> Vec<Applied> {
        self.log.applied_since(seen)
    }

    /// Waits for a log line that contains `text`, after the first `seen` lines (see
    /// [`Agent::log_length`]).
    ///
    /// # Errors
    /// As [`Agent::wait_for_revision_after`].
    pub fn wait_for_line(&self, seen: usize, text: &str) -> Result<String> {
        self.log.wait_for_line(seen, text, self.deadline)
    }

    /// Returns the number of log lines so far.
    pub fn log_length(&self) -> usize {
        self.log.length()
    }

    /// Returns its log since its last start.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// Returns the same, from a line on.
    pub fn log_since(&self, seen: usize) -> String {
        let log = self.log.text();
        log.lines().skip(seen).collect::<Vec<_>>().join("\n")
    }

    /// Runs `netpol cleanup` in the node's namespace, and checks that the pins are gone.
    ///
    /// # Errors
    /// If it fails, or leaves pins behind.
    pub fn cleanup(&mut self) -> Result<()> {
        self.clean = true;
        cleanup(&self.binary, &self.netns, &self.pin_path)
    }

    /// Replaces the agent by one that outlives this process, in its own session and with its log in
    /// a file. Enforcement continues meanwhile (rule B3). Returns the new agent's process id.
    ///
    /// # Errors
    /// If it does not run, or cannot be started again.
    pub fn detach(mut self, log: &Path) -> Result<u32> {
        self.stop()?;
        let log = File::create(log).with_context(|| format!("creating {}", log.display()))?;
        let mut command = self.command();
        command.stderr(log).process_group(0);
        let child = inside(&mut command, &self.netns)
            .spawn()
            .context("starting the agent")?;
        self.clean = true;
        Ok(child.id())
    }

    fn command(&self) -> Command {
        let mut command = self.launch.command(&self.binary);
        command
            .args(["--log-format", "json", "--pin-path"])
            .arg(&self.pin_path)
            .arg("--socket")
            .arg(self.socket());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    fn spawn(&mut self) -> Result<()> {
        let mut command = self.command();
        command.stderr(Stdio::piped());
        let stderr = self.run(command)?.stderr.take();
        if let Some(stderr) = stderr {
            Log::follow(&self.log, stderr);
        }
        Ok(())
    }

    fn run(&mut self, mut command: Command) -> Result<&mut Child> {
        let child = inside(&mut command, &self.netns)
            .spawn()
            .context("starting the agent")?;
        self.clean = false;
        self.log = Arc::default();
        Ok(self.child.insert(child))
    }

    fn end(&mut self, signal: Signal) -> Result<std::process::ExitStatus> {
        let mut child = self.child.take().context("the agent does not run")?;
        kill(Pid::from_raw(child.id().cast_signed()), signal).context("signalling the agent")?;
        let ended = self.log.wait_for_end(DEADLINE);
        if ended.is_err() {
            child.kill().context("killing the agent")?;
        }
        let status = child.wait().context("waiting for the agent to end")?;
        ended.with_context(|| format!("{signal} does not end the agent"))?;
        Ok(status)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the agent's log:\n{}", self.log());
        }
        if self.child.is_some()
            && let Err(error) = self.kill()
        {
            eprintln!("{error:#}");
        }
        if self.clean {
            return;
        }
        // A killed agent leaves it behind.
        let _ = std::fs::remove_file(self.socket());
        if let Err(error) = self.cleanup() {
            assert!(thread::panicking(), "{error:#}");
            eprintln!("{error:#}");
        }
    }
}

/// Returns [`DEADLINE`], or the seconds of `NETPOL_TEST_DEADLINE` where a machine is slow, such as
/// an emulated one.
fn deadline() -> Duration {
    let seconds = std::env::var("NETPOL_TEST_DEADLINE").ok();
    let seconds = seconds.and_then(|text| text.parse().ok());
    seconds.map_or(DEADLINE, Duration::from_secs)
}

fn free_pin_path() -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    PathBuf::from(format!("/sys/fs/bpf/netpol-test-{}-{number}", std::process::id()))
}
