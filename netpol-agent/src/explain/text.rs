// SPDX-License-Identifier: Apache-2.0
//! The answer for people.

use std::fmt;

use super::{Answer, EndShown, Outcome, SideShown, Verdict};

fn word(allowed: bool) -> &'static str {
    if allowed { "allowed" } else { "denied" }
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
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            source,
            destination,
            port,
            ..
        } = self;
        write!(f, "{source} -> {destination} {port}: ")?;
        let allowed = self.verdicts.iter().filter(|verdict| verdict.allowed).count();
        match self.outcome {
            Outcome::Allowed => f.write_str("allowed\n")?,
            Outcome::Denied => f.write_str("denied\n")?,
            Outcome::Partly => writeln!(f, "partly: {allowed} of {} are allowed", self.verdicts.len())?,
        }
        for verdict in &self.verdicts {
            write!(f, "\n{verdict}")?;
        }
        for note in &self.notes {
            write!(f, "\nnote: {note}\n")?;
        }
        if !self.diagnostics.is_empty() {
            f.write_str("\nWrong with the objects involved:\n")?;
        }
        for found in &self.diagnostics {
            write!(f, "  {}: {}", found.code, found.object)?;
            if !found.field.is_empty() {
                write!(f, ": {}", found.field)?;
            }
            writeln!(f, ": {}", found.message)?;
        }
        Ok(())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            source, destination, ..
        } = self;
        let verdict = word(self.allowed);
        writeln!(
            f,
            "{}: {source} -> {}{destination} {}: {verdict}",
            self.family,
            self.frontend
                .map_or_else(String::new, |address| format!("{address} -> ")),
            self.port
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
                word(side.allowed),
                side.text
            )?;
            write_isolating(f, direction, side)?;
        }
        Ok(())
    }
}

fn write_isolating(f: &mut fmt::Formatter<'_>, direction: &str, side: &SideShown) -> fmt::Result {
    for policy in &side.isolating {
        writeln!(f, "    NetworkPolicy {}", policy.policy)?;
        if policy.rules.is_empty() {
            writeln!(f, "      it has no {direction} rules, so it allows nothing")?;
        }
        for rule in &policy.rules {
            writeln!(f, "      {}", rule.field)?;
            for missing in &rule.missing {
                writeln!(f, "        {}: {}", missing.field, missing.message)?;
            }
        }
    }
    Ok(())
}
