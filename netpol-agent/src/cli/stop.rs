// SPDX-License-Identifier: Apache-2.0
//! Handles SIGTERM and SIGINT at any moment.

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

/// From now on, a signal cancels `stop`. If the process has not ended [`GRACE`] later, it exits
/// with 0: it may be loading programs, or in the middle of a turn, and stopping is safe at any
/// instruction (rule B3).
///
/// Call it before any other thread is started, because it blocks the signals for all threads and
/// waits for them in one. So no signal is lost, even if this is process 1 of a container, to which
/// the kernel sends no signal without a handler.
///
/// The process counts as running until the returned value is dropped.
///
/// # Errors
/// The system cannot start another thread.
pub fn on_signal(stop: CancellationToken) -> anyhow::Result<Running> {
    let signals = block()?;
    let (running, ended) = mpsc::channel();
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || wait(signals, &stop, &ended))
        .context("starting the thread that waits for SIGTERM and SIGINT")?;
    Ok(Running(running))
}

/// Blocks SIGTERM and SIGINT, to be waited for. Call it before any other thread is started.
///
/// # Errors
/// The system refuses it.
pub fn block() -> anyhow::Result<SigSet> {
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    signals.thread_block().context("blocking SIGTERM and SIGINT")?;
    Ok(signals)
}

/// Marks that the process still has something to end.
#[derive(Debug)]
pub struct Running(#[expect(dead_code, reason = "its drop tells that all has ended")] Sender<()>);

fn wait(signals: SigSet, stop: &CancellationToken, ended: &Receiver<()>) {
    let Ok(signal) = signals.wait() else { return };
    info!(
        signal = signal.as_str(),
        "stopping; what is enforced stays enforced"
    );
    stop.cancel();
    // Nothing is ever sent: the wait ends when all senders are gone, or by the timeout.
    if ended.recv_timeout(GRACE) == Err(mpsc::RecvTimeoutError::Timeout) {
        info!("stopped amid work; the next start completes it");
        // Time for the log's thread to write that.
        let _ = ended.recv_timeout(Duration::from_millis(100));
        process::exit(0);
    }
}
