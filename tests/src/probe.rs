// SPDX-License-Identifier: Apache-2.0
//! Probes: real TCP connections, UDP requests and ICMP echo requests between namespaces, many at
//! once.

mod outcome;
mod socket;
mod talk;

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use tokio::{runtime::Runtime, sync::Semaphore};

use crate::{netns::NetNs, node::Site};

pub use outcome::{Outcome, hold};
pub use talk::Conversation;

use socket::sockets;

/// Silence that counts as a denial the first time. The kernel itself answers a handshake or an echo
/// request, in microseconds.
pub const PATIENCE: Duration = Duration::from_millis(400);
/// Silence that counts as a denial when the probe is repeated.
pub const MORE_PATIENCE: Duration = Duration::from_millis(900);

const AT_ONCE: usize = 1024;

/// The service that a probe asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Service {
    /// A TCP port.
    Tcp(u16),
    /// A UDP port.
    Udp(u16),
    /// ICMP or ICMPv6 echo.
    Echo,
}

impl Service {
    /// Returns the IANA protocol number for an address of that family.
    pub fn protocol(self, ipv4: bool) -> u8 {
        match self {
            Self::Tcp(_) => 6,
            Self::Udp(_) => 17,
            Self::Echo if ipv4 => 1,
            Self::Echo => 58,
        }
    }

    /// Returns the destination port, if the protocol has ports.
    pub fn port(self) -> Option<u16> {
        match self {
            Self::Tcp(port) | Self::Udp(port) => Some(port),
            Self::Echo => None,
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(port) => write!(f, "TCP {port}"),
            Self::Udp(port) => write!(f, "UDP {port}"),
            Self::Echo => f.write_str("ICMP echo"),
        }
    }
}

/// A single connection attempt.
#[derive(Debug, Clone)]
pub struct Probe {
    /// Name of the site where it starts.
    pub from: String,
    /// Namespace where it starts.
    pub netns: Arc<NetNs>,
    /// Source address.
    pub source: IpAddr,
    /// Name of the site that must answer.
    pub to: String,
    /// Destination address.
    pub destination: IpAddr,
    /// Protocol and port.
    pub service: Service,
}

impl Probe {
    /// Makes a probe from a site's first address of the destination's family; `None` if it has
    /// none.
    pub fn new(from: &Site, to: &Site, destination: IpAddr, service: Service) -> Option<Self> {
        Some(Self {
            from: from.name.clone(),
            netns: Arc::clone(&from.netns),
            source: from.address_like(destination)?,
            to: to.name.clone(),
            destination,
            service,
        })
    }

    /// Makes one probe for each address of `to` whose family `from` has.
    pub fn all(from: &Site, to: &Site, service: Service) -> Vec<Self> {
        to.addresses
            .iter()
            .filter_map(|&address| Self::new(from, to, address, service))
            .collect()
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            from,
            source,
            to,
            destination,
            service,
            ..
        } = self;
        write!(f, "{from} ({source}) -> {to} ({destination}) {service}")
    }
}

/// Makes probes.
#[derive(Debug)]
pub struct Prober {
    runtime: Runtime,
}

impl Prober {
    /// Starts the threads, and raises this process's limit of open files as far as allowed.
    ///
    /// # Errors
    /// If no threads can be started.
    pub fn new() -> Result<Self> {
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).context("reading the limit of open files")?;
        setrlimit(Resource::RLIMIT_NOFILE, most, most).context("raising the limit of open files")?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("probes")
            .enable_all()
            .build()
            .context("starting the prober")?;
        Ok(Self { runtime })
    }

    /// Makes all probes at once, and repeats those that met silence, with more patience. An answer
    /// to the repeated one counts: a denying policy answers neither.
    ///
    /// # Errors
    /// If sockets cannot be made.
    pub fn probe(&self, probes: &[Probe]) -> Result<Vec<Outcome>> {
        let mut outcomes = self.probe_once(probes, PATIENCE)?;
        self.ask_again(probes, &mut outcomes, |_, outcome| *outcome == Outcome::Silent)?;
        Ok(outcomes)
    }

    /// Repeats, with more patience, the probes that `doubtful` names by index.
    ///
    /// # Errors
    /// If sockets cannot be made.
    pub fn ask_again(
        &self,
        probes: &[Probe],
        outcomes: &mut [Outcome],
        doubtful: impl Fn(usize, &Outcome) -> bool,
    ) -> Result<()> {
        let which: Vec<usize> = (0..probes.len())
            .filter(|&index| doubtful(index, &outcomes[index]))
            .collect();
        let again: Vec<Probe> = which.iter().map(|&index| probes[index].clone()).collect();
        for (index, outcome) in which.into_iter().zip(self.probe_once(&again, MORE_PATIENCE)?) {
            outcomes[index] = outcome;
        }
        Ok(())
    }

    /// Makes all probes at once, without repetition.
    ///
    /// # Errors
    /// If sockets cannot be made.
    pub fn probe_once(&self, probes: &[Probe], patience: Duration) -> Result<Vec<Outcome>> {
        let permits = Arc::new(Semaphore::new(AT_ONCE));
        let sockets = sockets(probes)?;
        self.runtime.block_on(async {
            let mut tasks = Vec::with_capacity(probes.len());
            for (probe, socket) in probes.iter().cloned().zip(sockets) {
                let permits = Arc::clone(&permits);
                tasks.push(tokio::spawn(async move {
                    let _permit = permits.acquire_owned().await;
                    talk::outcome(&probe, socket, patience).await
                }));
            }
            let mut outcomes = Vec::with_capacity(tasks.len());
            for task in tasks {
                outcomes.push(task.await.context("a probe panicked")?);
            }
            Ok(outcomes)
        })
    }

    /// Opens a TCP connection and leaves it open.
    ///
    /// # Errors
    /// If it is not made within [`MORE_PATIENCE`].
    pub fn converse(&self, probe: &Probe) -> Result<Conversation<'_>> {
        let socket = sockets(std::slice::from_ref(probe))?.remove(0);
        Conversation::open(&self.runtime, probe, socket)
    }
}
