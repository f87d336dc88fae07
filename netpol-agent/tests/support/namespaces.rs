// SPDX-License-Identifier: Apache-2.0
//! Unnamed network namespaces: they live as long as the thread or child process in them, so nothing
//! is left behind however a test ends.
#![allow(dead_code, reason = "each suite uses a part of it")]

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    os::fd::AsFd as _,
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
};

use nix::sched::{CloneFlags, setns, unshare};

/// Returns true if a suite that needs root can run. If not, says so, and panics where every suite
/// has to run.
pub fn privileged(suite: &str) -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    not_run(suite, "not root");
    false
}

/// Reports loudly that a suite did not run, and panics where every suite has to run.
pub fn not_run(suite: &str, reason: &str) {
    eprintln!("\n!!!! not run: {suite}: {reason}\n");
    if let Some(report) = std::env::var_os("NETPOL_TEST_REPORT") {
        let mut report = OpenOptions::new().create(true).append(true).open(report).unwrap();
        // In one write: other tests append at the same time.
        let line = format!("not run: {suite}: {reason}\n");
        report.write_all(line.as_bytes()).unwrap();
    }
    assert!(
        std::env::var_os("NETPOL_REQUIRE_ALL").is_none(),
        "not run: {suite}: {reason}"
    );
}

/// Moves the calling thread into a new network namespace, for good: the node of this test.
pub fn enter_new() {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    ip("link set lo up");
}

/// Drops a capability of the calling thread, by its number in `linux/capability.h`.
pub fn drop_capability(number: u32) {
    const VERSION_3: u32 = 0x2008_0522;
    let mut header = [VERSION_3, 0];
    // Effective, permitted and inheritable: of the capabilities below 32, then of those above.
    let mut sets = [0u32; 6];
    // SAFETY: both arrays are as long as this version of the structures, and the calls read and
    // write only them.
    let results = unsafe {
        let read = libc::syscall(libc::SYS_capget, header.as_mut_ptr(), sets.as_mut_ptr());
        sets[(number / 32 * 3) as usize] &= !(1 << (number % 32));
        [
            read,
            libc::syscall(libc::SYS_capset, header.as_mut_ptr(), sets.as_ptr()),
        ]
    };
    assert_eq!(results, [0, 0]);
}

/// Runs `ip` in the calling thread's namespace.
pub fn ip(arguments: &str) {
    run(Command::new("ip").args(arguments.split(' ')));
}

/// Runs a command and returns what it printed.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// A process in its own network namespace.
pub struct Pod {
    child: Child,
    namespace: File,
}

impl Pod {
    pub fn new() -> Self {
        let mut command = Command::new("sleep");
        command
            .arg("infinity")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // SAFETY: unshare and prctl are single system calls, which are allowed between fork and
        // exec.
        unsafe {
            command.pre_exec(|| {
                unshare(CloneFlags::CLONE_NEWNET)?;
                Ok(nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?)
            });
        }
        // spawn returns after exec, so the namespace exists.
        let child = command.spawn().unwrap();
        let namespace = File::open(format!("/proc/{}/ns/net", child.id())).unwrap();
        Self { child, namespace }
    }

    /// Makes a veth `host` in the calling thread's namespace, with its peer `eth0` in this one;
    /// both are up.
    pub fn connect(&self, host: &str) {
        self.connect_as(host, "eth0");
    }

    /// Like [`Pod::connect`], with a name for the peer.
    pub fn connect_as(&self, host: &str, peer: &str) {
        let id = self.child.id();
        ip(&format!("link add {host} type veth peer name {peer} netns {id}"));
        ip(&format!("link set {host} up"));
        self.ip(&format!("link set {peer} up"));
    }

    /// Moves an interface of the calling thread's namespace into this one.
    pub fn move_in(&self, interface: &str) {
        ip(&format!("link set {interface} netns {}", self.child.id()));
    }

    /// Runs `ip` inside.
    pub fn ip(&self, arguments: &str) {
        let namespace = self.namespace.as_fd().try_clone_to_owned().unwrap();
        let mut command = Command::new("ip");
        command.args(arguments.split(' '));
        // SAFETY: setns is a single system call, which is allowed between fork and exec.
        unsafe {
            command.pre_exec(move || Ok(setns(&namespace, CloneFlags::CLONE_NEWNET)?));
        }
        run(&mut command);
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
