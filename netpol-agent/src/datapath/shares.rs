// SPDX-License-Identifier: Apache-2.0
//! How many flows each endpoint has (rule C4): map `flow_shares`, in this process's memory as well,
//! so that agent and programs count on the same numbers, with the same code.

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

/// The map.
#[derive(Debug)]
pub(super) struct Shares(NonNull<[AtomicU64; 4]>);

// SAFETY: only atomic numbers are behind it, which any thread may change.
unsafe impl Send for Shares {}
// SAFETY: as above.
unsafe impl Sync for Shares {}

impl Shares {
    /// Maps it.
    pub(super) fn open(map: impl AsFd) -> io::Result<Self> {
        // SAFETY: a new mapping, of the map's whole length; the kernel makes it page by page.
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

    /// Flows of the endpoint with an id.
    fn flows(&self, endpoint: u32) -> &AtomicU64 {
        &self.words(abi::number(endpoint).into())[0]
    }

    fn used(&self) -> &AtomicU64 {
        &self.words(0)[0]
    }

    /// What endpoints may have.
    pub(super) fn quota(&self) -> Quota {
        let [_, _, guaranteed, shared] = self.words(0);
        Quota {
            guaranteed: guaranteed.load(Relaxed),
            shared: shared.load(Relaxed),
        }
    }

    /// Changes what endpoints may have.
    pub(super) fn set_quota(&self, quota: Quota) {
        if quota == self.quota() {
            return;
        }
        let [_, _, guaranteed, shared] = self.words(0);
        guaranteed.store(quota.guaranteed, Relaxed);
        shared.store(quota.shared, Relaxed);
        self.settle();
    }

    /// The shared places in use follow from the counts.
    fn settle(&self) {
        let own = self.quota().own();
        let before = self.used().load(Relaxed);
        let above =
            (1..FlowShare::NUMBER).map(|number| self.words(number)[0].load(Relaxed).saturating_sub(own));
        // What programs count meanwhile is kept.
        self.used()
            .fetch_add(above.sum::<u64>().wrapping_sub(before), Relaxed);
    }

    /// Takes a place for a flow of an endpoint, if it may have one more.
    pub(super) fn take(&self, endpoint: u32) -> bool {
        self.quota().take(self.flows(endpoint), self.used())
    }

    /// A flow of an endpoint is gone.
    pub(super) fn give_back(&self, endpoint: u32) {
        self.quota().give_back(self.flows(endpoint), self.used());
    }

    /// Flows that endpoints made beyond what they may have, since the map is there.
    pub(super) fn beyond(&self) -> u64 {
        (1..FlowShare::NUMBER).fold(0u64, |sum, number| {
            sum.wrapping_add(self.words(number)[1].load(Relaxed))
        })
    }

    /// Sets the counts right by the flows that there are: an agent that was killed may have taken
    /// one out and not counted it.
    pub(super) fn recount(&self, endpoints: &[u32]) {
        let before: Vec<u64> = (0..FlowShare::NUMBER)
            .map(|number| self.words(number)[0].load(Relaxed))
            .collect();
        let mut found = BTreeMap::<u16, u64>::new();
        for endpoint in endpoints {
            *found.entry(abi::number(*endpoint)).or_default() += 1;
        }
        for (number, before) in before.iter().enumerate().skip(1) {
            let found = found.get(&(number as u16)).copied().unwrap_or_default();
            self.words(number)[0].fetch_add(found.wrapping_sub(*before), Relaxed);
        }
        self.settle();
    }
}

impl Drop for Shares {
    fn drop(&mut self) {
        // SAFETY: the mapping that was made, of the length that it has; nothing refers to it any
        // more.
        unsafe { libc::munmap(self.0.as_ptr().cast(), LENGTH) };
    }
}
