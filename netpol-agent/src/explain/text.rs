// SPDX-License-Identifier: Apache-2.0
//! Formats the answer for people: what matters first, and short. `{:#}` prints everything.

use std::{collections::BTreeMap, fmt};

use super::answer::{Answer, EndShown, Outcome, PolicyShown, SideShown, Told, Verdict};

/// Verdicts, notes and diagnostics that are printed.
const VERDICTS: usize = 4;
const NOTES: usize = 8;
/// Policies of a side that are printed.
const POLICIES: usize = 3;
/// Rules of a policy, and things that a rule lacks: for the nearest policy of the first verdict,
/// and for all others.
const IN_FULL: (usize, usize) = (4, 6);
const IN_SHORT: (usize, usize) = (1, 3);

/// A list cut to its first entries, and the rest.
struct Cut<'a, T> {
    shown: Vec<&'a T>,
    others: Vec<&'a T>,
}

impl<'a, T> Cut<'a, T> {
    /// Keeps the `limit` entries with the lowest `rank`, in the order of their ranks. Keeps the
    /// list as it is if it is short enough.
    fn new<K: Ord>(all: bool, list: &'a [T], limit: usize, rank: impl Fn(&T) -> K) -> Self {
        let mut shown: Vec<&T> = list.iter().collect();
        let mut others = Vec::new();
        if !all && shown.len() > limit {
            shown.sort_by_key(|entry| rank(entry));
            others = shown.split_off(limit);
        }
        Self { shown, others }
    }
}

impl fmt::Display for EndShown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name} ({})", self.address),
            None => self.address.fmt(f),
        }
    }
}

impl fmt::Display for Answer {
    #[expect(
        clippy::too_many_lines,
        reason = "an answer's parts in the order they are printed"
    )]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            source,
            destination,
            port,
            verdicts,
            ..
        } = self;
        let all = f.alternate();
        write!(f, "{source} -> {destination} {port}: ")?;
        let of = |told| verdicts.iter().filter(|verdict| verdict.verdict == told).count();
        match self.outcome {
            Outcome::Allowed => f.write_str("allowed\n")?,
            Outcome::Denied => f.write_str("denied\n")?,
            Outcome::Partly => {
                writeln!(
                    f,
                    "partly: {} of {} are allowed",
                    of(Told::Allowed),
                    verdicts.len()
                )?;
            }
            Outcome::CannotTell if verdicts.len() == 1 => f.write_str("cannot tell\n")?,
            Outcome::CannotTell => writeln!(
                f,
                "cannot tell: of {}, {} are allowed, {} are denied, of {} it is not known",
                verdicts.len(),
                of(Told::Allowed),
                of(Told::Denied),
                of(Told::CannotTell)
            )?,
        }
        // One of each kind first: what is unknown, what is denied and why, what is allowed.
        let mut seen = BTreeMap::new();
        let nth: Vec<usize> = verdicts
            .iter()
            .map(|verdict| {
                let kind = (
                    word_of(verdict),
                    verdict.egress.text.as_str(),
                    verdict.ingress.text.as_str(),
                );
                let count: &mut usize = seen.entry(kind).or_default();
                *count += 1;
                *count
            })
            .collect();
        let ranked: Vec<(usize, &Verdict)> = nth.into_iter().zip(verdicts).collect();
        let cut = Cut::new(all, &ranked, VERDICTS, |(nth, verdict)| {
            (*nth, std::cmp::Reverse(verdict.verdict as u8))
        });
        for (index, (_, verdict)) in cut.shown.iter().enumerate() {
            f.write_str("\n")?;
            verdict.write(f, all, index == 0)?;
        }
        if !cut.others.is_empty() {
            let of = |told| {
                cut.others
                    .iter()
                    .filter(|(_, verdict)| verdict.verdict == told)
                    .count()
            };
            writeln!(
                f,
                "\n{} more verdicts (--all shows them): {} allowed, {} denied, {} not known",
                cut.others.len(),
                of(Told::Allowed),
                of(Told::Denied),
                of(Told::CannotTell)
            )?;
        }
        let cut = Cut::new(all, &self.notes, NOTES, |_| ());
        for note in &cut.shown {
            write!(f, "\nnote: {note}\n")?;
        }
        more(f, "", cut.others.len(), "notes")?;
        if !self.diagnostics.is_empty() {
            f.write_str("\nWrong with the objects involved:\n")?;
        }
        let cut = Cut::new(all, &self.diagnostics, NOTES, |_| ());
        for found in &cut.shown {
            write!(f, "  {}: {}", found.code, found.object)?;
            if !found.field.is_empty() {
                write!(f, ": {}", found.field)?;
            }
            writeln!(f, ": {}", found.message)?;
        }
        more(f, "  ", cut.others.len(), "diagnostics")
    }
}

