// SPDX-License-Identifier: Apache-2.0
//! Whether what the kernel has says no more than what it was to say: what is wider than that must
//! not stay (rule L2).

use std::collections::BTreeSet;

use ipnet::IpNet;
use netpol_common::abi::{
    ACTION_ACCEPT, ACTION_DEFER, IDENTITY_NODE, IDENTITY_NONE, Identity, POLICY_DENY, POLICY_UNRESTRICTED,
    PolicyValue,
};

use super::super::{
    EntryKey, State,
    identities::Lengths,
    policies::{self, EntryList},
};
use crate::model::{Direction, ProtocolMatch};

/// Identities that addresses or frontends carry, and that of all others.
pub(super) fn carried(state: &State) -> BTreeSet<u32> {
    let identities = state.identities.values().chain(state.frontends.values());
    let carried = identities.map(|identity| identity.identity);
    carried.chain([IDENTITY_NONE]).collect()
}

/// Whether an old policy number allows nothing that the new one would, of the identities that are
/// carried. All of what the new one would say is in `intended`.
pub(super) fn is_within(
    state: &State,
    (old, new): (u32, u32),
    intended: &State,
    carried: &BTreeSet<u32>,
) -> bool {
    let entries = state.policies.get(&old).into_iter().flatten();
    let mut live = entries.filter(|(key, _)| carried.contains(&key.identity));
    live.all(|(key, value)| {
        let says = policies::entries_of(intended, new, key.identity);
        allows(&says, key.protocol, value.action)
    })
}

/// Whether entries for one identity let everything pass that another entry does.
fn allows(entries: &EntryList, wanted: Option<ProtocolMatch>, action: u32) -> bool {
    if ![ACTION_ACCEPT, ACTION_DEFER].contains(&action) {
        return true;
    }
    let passes = |(_, value): &(EntryKey, PolicyValue)| [action, ACTION_ACCEPT].contains(&value.action);
    let around = entries
        .iter()
        .filter(|(key, _)| ProtocolMatch::covers(key.protocol, wanted));
    let mut within = entries
        .iter()
        .filter(|(key, _)| ProtocolMatch::covers(wanted, key.protocol));
    let longest = around.max_by_key(|(key, _)| key.protocol.map(|matched| matched.prefix_len));
    longest.is_some_and(passes) && within.all(passes)
}

/// Number and flags of an identity.
type Identified = (u32, u32);

/// What addresses are, and what they were to be, where the two differ.
pub(super) struct Differences(BTreeSet<(Identified, Identified)>);

impl Differences {
    /// At these prefixes.
    pub(super) fn new<'a>(
        state: &State,
        intended: &State,
        prefixes: impl Iterator<Item = &'a IpNet>,
    ) -> Self {
        let lengths = Lengths::of(&[&state.identities, &intended.identities]);
        let at = |state: &State, prefix: &IpNet| {
            let found = lengths.longest_match(&state.identities, *prefix);
            found.map_or((IDENTITY_NONE, 0), |Identity { identity, flags }| {
                (identity, flags)
            })
        };
        let pairs = prefixes.map(|prefix| (at(state, prefix), at(intended, prefix)));
        Self(pairs.filter(|(is, was_to_be)| is != was_to_be).collect())
    }

    /// Whether a policy number says more of what an address is than another, in its place, was to
    /// say of what it was to be.
    pub(super) fn widen(
        &self,
        (state, policy): (&State, u32),
        (intended, meant): (&State, u32),
        direction: Direction,
    ) -> bool {
        if policy == POLICY_DENY || meant == POLICY_UNRESTRICTED {
            return false;
        }
        self.0.iter().any(|((is, is_flags), (was_to_be, meant_flags))| {
            let node = |flags: u32| direction == Direction::Egress && flags & IDENTITY_NODE != 0;
            if node(*meant_flags) {
                return false;
            }
            let says = policies::entries_of(intended, meant, *was_to_be);
            let mut more = policies::entries_of(state, policy, *is).into_iter();
            node(*is_flags) || more.any(|(key, value)| !allows(&says, key.protocol, value.action))
        })
    }
}
