// SPDX-License-Identifier: Apache-2.0
//! The policy numbers that endpoints have, and the policies that replace them.

use std::collections::BTreeMap;

use netpol_common::abi::{Endpoint, POLICY_DENY, POLICY_UNRESTRICTED};

use super::{assigned::assigned_policies, numbers::take};
use crate::{
    compile::PolicyId,
    sync::{Desired, Put, State, Write, policies::Replacements},
};

/// Splits a policy number that several endpoints share and that different policies replace, into
/// numbers of the same content. Then what is added to a number, for an identity that no address
/// carries yet, is right for all its endpoints.
pub(super) fn unshare(
    state: &mut State,
    desired: Desired<'_>,
    next_policy: &mut u32,
    writes: &mut Vec<Write>,
) {
    let mut first: BTreeMap<u32, Option<PolicyId>> = BTreeMap::new();
    let mut copies: BTreeMap<(u32, Option<PolicyId>), u32> = BTreeMap::new();
    let mut endpoints = Vec::new();
    for (ifindex, endpoint) in &state.endpoints {
        let Some([ingress, egress]) = assigned_policies(desired, *ifindex) else {
            continue;
        };
        let mut separate = |number: u32, target: Option<PolicyId>| {
            if is_shareable(number) && *first.entry(number).or_insert(target) != target {
                *copies
                    .entry((number, target))
                    .or_insert_with(|| take(next_policy))
            } else {
                number
            }
        };
        let separated = Endpoint {
            ingress_policy: separate(endpoint.ingress_policy, ingress),
            egress_policy: separate(endpoint.egress_policy, egress),
            ..*endpoint
        };
        if separated != *endpoint {
            endpoints.push(Write::Endpoints(Put(*ifindex, separated)));
        }
    }
    for ((number, _), copy) in copies {
        for (key, value) in state.policies.get(&number).into_iter().flatten() {
            writes.push(Write::Policies(Put((copy, *key), *value)));
        }
    }
    writes.append(&mut endpoints);
    for write in writes {
        state.record(write);
    }
}

/// Whether a policy number has entries that endpoints may share.
pub(super) fn is_shareable(number: u32) -> bool {
    ![POLICY_UNRESTRICTED, POLICY_DENY].contains(&number)
}

/// Policy numbers in use, each with the policy that replaces it.
pub(super) fn replacements(state: &State, desired: Desired<'_>) -> Replacements {
    let mut replacements = Replacements::new();
    for (ifindex, endpoint) in &state.endpoints {
        let Some([ingress, egress]) = assigned_policies(desired, *ifindex) else {
            continue;
        };
        let targets = [
            (endpoint.ingress_policy, ingress),
            (endpoint.egress_policy, egress),
        ];
        replacements.extend(targets.into_iter().filter(|(number, _)| is_shareable(*number)));
    }
    replacements
}
