// SPDX-License-Identifier: Apache-2.0
//! Tracks how far enforcement lags behind what is known: since when a change waits, and for what.
//! The watchers and the loop report here. Observers can read it even while the loop is busy.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Age from which a waiting change is reported. Clusters of the size of the benchmarks take
/// milliseconds.
pub const LATE: Duration = Duration::from_secs(10);

/// An input of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The cluster's objects.
    Objects,
    /// The node's interfaces.
    Interfaces,
    /// The runtime's records about interfaces.
    Records,
}

/// What the loop is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Step {
    /// Waiting for a change, or attaching programs ahead of pods.
    #[default]
    Between,
    /// Computing what to enforce.
    Compiling,
    /// Writing to the kernel.
    Writing,
    /// Writes of the last turn failed and will be tried again.
    Failed,
}

/// Progress of the agent, shared by all clones. The lock is held only briefly, and nothing else is
/// locked while it is.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// The newest revision that was published; 0 before the first.
    known: u64,
    /// When the first revision was published: nothing could be enforced earlier.
    begun: Option<Instant>,
    /// Time of the oldest change of each part that the loop has not taken; no entry if the part was
    /// never published.
    parts: BTreeMap<Part, Option<Instant>>,
    /// Kinds whose first list is not complete.
    unlisted: Vec<&'static str>,
    /// Time of the oldest change that the loop has taken and that is not in the kernel yet.
    taken: Option<Instant>,
    step: Step,
    /// When the step began.
    stepped: Option<Instant>,
    /// When everything taken was last in the kernel.
    enforced: Option<Instant>,
    /// What cannot be read of the source now, by the name of the kind or file.
    unread: BTreeMap<String, Unread>,
}

/// Something of the source that cannot be read now. What it said before stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// Since when.
    pub since: Instant,
    /// Why, as it was last.
    pub why: String,
}

/// A view of [`Progress`] at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The newest revision that is known; 0 if none.
    pub known: u64,
    /// When the oldest change came that is not enforced; `None` if everything is.
    pub since: Option<Instant>,
    /// What that change waits for, or what the agent waits for before it can enforce anything.
    pub phase: Phase,
    /// Parts that were never published, each with what is waited for.
    pub missing: BTreeMap<Part, Phase>,
    /// When the loop began to compile or to write; `None` if it does neither.
    pub working: Option<Instant>,
    /// When everything taken was last in the kernel.
    pub enforced: Option<Instant>,
    /// What cannot be read of the source now, by the name of the kind or file.
    pub unread: BTreeMap<String, Unread>,
}

/// What the agent waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// The first complete list of every kind. Names the missing kinds, where they are known.
    Lists(Vec<&'static str>),
    /// The first reading of the interfaces.
    Interfaces,
    /// The first reading of the runtime's records.
    Records,
    /// The loop.
    Loop(Step),
}

impl Progress {
    /// Records a published snapshot whose first event came at `received`. Call it before anyone can
    /// take the snapshot.
    pub fn published(&self, revision: u64, received: Instant) {
        let mut state = self.state();
        state.known = revision;
        state.begun.get_or_insert_with(Instant::now);
        state.unlisted.clear();
        state.came(Part::Objects, received);
    }

    /// Records that another part was published. Call it as [`Self::published`].
    pub fn came(&self, part: Part, received: Instant) {
        self.state().came(part, received);
    }

    /// Records which kinds lack a complete first list.
    pub fn unlisted(&self, kinds: Vec<&'static str>) {
        self.state().unlisted = kinds;
    }

    /// Marks what was last published as taken by the loop. Call it while nothing new can be
    /// published. Returns when its first event came.
    pub fn take(&self, part: Part) -> Option<Instant> {
        let mut state = self.state();
        let received = state.parts.get_mut(&part)?.take();
        state.taken = state.taken.into_iter().chain(received).min();
        received
    }

    /// Records that the loop begins a step.
    pub fn begin(&self, step: Step) {
        let mut state = self.state();
        state.step = step;
        state.stepped = Some(Instant::now());
    }

    /// Records that something of the source cannot be read, or for which other reason now.
    pub fn unread(&self, what: &str, why: String) {
        let mut state = self.state();
        let since = state
            .unread
            .get(what)
            .map_or_else(Instant::now, |known| known.since);
        state.unread.insert(what.to_owned(), Unread { since, why });
    }

    /// Records that something of the source can be read.
    pub fn read(&self, what: &str) {
        self.state().unread.remove(what);
    }

    /// Ends a turn. If `complete`, everything taken is in the kernel.
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

    /// Returns the current view.
    pub fn look(&self) -> Seen {
        let state = self.state();
        let parts = [
            (Part::Objects, Phase::Lists(state.unlisted.clone())),
            (Part::Interfaces, Phase::Interfaces),
            (Part::Records, Phase::Records),
        ];
        let missing: BTreeMap<Part, Phase> = parts
            .into_iter()
            .filter(|(part, _)| !state.parts.contains_key(part))
            .collect();
        let first = missing.values().next().cloned();
        let works = matches!(state.step, Step::Compiling | Step::Writing);
        let waiting = state.parts.values().flatten().copied();
        let oldest = waiting.chain(state.taken).min();
        Seen {
            known: state.known,
            since: state.begun.and_then(|begun| Some(oldest?.max(begun))),
            phase: first.unwrap_or(Phase::Loop(state.step)),
            missing,
            working: state.stepped.filter(|_| works),
            enforced: state.enforced,
            unread: state.unread.clone(),
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
    /// Returns how long the oldest change has waited at `now`; zero if none waits.
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

    /// Everything is published and enforced.
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
        // Later than `begun`, which the clock gives.
        let at = |seconds: u32| Instant::now() + SECOND * seconds;
        let [first, second, third] = [at(1), at(2), at(3)];
        progress.published(2, first);
        progress.came(Part::Interfaces, second);
        assert_eq!(progress.look().since, Some(first));
        assert_eq!(progress.take(Part::Objects), Some(first));
        assert_eq!(progress.take(Part::Objects), None, "each moment once");
        progress.begin(Step::Compiling);
        // A change that is taken is not enforced yet. Later changes wait for the next turn.
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
        // Interfaces alone do not count as waiting: nothing could be enforced from them.
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
