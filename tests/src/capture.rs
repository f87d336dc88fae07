// SPDX-License-Identifier: Apache-2.0
//! Sends and captures raw frames on an interface: the kernel does not check those sent, and
//! captures see frames before the kernel does. The test judges captured frames in a separate
//! thread.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    libc,
    net::if_::if_nametoindex,
    sys::{
        socket::{
            AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike, bind, recv,
            send, setsockopt, socket, sockopt,
        },
        time::TimeVal,
    },
};

use crate::{netns::NetNs, node::Site};

/// A capture that was asked to end does so after this long without a frame, microseconds.
const SILENCE: i64 = 200_000;
/// Time limit for that: the frames sent may have started an endless exchange.
const DEADLINE: Duration = Duration::from_secs(1);
/// Size of the capture's receive buffer, bytes.
const BUFFER: usize = 64 << 20;
/// Length of the longest frame.
const LONGEST: usize = 1 << 16;

/// Sends frames out of an interface.
#[derive(Debug)]
pub struct Wire(OwnedFd);

impl Wire {
    /// Opens `interface` of a namespace for sending.
    ///
    /// # Errors
    /// Without `CAP_NET_RAW`, or if there is no such interface.
    pub fn open(netns: &NetNs, interface: &str) -> Result<Self> {
        // Protocol 0: receives nothing.
        netns
            .run(|| packet_socket(interface, None))
            .map(Self)
            .with_context(|| format!("opening {interface} of {}", netns.name()))
    }

    /// Sends a frame. Returns false if the kernel rejects it because it is shorter than its link
    /// layer header, or longer than the interface's MTU allows.
    ///
    /// # Errors
    /// If the kernel refuses for another reason.
    pub fn send(&self, frame: &[u8]) -> Result<bool> {
        loop {
            return match send(self.0.as_raw_fd(), frame, MsgFlags::empty()) {
                Ok(_) => Ok(true),
                Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::EINTR) => {
                    thread::yield_now();
                    continue;
                }
                Err(Errno::EINVAL | Errno::EMSGSIZE) => Ok(false),
                Err(error) => Err(error).context("sending a frame"),
            };
        }
    }
}

/// Counts of captured frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Frames that were judged.
    pub frames: u64,
    /// Frames that were lost because they came too fast.
    pub lost: u32,
}

/// Captures every frame that an interface receives, and hands it to a judge.
#[derive(Debug)]
pub struct Capture<J> {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<(J, Seen)>>,
}

impl<J: FnMut(&[u8]) + Send + 'static> Capture<J> {
    /// Starts capturing the frames that `interface` of a namespace receives.
    ///
    /// # Errors
    /// Without `CAP_NET_RAW`, or if there is no such interface.
    pub fn start(netns: &NetNs, interface: &str, judge: J) -> Result<Self> {
        let socket = netns.run(|| {
            let socket = packet_socket(interface, Some(SockProtocol::EthAll))?;
            setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).context("asking for a large buffer")?;
            setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(0, SILENCE))
                .context("setting a time limit")?;
            ignore_outgoing(&socket)?;
            Ok(socket)
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || run(&socket, judge, &stopped));
        Ok(Self { stop, thread })
    }

    /// Ends when nothing has come for a moment, at the latest after a second, and returns the
    /// judge.
    ///
    /// # Errors
    /// If the capture failed.
    pub fn finish(self) -> Result<(J, Seen)> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(result) => result,
            Err(_) => bail!("the judge of a capture panicked"),
        }
    }
}

fn run<J: FnMut(&[u8])>(socket: &OwnedFd, mut judge: J, stop: &AtomicBool) -> Result<(J, Seen)> {
    let mut frame = vec![0; LONGEST];
    let mut frames = 0;
    let mut end = None;
    loop {
        if stop.load(Ordering::Relaxed)
            && *end.get_or_insert_with(|| Instant::now() + DEADLINE) < Instant::now()
        {
            break;
        }
        match recv(socket.as_raw_fd(), &mut frame, MsgFlags::empty()) {
            Ok(length) => {
                frames += 1;
                judge(&frame[..length]);
            }
            Err(Errno::EAGAIN) if stop.load(Ordering::Relaxed) => break,
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => return Err(error).context("receiving a frame"),
        }
    }
    let lost = lost(socket)?;
    Ok((judge, Seen { frames, lost }))
}

/// Returns the MAC address of an interface of a namespace.
///
/// # Errors
/// If there is no such interface.
pub fn mac(netns: &NetNs, interface: &str) -> Result<[u8; 6]> {
    netns.run(|| {
        getifaddrs()
            .context("listing interfaces")?
            .filter(|entry| entry.interface_name == interface)
            .find_map(|entry| entry.address?.as_link_addr()?.addr())
            .with_context(|| format!("no interface {interface} in {}", netns.name()))
    })
}

/// Returns a site's IPv4 and IPv6 address.
///
/// # Errors
/// If it lacks one.
pub fn addresses(site: &Site) -> Result<[IpAddr; 2]> {
    let of = |v4: bool| {
        site.addresses
            .iter()
            .copied()
            .find(|address| address.is_ipv4() == v4)
    };
    of(true)
        .zip(of(false))
        .map(|(v4, v6)| [v4, v6])
        .with_context(|| format!("{} has not both families", site.name))
}

fn packet_socket(interface: &str, protocol: Option<SockProtocol>) -> Result<OwnedFd> {
    let index = if_nametoindex(interface).with_context(|| format!("looking for {interface}"))?;
    let socket = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        protocol,
    )
    .context("opening a packet socket")?;
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol.map_or(0, |protocol| protocol as i32 as u16),
        sll_ifindex: index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the address is one of AF_PACKET, initialised, and as long as is said.
    let address = unsafe {
        LinkAddr::from_raw(
            (&raw const address).cast(),
            Some(size_of::<libc::sockaddr_ll>() as libc::socklen_t),
        )
    };
    bind(socket.as_raw_fd(), &address.context("an address of a link")?)
        .with_context(|| format!("binding to {interface}"))?;
    Ok(socket)
}

fn ignore_outgoing(socket: &OwnedFd) -> Result<()> {
    let yes: libc::c_int = 1;
    // SAFETY: the option takes an int, which lives until the call returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_IGNORE_OUTGOING,
            (&raw const yes).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    Errno::result(result).context("leaving out what is sent")?;
    Ok(())
}

/// Returns the number of frames that found no room since the socket was opened (packet(7),
/// `PACKET_STATISTICS`).
fn lost(socket: &OwnedFd) -> Result<u32> {
    let mut statistics = libc::tpacket_stats {
        tp_packets: 0,
        tp_drops: 0,
    };
    let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
    // SAFETY: the option fills such a struct, of which the length is told; both live until the call
    // returns.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut statistics).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error()).context("reading what a capture lost");
    }
    Ok(statistics.tp_drops)
}
