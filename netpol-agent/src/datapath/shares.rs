// SPDX-License-Identifier: Apache-2.0
//! Counts the flows of each endpoint (rule C4): map `flow_shares`, mapped into this process's
//! memory. Agent and programs use the same numbers with the same code.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, AsRawFd as _},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use netpol_common::{
    abi::{self, FlowShare},
    quota::Quota,
};

const LENGTH: usize = FlowShare::NUMBER * size_of::<FlowShare>();

/// The mapped map.
#[derive(Debug)]
pub(super) struct Shares(NonNull<[AtomicU64; 4]>);

// SAFETY: only atomic numbers are behind it, which any thread may change.
unsafe impl Send for Shares {}
// SAFETY: as above.
unsafe impl Sync for Shares {}

impl Shares {
    /// Maps the map into memory.
    pub(super) fn open(map: impl AsFd) -> io::Result<Self> {
        // SAFETY: a new mapping, of the map's whole length. The kernel makes it page by page.
        let place = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                LENGTH,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_fd().as_raw_fd(),
                0,
            )
        };
        if place == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(place.cast())
            .map(Self)
            .ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    fn words(&self, index: usize) -> &[AtomicU64; 4] {
        assert!(index < FlowShare::NUMBER, "a tag has no such number");
        // SAFETY: within the mapping, which lives as long as this, of `FlowShare`s: four words
        // each.
        unsafe { self.0.add(index).as_ref() }
    }

    /// Returns the flow count of an endpoint.
    fn flows(&self, endpoint: u32) -> &AtomicU64 {
        &self.words(abi::number(endpoint).into())[0]
    }

    fn used(&self) -> &AtomicU64 {
        &self.words(0)[0]
    }

    /// Returns the quota of endpoints.
    pub(super) fn quota(&self) -> Quota {
        let [_, _, guaranteed, shared] = self.words(0);
        Quota {
            guaranteed: guaranteed.load(Relaxed),
            shared: shared.load(Relaxed),
        }
    }

    /// Changes the quota of endpoints.
    pub(super) fn set_quota(&self, quota: Quota) {
        if quota == self.quota() {
            return;
        }
        let [_, _, guaranteed, shared] = self.words(0);
        guaranteed.store(quota.guaranteed, Relaxed);
        shared.store(quota.shared, Relaxed);
        self.settle();
    }

    /// Derives the number of used shared places from the counts.
    fn settle(&self) {
        let own = self.quota().own();
        let before = self.used().load(Relaxed);
        let above =
            (1..FlowShare::NUMBER).map(|number| self.words(number)[0].load(Relaxed).saturating_sub(own));
        // Added as a difference, so that what programs count meanwhile is kept.
        self.used()
            .fetch_add(above.sum::<u64>().wrapping_sub(before), Relaxed);
    }

    /// Takes a place for a flow of an endpoint; returns false if its quota is used up.
    pub(super) fn take(&self, endpoint: u32) -> bool {
        self.quota().take(self.flows(endpoint), self.used())
    }

    /// Gives back the place of a flow of an endpoint.
    pub(super) fn give_back(&self, endpoint: u32) {
        self.quota().give_back(self.flows(endpoint), self.used());
    }

    /// Returns the number of flows that endpoints made beyond their quota, since the map was made.
    pub(super) fn beyond(&self) -> u64 {
        (1..FlowShare::NUMBER).fold(0u64, |sum, number| {
            sum.wrapping_add(self.words(number)[1].load(Relaxed))
        })
    }

    /// Corrects the counts by the existing flows, whose endpoints `endpoints` reads: an agent that
    /// was killed may have removed a flow without counting it.
    ///
    /// A flow that programs insert meanwhile may be counted twice, but is never left out: a count
    /// that is too low would let endpoints overfill the table. Only one that takes the place of
    /// another meanwhile may be missed, a few for each endpoint.
    pub(super) fn recount(&self, endpoints: impl FnOnce() -> io::Result<Vec<u32>>) -> io::Result<()> {
        let before: Vec<u64> = (0..FlowShare::NUMBER)
            .map(|number| self.words(number)[0].load(Relaxed))
            .collect();
        let mut found = BTreeMap::<u16, u64>::new();
        for endpoint in endpoints()? {
            *found.entry(abi::number(endpoint)).or_default() += 1;
        }
        for (number, before) in before.iter().enumerate().skip(1) {
            let found = found.get(&(number as u16)).copied().unwrap_or_default();
            let corrected = |now: u64| Some((now + found).saturating_sub(*before));
            let _ = self.words(number)[0].fetch_update(Relaxed, Relaxed, corrected);
        }
        self.settle();
        Ok(())
    }
}

impl Drop for Shares {
    fn drop(&mut self) {
        // SAFETY: the mapping that was made, of the length that it has; nothing refers to it any
        // more.
        unsafe { libc::munmap(self.0.as_ptr().cast(), LENGTH) };
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use nix::sys::memfd::{MFdFlags, memfd_create};

    use super::*;

    fn shares() -> Shares {
        let memory = File::from(memfd_create(c"shares", MFdFlags::empty()).unwrap());
        memory.set_len(LENGTH as u64).unwrap();
        let shares = Shares::open(&memory).unwrap();
        shares.set_quota(Quota::of(1024, 4));
        shares
    }

    #[test]
    fn c4_a_recount_takes_the_table_for_true() {
        let shares = shares();
        for _ in 0..5 {
            assert!(shares.take(1));
        }
        shares.recount(|| Ok(vec![1, 1, 2])).unwrap();
        assert_eq!(shares.flows(1).load(Relaxed), 2);
        assert_eq!(shares.flows(2).load(Relaxed), 1);
    }

    /// Else endpoints could overfill the table, and a new flow would be refused.
    #[test]
    fn c4_a_flow_that_comes_during_a_recount_is_counted() {
        let shares = shares();
        let arriving = || {
            assert!(shares.take(1));
            // Behind what was read already.
            Ok(vec![1])
        };
        assert!(shares.take(1));
        shares.recount(arriving).unwrap();
        assert_eq!(shares.flows(1).load(Relaxed), 2);
    }
}
