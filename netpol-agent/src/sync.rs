// SPDX-License-Identifier: Apache-2.0
//! From the desired state to the kernel's: [`plan`] compares the two and lists writes, [`apply()`] makes them.
//!
//! Invariants:
//! - Every prefix of a plan is safe: a packet meets what was in force before, or what is in force after, or what would be had only some
//!   of the merged changes arrived; never a policy that is half written (rule B4).
//! - A policy number is immutable for every identity that an address carries. Entries are only added for identities that no address
//!   carries yet, and removed for those that none carries any more.
//! - Endpoint and policy numbers are never given twice while the maps live (rule C3): the counters stand in the kernel.

mod apply;
mod desired;
mod identities;
mod plan;
mod policies;
mod post_dnat;

pub use apply::{Failure, Report, apply};
pub use desired::{Desired, Link};
pub use plan::{Plan, ahead, plan};

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use netpol_common::abi::{Config, Endpoint, Identity, PolicyValue};

use crate::{
    compile::{ClassId, Compiled, PolicyId},
    model::{Frontend, Map, ObjectKey, ProtocolMatch, Set},
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
pub type Entries = Map<EntryKey, PolicyValue>;

/// What the kernel holds. A copy is cheap.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    /// Map `config`.
    pub config: Config,
    /// Map `endpoints`, by interface index.
    pub endpoints: BTreeMap<u32, Endpoint>,
    /// Map `identities`.
    pub identities: Map<IpNet, Identity>,
    /// Map `frontends`.
    pub frontends: Map<Frontend, Identity>,
    /// Map `local_pods`: the interface of each pod, by address.
    pub local_pods: BTreeMap<IpAddr, u32>,
    /// Map `senders`, by bridge and number.
    pub senders: BTreeMap<(u32, u32), u32>,
    /// Map `guarded`: address, protocol and port of backends.
    pub guarded: Set<Frontend>,
    /// Map `forwards`: interface, and prefix of what its pod sends and receives for.
    pub forwards: BTreeSet<(u32, IpNet)>,
    /// Map `policies`, by policy number. A number without entries is absent.
    pub policies: Map<u32, Entries>,
    /// Interfaces that carry this agent's programs.
    pub attached: BTreeSet<u32>,
    /// Devices that carry this agent's program for packets that leave the node.
    pub attached_devices: BTreeSet<u32>,
}

/// What the agent remembers of its last plan beside the kernel's state. Lost at a restart, which costs writes, never a verdict.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Memory {
    /// What was planned last, if all of it was written: the kernel holds that and nothing else.
    pub last: Option<Last>,
    /// All writes of the last plan were made by this process. If not, an identity may have changed without the epoch: it is raised.
    pub settled: bool,
    /// The pod (and its uid) behind each interface.
    pub pods: BTreeMap<u32, (ObjectKey, String)>,
}

/// A plan that was written.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Last {
    /// What it was for.
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

/// One change of the kernel's state.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// Replaces the entry of map `config`.
    Config(Config),
    /// Adds an entry to a policy.
    PutPolicy {
        /// The policy.
        policy: u32,
        /// What it matches.
        key: EntryKey,
        /// What it says.
        value: PolicyValue,
    },
    /// Removes an entry of a policy.
    RemovePolicy {
        /// The policy.
        policy: u32,
        /// What it matches.
        key: EntryKey,
    },
    /// Gives an address prefix its identity.
    PutIdentity {
        /// The prefix.
        prefix: IpNet,
        /// Its identity.
        identity: Identity,
    },
    /// Leaves a prefix to the one that covers it.
    RemoveIdentity(IpNet),
    /// Gives a Service's frontend its identity.
    PutFrontend {
        /// The frontend.
        frontend: Frontend,
        /// Its identity.
        identity: Identity,
    },
    /// Leaves a frontend to the identity of its address.
    RemoveFrontend(Frontend),
    /// Tells the interface of the pod with an address.
    PutLocalPod {
        /// The address.
        address: IpAddr,
        /// Interface index.
        ifindex: u32,
    },
    /// Forgets who has an address.
    RemoveLocalPod(IpAddr),
    /// Tells who sends packets with a number in their tag by a bridge.
    PutSender {
        /// Index of the bridge, and the number.
        sender: (u32, u32),
        /// Interface index of the sender.
        ifindex: u32,
    },
    /// Forgets a number.
    RemoveSender((u32, u32)),
    /// Closes a backend to senders that nobody knows.
    PutGuarded(Frontend),
    /// Opens it to them.
    RemoveGuarded(Frontend),
    /// Lets the pod behind an interface send and receive for a prefix.
    PutForward(u32, IpNet),
    /// Lets it no more.
    RemoveForward(u32, IpNet),
    /// Gives an interface its endpoint, with both policies in one write.
    PutEndpoint {
        /// Interface index.
        ifindex: u32,
        /// Its endpoint.
        endpoint: Endpoint,
    },
    /// Forgets an interface's endpoint.
    RemoveEndpoint(u32),
    /// Attaches the programs to an interface.
    Attach(u32),
    /// Takes them off.
    Detach(u32),
    /// Attaches the program for packets that leave the node to a device.
    AttachDevice(u32),
    /// Takes it off.
    DetachDevice(u32),
}

