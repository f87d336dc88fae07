// SPDX-License-Identifier: Apache-2.0
//! What is wrong with a part of an object, before it is known where the part stands.

use std::collections::BTreeSet;

use crate::model::{Diagnostic, ObjectKey};

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

/// The diagnostics of one compilation, sorted and without repetition.
#[derive(Debug, Default)]
pub(super) struct Findings(BTreeSet<Diagnostic>);

impl Findings {
    /// Adds a finding on the object of this kind and key.
    pub(super) fn add(&mut self, kind: &str, key: &ObjectKey, fault: Fault) {
        self.0.insert(Diagnostic {
            code: fault.code,
            object: format!("{kind} {key}"),
            field: fault.field,
            message: fault.message,
        });
    }

    /// Adds diagnostics that are already complete.
    pub(super) fn extend(&mut self, diagnostics: impl IntoIterator<Item = Diagnostic>) {
        self.0.extend(diagnostics);
    }

    /// All of them, sorted.
    pub(super) fn into_vec(self) -> Vec<Diagnostic> {
        self.0.into_iter().collect()
    }
}
