// SPDX-License-Identifier: Apache-2.0
//! Serves HTTP to untrusted clients. No client can keep the agent from answering the others, or
//! from enforcing.
//!
//! A connection carries one request. There is a time limit for the head, a time limit for the whole
//! connection, and a limit on open connections: one more connection ends the oldest. So a client
//! that only holds connections must keep renewing them, and other clients are answered beside it.
//! If the process runs out of descriptors, the oldest connection is ended. If there is none, the
//! reserved descriptor is released and serves a single client.

use std::{collections::VecDeque, fs::File, io, os::fd::AsFd, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Maximum size of a request's line and header fields, bytes.
const HEAD: usize = 16 * 1024;
/// First pause after a failed accept; it doubles up to [`PAUSE_LAST`].
const PAUSE_FIRST: Duration = Duration::from_millis(10);
/// Longest pause.
const PAUSE_LAST: Duration = Duration::from_secs(1);

/// Limits on clients.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Open connections at a time.
    pub connections: usize,
    /// Time until the head of the request is complete.
    pub head: Duration,
    /// Time from accept until the last byte of the answer is sent.
    pub whole: Duration,
}

/// A socket that clients connect to.
pub trait Listener: AsFd + Send + Sync + 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Waits for a connection.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Listener for TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn accept(&self) -> io::Result<Self::Stream> {
        Ok(Self::accept(self).await?.0)
    }
}

impl Listener for UnixListener {
    type Stream = tokio::net::UnixStream;

    async fn accept(&self) -> io::Result<Self::Stream> {
        Ok(Self::accept(self).await?.0)
    }
}

/// Serves until `stop`, then ends all connections. Errors on a connection are ignored: they only
/// concern its client.
pub async fn run(listener: &impl Listener, router: &Router, limits: Limits, stop: &CancellationToken) {
    let mut open = Open::default();
    let mut reserve = Reserve::taken();
    let mut pause = PAUSE_FIRST;
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = open.tasks.join_next() => {
                reserve.refill();
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(stream) => {
                open.make_room(limits.connections - 1).await;
                let connection = connection(stream, router.clone(), limits);
                open.oldest_first.push_back(open.tasks.spawn(connection));
                reserve.refill();
                pause = PAUSE_FIRST;
            }
            Err(error) => {
                if pause == PAUSE_FIRST {
                    warn!(%error, connections = open.tasks.len(), "a connection for metrics, health or explain is not accepted");
                }
                // accept(2) allocates a descriptor before it looks for a client, so EMFILE alone
                // does not mean that a client waits.
                if is_out_of_descriptors(&error) && is_waited_for(listener) && !open.end_oldest() {
                    reserve.0 = None;
                }
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = sleep(pause) => pause = (pause * 2).min(PAUSE_LAST),
                }
            }
        }
    }
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    limits: Limits,
) {
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .keep_alive(false)
        .max_buf_size(HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let _ = timeout(limits.whole, serving).await;
}

/// The connections that are being served.
#[derive(Default)]
struct Open {
    tasks: JoinSet<()>,
    oldest_first: VecDeque<AbortHandle>,
}

impl Open {
    /// Ends the oldest connections until at most `count` are left, and waits until their
    /// descriptors are closed.
    async fn make_room(&mut self, count: usize) {
        self.oldest_first.retain(|task| !task.is_finished());
        let surplus = self.oldest_first.len().saturating_sub(count);
        self.oldest_first.drain(..surplus).for_each(|task| task.abort());
        while self.tasks.len() > count {
            self.tasks.join_next().await;
        }
    }

    /// Ends the oldest connection; returns false if there is none.
    fn end_oldest(&mut self) -> bool {
        self.oldest_first.retain(|task| !task.is_finished());
        let oldest = self.oldest_first.pop_front();
        oldest.inspect(AbortHandle::abort).is_some()
    }
}

/// A descriptor in reserve, released when the process has no other left.
struct Reserve(Option<File>);

impl Reserve {
    fn taken() -> Self {
        let mut reserve = Self(None);
        reserve.refill();
        reserve
    }

    fn refill(&mut self) {
        if self.0.is_none() {
            self.0 = File::open("/dev/null").ok();
        }
    }
}

/// Returns true if a client waits to be accepted.
fn is_waited_for(listener: &impl Listener) -> bool {
    let mut asked = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    poll(&mut asked, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

#[cfg(test)]
mod tests;
