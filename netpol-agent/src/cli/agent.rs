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
    /// Where pods, namespaces and policies come from: `kube` for a cluster's API server, or a folder of manifests (YAML, JSON,
    /// Lists), which is watched for changes.
    #[arg(long, value_name = "kube|DIR", default_value = "kube", env = "NETPOL_SOURCE")]
    source: Source,
    /// Configuration for `--source kube` outside of a cluster. Default: what kubectl would use (KUBECONFIG, ~/.kube/config) if there is any,
    /// else the service account of the pod that the agent runs in.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Name of this node, as in `spec.nodeName` of its pods.
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    node_name: String,
    /// Folder on bpffs where maps and links are pinned, in a subfolder by ABI version. bpffs is mounted if it is not.
    #[arg(long, value_name = "DIR", default_value = PIN_PATH, env = "NETPOL_PIN_PATH")]
    pin_path: PathBuf,
    /// Folder where libcni keeps the results of CNI plugins: they tell which pod an interface was made for, which the pod cannot change.
    #[arg(long, value_name = "DIR", default_value = records::FOLDER, env = "NETPOL_CNI_RESULTS")]
    cni_results: PathBuf,
    /// How programs are attached: TCX links where the kernel has them (6.6 and later), else filters of a clsact qdisc.
    #[arg(long, value_enum, default_value_t = attach::Mode::Auto)]
    attach: attach::Mode,
    /// Connections that the flow table holds; the least recently used make room. Default: what is pinned, else one for each 16 KiB of the
    /// node's memory, down to a power of two, at least 16384 and at most 262144. Each takes 136 bytes. A table of another size is
    /// replaced, its flows are copied.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1024..))]
    flow_capacity: Option<u32>,
    /// How long a connection may be silent before its packets are judged as new, e.g. `tcp-established=86400`. Once for each of tcp-opening,
    /// tcp-established, tcp-closing, tcp-closed, udp-opening, udp-established, sctp-opening, sctp-established, icmp and other. Default:
    /// those of nf_conntrack.
    #[arg(long, value_name = "STATE=SECONDS")]
    flow_lifetime: Vec<Lifetime>,
    /// Events of dropped packets that each CPU may report in a second; 0 turns them off. Counters always count.
    #[arg(long, value_name = "N", default_value_t = 100)]
    events_per_second: u32,
    /// Where to serve /metrics (Prometheus), /healthz and /readyz; `none` to serve nothing.
    #[arg(long, value_name = "ADDR:PORT|none", default_value = "none")]
    listen: Listen,
    /// Unix socket for `netpol explain`, for root only; `none` to have none. An agent that cannot have it warns, and goes on.
    #[arg(long, value_name = "PATH|none", default_value = SOCKET, env = "NETPOL_SOCKET")]
    socket: Socket,
    /// What a new pod's traffic gets before its policy is programmed: `open` lets it pass, `strict` drops all but the node's from the moment that the
    /// interface shows on a bridge, or by a route, of this node's pods. The agent has to run for that: what is new while it does not
    /// is closed when it starts.
    #[arg(long, value_enum, default_value_t = app::Startup::Open, env = "NETPOL_STARTUP_MODE")]
    startup_mode: app::Startup,
    /// What this node's pods have addresses of, once for each range; by these the interfaces of the pod network are known. Default:
    /// `spec.podCIDRs` of the Node.
    #[arg(long, value_name = "CIDR")]
    pod_cidr: Vec<ipnet::IpNet>,
    /// Seconds between comparisons of what the kernel holds with what it should hold; differences are repaired and reported.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    resync: u64,
    /// Log of the eBPF programs themselves, for debugging.
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

/// Level of the programs' log, by the numbers of aya-log.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum ProgramLogLevel {
    Off = 0,
    Info = 3,
    Debug = 4,
}

/// Runs the agent until SIGTERM or SIGINT; what is enforced stays enforced.
///
/// # Errors
/// It cannot start, or a stage that it cannot live without ended.
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
