// SPDX-License-Identifier: Apache-2.0
//! When a change came.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

/// When the first event came that a snapshot has and the ones taken up before had not; until it is taken up itself. No part of what is
/// known: two snapshots are the same whenever their events came.
#[derive(Debug, Default)]
pub struct Received(Mutex<Option<Instant>>);

impl Received {
    /// At this moment.
    pub fn at(moment: Instant) -> Self {
        Self(Mutex::new(Some(moment)))
    }

    /// The moment, if nobody has taken it before.
    pub fn take(&self) -> Option<Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// This moment, or that of a snapshot that was replaced before anyone took it up.
    #[must_use]
    pub fn after(self, replaced: &Self) -> Self {
        let moments = [replaced.take(), self.take()];
        Self(Mutex::new(moments.into_iter().flatten().min()))
    }
}

impl Clone for Received {
    fn clone(&self) -> Self {
        Self(Mutex::new(*self.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl PartialEq for Received {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Received {}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_nobody_took_up_leaves_its_moment_to_the_next() {
        let first = Instant::now();
        let (second, third) = (first + Duration::from_millis(1), first + Duration::from_millis(2));
        let one = Received::at(first);
        let two = Received::at(second).after(&one);
        assert_eq!(one.take(), None);
        assert_eq!(two.take(), Some(first));
        let three = Received::at(third).after(&two);
        assert_eq!(three.take(), Some(third));
        assert_eq!(three.take(), None, "each moment once");
    }
}
