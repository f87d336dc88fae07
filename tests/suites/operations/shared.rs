// SPDX-License-Identifier: Apache-2.0
//! A node with an agent that serves metrics and health, and clients of its sockets.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
};

use anyhow::Result;
use netpol_tests::{
    agent::{Agent, DEADLINE, Launch},
    manifests::ManifestDir,
    netns::NetNs,
    node::{Node, Plan},
};

pub const SUITE: &str = "operations";
/// Address at which agents of this suite serve metrics and health.
pub const LISTEN: &str = "127.0.0.1:9600";

/// Makes a node without pods, and a folder of manifests.
pub fn node() -> (Node, ManifestDir) {
    let node = Node::new(Plan::first("node-a")).unwrap();
    (node, ManifestDir::new().unwrap())
}

/// Starts an agent that serves metrics and health, without waiting.
pub fn launch(node: &Node, manifests: &ManifestDir) -> Agent {
    let mut launch = Launch::new(manifests.path(), &node.plan().name);
    launch.arguments.extend(["--listen".into(), LISTEN.into()]);
    Agent::launch(node, launch).unwrap()
}

/// Returns how to launch an agent that watches an API server at an address.
pub fn of_server(node: &Node, manifests: &ManifestDir, server: SocketAddr) -> Launch {
    let kubeconfig = manifests.path().join("kubeconfig");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: a\n\
         contexts: [{{name: a, context: {{cluster: a, user: a}}}}]\n\
         clusters: [{{name: a, cluster: {{server: \"https://{server}\", insecure-skip-tls-verify: true}}}}]\n\
         users: [{{name: a, user: {{token: t}}}}]\n"
    );
    fs::write(&kubeconfig, text).unwrap();
    let mut launch = Launch::new("kube".as_ref(), &node.plan().name);
    launch
        .arguments
        .extend(["--kubeconfig".into(), kubeconfig.into()]);
    launch
}

/// Connects to the agent; an error if it does not answer.
pub fn connect(netns: &NetNs) -> Result<TcpStream> {
    let stream = netns.run(|| Ok(TcpStream::connect(LISTEN.parse::<SocketAddr>()?)?))?;
    stream.set_read_timeout(Some(DEADLINE))?;
    Ok(stream)
}

/// Returns its response for a path.
pub fn ask(netns: &NetNs, path: &str) -> Result<String> {
    let mut stream = connect(netns)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Returns the number of open descriptors of a process.
pub fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}
