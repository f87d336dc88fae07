// SPDX-License-Identifier: Apache-2.0
//! Other CNIs on the node that may enforce NetworkPolicy themselves, told by their interfaces.
//!
//! Nothing depends on it but a warning: two that enforce are safe together, and hard to understand.

use std::collections::{BTreeMap, BTreeSet};

use tracing::warn;

/// How the names of interfaces begin, and whose they are: the defaults of each project.
const PREFIXES: [(&str, &str); 6] = [
    ("antrea-gw", "Antrea"),
    ("cali", "Calico"),
    ("cilium_", "Cilium"),
    ("ovn-k8s-", "OVN-Kubernetes"),
    ("vethwe-", "Weave Net"),
    ("vxlan.calico", "Calico"),
];

/// The CNIs that were told of.
#[derive(Debug, Default)]
pub struct Others(BTreeSet<&'static str>);

impl Others {
    /// Logs each CNI once, with one of its interfaces.
    pub fn tell(&mut self, devices: &BTreeMap<u32, String>) {
        for (cni, interface) in found(devices) {
            if self.0.insert(cni) {
                warn!(
                    cni,
                    interface,
                    "interfaces of another CNI are here: if it enforces policies too, a packet must pass both"
                );
            }
        }
    }
}

fn found(devices: &BTreeMap<u32, String>) -> impl Iterator<Item = (&'static str, &str)> {
    devices.values().filter_map(|name| {
        let (_, cni) = PREFIXES.iter().find(|(prefix, _)| name.starts_with(prefix))?;
        Some((*cni, name.as_str()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cni_is_told_by_its_interfaces_and_flannel_is_none() {
        let names = |names: &[&str]| {
            let numbered = (1..).zip(names.iter().map(|name| (*name).to_owned()));
            numbered.collect::<BTreeMap<u32, String>>()
        };
        let flannel = names(&["eth0", "flannel.1", "veth3a5c1f2e", "cni0", "wlan0"]);
        assert_eq!(found(&flannel).count(), 0);
        let both = names(&["eth0", "cali12d4a061371", "cilium_host"]);
        let both: Vec<_> = found(&both).collect();
        assert_eq!(both, [("Calico", "cali12d4a061371"), ("Cilium", "cilium_host")]);
    }
}
