// SPDX-License-Identifier: Apache-2.0
//! Finds and removes a demo that was left running.

use std::{
    fs,
    net::IpAddr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use netpol_agent::model;
use netpol_common::abi::ABI_VERSION;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

use super::{matrix::Matrix, story};
use netpol_tests::{
    agent::{self, Agent},
    netns::{self, NetNs},
    node::{Node, Site},
    privilege,
    probe::{Prober, Service},
    server::Servers,
};

const FOLDER: &str = "/run/netpol-demo";
const PREFIX: &str = "npdemo-";
const PIN_PATH: &str = "/sys/fs/bpf/netpol-demo";

static CURRENT: Mutex<Option<Kept>> = Mutex::new(None);

/// Names and process ids of a demo.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) prefix: String,
    pub(super) pin_path: PathBuf,
    pub(super) manifests: PathBuf,
    processes: Vec<u32>,
    sites: Vec<(String, String, Vec<IpAddr>)>,
    services: Vec<Service>,
    node_addresses: Vec<IpAddr>,
}

impl Kept {
    fn new(prefix: String, pin_path: PathBuf) -> Self {
        let kept = Self {
            prefix,
            pin_path,
            manifests: Path::new(FOLDER).join("manifests"),
            processes: Vec::new(),
            sites: Vec::new(),
            services: Vec::new(),
            node_addresses: Vec::new(),
        };
        kept.remember();
        kept
    }

    /// Returns names for a demo that ends with this process: they contain the process id.
    pub(super) fn passing() -> Self {
        let pid = std::process::id();
        Self::new(
            format!("{}demo-", netns::prefix_of(pid)),
            format!("/sys/fs/bpf/netpol-demo-{pid}").into(),
        )
    }

    /// Returns names for a demo that stays.
    pub(super) fn fresh() -> Result<Self> {
        let free =
            !Path::new(FOLDER).exists() && !Path::new(PIN_PATH).exists() && netns::names(PREFIX).is_empty();
        ensure!(free, "a kept demo is there already: remove it with --clean");
        Ok(Self::new(PREFIX.to_owned(), PIN_PATH.into()))
    }

    /// Makes a signal to this process end the agent too.
    pub(super) fn watch_over(&mut self, agent: &Agent) {
        self.processes.extend(agent.pid());
        self.remember();
    }

    fn remember(&self) {
        *CURRENT.lock().unwrap_or_else(PoisonError::into_inner) = Some(self.clone());
    }

    /// Leaves everything running, and prints how to look at it.
    pub(super) fn leave(&mut self, node: &Node, matrix: &Matrix, agent: Agent) -> Result<()> {
        let log = Path::new(FOLDER).join("agent.log");
        self.processes = vec![agent.detach(&log)?];
        self.remember();
        self.services.clone_from(&matrix.services);
        self.node_addresses = node.site().addresses;
        let site = |site: &Site| {
            (
                site.name.clone(),
                site.netns.name().to_owned(),
                site.addresses.clone(),
            )
        };
        self.sites = matrix.sites.iter().map(site).collect();
        self.save()?;
        let program = std::env::current_exe().context("finding this program")?;
        let mut command = Command::new(&program);
        command
            .arg("--serve")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let servers = agent::inside(&mut command, node.netns())
            .spawn()
            .context("starting the probe servers")?;
        self.processes.push(servers.id());
        self.save()?;
        self.remember();
        node.keep();
        let netns = story::node_netns(&self.prefix);
        let (netns, pins, program) = (netns.display(), self.pin_path.display(), program.display());
        println!(
            "\nLeft running: the namespaces {}\nand the agent (process {}, log {}).\n\n\
             Programs on the pods' interfaces:\n  nsenter --net={netns} bpftool net      # bpftool before 7.3 does not know TCX: bpftool link\n\
             Maps:\n  for map in endpoints addresses identities frontends ports policies flows 'observed-*/counters'; do bpftool map dump pinned {pins}/v{ABI_VERSION}/$map; done\n\
             Edit a policy (the agent follows), and look again:\n  $EDITOR {}/*.yaml\n  {program} --matrix\n\
             Kill the agent, and look again:\n  kill -9 {}\n\
             Remove everything:\n  {program} --clean",
            story::listing(&self.prefix),
            self.processes[0],
            log.display(),
            self.manifests.display(),
            self.processes[0],
        );
        Ok(())
    }

