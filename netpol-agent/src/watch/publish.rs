// SPDX-License-Identifier: Apache-2.0
//! Revisions, and the short wait that makes one snapshot of a burst of changes in a folder.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch::Sender, time::Instant};

use crate::{
    model::{Diagnostic, Snapshot},
    progress::Progress,
};

use super::object::Objects;

/// A burst is over when nothing came for this long.
const QUIET: Duration = Duration::from_millis(10);
/// A burst that does not end is published after this long.
const AT_MOST: Duration = Duration::from_millis(100);

/// A draft is at least this much later than the one before it.
const BETWEEN_DRAFTS: Duration = Duration::from_secs(1);

/// Where snapshots go.
#[derive(Debug)]
pub struct Outlet {
    /// Complete ones.
    pub snapshots: Sender<Option<Arc<Snapshot>>>,
    /// What is known while the first lists are not complete, for who would rather work on it now
    /// than later. Nothing may be enforced by it (rule B1).
    pub drafts: Sender<Option<Arc<Snapshot>>>,
}

/// Numbers snapshots and hands them on.
pub struct Publisher {
    outlet: Outlet,
    drafted: Option<Instant>,
    progress: Progress,
    revision: u64,
}

impl Publisher {
    /// One that has published nothing yet.
    pub fn new(outlet: Outlet, progress: Progress) -> Self {
        Self {
            outlet,
            drafted: None,
            progress,
            revision: 0,
        }
    }

    /// Where troubles with the source are told.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Says which kinds are waited for.
    pub fn unlisted(&self, kinds: Vec<&'static str>) {
        self.progress.unlisted(kinds);
    }

    /// Hands on a draft of what is known, now and then.
    pub fn draft(&mut self, objects: &Objects, now: Instant) {
        if self.drafted.is_none_or(|last| now >= last + BETWEEN_DRAFTS) {
            self.drafted = Some(now);
            // A draft has no revision: it is none.
            let draft = objects.snapshot(0, &[]);
            self.outlet.drafts.send_replace(Some(Arc::new(draft)));
        }
    }

    /// Publishes `objects` as the next revision, whose first event came at `received`. What is
    /// wrong with them is logged with what the compiler finds, once.
    pub fn publish(&mut self, objects: &Objects, diagnostics: &[Diagnostic], received: Instant) {
        self.revision += 1;
        // The draft would keep what has changed since.
        self.outlet.drafts.send_replace(None);
        let snapshot = objects.snapshot(self.revision, diagnostics);
        tracing::debug!(
            revision = self.revision,
            namespaces = snapshot.namespaces.len(),
            pods = snapshot.pods.len(),
            policies = snapshot.policies.len(),
            "snapshot published"
        );
        // Dropped when the channel is free again.
        let mut replaced = None;
        self.outlet.snapshots.send_modify(|last| {
            self.progress.published(self.revision, received.into_std());
            replaced = last.replace(Arc::new(snapshot));
        });
    }
}

/// When a burst of changes of files is to be published.
#[derive(Debug, Default)]
pub struct Burst {
    limits: Option<Limits>,
}

#[derive(Debug, Clone, Copy)]
struct Limits {
    first: Instant,
    due: Instant,
}

impl Burst {
    /// Something changed at `now`.
    pub fn touch(&mut self, now: Instant) {
        let first = self.limits.map_or(now, |limits| limits.first);
        let due = (now + QUIET).min(first + AT_MOST);
        self.limits = Some(Limits { first, due });
    }

    /// Resolves when the burst is over, with the moment of its first change, and forgets it; pends
    /// while nothing has changed.
    pub async fn over(&mut self) -> Instant {
        let Some(Limits { first, due }) = self.limits else {
            return std::future::pending().await;
        };
        tokio::time::sleep_until(due).await;
        self.limits = None;
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_ends_when_quiet_and_has_a_limit() {
        let start = Instant::now();
        let mut burst = Burst::default();
        burst.touch(start);
        assert_eq!(burst.limits.unwrap().due, start + QUIET);
        burst.touch(start + QUIET / 2);
        assert_eq!(burst.limits.unwrap().due, start + QUIET / 2 + QUIET);
        burst.touch(start + AT_MOST - QUIET / 2);
        assert_eq!(burst.limits.unwrap().due, start + AT_MOST);
        assert_eq!(burst.limits.unwrap().first, start);
    }

    #[test]
    fn drafts_are_a_second_apart_and_gone_when_all_is_known() {
        let (snapshots, drafts) = (Sender::default(), Sender::default());
        let mut drafted = drafts.subscribe();
        let mut publisher = Publisher::new(Outlet { snapshots, drafts }, Progress::default());
        let (objects, start) = (Objects::default(), Instant::now());
        for (after, expected) in [(0, true), (999, false), (1000, true), (1999, false)] {
            publisher.draft(&objects, start + Duration::from_millis(after));
            assert_eq!(drafted.has_changed().unwrap(), expected, "{after} ms");
            drafted.borrow_and_update();
        }
        publisher.publish(&objects, &[], start);
        assert!(drafted.borrow().is_none());
    }
}
