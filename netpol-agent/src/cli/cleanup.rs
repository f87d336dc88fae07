// SPDX-License-Identifier: Apache-2.0
//! `netpol cleanup`.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use crate::datapath;

/// Arguments of `netpol cleanup`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Folder of pins that the agent was started with.
    #[arg(long, value_name = "DIR", default_value = super::agent::PIN_PATH, env = "NETPOL_PIN_PATH")]
    pin_path: PathBuf,
}

/// Removes everything that agents put on this node.
///
/// # Errors
/// What could not be removed.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let folder = &arguments.pin_path;
    if !folder.exists() {
        println!("nothing to remove: {} does not exist", folder.display());
        return Ok(());
    }
    let interfaces = datapath::cleanup(folder).with_context(|| {
        format!(
            "removing what is pinned below {} (it takes root, and the node's network namespace)",
            folder.display()
        )
    })?;
    println!(
        "removed the programs of {interfaces} interfaces and the maps below {}",
        folder.display()
    );
    Ok(())
}
