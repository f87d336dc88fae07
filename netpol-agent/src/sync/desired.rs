// SPDX-License-Identifier: Apache-2.0
//! What a plan is to reach.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
};

use netpol_common::abi::Endpoint;

use super::settings::Settings;
use crate::{compile::Compiled, model::ObjectKey};

/// What the node must enforce, and on which interfaces.
#[derive(Debug, Clone, Copy)]
pub struct Desired<'a> {
    /// The compiled policies.
    pub compiled: &'a Compiled,
    /// The pod behind each interface, if it is known.
    pub pods: &'a BTreeMap<u32, ObjectKey>,
    /// Interfaces that exist, with or without a known pod behind them.
    pub present: &'a BTreeSet<u32>,
    /// Devices by which packets can leave the node, maybe those of pods among them.
    pub devices: &'a BTreeSet<u32>,
    /// Interfaces that have programs and no endpoint until their pod is known (rule B2).
    pub closed: &'a BTreeSet<u32>,
    /// The bridge of each interface that is a port of one.
    pub bridges: &'a BTreeMap<u32, u32>,
    /// The link of each interface when it was bound. An absent one keeps what its endpoint has
    /// (rule A8).
    pub links: &'a BTreeMap<u32, Link>,
    /// Settings of the programs.
    pub settings: Settings,
}

/// The link of a pod, as it was when its interface was bound (rule A8).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Link {
    /// MAC address of the interface in the pod; zeros: unknown.
    pub mac: [u8; 6],
    /// The pod's link-local address, once it has one.
    pub link_local: Option<Ipv6Addr>,
    /// The addresses to enforce it with, if they are not the pod's own: those of a second network
    /// of the pod, or those that several pods claim.
    pub addresses: Option<Vec<IpAddr>>,
    /// Pods that may be behind the interface instead: it gets no more than each of them would.
    pub rivals: Vec<ObjectKey>,
    /// The interface may only pretend to be the pod's: nothing passes.
    pub closed: bool,
}

impl Link {
    /// The link that an endpoint in the kernel has.
    pub(super) fn of(endpoint: &Endpoint) -> Self {
        let link_local = Ipv6Addr::from(endpoint.link_local);
        Self {
            mac: endpoint.mac,
            link_local: (!link_local.is_unspecified()).then_some(link_local),
            ..Self::default()
        }
    }
}
