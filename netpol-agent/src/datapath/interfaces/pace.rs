// SPDX-License-Identifier: Apache-2.0
//! How often events lead to a reading (rule L2): those of one source at once, as long as they are
//! few, and then once a second. So a pod that changes its own addresses thousands of times delays
//! nobody: others' events are read at once all the while.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

/// Readings that one source leads to in a period.
const READINGS: u32 = 16;
/// The period.
const PERIOD: Duration = Duration::from_secs(1);
/// Sources from which on those that are silent are forgotten.
const MANY: usize = 1024;

/// Where an event comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Source {
    /// An interface of this namespace, by its index: a pod can make one say that its other end is
    /// up or down.
    Own(u32),
    /// Another namespace, by its id here: whatever a pod does within its own is one source.
    Other(i32),
    /// Events that there was no room for.
    Lost,
}

#[derive(Debug)]
struct Count {
    since: Instant,
    readings: u32,
}

/// The events that were met.
#[derive(Debug, Default)]
pub(super) struct Pace {
    counts: HashMap<Source, Count>,
    due: Option<Instant>,
}

impl Pace {
    /// There are events of these sources. True if there has to be a reading at once; else there is
    /// one when it is [`Self::due`].
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
        // A reading is of everything.
        if at_once {
            self.due = None;
        }
        at_once
    }

    /// When what was put off has to be read.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// It is read now.
    pub(super) fn read(&mut self) {
        self.due = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The readings that a source leads to which changes every millisecond for ten seconds, and
    /// whether another is read at once in the middle of it.
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
