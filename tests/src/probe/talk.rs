// SPDX-License-Identifier: Apache-2.0
//! Sends a probe's request over its socket, and interprets the answer.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream, UdpSocket},
    runtime::Runtime,
    time::timeout,
};

use super::{MORE_PATIENCE, Outcome, Probe, Service};
use crate::server::{NONCE, answer};

/// Sends over `socket`, and waits for up to `patience`.
pub(super) async fn outcome(probe: &Probe, socket: OwnedFd, patience: Duration) -> Outcome {
    match probe.service {
        Service::Tcp(_) => match timeout(patience, connect(probe, socket)).await {
            Err(_) => Outcome::Silent,
            Ok(Err(error)) => failure(&error),
            Ok(Ok(mut stream)) => match ask(&mut stream, &probe.to, patience).await {
                Outcome::Silent => Outcome::Odd("connected, but no answer".to_owned()),
                outcome => outcome,
            },
        },
        Service::Udp(_) => settle(timeout(patience, exchange(probe, socket)).await),
        Service::Echo => settle(timeout(patience, echo(probe, socket)).await),
    }
}

fn settle(result: Result<io::Result<Outcome>, tokio::time::error::Elapsed>) -> Outcome {
    match result {
        Err(_) => Outcome::Silent,
        Ok(Err(error)) => failure(&error),
        Ok(Ok(outcome)) => outcome,
    }
}

fn failure(error: &io::Error) -> Outcome {
    match error.kind() {
        ErrorKind::ConnectionRefused => Outcome::Refused,
        _ => Outcome::Odd(error.to_string()),
    }
}

fn nonce() -> [u8; NONCE] {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    (NEXT.fetch_add(1, Ordering::Relaxed) | u64::from(std::process::id()) << 32).to_be_bytes()
}

async fn connect(probe: &Probe, socket: OwnedFd) -> io::Result<TcpStream> {
    let port = probe.service.port().unwrap_or_default();
    TcpSocket::from_std_stream(socket.into())
        .connect(SocketAddr::new(probe.destination, port))
        .await
}

async fn ask(stream: &mut TcpStream, name: &str, patience: Duration) -> Outcome {
    let nonce = nonce();
    let expected = answer(&nonce, name);
    let exchange = async {
        stream.write_all(&nonce).await?;
        let mut head = [0; NONCE + 1];
        stream.read_exact(&mut head).await?;
        let mut rest = vec![0; usize::from(head[NONCE])];
        stream.read_exact(&mut rest).await?;
        Ok(judge(&[&head[..], &rest].concat(), &expected))
    };
    settle(timeout(patience, exchange).await)
}

fn judge(received: &[u8], expected: &[u8]) -> Outcome {
    if received == expected {
        return Outcome::Reached;
    }
    let name = received.get(NONCE + 1..).unwrap_or_default();
    if received.get(..NONCE) != expected.get(..NONCE) {
        return Outcome::Odd(format!("answered another request: {received:?}"));
    }
    Outcome::Answered(String::from_utf8_lossy(name).into_owned())
}

async fn connected(probe: &Probe, socket: OwnedFd) -> io::Result<UdpSocket> {
    let socket = UdpSocket::from_std(socket.into())?;
    socket
        .connect(SocketAddr::new(
            probe.destination,
            probe.service.port().unwrap_or_default(),
        ))
        .await?;
    Ok(socket)
}

async fn exchange(probe: &Probe, socket: OwnedFd) -> io::Result<Outcome> {
    let socket = connected(probe, socket).await?;
    let nonce = nonce();
    socket.send(&nonce).await?;
    let mut received = [0; 512];
    let length = socket.recv(&mut received).await?;
    Ok(judge(&received[..length], &answer(&nonce, &probe.to)))
}

/// The kernel sets identifier and checksum, and returns only replies to this socket's identifier.
async fn echo(probe: &Probe, socket: OwnedFd) -> io::Result<Outcome> {
    let socket = connected(probe, socket).await?;
    let (request, reply) = if probe.destination.is_ipv4() {
        (8, 0)
    } else {
        (128, 129)
    };
    let nonce = nonce();
    let mut message = vec![request, 0, 0, 0, 0, 0, 0, 1];
    message.extend(nonce);
    socket.send(&message).await?;
    let mut received = [0; 512];
    let length = socket.recv(&mut received).await?;
    Ok(match &received[..length] {
        [kind, _, _, _, _, _, _, _, rest @ ..] if *kind == reply && rest == nonce => Outcome::Reached,
        other => Outcome::Odd(format!("no echo reply, but {other:?}")),
    })
}

/// An open TCP connection to a probe server.
#[derive(Debug)]
pub struct Conversation<'a> {
    runtime: &'a Runtime,
    stream: TcpStream,
    to: String,
}

impl<'a> Conversation<'a> {
    pub(super) fn open(runtime: &'a Runtime, probe: &Probe, socket: OwnedFd) -> Result<Self> {
        let stream = runtime
            .block_on(async { timeout(MORE_PATIENCE, connect(probe, socket)).await })
            .with_context(|| format!("waiting for a connection: {probe}"))?
            .with_context(|| format!("connecting: {probe}"))?;
        Ok(Self {
            runtime,
            stream,
            to: probe.to.clone(),
        })
    }

    /// Sends another request over the same connection. After silence the connection is useless.
    pub fn ask(&mut self, patience: Duration) -> Outcome {
        self.runtime.block_on(ask(&mut self.stream, &self.to, patience))
    }
}
