// SPDX-License-Identifier: Apache-2.0
//! Measures the kernel's own time for what the agent asks of it, without the agent.

use std::{
    os::fd::{AsRawFd as _, OwnedFd},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use nix::{
    libc,
    net::if_::if_nametoindex,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
    },
};

use super::Figures;
use crate::changes::{LOCAL, Stage};
use netpol_tests::empty::{Empty, Hook};

/// Number of interfaces.
const PODS: usize = 20;
/// Number of readings of the connection table.
const READINGS: usize = 20;
/// `NFNL_SUBSYS_CTNETLINK` with `IPCTNL_MSG_CT_GET`.
const GET: u16 = 1 << 8 | 1;
const HEADER: usize = 16;

/// Adds the kernel's cost for each new pod. No agent runs.
///
/// # Errors
/// If the kernel refuses.
pub fn measure(figures: &mut Figures<'_>, stage: &Stage) -> Result<()> {
    let (attached, read) = stage
        .node
        .netns()
        .run(|| anyhow::Ok((attach(stage)?, connections()?)))?;
    figures.times("kernel_two_programs", attached, None, ATTACHED);
    figures.times("kernel_connections", read, None, READ);
    Ok(())
}

const ATTACHED: &str = "two empty programs (TCX) attached to a pod's interface, by nobody in particular: the kernel waits for a grace period (RCU) for \
                        each. What a pod that is new costs at least, and a start as often as there are pods";
const READ: &str = "the kernel's connection table read as a whole (ctnetlink), by nobody in particular: the agent reads it before and after it attaches \
                    programs, and when a pod goes";

/// Measures attaching two empty programs, in ms for each interface.
fn attach(stage: &Stage) -> Result<Vec<f64>> {
    let empty = Empty::load()?;
    let mut times = Vec::new();
    for index in 0..PODS.min(LOCAL) {
        let ifindex = if_nametoindex(stage.node.veth(&stage.local_pod(index))?)?;
        let started = Instant::now();
        let links: Result<Vec<OwnedFd>> = [Hook::Ingress, Hook::Egress]
            .into_iter()
            .map(|hook| empty.attach(ifindex, hook))
            .collect();
        times.push(milliseconds(started));
        drop(links?);
    }
    Ok(times)
}

/// Measures reading the connection table, in ms.
fn connections() -> Result<Vec<f64>> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    let mut times = Vec::new();
    while times.len() < READINGS {
        let started = Instant::now();
        read_all(&socket)?;
        times.push(milliseconds(started));
    }
    Ok(times)
}

/// Requests all entries (`netlink(7)`, host byte order), and waits for the final message.
fn read_all(socket: &OwnedFd) -> Result<()> {
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    // `struct nlmsghdr` with `struct nfgenmsg`: any family, version 0, resource 0.
    let mut request = Vec::new();
    request.extend((HEADER as u32 + 4).to_ne_bytes());
    request.extend(GET.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    request.extend([0; 12]);
    sendto(
        socket.as_raw_fd(),
        &request,
        &NetlinkAddr::new(0, 0),
        MsgFlags::empty(),
    )
    .context("asking for the connection table")?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = &buffer[..length];
        while rest.len() >= HEADER {
            let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
            match libc::c_int::from(u16::from_ne_bytes([rest[4], rest[5]])) {
                libc::NLMSG_DONE => return Ok(()),
                libc::NLMSG_ERROR => bail!("the kernel refuses to tell its connections"),
                _ => {}
            }
            rest = rest
                .get(length.next_multiple_of(4).max(HEADER)..)
                .unwrap_or_default();
        }
    }
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}