impl State {
    /// Policy numbers that an endpoint has.
    pub(crate) fn policies_in_use(&self) -> impl Iterator<Item = u32> {
        let endpoints = self.endpoints.values();
        endpoints.flat_map(|endpoint| [endpoint.ingress_policy, endpoint.egress_policy])
    }

    /// What a write makes of the state.
    pub fn record(&mut self, write: &Write) {
        match write {
            Write::Config(config) => self.config = *config,
            Write::PutPolicy { policy, key, value } => {
                if self
                    .policies
                    .change(policy, |entries| entries.insert(*key, *value))
                    .is_none()
                {
                    self.policies
                        .insert(*policy, Entries::from_iter([(*key, *value)]));
                }
            }
            Write::RemovePolicy { policy, key } => {
                let emptied = self.policies.change(policy, |entries| {
                    entries.remove(key);
                    entries.is_empty()
                });
                if emptied == Some(true) {
                    self.policies.remove(policy);
                }
            }
            Write::PutIdentity { prefix, identity } => {
                self.identities.insert(*prefix, *identity);
            }
            Write::RemoveIdentity(prefix) => {
                self.identities.remove(prefix);
            }
            Write::PutFrontend { frontend, identity } => {
                self.frontends.insert(*frontend, *identity);
            }
            Write::RemoveFrontend(frontend) => {
                self.frontends.remove(frontend);
            }
            Write::PutLocalPod { address, ifindex } => {
                self.local_pods.insert(*address, *ifindex);
            }
            Write::RemoveLocalPod(address) => {
                self.local_pods.remove(address);
            }
            Write::PutSender { sender, ifindex } => {
                self.senders.insert(*sender, *ifindex);
            }
            Write::RemoveSender(sender) => {
                self.senders.remove(sender);
            }
            Write::PutGuarded(backend) => {
                self.guarded.insert(*backend, ());
            }
            Write::RemoveGuarded(backend) => {
                self.guarded.remove(backend);
            }
            Write::PutForward(ifindex, prefix) => {
                self.forwards.insert((*ifindex, *prefix));
            }
            Write::RemoveForward(ifindex, prefix) => {
                self.forwards.remove(&(*ifindex, *prefix));
            }
            Write::PutEndpoint { ifindex, endpoint } => {
                self.endpoints.insert(*ifindex, *endpoint);
            }
            Write::RemoveEndpoint(ifindex) => {
                self.endpoints.remove(ifindex);
            }
            Write::Attach(ifindex) => {
                self.attached.insert(*ifindex);
            }
            Write::Detach(ifindex) => {
                self.attached.remove(ifindex);
            }
            Write::AttachDevice(ifindex) => {
                self.attached_devices.insert(*ifindex);
            }
            Write::DetachDevice(ifindex) => {
                self.attached_devices.remove(ifindex);
            }
        }
    }
}

/// The two addresses of an endpoint as the kernel holds them, zeros where it has none of a family.
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
