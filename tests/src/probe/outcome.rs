// SPDX-License-Identifier: Apache-2.0
//! Results of probes, and assertions about them.

use std::fmt::Write;

use super::Probe;

/// Result of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The right site answered.
    Reached,
    /// The destination's kernel refused: the packet arrived, but nobody listens.
    Refused,
    /// Nothing came back, as for a denial (rule A7).
    Silent,
    /// A site of another name answered: one of several backends, or a wrong one.
    Answered(String),
    /// Anything else, e.g. an ICMP error. Never expected.
    Odd(String),
}

impl Outcome {
    /// Returns true if the packets passed; `None` if that is unknown.
    pub fn allowed(&self) -> Option<bool> {
        match self {
            Self::Reached | Self::Refused => Some(true),
            Self::Silent => Some(false),
            Self::Answered(_) | Self::Odd(_) => None,
        }
    }
}

/// Asserts that each probe's result is `expected`; `what` names the case in the message.
///
/// # Panics
/// If one has another, or there are no probes.
#[track_caller]
pub fn hold(what: &str, probes: &[Probe], outcomes: &[Outcome], expected: &Outcome) {
    let wrong: Vec<_> = probes
        .iter()
        .zip(outcomes)
        .filter(|(_, found)| *found != expected)
        .collect();
    let mut text = String::new();
    for (probe, found) in &wrong {
        let _ = writeln!(text, "  {probe}: {found:?}");
    }
    assert!(
        wrong.is_empty() && !probes.is_empty() && probes.len() == outcomes.len(),
        "{what}: expected {expected:?}, but {} of {} are not:\n{text}",
        wrong.len(),
        probes.len()
    );
}
