// SPDX-License-Identifier: Apache-2.0
//! Receives link and address events of this network namespace and of those that it has an id for.

use std::{
    collections::HashSet,
    io::{self, IoSliceMut},
    os::fd::{AsRawFd as _, RawFd},
};

use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use nix::{
    errno::Errno,
    sys::socket::{ControlMessageOwned, MsgFlags, recvmsg},
};
use tokio::{io::unix::AsyncFd, time::Instant};
use tracing::warn;

use super::{
    InterfacesError,
    pace::{Pace, Source},
};
use crate::datapath::netlink::u32_at;

/// Multicast groups of `linux/rtnetlink.h`: link, IPv4 address, IPv6 address, namespace id.
const GROUPS: [u32; 4] = [1, 5, 9, 28];
/// IPv4 route, IPv6 route.
const ROUTES: [u32; 2] = [7, 11];
/// Messages that are taken at once. The limit keeps a storm of events from blocking the reading for
/// ever.
const BURST: usize = 4096;
/// Size of a netlink header, bytes. In link and address messages, the second four bytes of the
/// payload are the interface index.
const HEADER_BYTES: usize = 16;
/// `SOL_NETLINK` and `NETLINK_LISTEN_ALL_NSID` of `linux/netlink.h`, for the id of the namespace
/// that a message comes from.
const NAMESPACE: (libc::c_int, libc::c_int) = (270, 8);
/// Size of the receive buffer, bytes: large, so that a storm from one source leaves room for
/// others.
const RECEIVE_BYTES: usize = 4 << 20;

/// A socket that becomes readable when something that [`super::reading`] reads may have changed.
pub(super) struct Events {
    socket: AsyncFd<Socket>,
    pace: Pace,
}

/// Messages taken from the socket.
struct Taken {
    sources: HashSet<Source>,
    lost: bool,
    /// True if nothing is left.
    all: bool,
}

impl Events {
    /// Joins the groups.
    pub(super) fn listen() -> Result<Self, InterfacesError> {
        let failed = |attempt| move |source| InterfacesError::Socket { attempt, source };
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(failed("open a socket for events"))?;
        socket
            .set_non_blocking(true)
            .map_err(failed("make the socket for events non-blocking"))?;
        socket.bind_auto().map_err(failed("bind the socket for events"))?;
        if let Err(error) =
            nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &RECEIVE_BYTES)
        {
            warn!(%error, "a storm of netlink events may hide others: the capability CAP_NET_ADMIN is missing");
        }
        // Set before the groups are joined: otherwise events of other namespaces could be missed.
        if let Err(error) = socket.set_listen_all_namespaces(true) {
            warn!(
                %error,
                "events inside pods are not heard: the capability CAP_NET_BROADCAST is missing; a pod's addresses are \
                 read when its link or the cluster's list of pods changes"
            );
        }
        for group in GROUPS {
            socket
                .add_membership(group)
                .map_err(failed("join the link and address events"))?;
        }
        Self::on(socket)
    }

    /// Joins the route groups, of this network namespace only: pods' own routes do not count.
    pub(super) fn of_routes() -> Result<Self, InterfacesError> {
        let failed = |attempt| move |source| InterfacesError::Socket { attempt, source };
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(failed("open a socket for events of routes"))?;
        socket
            .set_non_blocking(true)
            .map_err(failed("make the socket for events of routes non-blocking"))?;
        socket
            .bind_auto()
            .map_err(failed("bind the socket for events of routes"))?;
        for group in ROUTES {
            socket
                .add_membership(group)
                .map_err(failed("join the route events"))?;
        }
        Self::on(socket)
    }

    fn on(socket: Socket) -> Result<Self, InterfacesError> {
        // SAFETY: the socket owns its descriptor, which never changes. It is closed when the socket
        // is dropped, together with the AsyncFd.
        let socket = unsafe { AsyncFd::register(socket) };
        Ok(Self {
            socket: socket.map_err(|error| InterfacesError::Socket {
                attempt: "wait for events",
                source: error.into(),
            })?,
            pace: Pace::default(),
        })
    }

    /// Waits until a reading is due. Returns true if the kernel dropped events for lack of room.
    /// Cancel safe: an event is taken only in the poll that returns, or that notes when the reading
    /// is due.
    pub(super) async fn next(&mut self) -> Result<bool, InterfacesError> {
        loop {
            let due = self.pace.due();
            tokio::select! {
                ready = self.socket.readable() => {
                    let mut ready = ready.map_err(InterfacesError::Events)?;
                    let taken = take(ready.get_inner().as_raw_fd()).map_err(InterfacesError::Events)?;
                    if taken.all {
                        ready.clear_ready();
                    }
                    if self.pace.met(taken.sources, Instant::now()) {
                        return Ok(taken.lost);
                    }
                }
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.pace.read();
                    return Ok(false);
                }
            }
        }
    }
}

/// Takes what is ready. The content does not matter: every message leads to a new reading.
fn take(socket: RawFd) -> io::Result<Taken> {
    let mut taken = Taken {
        sources: HashSet::new(),
        lost: false,
        all: false,
    };
    // Room for the start of a message. The kernel truncates the rest.
    let mut start = [0; 64];
    let mut control = nix::cmsg_space!(libc::c_int, libc::c_int);
    for _ in 0..BURST {
        let mut room = [IoSliceMut::new(&mut start)];
        match recvmsg::<()>(socket, &mut room, Some(&mut control), MsgFlags::empty()) {
            Ok(message) => {
                let namespace = message.cmsgs().ok().and_then(|mut all| all.find_map(namespace));
                let index = message
                    .iovs()
                    .next()
                    .and_then(|bytes| u32_at(bytes.get(HEADER_BYTES..)?, 4));
                taken.sources.insert(match namespace {
                    Some(namespace) => Source::Other(namespace),
                    None => Source::Own(index.unwrap_or_default()),
                });
            }
            Err(Errno::EINTR) => {}
            Err(Errno::ENOBUFS) => {
                taken.lost = true;
                taken.sources.insert(Source::Lost);
            }
            Err(Errno::EAGAIN) => {
                taken.all = true;
                break;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(taken)
}

/// Returns the id of the namespace that a message comes from, if it is not this one.
fn namespace(message: ControlMessageOwned) -> Option<i32> {
    let ControlMessageOwned::Unknown(message) = message else {
        return None;
    };
    let header = message.cmsg_header;
    let id = u32_at(&message.data_bytes, 0)?.cast_signed();
    ((header.cmsg_level, header.cmsg_type) == NAMESPACE && id >= 0).then_some(id)
}
