// SPDX-License-Identifier: Apache-2.0
//! Reads objects for commands that judge without an agent.

use std::{io::Write as _, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use clap::Args;

use crate::{
    explain::{NodeAddresses, known_nodes},
    model::{Node, Snapshot},
    watch::{self, Source},
};

/// Exit code if a question cannot be answered.
pub(super) const FAILED: u8 = 2;

/// Where to read objects.
#[derive(Debug, Args)]
pub struct Reading {
    /// Configuration for `--source kube`. Default: the one that kubectl would use, else the service
    /// account of the pod.
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// Seconds that the API server may take to list everything.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
    /// Addresses of a node that no hostNetwork pod tells. Traffic between a pod and its own node is
    /// always allowed. Can be given for several nodes.
    #[arg(long = "node", value_name = "NAME=ADDRESS[,ADDRESS]")]
    nodes: Vec<NodeAddresses>,
}

impl Reading {
    /// Returns true if `--node` was given, which is of use only for reading objects.
    pub(super) fn names_nodes(&self) -> bool {
        !self.nodes.is_empty()
    }

    /// Reads the objects of `source`, and the nodes whose addresses are known.
    pub(super) fn read(self, source: Source) -> anyhow::Result<(Arc<Snapshot>, Vec<Node>)> {
        let source = match source {
            Source::Kube { .. } => Source::Kube {
                kubeconfig: self.kubeconfig,
            },
            folder => folder,
        };
        let runtime = runtime()?;
        let snapshot = runtime.block_on(watch::load(source, Duration::from_secs(self.timeout)))?;
        // Does not wait for open requests to the API server.
        runtime.shutdown_background();
        let given: Vec<Node> = self.nodes.into_iter().map(|node| node.0).collect();
        let nodes = known_nodes(&snapshot, &given, None);
        Ok((snapshot, nodes))
    }
}

pub(super) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the async runtime")
}

/// Returns the exit code of a command and writes its error to standard error.
pub(super) fn exit(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        let _ = writeln!(std::io::stderr(), "error: {error:#}");
        ExitCode::from(FAILED)
    })
}

/// Tells on standard output what was done. That it cannot be told undoes nothing.
pub(super) fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Writes to standard output. A reader that closes it early is no error.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    use std::io::ErrorKind;
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("writing to standard output")
        }
        _ => Ok(()),
    }
}
