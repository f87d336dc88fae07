// SPDX-License-Identifier: Apache-2.0
//! What an interface is to be enforced as, in each direction.

use crate::{
    compile::{self, CLOSED, PolicyId},
    model::ObjectKey,
    sync::Desired,
};

/// The policies of an interface, ingress and egress; `None` if no pod is known behind it. One that several pods claim gets no more than each
/// of them would: where they differ, nothing (rule A8).
pub(super) fn sides(desired: Desired<'_>, ifindex: u32) -> Option<[Option<PolicyId>; 2]> {
    let of = |key: &ObjectKey| desired.compiled.endpoints.get(key);
    let both = |pod: &compile::Endpoint| [pod.ingress, pod.egress];
    let mut sides = both(of(desired.pods.get(&ifindex)?)?);
    let Some(link) = desired.links.get(&ifindex) else {
        return Some(sides);
    };
    if link.closed {
        return Some([Some(CLOSED); 2]);
    }
    for rival in link.rivals.iter().filter_map(of) {
        for (side, other) in sides.iter_mut().zip(both(rival)) {
            if *side != other {
                *side = Some(CLOSED);
            }
        }
    }
    Some(sides)
}
