// SPDX-License-Identifier: Apache-2.0
//! Sends and receives raw frames on an interface, by packet sockets (`man 7 packet`).

use std::{
    os::fd::{AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    libc,
    sys::{
        socket::{
            AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike as _, bind, recv, send,
            setsockopt, socket, sockopt::ReceiveTimeout,
        },
        time::TimeVal,
    },
};

use crate::netns::NetNs;

/// Size of `struct virtio_net_hdr`, which precedes each frame of a socket that asked for it.
const OFFLOAD_HEADER: usize = 10;
const PACKET_VNET_HDR: libc::c_int = 15;

/// One interface.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
    /// A socket with an offload header before each frame.
    offload: OwnedFd,
    /// The interface's address.
    pub mac: [u8; 6],
}

impl Wire {
    /// Opens an interface of a namespace.
    ///
    /// # Errors
    /// It does not exist, or permission is missing.
    pub fn open(netns: &NetNs, interface: &str) -> Result<Self> {
        netns.run(|| {
            let mut addresses = getifaddrs()?;
            let of_link = |address: &nix::ifaddrs::InterfaceAddress| {
                let link = address.address?;
                let found =
                    address.interface_name == interface && link.family() == Some(AddressFamily::Packet);
                found.then(|| link.as_link_addr().copied()).flatten()
            };
            let link = addresses
                .find_map(|address| of_link(&address))
                .with_context(|| format!("no interface {interface} in {}", netns.name()))?;
            let open = || -> Result<OwnedFd> {
                let kind = (AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC);
                let opened = socket(kind.0, kind.1, kind.2, SockProtocol::EthAll)?;
                bind(opened.as_raw_fd(), &link)?;
                setsockopt(&opened, ReceiveTimeout, &TimeVal::new(0, 100_000))?;
                Ok(opened)
            };
            let (socket, offload) = (open()?, open()?);
            let on: libc::c_int = 1;
            // SAFETY: the option takes an int, which lives through the call, and its size.
            let set = unsafe {
                libc::setsockopt(
                    offload.as_raw_fd(),
                    libc::SOL_PACKET,
                    PACKET_VNET_HDR,
                    (&raw const on).cast(),
                    size_of_val(&on) as libc::socklen_t,
                )
            };
            Errno::result(set).context("asking for offload headers")?;
            let mac = link.addr().context("an interface without a MAC address")?;
            Ok(Self { socket, offload, mac })
        })
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let sent = send(self.socket.as_raw_fd(), frame, MsgFlags::empty());
        sent.with_context(|| format!("sending {} bytes", frame.len()))?;
        Ok(())
    }

    /// Sends a frame of a page or more, with only the Ethernet header in the linear part of its
    /// buffer. `segment`: size of the TCP segments over IPv4 that it is to be split into, if any.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn send_scattered(&self, frame: &[u8], segment: Option<u16>) -> Result<()> {
        const GSO_TCPV4: u8 = 1;
        let mut bytes = vec![0; OFFLOAD_HEADER];
        bytes[2..4].copy_from_slice(&14u16.to_ne_bytes());
        if let Some(segment) = segment {
            bytes[1] = GSO_TCPV4;
            bytes[4..6].copy_from_slice(&segment.to_ne_bytes());
        }
        bytes.extend(frame);
        let sent = send(self.offload.as_raw_fd(), &bytes, MsgFlags::empty());
        sent.with_context(|| format!("sending {} bytes in parts", frame.len()))?;
        Ok(())
    }

    /// Sends a frame with a partial checksum, which the device that finally sends it must complete:
    /// over everything from byte `start`, stored in the two bytes at `offset` after that.
    /// `segment`: size of the TCP segments, or UDP fragments, over IPv4 that it is to be split
    /// into, if any.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn send_unfinished(&self, frame: &[u8], start: u16, offset: u16, segment: Option<u16>) -> Result<()> {
        const NEEDS_CHECKSUM: u8 = 1;
        const GSO_TCPV4: u8 = 1;
        const GSO_UDP: u8 = 3;
        const UDP: u8 = 17;
        let mut bytes = vec![NEEDS_CHECKSUM, 0, 0, 0, 0, 0];
        if let Some(segment) = segment {
            bytes[1] = if frame.get(23) == Some(&UDP) {
                GSO_UDP
            } else {
                GSO_TCPV4
            };
            bytes[4..6].copy_from_slice(&segment.to_ne_bytes());
        }
        bytes.extend(start.to_ne_bytes());
        bytes.extend(offset.to_ne_bytes());
        bytes.extend(frame);
        let sent = send(self.offload.as_raw_fd(), &bytes, MsgFlags::empty());
        sent.with_context(|| format!("sending {} bytes without a checksum", frame.len()))?;
        Ok(())
    }

    /// Waits for a frame from this MAC address, and returns its length without a VLAN tag.
    ///
    /// # Errors
    /// None came in ten seconds.
    pub fn receive_from(&self, mac: [u8; 6]) -> Result<usize> {
        let mut buffer = vec![0; 70_000];
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(10) {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) if buffer[6..12] == mac => return Ok(length),
                Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(error) => return Err(error).context("receiving"),
            }
        }
        bail!("no frame from {mac:02x?} came")
    }
}
