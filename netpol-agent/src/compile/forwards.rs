// SPDX-License-Identifier: Apache-2.0
//! The ranges that pods of a namespace send and receive for beside their own addresses, as the
//! Namespace says (rule A6). A range is refused as a whole while anyone known has an address in it,
//! and granted again once nobody has.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use super::{
    fault::{Findings, Topic},
    profiles::Profiles,
};
use crate::model::{
    Diagnostic, FORWARDS, MOST_FORWARDS, Namespace, Node, Pod, Service, Snapshot, forwarded_ranges,
    is_nobodys_alone,
};

/// Ranges, shared by the pods of a namespace.
pub(super) type Ranges = Arc<BTreeSet<IpNet>>;

/// The namespaces that ask for ranges.
#[derive(Debug, Default)]
pub(super) struct Forwards {
    wanted: BTreeMap<String, Wanted>,
    granted: BTreeMap<String, Ranges>,
    /// How many Services have each virtual IP. `externalIPs` do not count: whoever edits a
    /// namespace writes what they like there (rule A9).
    virtual_ips: BTreeMap<IpAddr, usize>,
    /// The ranges that nodes give their pods addresses from, and how many nodes have each.
    pod_cidrs: BTreeMap<IpNet, usize>,
}

/// What a Namespace asks for.
#[derive(Debug)]
struct Wanted {
    ranges: BTreeSet<IpNet>,
    faults: Vec<Diagnostic>,
}

impl Forwards {
    /// Goes from one snapshot to the next. `own`: the addresses on this node's interfaces have
    /// changed.
    pub(super) fn update(
        &mut self,
        before: &Snapshot,
        after: &Snapshot,
        own: bool,
        profiles: &Profiles,
        findings: &mut Findings,
    ) {
        let mut moved = own;
        for (name, old, new) in before.namespaces.diff(&after.namespaces) {
            let text = |namespace: &Arc<Namespace>| namespace.forwards.clone();
            if old.and_then(text) == new.and_then(text) {
                continue;
            }
            moved = true;
            self.wanted.remove(name);
            self.granted.remove(name);
            findings.report(Topic::Forwards(name.clone()), Vec::new());
            if let Some(text) = new.and_then(text) {
                self.wanted.insert(name.clone(), Wanted::new(name, &text));
            }
        }
        for (_, old, new) in before.services.diff(&after.services) {
            moved |= recount(&mut self.virtual_ips, old.map(virtual_ips), new.map(virtual_ips));
        }
        for (_, old, new) in before.nodes.diff(&after.nodes) {
            let cidrs = |node: &Arc<Node>| node.pod_cidrs.iter().copied().collect();
            recount(&mut self.pod_cidrs, old.map(cidrs), new.map(cidrs));
            moved = true;
        }
        if self.wanted.is_empty() {
            return;
        }
        // All fields that tell who has an address, and under which name.
        let holds = |pod: Option<&Arc<Pod>>| {
            pod.map(|pod| {
                (
                    pod.distinct_addresses(),
                    pod.terminal,
                    pod.terminating,
                    pod.host_network,
                )
            })
        };
        let mut pods = before.pods.diff(&after.pods).into_iter();
        if !(moved || pods.any(|(_, old, new)| holds(old) != holds(new))) {
            return;
        }
        for (name, wanted) in &self.wanted {
            let mut found = wanted.faults.clone();
            let mut ranges = BTreeSet::new();
            for range in &wanted.ranges {
                match self.holder(*range, profiles) {
                    None => {
                        ranges.insert(*range);
                    }
                    Some(holder) => found.push(finding(
                        "forwards-refused",
                        name,
                        format!("{range} holds {holder}; its pods are cut off with all of it"),
                    )),
                }
            }
            findings.report(Topic::Forwards(name.clone()), found);
            if self.granted.get(name).is_none_or(|granted| **granted != ranges) {
                self.granted.insert(name.clone(), Arc::new(ranges));
            }
        }
    }

    /// The ranges that pods of a namespace may send and receive for.
    pub(super) fn of(&self, namespace: &str) -> Ranges {
        self.granted.get(namespace).cloned().unwrap_or_default()
    }

    /// Who has a part of a range.
    fn holder(&self, range: IpNet, profiles: &Profiles) -> Option<String> {
        if let Some(address) = profiles.within((range.network(), range.broadcast())) {
            let owner = profiles.owner(address).map(|owner| owner.name);
            let owner = owner.unwrap_or_else(|| "this node, or a pod on a node's network".to_owned());
            return Some(format!("{address}, an address of {owner}"));
        }
        let mut cidrs = self.pod_cidrs.keys();
        if let Some(cidr) = cidrs.find(|cidr| cidr.contains(&range) || range.contains(*cidr)) {
            return Some(format!("addresses of {cidr}, which a node gives its pods"));
        }
        let mut services = self.virtual_ips.range(range.network()..=range.broadcast());
        let (address, _) = services.next()?;
        Some(format!("{address}, an address of a Service"))
    }
}

impl Wanted {
    fn new(namespace: &str, text: &str) -> Self {
        let mut wanted = Self {
            ranges: BTreeSet::new(),
            faults: Vec::new(),
        };
        let Ok(ranges) = forwarded_ranges(text) else {
            let message = format!("more than {MOST_FORWARDS} ranges; none of them counts");
            wanted.faults.push(finding("forwards-excess", namespace, message));
            return wanted;
        };
        for (part, range) in ranges {
            let fault = match range {
                Ok(range) if is_nobodys_alone(range) => "holds addresses that are nobody's alone".to_owned(),
                Ok(range) => {
                    wanted.ranges.insert(range);
                    continue;
                }
                Err(error) => error.to_string(),
            };
            let message = format!("`{part}` {fault}; it is left out");
            wanted
                .faults
                .push(finding("forwards-invalid", namespace, message));
        }
        wanted
    }
}

fn finding(code: &'static str, namespace: &str, message: String) -> Diagnostic {
    Diagnostic {
        code,
        object: format!("Namespace {namespace}"),
        field: format!("metadata.annotations[{FORWARDS}]"),
        message,
    }
}

/// The addresses of a Service that its namespace does not choose.
fn virtual_ips(service: &Arc<Service>) -> BTreeSet<IpAddr> {
    let addresses = service.cluster_ips.iter().chain(&service.load_balancer_ips);
    addresses.map(IpAddr::to_canonical).collect()
}

/// Counts what is new, and no longer what was. Returns whether the two differ.
fn recount<T: Ord>(
    counts: &mut BTreeMap<T, usize>,
    old: Option<BTreeSet<T>>,
    new: Option<BTreeSet<T>>,
) -> bool {
    let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
    let differ = old != new;
    for gone in old {
        if let Some(count) = counts.get_mut(&gone) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&gone);
            }
        }
    }
    for one in new {
        *counts.entry(one).or_default() += 1;
    }
    differ
}