    fn save(&self) -> Result<()> {
        let path = state_file();
        let text = serde_json::to_string_pretty(self).context("writing the state of the demo")?;
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }

    fn load() -> Result<Self> {
        let path = state_file();
        let text =
            fs::read_to_string(&path).with_context(|| format!("no kept demo: reading {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))
    }

    fn matrix(&self) -> Result<Matrix> {
        let mut sites = Vec::new();
        for (name, netns, addresses) in &self.sites {
            let netns = Arc::new(NetNs::open(netns)?);
            sites.push(Site {
                name: name.clone(),
                netns,
                addresses: addresses.clone(),
            });
        }
        Ok(Matrix::new(sites, self.services.clone()))
    }

    /// Ends its processes, removes its pins and its namespaces.
    fn wipe(&self) -> Result<()> {
        for &process in &self.processes {
            end(process);
        }
        let netns = NetNs::open(&format!("{}node-a", self.prefix));
        let removed = match (netns, privilege::binary()) {
            (Ok(netns), Some(binary)) if self.pin_path.exists() => {
                agent::cleanup(&binary, &Arc::new(netns), &self.pin_path)
            }
            (_, None) if self.pin_path.exists() => {
                Err(anyhow::anyhow!("no agent to remove {}", self.pin_path.display()))
            }
            _ => Ok(()),
        };
        netns::names(&self.prefix)
            .iter()
            .for_each(|name| netns::remove(name));
        removed
    }
}

/// Removes what this process has made so far.
pub(super) fn wipe_current() {
    let current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if let Some(kept) = current {
        if let Err(error) = kept.wipe() {
            eprintln!("{error:#}");
        }
        if kept.prefix == PREFIX {
            let _ = fs::remove_dir_all(FOLDER);
        }
    }
}

/// Removes a demo that was left running.
///
/// # Errors
/// If something of it cannot be removed.
pub fn clean() -> Result<()> {
    let kept = Kept::load().unwrap_or_else(|_| Kept::new(PREFIX.to_owned(), PIN_PATH.into()));
    kept.wipe()?;
    if Path::new(FOLDER).exists() {
        fs::remove_dir_all(FOLDER).with_context(|| format!("removing {FOLDER}"))?;
    }
    Ok(())
}

/// Prints the current matrix of a demo that was left running. Returns true if every cell is what
/// the policies say.
///
/// # Errors
/// If there is no such demo, or its manifests cannot be read.
pub fn show() -> Result<bool> {
    let kept = Kept::load()?;
    let matrix = kept.matrix()?;
    let addresses = kept.node_addresses.iter().copied().collect();
    let nodes = [model::Node {
        name: "node-a".to_owned(),
        addresses,
        ..model::Node::default()
    }];
    let answers = matrix.ask(&Prober::new()?, &kept.manifests, &nodes)?;
    println!("{}\n\n{}", matrix.legend(), matrix.table(&answers));
    let differences = matrix.differences(&answers);
    differences
        .iter()
        .for_each(|difference| println!("! {difference}"));
    Ok(differences.is_empty())
}

/// Runs the probe servers of a demo that was left running, until it ends.
///
/// # Errors
/// If there is no such demo, or a port is taken.
pub fn serve() -> Result<()> {
    let kept = Kept::load()?;
    // Needed only because it raises the limit of open files.
    let _prober = Prober::new()?;
    let servers = Servers::new()?;
    for site in &kept.matrix()?.sites {
        servers.add(site, &kept.services)?;
    }
    loop {
        std::thread::park();
    }
}

fn state_file() -> PathBuf {
    Path::new(FOLDER).join("state.json")
}

/// Kills a process if it is still the demo's, and waits briefly for its end.
#[expect(
    clippy::disallowed_methods,
    reason = "the process may be another's child, whose end is no event here"
)]
fn end(process: u32) {
    let folder = PathBuf::from(format!("/proc/{process}"));
    let ours =
        fs::read(folder.join("cmdline")).is_ok_and(|line| String::from_utf8_lossy(&line).contains("netpol"));
    if !ours || kill(Pid::from_raw(process.cast_signed()), Signal::SIGKILL).is_err() {
        return;
    }
    let until = Instant::now() + Duration::from_secs(2);
    while folder.join("exe").read_link().is_ok() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
    }
}
