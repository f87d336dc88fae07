// SPDX-License-Identifier: Apache-2.0
//! `netpol rollout`.

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use clap::Args;

use super::read::{runtime, say};
use crate::watch::rollout;

/// Arguments of `netpol rollout`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Name of the DaemonSet.
    #[arg(value_name = "NAMESPACE/NAME", value_parser = name)]
    daemon_set: (String, String),
    /// Configuration for the API server. Default: the one that kubectl would use, else the service
    /// account of the pod.
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// Seconds to wait.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
}

fn name(text: &str) -> Result<(String, String), &'static str> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        _ => Err("not of the form NAMESPACE/NAME"),
    }
}

/// Waits until the DaemonSet is ready.
///
/// # Errors
/// It is not ready in time, or there is no configuration for the API server.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let (namespace, name) = &arguments.daemon_set;
    let patience = Duration::from_secs(arguments.timeout);
    let runtime = runtime()?;
    let waited = runtime.block_on(rollout::wait(
        arguments.kubeconfig.as_deref(),
        namespace,
        name,
        patience,
    ));
    runtime.shutdown_background();
    let nodes = waited.with_context(|| format!("waiting for DaemonSet {namespace}/{name}"))?;
    say(&format!("DaemonSet {namespace}/{name} is ready on {nodes} nodes"));
    Ok(())
}
