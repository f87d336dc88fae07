// SPDX-License-Identifier: Apache-2.0
//! `netpol verify`.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::Args;
use nix::net::if_::if_nametoindex;

use super::{ask::ask, read};
use crate::{
    observe::overview::Overview,
    verify::{Held, Rooms, probe},
};

/// How long the agent may take to enforce on the scratch pods.
const PATIENCE: Duration = Duration::from_secs(30);
/// The bridge that Flannel's CNI plugin makes for the first pod.
const FLANNEL: &str = "cni0";

/// Arguments of `netpol verify`.
#[derive(Debug, Args)]
#[command(after_help = "\
Makes two network namespaces with an interface each on the bridge of the node's pods, asks the agent
to enforce on them, and makes connections from one to the other: one that is allowed, one that the
ingress of its destination denies, and one that the egress of its source denies, over IPv4 and IPv6.
It names the agent's conditions that were not met when it began.

It takes root on the node, in the node's network namespace; the agent's container may make no
namespace. Program and socket are in that container: see the example. The agent knows the scratch
pods only as long as this command keeps its connection open. They have addresses for documentation (192.0.2.241 and .242,
2001:db8:6e65:7470::f1 and ::f2); a firewall of the node may not forward those.

Exit code: 0 if the node enforces. 1 if something is wrong. 2 if it cannot be tested.

Examples:
  P=$(pgrep -of '/netpol agent')
  /proc/$P/root/netpol verify --socket /proc/$P/root/run/netpol/agent.sock")]
pub struct Arguments {
    /// The bridge to join. Default: the bridge of most pods that the agent enforces on, else cni0.
    #[arg(long, value_name = "NAME")]
    bridge: Option<String>,
    /// The agent's socket.
    #[arg(long, value_name = "PATH", default_value = super::agent::SOCKET, env = "NETPOL_SOCKET")]
    socket: PathBuf,
}

/// Runs the self-test and returns the exit code.
pub fn run(arguments: &Arguments) -> ExitCode {
    read::exit(verify(arguments))
}

fn verify(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let overview: Overview = ask(&arguments.socket, "/status")?;
    let bridge = match &arguments.bridge {
        Some(name) => name.clone(),
        None => bridge_of_pods(&overview)?,
    };
    let index = if_nametoindex(bridge.as_str()).with_context(|| format!("bridge {bridge} (--bridge)"))?;
    let rooms = Rooms::new(index)?;
    let (held, connection) = hold(&arguments.socket)?;
    if let Some(why) = held.refused {
        bail!("the agent holds no scratch pods: {why}");
    }
    let mut wrong = 0;
    let mut text = String::new();
    if let Some(fault) = held.fault {
        text += &format!("[-]the agent does not enforce on scratch pods at {bridge}: {fault}\n");
        wrong += 1;
    } else {
        for found in probe(&rooms)? {
            text += &format!("{found}\n");
            wrong += u32::from(!found.is_right());
        }
    }
    // The agent forgets the scratch pods when the connection ends: not before their test is over.
    drop(connection);
    drop(rooms);
    for condition in overview.conditions.iter().filter(|condition| !condition.is_met()) {
        text += &format!("{condition}\n");
        wrong += 1;
    }
    text += &match wrong {
        0 => "enforces\n".to_owned(),
        count => format!("wrong: {count}, see [-]\n"),
    };
    read::print(&text)?;
    Ok(ExitCode::from(u8::from(wrong > 0)))
}

/// Returns the bridge that most of the enforced pods are on, or that Flannel makes if there is no
/// pod yet.
fn bridge_of_pods(overview: &Overview) -> anyhow::Result<String> {
    match &overview.hooks.bridge {
        Some(bridge) => Ok(bridge.clone()),
        None if overview.hooks.interfaces.is_empty() => Ok(FLANNEL.to_owned()),
        None => {
            bail!("the pods of this node are on no bridge, which this test needs; name one with --bridge")
        }
    }
}

/// Asks the agent to hold the scratch pods. It does until the connection ends.
fn hold(socket: &Path) -> anyhow::Result<(Held, UnixStream)> {
    let shown = socket.display();
    let mut stream = UnixStream::connect(socket).with_context(|| format!("asking the agent on {shown}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /verify HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = BufReader::new(stream.try_clone()?);
    let mut head = String::new();
    answer.read_line(&mut head)?;
    let mut line = String::new();
    while answer.read_line(&mut line)? > 0 && !line.trim_end().is_empty() {
        line.clear();
    }
    if head.split(' ').nth(1) != Some("200") {
        let mut told = String::new();
        answer.read_to_string(&mut told)?;
        bail!("the agent on {shown} says: {told}");
    }
    let mut body = String::new();
    answer
        .read_line(&mut body)
        .with_context(|| format!("no answer on {shown}"))?;
    let held =
        serde_json::from_str(&body).with_context(|| format!("the agent on {shown} is of another version"))?;
    Ok((held, stream))
}
