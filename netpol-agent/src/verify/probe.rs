// SPDX-License-Identifier: Apache-2.0
//! The test connections.

use std::{
    fmt,
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use anyhow::Context;

use super::{Rooms, Scratch, TestPort};

/// How long a denied connection is tried: its first segment, and one sent again after a second.
const DENIED: Duration = Duration::from_millis(1500);
/// How long an allowed one may take.
const ALLOWED: Duration = Duration::from_secs(5);

/// A test connection, and whether it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// The port.
    pub port: TestPort,
    /// The server's address.
    pub to: IpAddr,
    /// True if it passed.
    pub passed: bool,
}

impl Found {
    /// Returns true if this is what the policies say.
    pub fn is_right(&self) -> bool {
        self.passed == (self.port == TestPort::Allowed)
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.to.is_ipv4() { "IPv4" } else { "IPv6" };
        let says = match self.port {
            TestPort::Allowed => "allowed by both ends",
            TestPort::NoIngress => "denied by ingress  ",
            TestPort::NoEgress => "denied by egress   ",
        };
        let found = if self.passed { "passes" } else { "does not pass" };
        let sign = if self.is_right() { '+' } else { '-' };
        write!(f, "[{sign}]{family} TCP {}, {says}: {found}", self.port.number())
    }
}

/// Makes all test connections.
///
/// # Errors
/// The server cannot listen, or a connection fails in a way that is no verdict.
pub fn probe(rooms: &Rooms) -> anyhow::Result<Vec<Found>> {
    let addresses = Scratch::Server.all_addresses();
    let listen = move || {
        let mut listeners = Vec::new();
        for to in addresses.into_iter().filter(|to| is_there(*to)) {
            for port in TestPort::ALL {
                let listener = TcpListener::bind((to, port.number()));
                listeners.push(listener.with_context(|| format!("listening on {to}"))?);
            }
        }
        Ok(listeners)
    };
    // The kernel accepts: nobody has to.
    let listeners = rooms.run(Scratch::Server, listen)?;
    let mut found = Vec::new();
    for listener in &listeners {
        let to = listener.local_addr()?;
        let port = TestPort::ALL.into_iter().find(|port| port.number() == to.port());
        let port = port.context("a listener of another port")?;
        let passed = rooms.run(Scratch::Client, || connects(to, port))?;
        found.push(Found {
            port,
            to: to.ip(),
            passed,
        });
    }
    Ok(found)
}

/// Whether this kernel has the family.
fn is_there(address: IpAddr) -> bool {
    address.is_ipv4() || std::path::Path::new("/proc/net/if_inet6").exists()
}

/// Tries to connect. An answer of any kind has passed.
fn connects(to: SocketAddr, port: TestPort) -> anyhow::Result<bool> {
    let patience = if port == TestPort::Allowed {
        ALLOWED
    } else {
        DENIED
    };
    let until = Instant::now() + patience;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match TcpStream::connect_timeout(&to, left.max(Duration::from_millis(1))) {
            Ok(_) => return Ok(true),
            Err(error) => match error.kind() {
                ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => return Ok(true),
                ErrorKind::TimedOut => return Ok(false),
                // No neighbour answers: it is a matter of the link.
                ErrorKind::HostUnreachable if left.is_zero() => return Ok(false),
                ErrorKind::HostUnreachable => {}
                _ => return Err(error).with_context(|| format!("connecting to {to}")),
            },
        }
    }
}
