// SPDX-License-Identifier: Apache-2.0
//! The policies that an interface is assigned, in each direction.

use crate::{
    compile::{self, CLOSED, PolicyId},
    model::ObjectKey,
    sync::Desired,
};

/// The policies of an interface, ingress and egress; `None` if no pod is known behind it. An
/// interface that several pods claim gets no more than each of them would: where they differ, it is
/// closed (rule A8).
pub(super) fn assigned_policies(desired: Desired<'_>, ifindex: u32) -> Option<[Option<PolicyId>; 2]> {
    let of = |key: &ObjectKey| desired.compiled.endpoints.get(key);
    let both = |pod: &compile::Endpoint| [pod.ingress, pod.egress];
    let mut assigned = both(of(desired.pods.get(&ifindex)?)?);
    let Some(link) = desired.links.get(&ifindex) else {
        return Some(assigned);
    };
    if link.closed {
        return Some([Some(CLOSED); 2]);
    }
    for rival in link.rivals.iter().filter_map(of) {
        for (own, other) in assigned.iter_mut().zip(both(rival)) {
            if *own != other {
                *own = Some(CLOSED);
            }
        }
    }
    Some(assigned)
}
