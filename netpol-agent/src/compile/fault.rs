// SPDX-License-Identifier: Apache-2.0
//! What is wrong with a part of an object, before it is known where the part stands.

use std::{collections::BTreeMap, net::IpAddr};

use crate::{
    model::{Diagnostic, ObjectKey, Set},
    watch::findings::bounded,
};

/// A finding on a part of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// Stable code of the diagnostic.
    pub(super) code: &'static str,
    /// Path of the field below the part, with its leading dot; empty for the part itself.
    pub(super) field: String,
    /// What is wrong, and what enforcement makes of it.
    pub(super) message: String,
}

impl Fault {
    /// A finding on `field`, a path below the part.
    pub(super) fn new(code: &'static str, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code,
            field: field.into(),
            message: message.into(),
        }
    }

    /// The same finding seen from one level up: `prefix` goes before the field.
    pub(super) fn below(mut self, prefix: &str) -> Self {
        self.field.insert_str(0, prefix);
        self
    }
}

/// What a finding is about, and is taken back with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// A policy for itself.
    Policy(ObjectKey),
    /// A policy over budget (rule L2).
    Budget(ObjectKey),
    /// A pod whose policies are over budget (rule L2).
    Room(ObjectKey),
    /// A Service over budget (rule L2).
    ServiceBudget(ObjectKey),
    /// A Service with too many backends that not all may reach (rule L2).
    Guards(ObjectKey),
    /// What the named ports of a policy in force come to.
    NamedPorts(ObjectKey),
    /// An address.
    Address(IpAddr),
    /// A Service that is reached where others are.
    Conflicts(ObjectKey),
    /// What a namespace lets its pods send and receive for.
    Forwards(String),
    /// A Service that claims what a pod or a node has.
    Refused(ObjectKey),
}

/// The diagnostics, without repetition.
#[derive(Debug, Default)]
pub(super) struct Findings {
    of: BTreeMap<Place, Vec<Diagnostic>>,
    /// How often each was found.
    count: BTreeMap<Diagnostic, usize>,
    all: Set<Diagnostic>,
}

/// A finding on the object of this kind and key.
pub(super) fn diagnostic(kind: &str, key: &ObjectKey, fault: Fault) -> Diagnostic {
    Diagnostic {
        code: fault.code,
        object: format!("{kind} {key}"),
        field: fault.field,
        message: fault.message,
    }
}

impl Findings {
    /// Says what is wrong with a place, instead of what was said before.
    pub(super) fn tell(&mut self, place: Place, found: Vec<Diagnostic>) {
        let found = bounded(found);
        if self.of.get(&place).map_or(&[][..], Vec::as_slice) == found {
            return;
        }
        found.iter().for_each(|diagnostic| self.add(diagnostic));
        let before = if found.is_empty() {
            self.of.remove(&place)
        } else {
            self.of.insert(place, found)
        };
        before
            .iter()
            .flatten()
            .for_each(|diagnostic| self.take(diagnostic));
    }

    /// Takes what the source found, instead of what it found before.
    pub(super) fn reported(&mut self, before: &Set<Diagnostic>, now: &Set<Diagnostic>) {
        for (diagnostic, _, found) in before.diff(now) {
            match found {
                Some(()) => self.add(diagnostic),
                None => self.take(diagnostic),
            }
        }
    }

    /// All of them.
    pub(super) fn all(&self) -> Set<Diagnostic> {
        self.all.clone()
    }

    fn add(&mut self, diagnostic: &Diagnostic) {
        let count = self.count.entry(diagnostic.clone()).or_default();
        *count += 1;
        if *count == 1 {
            self.all.insert(diagnostic.clone(), ());
        }
    }

    fn take(&mut self, diagnostic: &Diagnostic) {
        if let Some(count) = self.count.get_mut(diagnostic) {
            *count -= 1;
            if *count == 0 {
                self.count.remove(diagnostic);
                self.all.remove(diagnostic);
            }
        }
    }
}
