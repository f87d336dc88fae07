// SPDX-License-Identifier: Apache-2.0
//! What follows from the fields of a pod.

use std::{collections::BTreeSet, net::IpAddr};

use super::Pod;

impl Pod {
    /// Whether policy is enforced on the pod by the agent of `node` (rules I6, I7): it runs there,
    /// has not ended, and has a network of its own.
    pub fn is_endpoint_on(&self, node: &str) -> bool {
        self.node.as_deref() == Some(node)
            && !self.host_network
            && !self.terminal
            && !self.addresses.is_empty()
    }

    /// The distinct addresses of the pod (rule P6). IPv4-mapped ones count as IPv4, as packets
    /// carry them.
    pub fn distinct_addresses(&self) -> BTreeSet<IpAddr> {
        self.addresses.iter().map(IpAddr::to_canonical).collect()
    }
}