fn word_of(verdict: &Verdict) -> &'static str {
    verdict.verdict.word()
}

fn more(f: &mut fmt::Formatter<'_>, indent: &str, count: usize, what: &str) -> fmt::Result {
    match count {
        0 => Ok(()),
        _ => writeln!(f, "{indent}{count} more {what} (--all shows them)"),
    }
}

impl Verdict {
    fn write(&self, f: &mut fmt::Formatter<'_>, all: bool, first: bool) -> fmt::Result {
        let Self {
            source, destination, ..
        } = self;
        writeln!(
            f,
            "{}: {source} -> {}{destination} {}: {}",
            self.family,
            self.frontend
                .map_or_else(String::new, |address| format!("{address} -> ")),
            self.port,
            word_of(self)
        )?;
        let sides = [
            ("egress", "source", source, &self.egress),
            ("ingress", "destination", destination, &self.ingress),
        ];
        for (direction, role, end, side) in sides {
            let name = end.name.as_deref().unwrap_or(role);
            writeln!(
                f,
                "  {direction} of {name}: {}: {}",
                side.verdict.word(),
                side.text
            )?;
            write_isolating(f, direction, side, all, first)?;
        }
        Ok(())
    }
}

/// Returns how far a policy is from allowing the packet: the number of things that its nearest rule
/// lacks.
fn distance(policy: &PolicyShown) -> usize {
    let rules = policy.rules.iter().map(|rule| rule.missing.len());
    rules.min().unwrap_or(usize::MAX)
}

fn write_isolating(
    f: &mut fmt::Formatter<'_>,
    direction: &str,
    side: &SideShown,
    all: bool,
    first: bool,
) -> fmt::Result {
    let limit = if first { POLICIES } else { 1 };
    let policies = Cut::new(all, &side.isolating, limit, distance);
    for (index, policy) in policies.shown.iter().enumerate() {
        let (most_rules, most_missing) = if first && index == 0 { IN_FULL } else { IN_SHORT };
        writeln!(f, "    NetworkPolicy {}", policy.policy)?;
        if policy.rules.is_empty() {
            writeln!(f, "      it has no {direction} rules, so it allows nothing")?;
        }
        let rules = Cut::new(all, &policy.rules, most_rules, |rule| rule.missing.len());
        for rule in &rules.shown {
            writeln!(f, "      {}", rule.field)?;
            // Ports come last, because they concern every peer.
            let missing = Cut::new(all, &rule.missing, most_missing, |missing| {
                missing.field != "ports"
            });
            for missing in &missing.shown {
                writeln!(
                    f,
                    "        {}: {}",
                    missing.field,
                    cut_text(&missing.message, all)
                )?;
            }
            more(f, "        ", missing.others.len(), "things that do not match")?;
        }
        more(f, "      ", rules.others.len(), "rules that do not match")?;
    }
    more(
        f,
        "    ",
        policies.others.len(),
        "policies isolate it, and match less",
    )
}

/// Cuts a message to a readable length.
fn cut_text(message: &str, all: bool) -> String {
    const LENGTH: usize = 300;
    match message.char_indices().nth(LENGTH) {
        Some((end, _)) if !all => format!("{}...", &message[..end]),
        _ => message.to_owned(),
    }
}
