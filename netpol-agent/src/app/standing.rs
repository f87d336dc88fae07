// SPDX-License-Identifier: Apache-2.0
//! Determines which pods of the node are enforced on, and why the others are not. `netpol explain`
//! reports this.

use std::collections::{BTreeMap, BTreeSet};

use super::bind::{self, Why};
use crate::{
    compile::{CLOSED, Compiled},
    explain::Standing,
    model::{Direction, ObjectKey},
};

/// Facts about interfaces that decide a pod's state, beside its binding.
#[derive(Debug, Clone, Copy)]
pub struct Interfaces<'a> {
    /// Interfaces whose policy could not be written.
    pub held_back: &'a BTreeSet<u32>,
    /// Interfaces with programs.
    pub attached: &'a BTreeSet<u32>,
    /// Interfaces where attaching failed, with the reason.
    pub unattached: &'a BTreeMap<u32, String>,
    /// True if some interfaces are closed until their pod is known.
    pub some_closed: bool,
}

/// Returns the state of every pod of the node that has an address and a network of its own.
pub fn standings(
    bound: &BTreeMap<ObjectKey, bind::Standing>,
    interfaces: Interfaces<'_>,
) -> BTreeMap<ObjectKey, Standing> {
    let standing = |of: &bind::Standing| match of {
        bind::Standing::Bound(behind) => bound_at(behind, interfaces),
        bind::Standing::Not(why) => match why {
            // A closed interface may be the pod's own.
            Why::NoInterface | Why::NoVeth { .. } if !interfaces.some_closed => {
                Standing::Open(why.to_string())
            }
            _ => Standing::Unknown(why.to_string()),
        },
    };
    bound
        .iter()
        .map(|(key, of)| (key.clone(), standing(of)))
        .collect()
}

/// Returns the pods that are closed in a direction because their policies are over budget (rule
/// L2).
pub fn over_budget(compiled: &Compiled) -> BTreeMap<ObjectKey, BTreeSet<Direction>> {
    let closed = compiled.endpoints.iter().map(|(key, endpoint)| {
        let sides = [
            (Direction::Ingress, endpoint.ingress),
            (Direction::Egress, endpoint.egress),
        ];
        let closed = sides.into_iter().filter(|(_, policy)| *policy == Some(CLOSED));
        (key.clone(), closed.map(|(direction, _)| direction).collect())
    });
    closed
        .filter(|(_, closed): &(_, BTreeSet<_>)| !closed.is_empty())
        .collect()
}

/// Returns the state of a pod behind these interfaces.
fn bound_at(behind: &BTreeSet<u32>, interfaces: Interfaces<'_>) -> Standing {
    let unattached = behind
        .iter()
        .find_map(|ifindex| interfaces.unattached.get(ifindex));
    if let Some(why) = unattached {
        return Standing::Open(format!("programs do not attach to its interface: {why}"));
    }
    if !behind.is_subset(interfaces.attached) {
        return Standing::Unknown("its interface has no programs yet".to_owned());
    }
    if !behind.is_disjoint(interfaces.held_back) {
        return Standing::HeldBack(
            "a write to the kernel failed: its interface keeps an older policy, or is closed".to_owned(),
        );
    }
    Standing::Enforced
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only an attached and written interface counts as enforced. An unknown one does not count as
    /// open.
    #[test]
    fn a8_a_pod_is_enforced_on_where_its_interface_has_programs_and_policies() {
        let key = ObjectKey::new("shop", "web");
        let at = bind::Standing::Bound(BTreeSet::from([7]));
        let rival = bind::Standing::Not(Why::Taken {
            address: "10.244.1.7".parse().unwrap(),
            by: ObjectKey::new("shop", "db"),
        });
        let nowhere = bind::Standing::Not(Why::NoInterface);
        let none = BTreeSet::new();
        let seven = BTreeSet::from([7]);
        let refused = BTreeMap::from([(7, "no such device".to_owned())]);
        let fine = BTreeMap::new();
        // Columns: binding; held back, attached, refused, whether some are closed; the pod's state.
        let table = [
            (&at, &none, &seven, &fine, false, "enforced"),
            (&at, &none, &none, &fine, false, "unknown"),
            (&at, &none, &none, &refused, false, "open"),
            (&at, &seven, &seven, &fine, false, "held back"),
            (&nowhere, &none, &seven, &fine, false, "open"),
            (&nowhere, &none, &seven, &fine, true, "unknown"),
            (&rival, &none, &seven, &fine, false, "unknown"),
        ];
        for (of, held_back, attached, unattached, some_closed, expected) in table {
            let bound = BTreeMap::from([(key.clone(), of.clone())]);
            let interfaces = Interfaces {
                held_back,
                attached,
                unattached,
                some_closed,
            };
            let stands = match &standings(&bound, interfaces)[&key] {
                Standing::Enforced => "enforced",
                Standing::HeldBack(_) => "held back",
                Standing::Open(_) => "open",
                Standing::Unknown(_) => "unknown",
            };
            assert_eq!(stands, expected, "{of:?}, {interfaces:?}");
        }
    }
}
