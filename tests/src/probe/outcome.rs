// SPDX-License-Identifier: Apache-2.0
//! What comes of probes, and what should.

use std::fmt::Write;

use super::Probe;

/// What came of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The right site answered.
    Reached,
    /// The destination's kernel refused: the packet arrived, and nobody listens.
    Refused,
    /// Nothing came back: what a denial looks like (rule A7).
    Silent,
    /// A site of another name answered: that of one of several backends, or a wrong one.
    Answered(String),
    /// Anything else, e.g. an ICMP error came. Never what it should be.
    Odd(String),
}

impl Outcome {
    /// Whether the packets passed; `None` where that cannot be said.
    pub fn allowed(&self) -> Option<bool> {
        match self {
            Self::Reached | Self::Refused => Some(true),
            Self::Silent => Some(false),
            Self::Answered(_) | Self::Odd(_) => None,
        }
    }
}

/// Holds what came of each probe against `expected`; `what` names the case in the message.
///
/// # Panics
/// If one is another, or there are no probes.
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
