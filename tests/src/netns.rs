// SPDX-License-Identifier: Apache-2.0
//! Network namespaces, made in this process and bound under [`FOLDER`], so that `ip netns` and
//! `nsenter` find them. Only threads enter one, never the process. `ip netns exec` is not used,
//! because it hides bpffs.

use std::{
    fs::{self, File},
    io::Write,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};

/// Where `ip netns` keeps the names of namespaces.
pub const FOLDER: &str = "/run/netns";

/// Returns the prefix of all names that process `pid` makes.
pub fn prefix_of(pid: u32) -> String {
    format!("np{pid}-")
}

/// A named network namespace. Removed on drop, unless [`NetNs::open`] only borrowed it.
#[derive(Debug)]
pub struct NetNs {
    name: String,
    file: File,
    owned: AtomicBool,
}

impl NetNs {
    /// Makes a namespace and binds it to `name`: `lo` is up, duplicate address detection and router
    /// advertisements are off.
    ///
    /// # Errors
    /// Without `CAP_SYS_ADMIN`, or if the name is taken.
    pub fn create(name: &str) -> Result<Self> {
        share_folder()?;
        let path = path_of(name);
        File::create_new(&path).with_context(|| format!("creating {}", path.display()))?;
        let made = on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("unsharing the network namespace")?;
            bind("/proc/thread-self/ns/net", &path)?;
            for key in ["accept_dad", "accept_ra", "router_solicitations"] {
                write_sysctl(&format!("net/ipv6/conf/default/{key}"), "0")?;
                write_sysctl(&format!("net/ipv6/conf/all/{key}"), "0")?;
            }
            write_sysctl("net/ipv4/ping_group_range", "0 2147483647")
        });
        let opened =
            made.and_then(|()| File::open(&path).with_context(|| format!("opening {}", path.display())));
        match opened {
            Ok(file) => {
                let netns = Self {
                    name: name.to_owned(),
                    file,
                    owned: AtomicBool::new(true),
                };
                netns.ip("link set lo up\n")?;
                Ok(netns)
            }
            Err(error) => {
                remove(name);
                Err(error.context(format!("making network namespace {name}")))
            }
        }
    }

    /// Opens an existing namespace, which stays when this is dropped.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn open(name: &str) -> Result<Self> {
        let path = path_of(name);
        let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        Ok(Self {
            name: name.to_owned(),
            file,
            owned: AtomicBool::new(false),
        })
    }

    /// Returns its name below [`FOLDER`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns its path, for `nsenter --net=`.
    pub fn path(&self) -> PathBuf {
        path_of(&self.name)
    }

    /// Keeps it when this is dropped.
    pub fn keep(&self) {
        self.owned.store(false, Ordering::Relaxed);
    }

    /// Runs `work` on a new thread inside this namespace. Sockets made there stay in it, wherever
    /// they are used.
    ///
    /// # Errors
    /// If the thread cannot enter the namespace, or `work` fails.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        on_thread(|| {
            enter(self.file.as_fd()).with_context(|| format!("entering network namespace {}", self.name))?;
            work()
        })
    }

    /// Runs lines of `ip -batch` in it.
    ///
    /// # Errors
    /// If a line fails, with `ip`'s output. Earlier lines have taken effect.
    pub fn ip(&self, batch: &str) -> Result<()> {
        let mut ip = Command::new("ip");
        ip.args(["-n", &self.name, "-batch", "-"]);
        feed(&mut ip, batch).context("package iproute2")
    }

    /// Waits until a device can send. The kernel takes a moment to notice the carrier of a new
    /// device, and for a bridge after that of its ports. Packets sent earlier are lost.
    ///
    /// # Errors
    /// If it takes more than 10 seconds, or there is no such device.
    pub fn wait_until_up(&self, device: &str) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let mut ip = Command::new("ip");
            let shown = ip.args(["-n", &self.name, "-o", "link", "show", "dev", device]);
            let shown = shown.output().context("package iproute2")?;
            let text = String::from_utf8_lossy(&shown.stdout);
            if text.contains(" state UP ") {
                return Ok(());
            }
            ensure!(
                Instant::now() < until,
                "{device} in {} does not come up: {text}",
                self.name
            );
            thread::yield_now();
        }
    }

    /// Runs a program in it, with `input` on its standard input.
    ///
    /// # Errors
    /// If the program fails, with its output, or cannot be started.
    pub fn feed(&self, program: &str, arguments: &[&str], input: &str) -> Result<()> {
        self.run(|| feed(Command::new(program).args(arguments), input))
    }

    /// Sets sysctls, as `(net/ipv4/ip_forward, 1)`.
    ///
    /// # Errors
    /// If one cannot be written.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            settings
                .iter()
                .try_for_each(|(key, value)| write_sysctl(key, value))
        })
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        if self.owned.load(Ordering::Relaxed) {
            remove(&self.name);
        }
    }
}

/// Moves the calling thread into the namespace.
///
/// # Errors
/// Without `CAP_SYS_ADMIN`.
pub fn enter(netns: BorrowedFd<'_>) -> nix::Result<()> {
    setns(netns, CloneFlags::CLONE_NEWNET)
}

/// Removes the name of a namespace; the kernel ends it when it is no longer used. Accepts that it
/// is already gone.
pub fn remove(name: &str) {
    let path = path_of(name);
    while umount2(&path, MntFlags::MNT_DETACH).is_ok() {}
    if let Err(error) = fs::remove_file(&path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        eprintln!("netpol-tests: removing {}: {error}", path.display());
    }
}

/// Returns the names of all namespaces with this prefix, sorted.
pub fn names(prefix: &str) -> Vec<String> {
    let Ok(folder) = fs::read_dir(FOLDER) else {
        return Vec::new();
    };
    let mut names: Vec<_> = folder
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect();
    names.sort();
    names
}

/// Removes namespaces of ended processes.
pub fn sweep() {
    for name in names("np") {
        let Some((pid, _)) = name[2..].split_once('-') else {
            continue;
        };
        if pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists() {
            remove(&name);
        }
    }
}

fn feed(command: &mut Command, input: &str) -> Result<()> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {command:?}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin
            .write_all(input.as_bytes())
            .with_context(|| format!("writing to {command:?}"))?;
    }
    let output = child.wait_with_output().context("waiting for a program")?;
    ensure!(
        output.status.success(),
        "{command:?}: {}\nof\n{input}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

fn path_of(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

fn on_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(_) => bail!("a thread in a network namespace panicked"),
    })
}

fn write_sysctl(key: &str, value: &str) -> Result<()> {
    let path = Path::new("/proc/sys").join(key);
    fs::write(&path, value).with_context(|| format!("writing {value:?} to {}", path.display()))
}

fn bind(source: &str, target: &Path) -> Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("binding {source} to {}", target.display()))
}

/// Makes the folder a shared mount, as `ip netns add` does, so that both can be used side by side.
fn share_folder() -> Result<()> {
    fs::create_dir_all(FOLDER).with_context(|| format!("creating {FOLDER}"))?;
    let share = || {
        mount(
            None::<&str>,
            FOLDER,
            None::<&str>,
            MsFlags::MS_SHARED | MsFlags::MS_REC,
            None::<&str>,
        )
    };
    match share() {
        Err(Errno::EINVAL) => {
            let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
            mount(Some(FOLDER), FOLDER, None::<&str>, flags, None::<&str>)
                .with_context(|| format!("binding {FOLDER} to itself"))?;
            share()
        }
        result => result,
    }
    .with_context(|| format!("sharing {FOLDER}"))
}
