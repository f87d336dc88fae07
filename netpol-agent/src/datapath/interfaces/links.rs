// SPDX-License-Identifier: Apache-2.0
//! Parses link messages.

use std::collections::BTreeMap;

use super::Mac;
use crate::datapath::netlink::{attributes, text, u32_at};

/// Length of the header before the attributes.
pub(super) const INTERFACE_MESSAGE_BYTES: usize = 16;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;
/// Kinds of devices by which no packet leaves the node. A bridge forwards it to a port, where it is
/// judged. An `ifb` gives it back to the interface that it was redirected from, before Services are
/// translated. A dummy and a netlink monitor discard it.
const NO_WAY_OUT: [&[u8]; 4] = [b"bridge", b"ifb", b"dummy", b"nlmon"];

/// A veth and the location of its peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Veth {
    pub(super) name: String,
    /// MAC address of this end.
    pub(super) mac: Mac,
    /// Id of the peer's namespace in this namespace; negative while that namespace ends.
    pub(super) namespace: i32,
    /// Index of the peer in its namespace.
    pub(super) peer: u32,
    /// Index of the bridge or other device that it is a port of.
    pub(super) bridge: Option<u32>,
}

/// The links of this namespace.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Links {
    /// Veths that lead into another namespace.
    pub(super) veths: BTreeMap<u32, Veth>,
    /// Names of the interfaces by which packets can leave the node.
    pub(super) devices: BTreeMap<u32, String>,
}

/// Parses a link message; `None` if it is no veth that leads into another namespace.
pub(super) fn veth(message: &[u8]) -> Option<(u32, Veth)> {
    let index = u32_at(message, 4)?;
    let (mut name, mut mac, mut peer, mut namespace) = (None, None, None, None);
    let (mut bridge, mut is_veth) = (None, false);
    for (kind, value) in attributes(message.get(INTERFACE_MESSAGE_BYTES..)?) {
        match kind {
            IFLA_IFNAME => name = Some(String::from_utf8_lossy(text(value)).into_owned()),
            IFLA_ADDRESS => mac = Mac::try_from(value).ok(),
            IFLA_LINK => peer = u32_at(value, 0),
            IFLA_LINK_NETNSID => namespace = u32_at(value, 0).map(u32::cast_signed),
            IFLA_MASTER => bridge = u32_at(value, 0),
            IFLA_LINKINFO => {
                is_veth =
                    attributes(value).any(|(kind, value)| kind == IFLA_INFO_KIND && text(value) == b"veth");
            }
            _ => {}
        }
    }
    let (name, mac, namespace, peer) = (name?, mac?, namespace?, peer?);
    is_veth.then_some((
        index,
        Veth {
            name,
            mac,
            namespace,
            peer,
            bridge,
        },
    ))
}

/// Parses a link message; `None` if packets cannot leave the node there.
pub(super) fn device(message: &[u8]) -> Option<(u32, String)> {
    let (index, flags) = (u32_at(message, 4)?, u32_at(message, 8)?);
    let (mut name, mut leaves) = (None, true);
    for (attribute, value) in attributes(message.get(INTERFACE_MESSAGE_BYTES..)?) {
        match attribute {
            IFLA_IFNAME => name = Some(String::from_utf8_lossy(text(value)).into_owned()),
            IFLA_LINKINFO => {
                leaves = !attributes(value).any(|(attribute, value)| {
                    attribute == IFLA_INFO_KIND && NO_WAY_OUT.contains(&text(value))
                });
            }
            _ => {}
        }
    }
    let loopback = flags & libc::IFF_LOOPBACK as u32 != 0;
    (!loopback && leaves).then_some((index, name?))
}

/// Parses the MAC address of a link message.
pub(super) fn mac(message: &[u8]) -> Option<Mac> {
    attributes(message.get(INTERFACE_MESSAGE_BYTES..)?)
        .find(|(kind, _)| *kind == IFLA_ADDRESS)
        .and_then(|(_, value)| value.try_into().ok())
}
