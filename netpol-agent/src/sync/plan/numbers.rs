// SPDX-License-Identifier: Apache-2.0
//! Numbers of endpoints and policies, none of which is given twice (rule C3).

use std::collections::BTreeSet;

use netpol_common::{abi::Endpoint, tag};

/// The next number. After four billion none is left: then every policy gets `POLICY_DENY`, which
/// denies everything.
pub(super) fn take(next: &mut u32) -> u32 {
    let number = *next;
    *next = next.saturating_add(1);
    number
}

/// The next number of an endpoint. The part of it that tags carry is no living endpoint's.
pub(super) fn take_endpoint(next: &mut u32, taken: &mut BTreeSet<u16>) -> u32 {
    loop {
        let id = take(next);
        let number = Endpoint {
            id,
            ..Endpoint::default()
        }
        .number();
        // There are more such parts than places in map `endpoints`. The last id of all is given
        // again and again.
        if taken.insert(number) || taken.len() >= tag::MAX_NUMBER.into() || id == u32::MAX {
            return id;
        }
    }
}

/// The next number by the counter in the kernel; behind those in use if the counter was lost.
pub(super) fn first_free(counter: u32, in_use: impl Iterator<Item = u32>) -> u32 {
    in_use
        .map(|number| number.saturating_add(1))
        .fold(counter.max(1), u32::max)
}
