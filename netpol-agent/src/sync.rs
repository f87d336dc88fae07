// SPDX-License-Identifier: Apache-2.0
//! From the desired state to the kernel's: [`plan`] compares the two and lists writes, [`apply()`]
//! makes them.
//!
//! Invariants:
//! - Every prefix of a plan is safe: a packet gets the verdict of before or of after, or that of
//!   some of several merged changes. It never meets a policy that is half written (rule B4).
//! - A policy number is immutable for every identity that an address carries. Entries are added
//!   only for identities that no address carries yet, and removed for those that none carries any
//!   more.
//! - Endpoint and policy numbers are never given twice while the maps live (rule C3): the kernel
//!   holds the counters.

mod apply;
mod desired;
mod identities;
mod plan;
mod policies;
mod post_dnat;
mod settings;
mod stages;
mod tables;

pub use apply::{Failure, Kernel, Report, apply};
pub use desired::{Desired, Link};
pub use plan::{Plan, ahead, plan};
pub use settings::Settings;
pub use stages::{Stage, Stages};
pub use tables::{
    Edit::{self, Put, Remove},
    State, Table, Write,
};

use std::{collections::BTreeMap, net::IpAddr};

use netpol_common::abi::PolicyValue;

use crate::{
    compile::{ClassId, Compiled, PolicyId},
    model::{Map, ObjectKey, ProtocolMatch},
};

/// What one entry of a policy matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryKey {
    /// Identity of the peer.
    pub identity: u32,
    /// Protocol and port; `None` is every protocol and port.
    pub protocol: Option<ProtocolMatch>,
}

/// The entries of one policy number.
pub type EntryMap = Map<EntryKey, PolicyValue>;

/// What the agent remembers of its last plan beside the kernel's state. It is lost at a restart,
/// which costs writes, never a verdict.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Memory {
    /// The last plan, if all of it was written: the kernel holds that and nothing else.
    pub last: Option<Last>,
    /// This process made all writes of the last plan. If not, an identity may have changed without
    /// the epoch: it is raised.
    pub settled: bool,
    /// The pod (and its uid) behind each interface.
    pub pods: BTreeMap<u32, (ObjectKey, String)>,
}

/// A plan that was written.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Last {
    /// What was planned.
    pub compiled: Compiled,
    /// What each identity stands for.
    pub identities: Map<u32, Meaning>,
    /// The compiled policy that each policy number stands for.
    pub policies: BTreeMap<u32, PolicyId>,
}

/// What an identity stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Meaning {
    /// The class.
    pub class: ClassId,
    /// Number of prefixes and frontends that carry it.
    pub carriers: usize,
}

impl State {
    /// Policy numbers that an endpoint has.
    pub(crate) fn policies_in_use(&self) -> impl Iterator<Item = u32> {
        let endpoints = self.endpoints.values();
        endpoints.flat_map(|endpoint| [endpoint.ingress_policy, endpoint.egress_policy])
    }
}

/// The two addresses of an endpoint as the kernel holds them; zeros for a family without one.
pub fn endpoint_addresses(addresses: &[IpAddr]) -> ([u8; 4], [u8; 16]) {
    let mut ipv4 = [0; 4];
    let mut ipv6 = [0; 16];
    for address in addresses {
        match address {
            IpAddr::V4(address) if ipv4 == [0; 4] => ipv4 = address.octets(),
            IpAddr::V6(address) if ipv6 == [0; 16] => ipv6 = address.octets(),
            _ => {}
        }
    }
    (ipv4, ipv6)
}
