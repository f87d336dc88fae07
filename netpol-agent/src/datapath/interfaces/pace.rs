// SPDX-License-Identifier: Apache-2.0
//! Limits how often events lead to a reading (rule L2). Few events of a source are read at once;
//! many, once a second. So a pod that changes its own addresses thousands of times delays nobody:
//! others' events are still read at once.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

/// Readings that one source may cause in a period.
const READINGS: u32 = 16;
/// The period.
const PERIOD: Duration = Duration::from_secs(1);
/// Number of sources from which on silent ones are forgotten.
const MANY: usize = 1024;

/// The source of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Source {
    /// An interface of this namespace, by its index: a pod can make its other end go up or down.
    Own(u32),
    /// Another namespace, by its id here: everything that a pod does in its namespace is one
    /// source.
    Other(i32),
    /// Events that did not fit into the buffer.
    Lost,
}

#[derive(Debug)]
struct Count {
    since: Instant,
    readings: u32,
}

/// Counts events by source.
#[derive(Debug, Default)]
pub(super) struct Pace {
    counts: HashMap<Source, Count>,
    due: Option<Instant>,
}

impl Pace {
    /// Counts events of these sources. Returns true if a reading is due at once; otherwise it is
    /// due at [`Self::due`].
    pub(super) fn met(&mut self, sources: impl IntoIterator<Item = Source>, now: Instant) -> bool {
        let mut at_once = false;
        for source in sources {
            let count = self.counts.entry(source).or_insert(Count {
                since: now,
                readings: 0,
            });
            if now >= count.since + PERIOD {
                *count = Count {
                    since: now,
                    readings: 0,
                };
            }
            count.readings += 1;
            if count.readings <= READINGS {
                at_once = true;
            } else {
                let due = count.since + PERIOD;
                self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
            }
        }
        if self.counts.len() > MANY {
            self.counts.retain(|_, count| now < count.since + PERIOD);
        }
        // A reading covers everything.
        if at_once {
            self.due = None;
        }
        at_once
    }

    /// Returns when the delayed reading is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Records that a reading happens now.
    pub(super) fn read(&mut self) {
        self.due = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Simulates a source that changes every millisecond for ten seconds. Returns the number of
    /// readings, and whether another source is still read at once meanwhile.
    fn storm(storming: Source, other: Source) -> (usize, bool) {
        let start = Instant::now();
        let (mut pace, mut readings, mut other_read) = (Pace::default(), 0, true);
        for millisecond in 0..10_000 {
            let now = start + Duration::from_millis(millisecond);
            if pace.due().is_some_and(|due| due <= now) {
                pace.read();
                readings += 1;
            }
            readings += usize::from(pace.met([storming], now));
            if millisecond % 1500 == 1499 {
                other_read &= pace.met([other], now);
            }
        }
        (readings, other_read)
    }

    #[test]
    fn l2_a_pod_that_changes_its_own_addresses_delays_nobody() {
        for (storming, other) in [
            (Source::Other(3), Source::Other(4)),
            (Source::Other(3), Source::Own(7)),
            (Source::Own(7), Source::Own(8)),
        ] {
            let (readings, other_read) = storm(storming, other);
            assert!(readings <= 180, "{readings} readings for 10,000 events");
            assert!(readings >= 10, "and what it comes to is seen");
            assert!(other_read);
        }
    }

    #[test]
    fn what_is_put_off_is_read_within_a_period() {
        let start = Instant::now();
        let mut pace = Pace::default();
        while pace.met([Source::Lost], start) {}
        assert_eq!(pace.due(), Some(start + PERIOD));
        pace.read();
        assert!(pace.due().is_none() && pace.met([Source::Lost], start + PERIOD));
    }

    #[test]
    fn silent_sources_are_forgotten() {
        let start = Instant::now();
        let mut pace = Pace::default();
        assert!((0..5000).all(|nth| pace.met([Source::Own(nth)], start)));
        pace.met([Source::Lost], start + 2 * PERIOD);
        assert_eq!(pace.counts.len(), 1);
    }
}
