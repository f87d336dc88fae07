// SPDX-License-Identifier: Apache-2.0
//! How far enforcement is behind what is known: since when a change waits, and for what. Those who
//! learn of changes and the loop say so here; whoever looks at the agent asks, also while the loop
//! is busy.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// A change that waits for longer is told of. Clusters of the size that the benchmarks have take
/// milliseconds.
pub const LATE: Duration = Duration::from_secs(10);

/// What a turn is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The cluster's objects.
    Objects,
    /// The node's interfaces.
    Interfaces,
    /// What the runtime wrote of them.
    Records,
}

/// What the loop does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Step {
    /// It waits for a change, or attaches programs ahead of pods.
    #[default]
    Between,
    /// It finds out what is to be enforced.
    Compiling,
    /// It writes that to the kernel.
    Writing,
    /// Writes of the last turn failed. They are tried again.
    Failed,
}

/// Shared by all clones. Its lock is held for moments, and nothing else is locked within.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// The newest revision that was published; 0 before the first.
    known: u64,
    /// When that first one was published: nothing can be enforced before.
    begun: Option<Instant>,
    /// When the first change came of those that are not taken up; no entry: it was never published.
    parts: BTreeMap<Part, Option<Instant>>,
    /// Kinds whose first list is not complete.
    unlisted: Vec<&'static str>,
    /// When the first change came of those that are taken up and not in the kernel.
    taken: Option<Instant>,
    step: Step,
    /// When all that was taken up was in the kernel, the last time.
    enforced: Option<Instant>,
}

/// What a look at [`Progress`] shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The newest revision that is known; 0 if none.
    pub known: u64,
    /// When the oldest change came that is known and not enforced; `None`: all is enforced.
    pub since: Option<Instant>,
    /// What it waits for, or what the agent waits for before it can enforce anything.
    pub phase: Phase,
    /// When all that was taken up was in the kernel, the last time.
    pub enforced: Option<Instant>,
}

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// The first complete list of every kind; those that are missing, where they are known.
    Lists(Vec<&'static str>),
    /// The first reading of the interfaces.
    Interfaces,
    /// The first reading of what the runtime wrote of them.
    Records,
    /// The loop.
    Loop(Step),
}

impl Progress {
    /// A snapshot of the objects is published, whose first event came at `received`. Called while
    /// nobody can take it up.
    pub fn published(&self, revision: u64, received: Instant) {
        let mut state = self.state();
        state.known = revision;
        state.begun.get_or_insert_with(Instant::now);
        state.unlisted.clear();
        state.came(Part::Objects, received);
    }

    /// Another part is published, whose first event came at `received`. Called as above.
    pub fn came(&self, part: Part, received: Instant) {
        self.state().came(part, received);
    }

    /// Kinds whose first list is not complete.
    pub fn unlisted(&self, kinds: Vec<&'static str>) {
        self.state().unlisted = kinds;
    }

    /// The loop takes up what was published last, while nothing new can be. Returns when the first
    /// event came of that.
    pub fn take(&self, part: Part) -> Option<Instant> {
        let mut state = self.state();
        let received = state.parts.get_mut(&part)?.take();
        state.taken = state.taken.into_iter().chain(received).min();
        received
    }

    /// The loop comes to a step of its turn.
    pub fn begin(&self, step: Step) {
        self.state().step = step;
    }

    /// A turn is over: what was taken up is in the kernel, if all writes succeeded.
    pub fn end(&self, complete: bool) {
        let mut state = self.state();
        if complete {
            state.taken = None;
            state.enforced = Some(Instant::now());
            state.step = Step::Between;
        } else {
            state.step = Step::Failed;
        }
    }

