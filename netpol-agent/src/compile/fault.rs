// SPDX-License-Identifier: Apache-2.0
//! What is wrong with a part of an object, before it is known where the part stands.

use std::{collections::BTreeMap, net::IpAddr};

use crate::model::{Diagnostic, ObjectKey, Set, findings::bounded};

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

/// What a finding is about: the next findings on it replace those before.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Topic {
    /// The fields of a policy.
    Policy(ObjectKey),
    /// A policy over budget (rule L2).
    PolicyBudget(ObjectKey),
    /// A pod whose policies have too many entries (rule L2).
    EntryBudget(ObjectKey),
    /// A Service over budget (rule L2).
    ServiceBudget(ObjectKey),
    /// A Service with too many restricted backends (rule L2).
    RestrictedBackends(ObjectKey),
    /// The named ports of an active policy.
    NamedPorts(ObjectKey),
    /// An address.
    Address(IpAddr),
    /// A Service that shares frontends with others.
    Conflicts(ObjectKey),
    /// The forwarded ranges of a namespace.
    Forwards(String),
    /// A Service at an address of a pod or a node.
    Refused(ObjectKey),
}

/// The diagnostics, without repetition.
#[derive(Debug, Default)]
pub(super) struct Findings {
    of: BTreeMap<Topic, Vec<Diagnostic>>,
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
    /// Reports what is wrong with a topic, in the place of what was reported before.
    pub(super) fn report(&mut self, topic: Topic, found: Vec<Diagnostic>) {
        let found = bounded(found);
        if self.of.get(&topic).map_or(&[][..], Vec::as_slice) == found {
            return;
        }
        found.iter().for_each(|diagnostic| self.add(diagnostic));
        let before = if found.is_empty() {
            self.of.remove(&topic)
        } else {
            self.of.insert(topic, found)
        };
        before
            .iter()
            .flatten()
            .for_each(|diagnostic| self.take(diagnostic));
    }

    /// Takes what the source of the objects found, in the place of what it found before.
    pub(super) fn update_source(&mut self, before: &Set<Diagnostic>, now: &Set<Diagnostic>) {
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
