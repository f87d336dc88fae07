// SPDX-License-Identifier: Apache-2.0
//! Classes: what policies tell addresses and frontends apart by.

use std::collections::{BTreeMap, BTreeSet};

use super::peer_set::PeerSet;
use crate::model::PortKey;

/// Number of a class, given once by a compiler. No number of a compiler comes again: 32 bits
/// would, within days of changes as fast as they can be made.
pub type ClassId = u64;

/// The class of addresses that match no peer.
pub const NO_PEER: ClassId = 0;

/// All addresses that match the same peers of the active policies, and give the same numbers to
/// the named ports that egress rules use (rule T4). Or all frontends whose packets end alike.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Class {
    /// The peers that its addresses match.
    pub peers: PeerSet,
    /// Number of each named port.
    pub named_ports: BTreeMap<PortKey, u16>,
    /// Of a class of frontends, which has neither peers nor ports; `None` for a class of addresses.
    pub frontend: Option<FrontendClass>,
}

/// Where packets to a frontend may end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct FrontendClass {
    /// All backends that kube-proxy may choose.
    pub backends: BTreeSet<Target>,
    /// Where packets end if kube-proxy has no rules for the frontend (rule A9); `None` for a
    /// NodePort, which has no address of its own.
    pub untranslated: Option<Untranslated>,
    /// Open only to pods that may reach all backends (rule L2).
    pub closed: bool,
}

/// Where packets to a frontend end if kube-proxy has no rules for it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Untranslated {
    /// At the frontend's own address.
    Address(Target),
    /// At the backends of a NodePort with the same number: the address is the node's.
    NodePort(Box<FrontendClass>),
}

/// An address and a port of it: the class of the address, and the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// Class of its address.
    pub class: ClassId,
    /// The address is this node's: always open (rule A2).
    pub node: bool,
    /// IANA protocol number.
    pub protocol: u8,
    /// Target port.
    pub port: u16,
}

/// What an address prefix stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Address {
    /// Its class.
    pub class: ClassId,
    /// An address of this node (rule A2).
    pub node: bool,
    /// An address of a node that is on no interface of this one (rules A4, A5).
    pub remote_node: bool,
}
