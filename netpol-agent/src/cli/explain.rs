// SPDX-License-Identifier: Apache-2.0
//! `netpol explain`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};

use super::{
    ask::ask,
    read::{self, Reading},
};
use crate::{
    explain::{End, Family, Port, Request, World, explain},
    watch::Source,
};

/// Arguments of `netpol explain`.
#[derive(Debug, Args)]
#[command(after_help = "\
SRC and DST are namespace/pod, namespace/service, or an IP address. If a pod and a Service have the
same name, write namespace/pod/name or namespace/svc/name; with --namespace, pod/name or svc/name.

Each pair of addresses of one family is judged separately. If DST and PORT are a Service's (its
name, its ClusterIP, ExternalIP or LoadBalancer IP, or a node's address with a NodePort), each
backend is judged on its own port, never the virtual IP. Backends are ready endpoints, and those
that still serve while they end. A headless Service stands for its ready pods, and so does a Service
as SRC.

The packet that opens a connection is judged where it ends: a node's port that is a pod's hostPort
is that pod. Traffic between a pod and its own node is always allowed. A node's addresses come from
its object, its hostNetwork pods and --node; a running agent also knows its node's interfaces.

A running agent also knows which pods of its node are not enforced on and why, which interfaces are
closed, and whose a link-local address is. With --source, the answer says what policies say, never
whether a node enforces them.

The answer is \"cannot tell\" if it depends on what nobody here knows: the address that another node
or masquerade puts on the packet, which of two pods has an address that both claim, or a policy that
could not be written.

Exit code: 0 if every pair and every backend (of --family, if given) is allowed. 1 if one is not, or
a Service has no ready endpoints. 2 if there is no answer. 3 if it cannot be told for one of them.
With -o json, `outcome` is allowed, denied, cannot-tell, or partly: some backends of a Service are
allowed and some are not, so connections fail now and then.

Examples:
  netpol explain --source ./manifests shop/web data/db 5432/TCP
  netpol explain --source kube -o json shop/web 203.0.113.9 443/tcp
  netpol explain shop/web data/svc/sql 5432/TCP
  netpol explain -n shop web svc/cart 80/TCP
  netpol explain shop/web data/db icmp --family ipv6")]
pub struct Arguments {
    /// The end that opens the connection.
    #[arg(value_name = "SRC")]
    source_end: String,
    /// The end that it connects to.
    #[arg(value_name = "DST")]
    destination: String,
    /// Destination port by number, e.g. 5432/TCP (TCP, UDP or SCTP, in upper or lower case); icmp
    /// for echo; ip/NUMBER for another IP protocol. Names of ports are not accepted, because each
    /// pod may give a name another number.
    #[arg(value_name = "PORT/PROTOCOL")]
    port: Port,
    /// Read the objects from here instead of asking the agent of this node: `kube` for a cluster's
    /// API server, or a folder of manifests.
    #[arg(long, value_name = "kube|DIR")]
    source: Option<Source>,
    /// Socket of the agent to ask if there is no --source.
    #[arg(long, value_name = "PATH", default_value = super::agent::SOCKET, env = "NETPOL_SOCKET")]
    socket: PathBuf,
    /// Namespace of SRC and DST where they name none. They can then be web, pod/web or svc/web.
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Judge only this address family.
    #[arg(long, value_name = "ipv4|ipv6")]
    family: Option<Family>,
    /// Format of the answer.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// List every backend, policy, rule and peer, not only those nearest to a match.
    #[arg(short = 'v', long)]
    all: bool,
    #[command(flatten)]
    reading: Reading,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

/// Answers the question and returns the exit code.
pub fn run(arguments: Arguments) -> ExitCode {
    read::exit(answer(arguments))
}

fn answer(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let end = |text: &str| match &arguments.namespace {
        Some(namespace) => End::in_namespace(namespace, text),
        None => text.parse(),
    };
    let request = Request {
        source: end(&arguments.source_end)?,
        destination: end(&arguments.destination)?,
        port: arguments.port,
        family: arguments.family,
    };
    let answer = match arguments.source {
        Some(source) => {
            let (snapshot, nodes) = arguments.reading.read(source)?;
            let world = World {
                snapshot: &snapshot,
                nodes: &nodes,
                held: None,
            };
            explain(world, &request)?
        }
        None => {
            ensure!(
                !arguments.reading.names_nodes(),
                "--node goes with --source: an agent knows its node's addresses"
            );
            ask(&arguments.socket, &format!("/explain?{}", request.to_query()))?
        }
    };
    let text = match arguments.output {
        Output::Text if arguments.all => format!("{answer:#}"),
        Output::Text => answer.to_string(),
        Output::Json => serde_json::to_string_pretty(&answer).context("writing JSON")? + "\n",
    };
    read::print(&text)?;
    Ok(ExitCode::from(answer.outcome.exit_code()))
}
