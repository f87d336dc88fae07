// SPDX-License-Identifier: Apache-2.0
//! Limits the flows of each endpoint (rule C4).
//!
//! Each endpoint has places of its own, which no other takes. Of the shared places, it may have as
//! many as are still free. So a pod that fills the table leaves room for others, and its further
//! flows replace its own.
//!
//! Counts stay exact under concurrent changes: a count that goes up from n, or down to n, changes
//! the shared count, too, unless n is below [`Quota::own`]. Programs and agent run this code on the
//! same memory.

/// A number that programs and agent change concurrently.
pub trait Count {
    /// Adds to the number, wrapping around. Returns its value before.
    fn add(&self, number: u64) -> u64;
    /// Returns the current value.
    fn now(&self) -> u64;
}

#[cfg(target_has_atomic = "64")]
impl Count for core::sync::atomic::AtomicU64 {
    fn add(&self, number: u64) -> u64 {
        self.fetch_add(number, core::sync::atomic::Ordering::Relaxed)
    }

    fn now(&self) -> u64 {
        self.load(core::sync::atomic::Ordering::Relaxed)
    }
}

/// Subtracts one, given to [`Count::add`].
const LESS: u64 = u64::MAX;

/// Number of an endpoint's places that its new flows reuse in turn once it may have no more.
pub const RING: u64 = 16;

/// Places in a flow table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quota {
    /// Places that each endpoint has for itself, including those of its ring.
    pub guaranteed: u64,
    /// Places that all endpoints share.
    pub shared: u64,
}

impl Quota {
    /// Divides a table of `capacity` places: about half for the endpoints' own places, the rest
    /// shared.
    pub const fn of(capacity: u64, endpoints: u64) -> Self {
        let endpoints = if endpoints == 0 { 1 } else { endpoints };
        let guaranteed = capacity / 2 / endpoints;
        Self {
            guaranteed,
            shared: capacity - guaranteed * endpoints,
        }
    }

    /// Returns the number of places in an endpoint's ring.
    #[inline(always)]
    pub const fn ring(&self) -> u64 {
        let most = self.guaranteed / 2;
        if most < RING { most } else { RING }
    }

    /// Returns the number of an endpoint's own places without its ring.
    #[inline(always)]
    pub const fn own(&self) -> u64 {
        self.guaranteed - self.ring()
    }

    /// Takes a place for a new flow of an endpoint that has `flows` flows. `used` counts the shared
    /// places in use. Returns false if the endpoint may have no more.
    #[inline(always)]
    pub fn take(&self, flows: &impl Count, used: &impl Count) -> bool {
        let before = flows.add(1);
        if before < self.own() {
            return true;
        }
        let taken = used.add(1);
        let free = self.shared.saturating_sub(taken);
        if before - self.own() >= free {
            used.add(LESS);
            flows.add(LESS);
            return false;
        }
        true
    }

    /// Takes a place of the endpoint's ring.
    #[inline(always)]
    pub fn take_ring(&self, flows: &impl Count, used: &impl Count) {
        if flows.add(1) >= self.own() {
            used.add(1);
        }
    }

    /// Gives back the place of a flow that is gone.
    #[inline(always)]
    pub fn give_back(&self, flows: &impl Count, used: &impl Count) {
        // Nobody counted this flow: someone else wrote it.
        if flows.now() == 0 {
            return;
        }
        if flows.add(LESS) > self.own() {
            used.add(LESS);
        }
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::AtomicU64;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn count(of: &AtomicU64) -> u64 {
        of.now()
    }

    #[test]
    fn c4_one_endpoint_leaves_the_others_theirs() {
        let quota = Quota::of(262_144, 128);
        assert_eq!(
            (quota.guaranteed, quota.shared, quota.own()),
            (1024, 131_072, 1008)
        );
        let (used, greedy) = (AtomicU64::new(0), AtomicU64::new(0));
        while quota.take(&greedy, &used) {}
        assert_eq!(count(&greedy), 1008 + 131_072 / 2);
        for _ in 0..127 {
            let other = AtomicU64::new(0);
            for _ in 0..1008 {
                assert!(quota.take(&other, &used));
            }
        }
        assert_eq!(count(&used), 131_072 / 2);
    }

    #[test]
    fn c4_small_tables_have_rings_too() {
        for capacity in [64, 128, 1024, 16_384] {
            for endpoints in [1, 2, 8, 16, 1024] {
                let quota = Quota::of(capacity, endpoints);
                assert!(quota.guaranteed * endpoints + quota.shared == capacity);
                assert!(quota.ring() <= quota.guaranteed);
            }
        }
    }

    proptest! {
        /// Whatever is taken and given back, the table never overflows, and the count of shared
        /// places in use is that of the flows above everyone's own places.
        #[test]
        fn c4_places_are_counted_exactly(steps in prop::collection::vec((0..4usize, 0..3u8), 0..600), capacity in 1..200u64) {
            let quota = Quota::of(capacity, 4);
            let used = AtomicU64::new(0);
            let flows: Vec<_> = (0..4).map(|_| AtomicU64::new(0)).collect();
            let mut rings = [0u64; 4];
            for (endpoint, what) in steps {
                let own = &flows[endpoint];
                if what < 2 {
                    if !quota.take(own, &used) && rings[endpoint] < quota.ring() {
                        rings[endpoint] += 1;
                        quota.take_ring(own, &used);
                    }
                } else if count(own) > 0 {
                    rings[endpoint] = rings[endpoint].saturating_sub(1);
                    quota.give_back(own, &used);
                }
                let above: u64 = flows.iter().map(|own| count(own).saturating_sub(quota.own())).sum();
                prop_assert_eq!(count(&used), above);
                prop_assert!(flows.iter().map(count).sum::<u64>() <= capacity);
            }
        }
    }
}
