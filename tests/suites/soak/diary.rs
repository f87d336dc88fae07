// SPDX-License-Identifier: Apache-2.0
//! What happened when: the events, and the faults with the last event before each.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Faults that are kept. The first ones matter.
const FAULTS: usize = 20;

/// Events and faults, each with its time since the start.
pub struct Diary {
    start: Instant,
    seed: u64,
    /// With the milliseconds since the start.
    events: Mutex<Vec<(u64, String)>>,
    faults: Mutex<Vec<String>>,
    /// Set when there is a fault, or the end came: all threads stop.
    over: AtomicBool,
}

impl Diary {
    pub fn new(seed: u64) -> Self {
        Self {
            start: Instant::now(),
            seed,
            events: Mutex::default(),
            faults: Mutex::default(),
            over: AtomicBool::new(false),
        }
    }

    /// Milliseconds since the start.
    pub fn now(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    /// Notes an event, before it happens.
    pub fn event(&self, what: impl Into<String>) {
        lock(&self.events).push((self.now(), what.into()));
    }

    /// Notes a fault, and ends the soak.
    pub fn fault(&self, what: impl Into<String>) {
        self.fault_at(self.now(), what);
    }

    /// The same, of a fault that took a while to show: at `time`, in milliseconds since the start.
    pub fn fault_at(&self, time: u64, what: impl Into<String>) {
        let events = lock(&self.events);
        let before = events.iter().rev().find(|(at, _)| *at <= time);
        let line = format!(
            "{} {}, after: {}",
            seconds(time),
            what.into(),
            before.map_or_else(String::new, |(at, event)| format!(
                "{} {event}",
                seconds(*at).trim()
            ))
        );
        drop(events);
        let mut faults = lock(&self.faults);
        if faults.len() < FAULTS {
            faults.push(line);
        }
        drop(faults);
        self.end();
    }

    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    pub fn faults(&self) -> Vec<String> {
        lock(&self.faults).clone()
    }

    /// Number of events.
    pub fn length(&self) -> usize {
        lock(&self.events).len()
    }

    /// Writes events, faults and the logs of the agents into a folder that stays, and returns it.
    pub fn keep(&self, logs: &[String]) -> PathBuf {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("soak-{}", self.seed));
        let events = lock(&self.events);
        let events: Vec<String> = events
            .iter()
            .map(|(at, event)| format!("{} {event}", seconds(*at)))
            .collect();
        let written = fs::create_dir_all(&folder).and_then(|()| {
            fs::write(folder.join("events.txt"), events.join("\n"))?;
            fs::write(folder.join("faults.txt"), self.faults().join("\n"))?;
            let lives = logs.iter().enumerate();
            let lives: Vec<String> = lives
                .map(|(life, log)| format!("=== life {life}\n{log}"))
                .collect();
            fs::write(folder.join("agent.log"), lives.join("\n"))
        });
        if let Err(error) = written {
            eprintln!("keeping what happened in {}: {error}", folder.display());
        }
        folder
    }
}

/// Waits. The end of a scoped thread wakes a parked one early.
pub fn pause(time: Duration) {
    let until = Instant::now() + time;
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        thread::park_timeout(left);
    }
}

fn seconds(milliseconds: u64) -> String {
    format!("{:9.3} s ", milliseconds as f64 / 1000.0)
}

/// A thread that failed must not hide what it found.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
