// SPDX-License-Identifier: Apache-2.0
//! Collects what a bug report needs: from the agent, the kernel, and the node's own tools.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{process::Command, time::timeout};

use super::{Item, logs};
use crate::datapath::{dump, object};

/// How long a tool may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Files of the kernel: path here, path in the archive, what it is.
const FILES: [(&str, &str, &str); 10] = [
    ("/proc/version", "node/version.txt", "the kernel"),
    ("/etc/os-release", "node/os-release.txt", "the distribution"),
    ("/proc/uptime", "node/uptime.txt", "seconds since the boot"),
    ("/proc/meminfo", "node/meminfo.txt", "memory"),
    ("/proc/modules", "node/modules.txt", "modules of the kernel"),
    (
        "/proc/net/dev",
        "network/devices.txt",
        "interfaces with their counters",
    ),
    (
        "/proc/net/route",
        "network/route-ipv4.txt",
        "IPv4 routes of the main table",
    ),
    ("/proc/net/ipv6_route", "network/route-ipv6.txt", "IPv6 routes"),
    ("/proc/net/arp", "network/arp.txt", "IPv4 neighbours"),
    ("/proc/net/snmp", "network/snmp.txt", "counters of the IP stack"),
];

/// Settings of the kernel that verdicts or packets depend on.
const SETTINGS: [&str; 9] = [
    "kernel/unprivileged_bpf_disabled",
    "net/core/bpf_jit_enable",
    "net/core/bpf_jit_harden",
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/rp_filter",
    "net/ipv6/conf/all/forwarding",
    "net/bridge/bridge-nf-call-iptables",
    "net/bridge/bridge-nf-call-ip6tables",
    "net/netfilter/nf_conntrack_max",
];

/// Tools of the node: program and arguments, path in the archive, what it says.
const TOOLS: [(&str, &str, &str); 11] = [
    ("ip -details link", "network/link.txt", "interfaces"),
    ("ip address", "network/address.txt", "addresses"),
    ("ip rule", "network/rule.txt", "IPv4 routing rules"),
    (
        "ip route show table all",
        "network/route.txt",
        "routes of all tables",
    ),
    (
        "ip -6 route show table all",
        "network/route6.txt",
        "IPv6 routes of all tables",
    ),
    ("ip neighbour", "network/neighbour.txt", "neighbours"),
    ("bridge link", "network/bridge.txt", "ports of bridges"),
    ("tc -statistics qdisc", "network/qdisc.txt", "qdiscs"),
    ("nft list ruleset", "network/nftables.txt", "rules of nftables"),
    ("iptables-save", "network/iptables.txt", "rules of iptables"),
    ("dmesg", "logs/kernel.txt", "the kernel's log"),
];

/// What a collection is of.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Where maps and links are pinned.
    pub pin_path: PathBuf,
    /// Answers of the agent by name, each as it is or why there is none.
    pub answers: Vec<(String, String, Result<String, String>)>,
    /// Logs of the agent. If empty, those of the DaemonSet's containers.
    pub logs: Vec<PathBuf>,
}

/// Collects everything.
pub async fn collect(asked: Asked) -> Vec<Item> {
    let mut items = Vec::new();
    let mut add = |path: &str, what: &str, text| {
        items.push(Item {
            path: path.to_owned(),
            what: what.to_owned(),
            text,
        });
    };
    for (path, what, text) in asked.answers {
        add(&path, &what, text);
    }
    let version = format!("netpol {}\n{}\n", env!("CARGO_PKG_VERSION"), object::described());
    add("version.txt", "the program that made this archive", Ok(version));
    for (map, text) in dump::maps(&asked.pin_path) {
        let path = format!("bpf/maps/{map}.txt");
        add(
            &path,
            "a map: keys and values in hexadecimal, see docs/bpftool.md",
            text,
        );
    }
    add("bpf/programs.txt", "programs of the node", dump::programs());
    add("bpf/links.txt", "links of the node", dump::links());
    add("bpf/pins.txt", "what netpol pinned", pins(&asked.pin_path));
    for (from, path, what) in FILES {
        add(path, what, read(Path::new(from)));
    }
    let settings = SETTINGS.map(|name| {
        let value = read(&Path::new("/proc/sys").join(name));
        format!("{name} = {}\n", value.unwrap_or_else(|why| why).trim())
    });
    add(
        "node/settings.txt",
        "settings of the kernel",
        Ok(settings.concat()),
    );
    add("node/mounts.txt", "mounts of bpffs", mounts());
    for (line, path, what) in TOOLS {
        add(path, &format!("{what} (`{line}`)"), run(line).await);
    }
    add(
        "network/filters.txt",
        "filters of each interface (`tc filter`)",
        filters().await,
    );
    match logs::find(&asked.logs) {
        Ok(found) => {
            for log in found {
                add(&log.name_in_archive(), "a log of the agent", log.end());
            }
        }
        Err(why) => add(
            "logs/agent.txt",
            "the agent's log (--log-file names it)",
            Err(why),
        ),
    }
    items
}

fn read(path: &Path) -> Result<String, String> {
    let bytes = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Returns the mounts of bpffs. Others name volumes of pods, and so Secrets.
fn mounts() -> Result<String, String> {
    let all = read(Path::new("/proc/self/mountinfo"))?;
    let of_bpf = all.lines().filter(|line| line.contains(" - bpf "));
    Ok(of_bpf.map(|line| format!("{line}\n")).collect())
}

/// Runs a tool and returns what it writes. A word may not contain a space.
async fn run(line: &str) -> Result<String, String> {
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).stdin(Stdio::null()).kill_on_drop(true);
    let output = match timeout(PATIENCE, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(format!("`{line}`: {error}")),
        Err(_) => return Err(format!("`{line}` takes longer than {} s", PATIENCE.as_secs())),
    };
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr);
        let told = told.lines().next().unwrap_or_default();
        return Err(format!("`{line}`: {}: {told}", output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Asks for the filters of each interface, both ways.
async fn filters() -> Result<String, String> {
    let mut text = String::new();
    let interfaces = nix::net::if_::if_nameindex().map_err(|error| error.to_string())?;
    for interface in &interfaces {
        let name = interface.name().to_string_lossy();
        for way in ["ingress", "egress"] {
            let line = format!("tc filter show dev {name} {way}");
            // An interface may go meanwhile.
            let found = run(&line).await.unwrap_or_else(|why| why);
            if !found.trim().is_empty() {
                text += &format!("{name} {way}\n{found}\n");
            }
        }
    }
    Ok(text)
}

/// Lists what is pinned, folders first.
fn pins(pin_path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let mut folders = vec![pin_path.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            text += &format!("{}\n", path.display());
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
    Ok(text)
}
