// SPDX-License-Identifier: Apache-2.0
//! Interfaces of scratch pods, for the self-test: a veth pair between a bridge of this network
//! namespace and another namespace (`rtnetlink(7)`).

use std::{
    io,
    net::IpAddr,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::net::if_::if_nametoindex;

use super::netlink::{Requests, push_attribute};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_F_NODAD: u8 = 2;
/// Name of the end inside.
const INSIDE: &str = "eth0";

/// Makes a pair: `end` here, as a port of the bridge, and its peer in `netns`. Both are not up yet.
pub fn join(end: &str, netns: BorrowedFd<'_>, bridge: u32) -> io::Result<()> {
    let mut peer = link(0, false);
    push_attribute(&mut peer, IFLA_IFNAME, &named(INSIDE));
    push_attribute(&mut peer, IFLA_NET_NS_FD, &netns.as_raw_fd().to_ne_bytes());
    let mut data = Vec::new();
    push_attribute(&mut data, VETH_INFO_PEER, &peer);
    let mut kind = Vec::new();
    push_attribute(&mut kind, IFLA_INFO_KIND, b"veth");
    push_attribute(&mut kind, IFLA_INFO_DATA, &data);
    let mut message = link(0, true);
    push_attribute(&mut message, IFLA_IFNAME, &named(end));
    push_attribute(&mut message, IFLA_MASTER, &bridge.to_ne_bytes());
    push_attribute(&mut message, IFLA_LINKINFO, &kind);
    let mut requests = Requests::open(NETLINK_ROUTE)?;
    requests.request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &message)
}

/// Gives the interface of this namespace its addresses, and sets it up.
pub fn set_up(addresses: &[IpAddr]) -> io::Result<()> {
    let index = if_nametoindex(INSIDE)?;
    let mut requests = Requests::open(NETLINK_ROUTE)?;
    for address in addresses {
        let (family, length, bytes) = match address {
            IpAddr::V4(address) => (libc::AF_INET, 24, address.octets().to_vec()),
            IpAddr::V6(address) => (libc::AF_INET6, 64, address.octets().to_vec()),
        };
        // struct ifaddrmsg.
        let mut message = vec![family as u8, length, IFA_F_NODAD, 0];
        message.extend_from_slice(&index.to_ne_bytes());
        push_attribute(&mut message, IFA_LOCAL, &bytes);
        push_attribute(&mut message, IFA_ADDRESS, &bytes);
        match requests.request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &message) {
            // A kernel without IPv6.
            Err(error) if address.is_ipv6() && error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
            result => result?,
        }
    }
    requests.request(RTM_NEWLINK, 0, &link(index, true))
}

/// Removes a pair by the name of its end here.
pub fn remove(end: &str) -> io::Result<()> {
    let index = if_nametoindex(end)?;
    Requests::open(NETLINK_ROUTE)?.request(RTM_DELLINK, 0, &link(index, false))
}

/// `struct ifinfomsg` of an interface, to be set up or left as it is.
fn link(index: u32, up: bool) -> Vec<u8> {
    let flags = if up { libc::IFF_UP as u32 } else { 0 };
    [0, index, flags, flags].map(u32::to_ne_bytes).concat()
}

fn named(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}
