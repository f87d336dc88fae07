// SPDX-License-Identifier: Apache-2.0
//! `netpol agent`.

use std::{net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use anyhow::Context;
use clap::{Args, ValueEnum};
use tokio_util::sync::CancellationToken;

use super::{
    lifetimes::{self, Lifetime},
    stop::on_signal,
};
use crate::{app, datapath, datapath::attach, records, sync::Settings, watch::Source};

/// Default of `--pin-path`.
pub const PIN_PATH: &str = "/sys/fs/bpf/netpol";

/// Default of `--socket`.
pub const SOCKET: &str = "/run/netpol/agent.sock";

/// Arguments of `netpol agent`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Where to read pods, namespaces and policies: `kube` for a cluster's API server, or a folder
    /// of manifests (YAML, JSON, Lists), which is watched for changes.
    #[arg(long, value_name = "kube|DIR", default_value = "kube", env = "NETPOL_SOURCE")]
    source: Source,
    /// Configuration for `--source kube` outside of a cluster. Default: the one that kubectl would
    /// use (KUBECONFIG, ~/.kube/config), if there is one, else the service account of the agent's
    /// pod.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Name of this node, as in `spec.nodeName` of its pods.
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    node_name: String,
    /// Folder on bpffs where maps and links are pinned, in a subfolder by ABI version. The agent
    /// mounts bpffs if it is not mounted. A second agent in the same network namespace is refused,
    /// whatever its folder.
    #[arg(long, value_name = "DIR", default_value = PIN_PATH, env = "NETPOL_PIN_PATH")]
    pin_path: PathBuf,
    /// Folder where libcni keeps the results of CNI plugins. They tell which pod an interface was
    /// made for, and the pod cannot change them.
    #[arg(long, value_name = "DIR", default_value = records::FOLDER, env = "NETPOL_CNI_RESULTS")]
    cni_results: PathBuf,
    /// How to attach programs: as TCX links if the kernel has them (6.6 and later), else as filters
    /// of a clsact qdisc.
    #[arg(long, value_enum, default_value_t = attach::Mode::Auto, env = "NETPOL_ATTACH")]
    attach: attach::Mode,
    /// Number of connections that the flow table holds. A pod that uses more than its share
    /// replaces its own. Default: that of the pinned table, else one for each 16 KiB of the node's
    /// memory, rounded down to a power of two, at least 16384 and at most 262144. Each takes 152
    /// bytes. The agent replaces a table of another size and copies its flows.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1024..))]
    flow_capacity: Option<u32>,
    /// How long a connection may be silent before its packets are judged as new, e.g.
    /// `tcp-established=86400`. Can be given once for each of tcp-opening, tcp-established,
    /// tcp-closing, tcp-closed, udp-opening, udp-established, sctp-opening, sctp-established, icmp
    /// and other. Default: the lifetimes of nf_conntrack.
    #[arg(long, value_name = "STATE=SECONDS")]
    flow_lifetime: Vec<Lifetime>,
    /// Number of dropped packets that each CPU may report per second; 0 turns reports off. Counters
    /// always count.
    #[arg(long, value_name = "N", default_value_t = 100)]
    events_per_second: u32,
    /// Address to serve /metrics (Prometheus), /livez and /readyz on; `none` serves nothing.
    #[arg(long, value_name = "ADDR:PORT|none", default_value = "none")]
    listen: Listen,
    /// Unix socket for `netpol explain`, `status`, `sysdump` and `verify`, for root only; `none`
    /// for no socket. If the agent cannot have it, it warns and goes on.
    #[arg(long, value_name = "PATH|none", default_value = SOCKET, env = "NETPOL_SOCKET")]
    socket: Socket,
    /// What happens to a new pod's traffic before its policy is programmed. `open` lets it pass.
    /// `strict` drops all traffic but the node's, from the moment that the interface appears on a
    /// bridge of this node's pods or gets a route of theirs. That needs a running agent: what
    /// appears while it does not run is closed when it starts.
    #[arg(long, value_enum, default_value_t = app::Startup::Open, env = "NETPOL_STARTUP_MODE")]
    startup_mode: app::Startup,
    /// Address range of this node's pods. Can be given several times. The agent recognises the
    /// interfaces of the pod network by these. Default: `spec.podCIDRs` of the Node.
    #[arg(long, value_name = "CIDR")]
    pod_cidr: Vec<ipnet::IpNet>,
    /// Seconds between comparisons of the kernel's state with the desired one. Differences are
    /// repaired and reported.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    resync: u64,
    /// Log level of the eBPF programs themselves, for debugging.
    #[arg(long, value_enum, default_value_t = ProgramLogLevel::Off)]
    program_log: ProgramLogLevel,
}

#[derive(Debug, Clone, Copy)]
struct Listen(Option<SocketAddr>);

impl FromStr for Listen {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "none" {
            Ok(Self(None))
        } else {
            text.parse().map(|address| Self(Some(address)))
        }
    }
}

#[derive(Debug, Clone)]
struct Socket(Option<PathBuf>);

impl FromStr for Socket {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self((text != "none").then(|| text.into())))
    }
}

/// Log level of the programs, by the numbers of aya-log.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum ProgramLogLevel {
    Off = 0,
    Info = 3,
    Debug = 4,
}

/// Runs the agent until SIGTERM or SIGINT. Enforcement stays in place after that.
///
/// # Errors
/// The agent cannot start, or an essential stage ended.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let options = app::Options {
        source: match arguments.source {
            Source::Kube { .. } => Source::Kube {
                kubeconfig: arguments.kubeconfig,
            },
            source => source,
        },
        node_name: arguments.node_name,
        datapath: datapath::Options {
            pin_path: arguments.pin_path,
            attach: arguments.attach,
            flow_capacity: arguments.flow_capacity,
            log_level: arguments.program_log as u8,
        },
        cni_results: arguments.cni_results,
        settings: Settings {
            events_per_second: arguments.events_per_second,
            lifetimes: lifetimes::all(&arguments.flow_lifetime),
        },
        listen: arguments.listen.0,
        socket: arguments.socket.0,
        startup: arguments.startup_mode,
        pod_cidrs: arguments.pod_cidr,
        resync: Duration::from_secs(arguments.resync),
    };
    let stop = CancellationToken::new();
    let _running = on_signal(stop.clone())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the async runtime")?;
    runtime.block_on(app::run(options, stop))
}
