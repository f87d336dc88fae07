// SPDX-License-Identifier: Apache-2.0
//! Logs a change that waits too long, while the loop is too busy to log it itself (rule L2).

use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::progress::{LATE, Progress, Seen};

/// Interval at which the loop's progress is checked.
const LOOK: Duration = Duration::from_secs(1);

/// Checks until `stop`.
pub async fn run(progress: Progress, stop: CancellationToken) {
    let mut teller = Teller::default();
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = look.tick() => {}
        }
        let seen = progress.look();
        match teller.look(&seen, Instant::now()) {
            Some(News::Late(age)) => warn!(
                revision = seen.known,
                waiting_ms = age.as_millis() as u64,
                why = %seen.phase,
                "a change is not enforced yet; until then what was enforced before it stays"
            ),
            Some(News::Enforced(age)) => info!(
                waited_ms = age.as_millis() as u64,
                "a change that was late is enforced"
            ),
            None => {}
        }
    }
}

/// Something to report.
#[derive(Debug, PartialEq, Eq)]
enum News {
    /// A change has waited this long.
    Late(Duration),
    /// The reported change is enforced, this long after it came.
    Enforced(Duration),
}

/// Remembers what was reported.
#[derive(Debug, Default)]
struct Teller {
    /// When the reported change came; `None` once it is enforced.
    told: Option<Instant>,
}

impl Teller {
    /// Reports each change twice: when it is late, and when it is enforced.
    fn look(&mut self, seen: &Seen, now: Instant) -> Option<News> {
        if let Some(told) = self.told {
            if seen.since.is_some_and(|since| since <= told) {
                return None;
            }
            self.told = None;
            let enforced = seen.enforced.unwrap_or(now);
            return Some(News::Enforced(enforced.duration_since(told)));
        }
        let age = seen.age(now);
        (age > LATE).then(|| {
            self.told = seen.since;
            News::Late(age)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::{Phase, Step};

    #[test]
    fn l2_a_late_change_is_told_of_once_and_once_more_when_it_is_in() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        // Columns, in seconds: the oldest change came, everything was enforced, the check runs;
        // then the report.
        let table = [
            (None, None, 1, None),
            (Some(2), None, 3, None),
            (Some(2), None, 12, None),
            (Some(2), None, 13, Some(News::Late(Duration::from_secs(11)))),
            (Some(2), None, 14, None),
            (Some(2), None, 90, None),
            // Enforced while another change waits: that one is reported next.
            (
                Some(30),
                Some(91),
                92,
                Some(News::Enforced(Duration::from_secs(89))),
            ),
            (Some(30), Some(91), 93, Some(News::Late(Duration::from_secs(63)))),
            (None, Some(95), 96, Some(News::Enforced(Duration::from_secs(65)))),
            (None, Some(95), 200, None),
            (Some(200), Some(95), 205, None),
            (None, Some(206), 207, None),
        ];
        let mut teller = Teller::default();
        for (since, enforced, now, expected) in table {
            let seen = Seen {
                known: 1,
                since: since.map(at),
                phase: Phase::Loop(Step::Compiling),
                missing: std::collections::BTreeMap::new(),
                working: None,
                enforced: enforced.map(at),
                unread: std::collections::BTreeMap::new(),
            };
            assert_eq!(teller.look(&seen, at(now)), expected, "at {now} s");
        }
    }
}
