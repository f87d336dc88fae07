// SPDX-License-Identifier: Apache-2.0
//! SIGTERM and SIGINT, answered at any moment.

use std::{
    process,
    sync::mpsc::{self, Receiver, Sender},
    thread,
    time::Duration,
};

use anyhow::Context;
use nix::sys::signal::{SigSet, Signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// How long the process may take to end by itself.
const GRACE: Duration = Duration::from_secs(1);

/// Lets `stop` be cancelled by a signal, from now on, and ends the process with 0 if it has not ended [`GRACE`] later: it may be in
/// the middle of loading programs, or of a turn. That is safe at any instruction (rule B3).
///
/// It is called before any other thread is started, as the signals are blocked for all threads, and waited for by one. So none is
/// lost, also where this is process 1 of a container, which the kernel sends no signal that it has no handler for.
///
/// The process goes on until the returned value is dropped.
///
/// # Errors
/// The system has no thread to spare.
pub fn on_signal(stop: CancellationToken) -> anyhow::Result<Running> {
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    signals.thread_block().context("blocking SIGTERM and SIGINT")?;
    let (running, ended) = mpsc::channel();
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || wait(signals, &stop, &ended))
        .context("starting the thread that waits for SIGTERM and SIGINT")?;
    Ok(Running(running))
}

/// The process has something to end.
#[derive(Debug)]
pub struct Running(#[expect(dead_code, reason = "its drop tells that all has ended")] Sender<()>);

fn wait(signals: SigSet, stop: &CancellationToken, ended: &Receiver<()>) {
    let Ok(signal) = signals.wait() else { return };
    info!(
        signal = signal.as_str(),
        "stopping; what is enforced stays enforced"
    );
    stop.cancel();
    // Nothing is ever sent: it is the end of all senders, or the time.
    if ended.recv_timeout(GRACE) == Err(mpsc::RecvTimeoutError::Timeout) {
        info!("stopped amid work; the next start completes it");
        process::exit(0);
    }
}
