// SPDX-License-Identifier: Apache-2.0
//! Ports as policy and Services name them: of an address, as a block of numbers, by a name.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use super::{Pod, Protocol};

/// Where a Service is reached before translation, or one of the backends behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// A virtual IP. The unspecified address of a family stands for every address of every node:
    /// a NodePort.
    pub address: IpAddr,
    /// IANA protocol number.
    pub protocol: u8,
    /// The Service's port or its NodePort; of a backend, the target port.
    pub port: u16,
}

/// What an entry of a policy matches beside the peer: a protocol and an aligned block of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProtocolMatch {
    /// IANA protocol number.
    pub protocol: u8,
    /// First port of the block.
    pub port: u16,
    /// Leading bits of `port` that count: 16 is one port, 0 is every port.
    pub prefix_len: u8,
}

impl ProtocolMatch {
    /// Whether one match has all that another has; `None` matches every protocol and port.
    pub fn covers(outer: Option<Self>, inner: Option<Self>) -> bool {
        match (outer, inner) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(outer), Some(inner)) => {
                let differing = (outer.port ^ inner.port).leading_zeros();
                outer.protocol == inner.protocol
                    && outer.prefix_len <= inner.prefix_len
                    && u32::from(outer.prefix_len) <= differing
            }
        }
    }
}

/// Name and protocol of a container port (rule T4). Displayed as `name/PROTOCOL`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortKey {
    /// `name` of the port.
    pub name: String,
    /// `protocol` of the port.
    pub protocol: Protocol,
}

impl fmt::Display for PortKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.name, self.protocol)
    }
}

impl PortKey {
    /// The number of each named port of a pod. If a pod has a name twice, its first number counts
    /// (rule T4).
    pub fn numbers_of(pod: &Pod) -> BTreeMap<Self, u16> {
        let mut numbers = BTreeMap::new();
        for port in &pod.named_ports {
            let key = Self {
                name: port.name.to_string(),
                protocol: port.protocol,
            };
            numbers.entry(key).or_insert(port.number);
        }
        numbers
    }

    /// The match for this port where it has `number`.
    pub fn at(&self, number: u16) -> ProtocolMatch {
        ProtocolMatch {
            protocol: self.protocol.number(),
            port: number,
            prefix_len: 16,
        }
    }
}