    /// How things are.
    pub fn look(&self) -> Seen {
        let state = self.state();
        let is_there = |part| state.parts.contains_key(&part);
        let phase = if !is_there(Part::Objects) {
            Phase::Lists(state.unlisted.clone())
        } else if !is_there(Part::Interfaces) {
            Phase::Interfaces
        } else if !is_there(Part::Records) {
            Phase::Records
        } else {
            Phase::Loop(state.step)
        };
        let waiting = state.parts.values().flatten().copied();
        let oldest = waiting.chain(state.taken).min();
        Seen {
            known: state.known,
            since: state.begun.and_then(|begun| Some(oldest?.max(begun))),
            phase,
            enforced: state.enforced,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn came(&mut self, part: Part, received: Instant) {
        let first = self.parts.entry(part).or_default();
        *first = first.iter().copied().chain([received]).min();
    }
}

impl Seen {
    /// How long the oldest change waits at `now`; zero if none does.
    pub fn age(&self, now: Instant) -> Duration {
        self.since
            .map_or(Duration::ZERO, |since| now.duration_since(since))
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lists(kinds) => {
                f.write_str("waiting for the first complete list of objects")?;
                match &kinds[..] {
                    [] => Ok(()),
                    kinds => write!(f, ", not there yet: {}", kinds.join(", ")),
                }
            }
            Self::Interfaces => f.write_str("waiting for the first reading of the node's interfaces"),
            Self::Records => f.write_str("waiting for the first reading of libcni's results"),
            Self::Loop(step) => step.fmt(f),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Between => "about to be taken up",
            Self::Compiling => "being compiled",
            Self::Writing => "being written to the kernel",
            Self::Failed => "writes to the kernel failed, and are tried again",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Everything there and enforced.
    fn running(start: Instant) -> Progress {
        let progress = Progress::default();
        progress.came(Part::Interfaces, start);
        progress.came(Part::Records, start);
        progress.published(1, start);
        for part in [Part::Objects, Part::Interfaces, Part::Records] {
            progress.take(part);
        }
        progress.end(true);
        progress
    }

    #[test]
    fn l2_the_oldest_change_counts_until_it_is_in_the_kernel() {
        let start = Instant::now();
        let progress = running(start);
        assert_eq!(progress.look().since, None);
        // Later than `begun`, which is by the clock.
        let at = |seconds: u32| Instant::now() + SECOND * seconds;
        let [first, second, third] = [at(1), at(2), at(3)];
        progress.published(2, first);
        progress.came(Part::Interfaces, second);
        assert_eq!(progress.look().since, Some(first));
        assert_eq!(progress.take(Part::Objects), Some(first));
        assert_eq!(progress.take(Part::Objects), None, "each moment once");
        progress.begin(Step::Compiling);
        // Taken up is not enforced, and what comes meanwhile waits for the next turn.
        progress.published(3, third);
        let seen = progress.look();
        assert_eq!((seen.known, seen.since), (3, Some(first)));
        assert_eq!(seen.phase, Phase::Loop(Step::Compiling));
        assert_eq!(seen.age(first + SECOND), SECOND);
        progress.end(true);
        assert_eq!(progress.look().since, Some(second), "the interfaces wait");
        progress.take(Part::Interfaces);
        progress.take(Part::Objects);
        progress.begin(Step::Writing);
        progress.end(false);
        let seen = progress.look();
        assert_eq!(
            (seen.since, seen.phase),
            (Some(second), Phase::Loop(Step::Failed))
        );
        progress.end(true);
        assert_eq!(progress.look().since, None);
    }

    #[test]
    fn l2_changes_that_come_together_wait_since_the_first() {
        let progress = running(Instant::now());
        let first = Instant::now() + SECOND;
        progress.published(2, first + SECOND);
        progress.published(3, first);
        progress.published(4, first + 2 * SECOND);
        assert_eq!(progress.take(Part::Objects), Some(first));
    }

    #[test]
    fn b1_each_phase_of_a_start_says_what_is_waited_for() {
        let progress = Progress::default();
        let said = || progress.look().phase.to_string();
        assert_eq!(said(), "waiting for the first complete list of objects");
        progress.unlisted(vec!["Pod", "Service"]);
        assert_eq!(
            said(),
            "waiting for the first complete list of objects, not there yet: Pod, Service"
        );
        // What is read of the node waits for nothing that could be enforced.
        let long_ago = Instant::now();
        progress.came(Part::Interfaces, long_ago);
        progress.take(Part::Interfaces);
        assert_eq!(progress.look().since, None);
        progress.published(1, Instant::now());
        assert_eq!(said(), "waiting for the first reading of libcni's results");
        assert!(
            progress.look().since > Some(long_ago),
            "since there was something to enforce"
        );
        progress.came(Part::Records, Instant::now());
        assert_eq!(said(), "about to be taken up");
        progress.begin(Step::Compiling);
        assert_eq!(said(), "being compiled");
        progress.begin(Step::Writing);
        assert_eq!(said(), "being written to the kernel");
        let progress = Progress::default();
        progress.published(1, Instant::now());
        assert_eq!(
            progress.look().phase.to_string(),
            "waiting for the first reading of the node's interfaces"
        );
    }
}
