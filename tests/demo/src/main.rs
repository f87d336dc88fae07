// SPDX-License-Identifier: Apache-2.0
//! `netpol-demo`: see the library beside it.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::Parser;
use netpol_demo::{self as demo, Options};

/// Enforces a folder of NetworkPolicies on pods made of network namespaces, and prints who reaches
/// whom, by real connections.
///
/// Exits with 1 if a connection is not what the policies say, with 2 if the demo cannot be played.
#[derive(Debug, Parser)]
#[command(name = "netpol-demo", version)]
struct Arguments {
    /// Folder of manifests; it is only read.
    #[arg(default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/examples"))]
    folder: PathBuf,
    /// Leave the namespaces and the agent running, and print how to look into them.
    #[arg(long)]
    keep: bool,
    /// Print the matrix of a kept demo as it is now.
    #[arg(long, conflicts_with_all = ["keep", "clean"])]
    matrix: bool,
    /// Remove a kept demo.
    #[arg(long, conflicts_with = "keep")]
    clean: bool,
    /// Run the probe servers of a kept demo.
    #[arg(long, hide = true)]
    serve: bool,
}

fn main() -> ExitCode {
    match play(Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("netpol-demo: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn play(arguments: Arguments) -> Result<bool> {
    if arguments.serve {
        return demo::serve().map(|()| true);
    }
    if arguments.clean {
        return demo::clean().map(|()| true);
    }
    if arguments.matrix {
        return demo::show();
    }
    demo::on_signals()?;
    let folder = arguments.folder.canonicalize().unwrap_or(arguments.folder);
    demo::run(&Options {
        folder,
        keep: arguments.keep,
    })
}
