// SPDX-License-Identifier: Apache-2.0
//! `netpol sysdump`.

use std::{
    fs::OpenOptions,
    io,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use clap::Args;

use super::{ask::ask_text, read};
use crate::{
    observe::overview::Overview,
    sysdump::{self, Asked, Item},
};

/// Arguments of `netpol sysdump`.
#[derive(Debug, Args)]
#[command(after_help = "\
The archive has the agent's status, the maps, programs and links, interfaces, addresses, routes,
qdiscs, filters and firewall rules, the settings and log of the kernel, and the agent's log. No
object of the cluster is in it, no environment and no configuration. What looks like a token, a
password or a key is taken out. Names of pods, namespaces and policies and addresses are in it: look
through it before you give it away.

CONTENTS.txt in the archive says what each file is. What cannot be collected is listed there, and on
standard error, with the error; the rest is still there. Run it as root on the node, out of the
agent's container, whose socket it needs. The container itself lacks the node's tools (ip, tc, nft),
its logs, and the right to list programs and links.

Exit code: 0 if the archive is written. 2 if it is not.

Examples:
  P=$(pgrep -of '/netpol agent')
  /proc/$P/root/netpol sysdump --socket /proc/$P/root/run/netpol/agent.sock
  netpol sysdump --log-file /var/log/netpol.log -o - | ssh host 'cat > node-a.tar.gz'")]
pub struct Arguments {
    /// Where to write the archive; `-` for standard output. Default: a new file in this folder,
    /// named after node and time.
    #[arg(short, long, value_name = "FILE|-")]
    output: Option<PathBuf>,
    /// A log of the agent. Can be given several times. Default: those of pods netpol-* below
    /// /var/log/pods.
    #[arg(long, value_name = "FILE")]
    log_file: Vec<PathBuf>,
    /// Folder of pins that the agent was started with.
    #[arg(long, value_name = "DIR", default_value = super::agent::PIN_PATH, env = "NETPOL_PIN_PATH")]
    pin_path: PathBuf,
    /// The agent's socket.
    #[arg(long, value_name = "PATH", default_value = super::agent::SOCKET, env = "NETPOL_SOCKET")]
    socket: PathBuf,
}

/// Writes the archive and returns the exit code.
pub fn run(arguments: Arguments) -> ExitCode {
    read::exit(write(arguments))
}

fn write(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let asked = Asked {
        pin_path: arguments.pin_path,
        answers: answers(&arguments.socket),
        logs: arguments.log_file,
    };
    let items = read::runtime()?.block_on(sysdump::collect(asked));
    let folder = folder();
    let path = arguments
        .output
        .unwrap_or_else(|| PathBuf::from(format!("{folder}.tar.gz")));
    let shown = path.display();
    let written = if path == Path::new("-") {
        sysdump::write(io::stdout().lock(), &folder, &items)
    } else {
        // For its owner only, and never in the place of something else.
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path);
        file.and_then(|file| {
            sysdump::write(file, &folder, &items).inspect_err(|_| drop(std::fs::remove_file(&path)))
        })
    };
    written.with_context(|| format!("writing the archive {shown} (--output)"))?;
    let (there, missing): (Vec<&Item>, Vec<&Item>) = items.iter().partition(|item| item.text.is_ok());
    for item in &missing {
        if let Err(why) = &item.text {
            let _ = writeln!(
                std::io::stderr(),
                "not collected: {}: {}",
                item.path,
                sysdump::scrub(why)
            );
        }
    }
    let _ = writeln!(
        std::io::stderr(),
        "{} files in {shown}, {} not collected",
        there.len() + 1,
        missing.len()
    );
    Ok(ExitCode::SUCCESS)
}

/// What the agent says: as JSON, and as `netpol status` shows it.
fn answers(socket: &Path) -> Vec<(String, String, Result<String, String>)> {
    let json = ask_text(socket, "/status").map_err(|error| format!("{error:#}"));
    let text = json.clone().and_then(|json| {
        let overview: Result<Overview, _> = serde_json::from_str(&json);
        overview
            .map(|overview| overview.to_string())
            .map_err(|error| format!("the agent is of another version: {error}"))
    });
    vec![
        ("status.txt".to_owned(), "netpol status".to_owned(), text),
        ("status.json".to_owned(), "netpol status -o json".to_owned(), json),
    ]
}

/// The archive's name without its ending.
fn folder() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String = host
        .trim()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || "-.".contains(*c))
        .collect();
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    format!("netpol-sysdump-{host}-{}", now.map_or(0, |since| since.as_secs()))
}
