// SPDX-License-Identifier: Apache-2.0
//! Where log lines go. A disk that is full, or a reader of the log that has stopped, must neither
//! hold up the agent nor end it.

use std::{
    io::{self, IsTerminal as _, Write as _},
    sync::mpsc,
    thread,
    time::Duration,
};

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{EnvFilter, fmt::writer::BoxMakeWriter};

use super::{LogFormat, stop};

/// Lines that may wait to be written; more are lost.
const LINES: usize = 4096;
/// How long a process that ends waits for what it still has to say.
const PATIENCE: Duration = Duration::from_secs(2);

/// Lines that wait to be written. They are when it is dropped, unless that takes too long.
pub struct Waiting(Option<WorkerGuard>);

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(guard) = self.0.take() {
            in_time(move || drop(guard));
        }
    }
}

/// Begins to log. With `apart`, a thread writes the lines. SIGTERM and SIGINT are blocked before it
/// is started.
///
/// # Errors
/// The signals cannot be blocked.
pub fn begin(filter: EnvFilter, format: LogFormat, apart: bool) -> anyhow::Result<Waiting> {
    let (writer, guard) = if apart {
        stop::block()?;
        let builder = NonBlockingBuilder::default().buffered_lines_limit(LINES);
        let (lines, guard) = builder.finish(io::stderr());
        (BoxMakeWriter::new(lines), Some(guard))
    } else {
        (BoxMakeWriter::new(io::stderr), None)
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal());
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(Waiting(guard))
}

/// Tells why a command failed: the causes, not a backtrace, whatever the environment asks for.
pub fn tell(error: &anyhow::Error) {
    let line = format!("Error: {error:#}\n");
    in_time(move || {
        let _ = io::stderr().write_all(line.as_bytes());
    });
}

/// Does something that may never end, and waits a while for it.
fn in_time(work: impl FnOnce() + Send + 'static) {
    let (done, ended) = mpsc::channel::<()>();
    thread::spawn(move || {
        work();
        drop(done);
    });
    let _ = ended.recv_timeout(PATIENCE);
}
