// SPDX-License-Identifier: Apache-2.0
//! Probe servers: each answers a request of [`NONCE`] bytes with the same bytes and its own name,
//! so that a probe knows that the right pod answered. TCP connections stay open for more requests.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Runtime,
};

use crate::{node::Site, probe::Service};

/// Length of a request, in bytes.
pub const NONCE: usize = 8;

/// Servers in any number of namespaces; they stop on drop.
#[derive(Debug)]
pub struct Servers {
    runtime: Option<Runtime>,
}

impl Servers {
    /// Makes servers for [`Servers::add`].
    ///
    /// # Errors
    /// If no threads can be started.
    pub fn new() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("probe-servers")
            .enable_all()
            .build()
            .context("starting the probe servers")?;
        Ok(Self {
            runtime: Some(runtime),
        })
    }

    /// Listens on every address of the site, for every service. The kernel itself answers echo
    /// requests.
    ///
    /// # Errors
    /// If an address or port cannot be bound.
    pub fn add(&self, site: &Site, services: &[Service]) -> Result<()> {
        let (streams, datagrams) = site.netns.run(|| bind_all(&site.addresses, services))?;
        let Some(runtime) = &self.runtime else {
            return Ok(());
        };
        let _inside = runtime.enter();
        for listener in streams {
            let listener = tokio::net::TcpListener::from_std(listener).context("registering a listener")?;
            runtime.spawn(accept(listener, site.name.clone()));
        }
        for socket in datagrams {
            let socket = tokio::net::UdpSocket::from_std(socket).context("registering a socket")?;
            runtime.spawn(answer_datagrams(socket, site.name.clone()));
        }
        Ok(())
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Returns the answer of server `name` to `nonce`.
pub fn answer(nonce: &[u8], name: &str) -> Vec<u8> {
    let name = &name.as_bytes()[..name.len().min(255)];
    let length = u8::try_from(name.len()).unwrap_or(u8::MAX);
    [nonce, &[length], name].concat()
}

fn bind_all(addresses: &[IpAddr], services: &[Service]) -> Result<(Vec<TcpListener>, Vec<UdpSocket>)> {
    let mut streams = Vec::new();
    let mut datagrams = Vec::new();
    for &address in addresses {
        for service in services {
            match *service {
                Service::Tcp(port) => {
                    let listener = TcpListener::bind(SocketAddr::new(address, port))
                        .with_context(|| format!("listening on {address} TCP {port}"))?;
                    listener.set_nonblocking(true)?;
                    streams.push(listener);
                }
                Service::Udp(port) => {
                    let socket = UdpSocket::bind(SocketAddr::new(address, port))
                        .with_context(|| format!("binding {address} UDP {port}"))?;
                    socket.set_nonblocking(true)?;
                    datagrams.push(socket);
                }
                Service::Echo => {}
            }
        }
    }
    Ok((streams, datagrams))
}

async fn accept(listener: tokio::net::TcpListener, name: String) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(answer_stream(stream, name.clone()));
            }
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

async fn answer_stream(mut stream: TcpStream, name: String) {
    let mut nonce = [0; NONCE];
    while stream.read_exact(&mut nonce).await.is_ok() {
        if stream.write_all(&answer(&nonce, &name)).await.is_err() {
            return;
        }
    }
}

async fn answer_datagrams(socket: tokio::net::UdpSocket, name: String) {
    let mut nonce = [0; NONCE];
    loop {
        if let Ok((NONCE, peer)) = socket.recv_from(&mut nonce).await {
            // The prober sees a refused answer as silence.
            let _ = socket.send_to(&answer(&nonce, &name), peer).await;
        }
    }
}
