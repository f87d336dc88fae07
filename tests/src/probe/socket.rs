// SPDX-License-Identifier: Apache-2.0
//! Makes the sockets of probes, each in the namespace where its probe starts.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use anyhow::{Context, Result};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, socket};

use super::{Probe, Service};
use crate::netns;

/// Makes a bound socket for each probe, in its namespace.
pub(super) fn sockets(probes: &[Probe]) -> Result<Vec<OwnedFd>> {
    let mut places: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, probe) in probes.iter().enumerate() {
        places.entry(probe.netns.name()).or_default().push(index);
    }
    let made = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                let mut made = BTreeMap::new();
                for indexes in places.values() {
                    let netns = &probes[indexes[0]].netns;
                    netns::enter(netns.as_fd())
                        .with_context(|| format!("entering network namespace {}", netns.name()))?;
                    for &index in indexes {
                        let probe = &probes[index];
                        let socket = bound(probe).with_context(|| format!("making a socket for {probe}"))?;
                        made.insert(index, socket);
                    }
                }
                Ok(made)
            })
            .join()
    });
    let made: Result<BTreeMap<usize, OwnedFd>> =
        made.unwrap_or_else(|_| anyhow::bail!("making sockets panicked"));
    Ok(made?.into_values().collect())
}

fn bound(probe: &Probe) -> nix::Result<OwnedFd> {
    let ipv4 = probe.source.is_ipv4();
    let family = if ipv4 {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let (kind, protocol) = match probe.service {
        Service::Tcp(_) => (SockType::Stream, SockProtocol::Tcp),
        Service::Udp(_) => (SockType::Datagram, SockProtocol::Udp),
        Service::Echo if ipv4 => (SockType::Datagram, SockProtocol::Icmp),
        Service::Echo => (SockType::Datagram, SockProtocol::IcmpV6),
    };
    let socket = socket(
        family,
        kind,
        SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
        protocol,
    )?;
    let address = SockaddrStorage::from(SocketAddr::new(probe.source, 0));
    bind(socket.as_raw_fd(), &address)?;
    Ok(socket)
}
