// SPDX-License-Identifier: Apache-2.0
//! The addresses of a node and its pods.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// The address plan of a node. Its bridge has host number 1 in the pods' networks. All nodes share
/// the networks of the uplink: the first node has host number 1, the next 2, and the outside 10.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The node's name, as in `spec.nodeName`.
    pub name: String,
    /// Number of the node, from 0: third byte of its pods' IPv4 addresses.
    pub index: u8,
}

impl Plan {
    /// Returns the plan of the only or first node.
    pub fn first(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            index: 0,
        }
    }

    /// Returns the pods' IPv4 and IPv6 networks.
    pub fn pod_networks(&self) -> [IpNet; 2] {
        let v6 = Ipv6Addr::new(0xfd00, 0x10, 0x244, u16::from(self.index), 0, 0, 0, 0);
        [
            network(Ipv4Addr::new(10, 244, self.index, 0), 24),
            network(v6, 64),
        ]
    }

    /// Returns the networks of the uplink, the same for all nodes.
    pub fn uplink_networks(&self) -> [IpNet; 2] {
        let v6 = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0);
        [network(Ipv4Addr::new(198, 51, 100, 0), 24), network(v6, 64)]
    }

    /// Returns the node's addresses on the uplink, IPv4 first.
    pub fn uplink_addresses(&self) -> [IpAddr; 2] {
        let number = 1 + u16::from(self.index);
        self.uplink_networks().map(|net| member(net, number).addr())
    }
}

/// Returns host `number` of a network, with the network's prefix length.
pub fn member(net: IpNet, number: u16) -> IpNet {
    let address: IpAddr = match net.network() {
        IpAddr::V4(base) => Ipv4Addr::from_bits(base.to_bits() | u32::from(number)).into(),
        IpAddr::V6(base) => Ipv6Addr::from_bits(base.to_bits() | u128::from(number)).into(),
    };
    network(address, net.prefix_len())
}

fn network(address: impl Into<IpAddr>, prefix_len: u8) -> IpNet {
    IpNet::new_assert(address.into(), prefix_len)
}
