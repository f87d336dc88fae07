// SPDX-License-Identifier: Apache-2.0
//! Link and address events of this network namespace and of those that it has an id for.

use std::io;

use netlink_sys::{AsyncSocket as _, AsyncSocketExt as _, Socket, TokioSocket, protocols::NETLINK_ROUTE};
use tracing::warn;

use super::InterfacesError;

/// Multicast groups of `linux/rtnetlink.h`: link, IPv4 address, IPv6 address, namespace id.
const GROUPS: [u32; 4] = [1, 5, 9, 28];
/// Messages taken at once, so that a storm of events cannot hold back the reading for ever.
const BURST: usize = 4096;

/// A socket that becomes readable when something that [`super::reading`] reads may have changed.
pub(super) struct Events(TokioSocket);

impl Events {
    /// Joins the groups.
    pub(super) fn listen() -> Result<Self, InterfacesError> {
        let failed = |attempt| move |source| InterfacesError::Socket { attempt, source };
        let mut events = TokioSocket::new(NETLINK_ROUTE).map_err(failed("open a socket for events"))?;
        let socket = events.socket_mut();
        socket.bind_auto().map_err(failed("bind the socket for events"))?;
        // Before the groups: a membership joined first would let events of other namespaces pass by.
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
        Ok(Self(events))
    }

    /// Waits for events and takes all that are ready. `true`: the kernel had no room for some and dropped them. Cancel safe: an
    /// event is taken only in the poll that returns.
    pub(super) async fn next(&mut self) -> Result<bool, InterfacesError> {
        let lost = match self.0.recv(&mut discard()).await {
            Ok(()) => false,
            Err(error) if is_loss(&error) => true,
            Err(error) => return Err(InterfacesError::Events(error)),
        };
        drain(self.0.socket_ref())
            .map(|more| lost || more)
            .map_err(InterfacesError::Events)
    }
}

/// Takes what is ready. What the messages say does not matter: they all lead to a new reading.
fn drain(socket: &Socket) -> io::Result<bool> {
    let mut lost = false;
    for _ in 0..BURST {
        match socket.recv(&mut discard(), 0) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if is_loss(&error) => lost = true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(lost)
}

fn is_loss(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOBUFS)
}

/// Room for the start of a message; the kernel cuts off the rest.
fn discard() -> Vec<u8> {
    Vec::with_capacity(64)
}
