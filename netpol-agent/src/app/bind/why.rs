// SPDX-License-Identifier: Apache-2.0
//! The state of each pod, and why one is not enforced on.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use super::{
    Bound, LocalPod, World,
    claims::{Contest, Contested},
    resolve, shares,
};
use crate::model::ObjectKey;

/// The state of a pod of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It is behind these interfaces.
    Bound(BTreeSet<u32>),
    /// It is not enforced on, or only together with others.
    Not(Why),
}

/// Why a pod is not enforced on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// No interface leads to it.
    NoInterface,
    /// The runtime's record names its interface, but no veth of this node has that name.
    NoVeth {
        /// Name of the network.
        network: String,
    },
    /// Another pod has its address.
    Taken {
        /// The address.
        address: IpAddr,
        /// The pod that has it.
        by: ObjectKey,
    },
    /// It may be behind one of these interfaces, and so may others. Each interface is enforced as
    /// if all of them were behind it.
    Contested {
        /// Names of the interfaces.
        interfaces: BTreeSet<String>,
        /// The other pods.
        others: BTreeSet<ObjectKey>,
    },
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoInterface => f.write_str(
                "no veth of this node leads to it: none had its address when it was first seen, and no result of libcni names it",
            ),
            Self::NoVeth { network } => {
                write!(f, "the interface that the CNI plugins of network {network} made for it is no veth of this node")
            }
            Self::Taken { address, by } => write!(f, "its address {address} is that of pod {by}, behind an interface of its own"),
            Self::Contested { interfaces, others } => {
                let names: Vec<_> = interfaces.iter().map(String::as_str).collect();
                write!(f, "it cannot be told which pod is behind {}", names.join(", "))?;
                let others: Vec<_> = others.iter().map(ToString::to_string).collect();
                if !others.is_empty() {
                    write!(f, "; it may be {}, too", others.join(", "))?;
                }
                f.write_str("; enforced is what each of them is denied")
            }
        }
    }
}

/// Returns the state of each pod.
pub(super) fn standing(
    world: World<'_>,
    bound: &Bound,
    contested: &Contested,
) -> BTreeMap<ObjectKey, Standing> {
    let mut behind: BTreeMap<&ObjectKey, BTreeSet<u32>> = BTreeMap::new();
    for (ifindex, key) in &bound.pods {
        let open = |contest: &Contest| contest.impostor || contest.claimants.len() > 1;
        if !contested.get(ifindex).is_some_and(open) {
            behind.entry(key).or_default().insert(*ifindex);
        }
    }
    let pods = world.pods.iter();
    pods.map(|(key, pod)| {
        let standing = match behind.remove(key) {
            Some(interfaces) => Standing::Bound(interfaces),
            None => Standing::Not(why(world, bound, contested, key, pod)),
        };
        (key.clone(), standing)
    })
    .collect()
}

fn why(world: World<'_>, bound: &Bound, contested: &Contested, key: &ObjectKey, pod: &LocalPod) -> Why {
    let claimed: Vec<_> = contested
        .iter()
        .filter(|(_, contest)| contest.claimants.contains(key))
        .collect();
    if !claimed.is_empty() {
        let names = claimed
            .iter()
            .map(|(ifindex, _)| world.interfaces.pods[ifindex].name.clone());
        let others = claimed.iter().flat_map(|(_, contest)| &contest.claimants);
        return Why::Contested {
            interfaces: names.collect(),
            others: others.filter(|other| *other != key).cloned().collect(),
        };
    }
    for binding in bound.bindings.values() {
        let Some((other, _)) = &binding.pod else { continue };
        if let Some((other, _)) = resolve(world, other)
            && other != key
            && shares(&binding.addresses, &pod.addresses)
            && let Some(address) = pod
                .addresses
                .iter()
                .find(|address| world.pods[other].addresses.contains(address))
        {
            return Why::Taken {
                address: *address,
                by: other.clone(),
            };
        }
    }
    let mut records = world.records.values().filter(|record| {
        record.pod == *key
            && (record.uid == pod.uid || pod.uid.is_empty() || pod.static_uid.as_deref() == Some(&record.uid))
    });
    match records.next() {
        Some(record) => Why::NoVeth {
            network: record.network.clone(),
        },
        None => Why::NoInterface,
    }
}
