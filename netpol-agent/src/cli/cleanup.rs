// SPDX-License-Identifier: Apache-2.0
//! `netpol cleanup`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;

use super::{read::say, stop};
use crate::datapath;

/// Arguments of `netpol cleanup`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Folder of pins that the agent was started with.
    #[arg(long, value_name = "DIR", default_value = super::agent::PIN_PATH, env = "NETPOL_PIN_PATH")]
    pin_path: PathBuf,
    /// Stay until SIGTERM or SIGINT after everything is removed: for a container of a DaemonSet,
    /// which is started again when it ends.
    #[arg(long)]
    stay: bool,
}

/// Removes everything that agents put on this node.
///
/// # Errors
/// What could not be removed.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let signals = arguments.stay.then(stop::block).transpose()?;
    clean(&arguments.pin_path)?;
    if let Some(signals) = signals {
        signals.wait().context("waiting for SIGTERM or SIGINT")?;
    }
    Ok(())
}

fn clean(folder: &Path) -> anyhow::Result<()> {
    let exists = folder
        .try_exists()
        .with_context(|| format!("looking for {} (it takes root)", folder.display()))?;
    if !exists {
        say(&format!("nothing to remove: {} does not exist", folder.display()));
        return Ok(());
    }
    let interfaces = datapath::cleanup(folder).with_context(|| {
        format!(
            "removing what is pinned below {} (it takes root, and the node's network namespace)",
            folder.display()
        )
    })?;
    say(&format!(
        "removed the programs of {interfaces} interfaces and the maps below {}",
        folder.display()
    ));
    Ok(())
}
