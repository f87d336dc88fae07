// SPDX-License-Identifier: Apache-2.0
//! Reads the log of the eBPF programs, for debugging.

use std::io;

use tokio::io::unix::AsyncFd;
use tokio_util::sync::CancellationToken;

use crate::datapath::ProgramLog;

/// Forwards the programs' log lines to the process's log until `stop`.
///
/// # Errors
/// The ring buffer cannot be waited for.
pub async fn run(log: ProgramLog, stop: CancellationToken) -> io::Result<()> {
    // SAFETY: the ring buffer owns its descriptor and keeps it open until it is dropped with the
    // AsyncFd.
    let mut log = unsafe { AsyncFd::register(log) }?;
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            ready = log.readable_mut() => {
                let mut ready = ready?;
                ready.get_inner_mut().flush();
                ready.clear_ready();
            }
        }
    }
}
