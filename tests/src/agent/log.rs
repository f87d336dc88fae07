// SPDX-License-Identifier: Apache-2.0
//! Reads an agent's log line by line, and waits for lines.

use std::{
    io::{BufRead, BufReader, Read},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Result, bail};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

/// A log line about an applied revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// The revision.
    pub revision: u64,
    /// Time of the line, with a resolution of a microsecond.
    pub at: SystemTime,
    /// Writes to kernel maps.
    pub writes: u64,
    /// From the revision's first event until all pods are enforced; `None` on later lines of the
    /// same revision.
    pub delay: Option<Duration>,
    /// Part of the turn that waited for running programs.
    pub waited: Duration,
}

/// The log of one run of the agent.
#[derive(Debug, Default)]
pub(crate) struct Log {
    lines: Mutex<Lines>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Lines {
    lines: Vec<String>,
    ended: bool,
}

impl Log {
    /// Reads lines in a thread until they end.
    pub(crate) fn follow(log: &Arc<Self>, output: impl Read + Send + 'static) {
        let log = Arc::clone(log);
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                log.lock().lines.push(line);
                log.changed.notify_all();
            }
            log.lock().ended = true;
            log.changed.notify_all();
        });
    }

    /// Returns the number of lines so far.
    pub(crate) fn length(&self) -> usize {
        self.lock().lines.len()
    }

    /// Returns all lines so far.
    pub(crate) fn text(&self) -> String {
        self.lock().lines.join("\n")
    }

    /// Returns the last applied revision; 0 if none.
    pub(crate) fn revision(&self) -> u64 {
        last_revision(&self.lock().lines)
    }

    /// Waits for an applied revision above `revision`, and returns it. The error contains the log.
    pub(crate) fn wait_for_revision_after(&self, revision: u64, deadline: Duration) -> Result<u64> {
        self.wait(deadline, &format!("a revision after {revision}"), |lines| {
            Some(last_revision(lines)).filter(|&last| last > revision)
        })
    }

    /// Waits for a revision above `revision` in a line after the first `seen`.
    pub(crate) fn wait_for_applied(&self, seen: usize, revision: u64, deadline: Duration) -> Result<Applied> {
        self.wait(deadline, &format!("a revision after {revision}"), |lines| {
            let applied = lines.iter().skip(seen).filter_map(|line| applied(line));
            applied.into_iter().find(|applied| applied.revision > revision)
        })
    }

    /// Returns the applied revisions in the lines after the first `seen`.
    pub(crate) fn applied_since(&self, seen: usize) -> Vec<Applied> {
        let lines = self.lock();
        lines
            .lines
            .iter()
            .skip(seen)
            .filter_map(|line| applied(line))
            .collect()
    }

    /// Waits for a line that contains `text`, after the first `seen`. The error contains the log.
    pub(crate) fn wait_for_line(&self, seen: usize, text: &str, deadline: Duration) -> Result<String> {
        self.wait(deadline, &format!("a log line with {text:?}"), |lines| {
            lines.iter().skip(seen).find(|line| line.contains(text)).cloned()
        })
    }

    /// Waits for the end of the log. The error contains the log.
    pub(crate) fn wait_for_end(&self, deadline: Duration) -> Result<()> {
        let until = Instant::now() + deadline;
        let mut lines = self.lock();
        while !lines.ended {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!(
                    "waiting for the end: time is up; the log:\n{}",
                    lines.lines.join("\n")
                );
            }
            let waited = self.changed.wait_timeout(lines, left);
            lines = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    fn wait<T>(&self, deadline: Duration, what: &str, found: impl Fn(&[String]) -> Option<T>) -> Result<T> {
        let until = Instant::now() + deadline;
        let mut lines = self.lock();
        loop {
            if let Some(value) = found(&lines.lines) {
                return Ok(value);
            }
            let left = until.saturating_duration_since(Instant::now());
            if lines.ended || left.is_zero() {
                let why = if lines.ended {
                    "the agent ended"
                } else {
                    "time is up"
                };
                bail!("waiting for {what}: {why}; its log:\n{}", lines.lines.join("\n"));
            }
            lines = self
                .changed
                .wait_timeout(lines, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn last_revision(lines: &[String]) -> u64 {
    let applied = lines.iter().rev().find_map(|line| applied(line));
    applied.map_or(0, |applied| applied.revision)
}

/// Parses a `revision applied` line without failed writes and without pods whose interface is
/// unknown.
fn applied(line: &str) -> Option<Applied> {
    // Skips most lines without parsing them.
    if !line.contains("revision applied") {
        return None;
    }
    let value: Value = serde_json::from_str(line).ok()?;
    let fields = value.get("fields")?;
    if fields.get("message")?.as_str()? != "revision applied" {
        return None;
    }
    let number = |field: &str| fields.get(field).and_then(Value::as_u64);
    if number("failures").unwrap_or(0) > 0 || number("waiting").unwrap_or(0) > 0 {
        return None;
    }
    let at: Timestamp = value.get("timestamp")?.as_str()?.parse().ok()?;
    Some(Applied {
        revision: number("revision")?,
        at: at.into(),
        writes: number("writes").unwrap_or(0),
        delay: number("delay_us").map(Duration::from_micros),
        waited: Duration::from_micros(number("waited_us").unwrap_or(0)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_applied_revision_counts() {
        let line = |message, revision| {
            format!(
                r#"{{"timestamp":"2026-11-21T05:10:06.385244Z","fields":{{"message":"{message}","revision":{revision},"writes":2,"waited_us":700,"delay_us":1500}}}}"#
            )
        };
        let lines = [
            line("revision applied", 3),
            line("revision applied", 4),
            line("other", 9),
            "text".to_owned(),
        ];
        assert_eq!(last_revision(&lines), 4);
        assert_eq!(last_revision(&lines[2..]), 0);
        let failed = r#"{"timestamp":"2026-11-21T05:10:06.385244Z","fields":{"message":"revision applied","revision":7,"failures":1}}"#;
        assert_eq!(last_revision(&[failed.to_owned()]), 0);
        let applied = applied(&lines[0]).unwrap();
        assert_eq!(
            (applied.writes, applied.waited, applied.delay),
            (2, Duration::from_micros(700), Some(Duration::from_micros(1500)))
        );
        let since = applied.at.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(since, Duration::from_micros(1_795_237_806_385_244));
    }
}
