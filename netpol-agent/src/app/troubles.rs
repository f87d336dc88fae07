// SPDX-License-Identifier: Apache-2.0
//! Logs problems in few lines (rule L2): one for each object and turn, one for each kind of failed
//! write, and none for what was logged before.

use std::collections::{BTreeMap, BTreeSet};

use tracing::{debug, error, info, warn};

use crate::{
    model::Diagnostic,
    sync::{Failure, Report},
};

/// Objects that are named in one turn; the others are counted.
const OBJECTS: usize = 100;
/// Interfaces that are named in one line.
const INTERFACES: usize = 10;

/// What was logged about failed writes.
#[derive(Debug, Default)]
pub struct Troubles {
    failures: Vec<Failure>,
    held_back: BTreeSet<u32>,
}

impl Troubles {
    /// Logs failed writes and held-back interfaces, if they differ from the turn before.
    pub fn tell<'a>(&mut self, report: &Report, name: impl Fn(u32) -> Option<&'a str>) {
        let revision = report.revision;
        for failure in &report.failures {
            if self.failures.iter().any(|known| known.is_like(failure)) {
                debug!(revision, %failure, "writes fail again");
            } else {
                error!(
                    revision,
                    failures = failure.count,
                    %failure,
                    "a write failed, and will be tried again"
                );
            }
        }
        if !report.held_back.is_empty() && report.held_back != self.held_back {
            let names = report.held_back.iter().take(INTERFACES);
            let names: Vec<String> = names
                .map(|ifindex| name(*ifindex).map_or_else(|| ifindex.to_string(), str::to_owned))
                .collect();
            error!(
                revision,
                interfaces = report.held_back.len(),
                named = names.join(" "),
                "interfaces keep their old policy, or are closed"
            );
        }
        if report.failures.is_empty() && !self.failures.is_empty() {
            info!(revision, "all writes that had failed are made");
        }
        self.failures.clone_from(&report.failures);
        self.held_back.clone_from(&report.held_back);
    }
}

/// Logs new problems of objects.
pub fn tell_diagnostics(new: BTreeSet<&Diagnostic>) {
    let mut objects: BTreeMap<&str, Vec<&Diagnostic>> = BTreeMap::new();
    for diagnostic in new {
        objects.entry(&diagnostic.object).or_default().push(diagnostic);
    }
    let all = objects.len();
    for found in objects.into_values().take(OBJECTS) {
        let [first, more @ ..] = &found[..] else {
            continue;
        };
        warn!(
            code = first.code,
            object = first.object,
            field = first.field,
            message = first.message,
            more = more.len(),
            "{first}"
        );
        more.iter().for_each(|diagnostic| {
            debug!(code = diagnostic.code, object = diagnostic.object, "{diagnostic}")
        });
    }
    if let Some(others) = all.checked_sub(OBJECTS).filter(|others| *others > 0) {
        warn!(
            objects = others,
            "there is something wrong with that many other objects; netpol explain tells of each"
        );
    }
}
