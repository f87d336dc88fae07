// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The lookups of the decision, over the maps.

use aya_ebpf::{bindings::BPF_ANY, btf_maps::lpm_trie::Key, helpers::bpf_ktime_get_ns};
use netpol_common::{
    abi::{Address, Counters, Flow, FlowKey, Identity, PolicyMatch, PolicyValue},
    decide::{FlowEntry, Tables},
};

use crate::maps::{FLOWS, IDENTITIES, POLICIES};

/// Prefix length of a whole address.
const ADDRESS_BITS: u32 = 128;

/// The maps, as one packet sees them.
pub struct Maps {
    /// The epoch, read once.
    pub epoch: u32,
    /// Where new flows are counted.
    pub counters: *mut Counters,
    /// Length of the frame, bytes.
    pub length: u32,
}

impl Tables for Maps {
    type FlowEntry = Entry;

    #[inline(always)]
    fn now(&self) -> u64 {
        // SAFETY: takes nothing, always allowed.
        unsafe { bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn epoch(&self) -> u32 {
        self.epoch
    }

    #[inline(always)]
    fn identity(&self, address: &Address) -> Identity {
        match IDENTITIES.get(&Key::new(ADDRESS_BITS, *address)) {
            Some(identity) => *identity,
            None => Identity {
                identity: 0,
                flags: 0,
            },
        }
    }

    #[inline(always)]
    fn policy(&self, key: &PolicyMatch) -> Option<PolicyValue> {
        POLICIES.get(&Key::new(PolicyMatch::ONE_PORT, *key)).copied()
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKey) -> Option<Entry> {
        FLOWS.get_ptr_mut(key).map(Entry)
    }

    #[inline(always)]
    fn insert_flow(&self, key: &FlowKey, flow: &Flow) {
        let inserted = FLOWS.insert(key, flow, BPF_ANY.into()).is_ok();
        // SAFETY: a per-CPU value that only this CPU writes; checked for null where it was looked up.
        let counters = unsafe { &mut *self.counters };
        if inserted {
            counters.flows_created.packets += 1;
            counters.flows_created.bytes += u64::from(self.length);
        } else {
            counters.flow_insert_failures += 1;
        }
    }
}

/// A value of map `flows` in place. Two CPUs may write one flow at a time: the later write wins, which costs a count or a
/// second judgement, never a verdict.
pub struct Entry(*mut Flow);

impl FlowEntry for Entry {
    #[inline(always)]
    fn with<R>(&self, change: impl FnOnce(&mut Flow) -> R) -> R {
        // SAFETY: the pointer came from a lookup in this run of the program, and values of hash maps outlive it (RCU).
        change(unsafe { &mut *self.0 })
    }
}
