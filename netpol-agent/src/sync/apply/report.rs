// SPDX-License-Identifier: Apache-2.0
//! What is told of writes that failed: a line for each kind of write and error, however many they
//! are.

use std::{collections::BTreeSet, error::Error, fmt, io};

use super::super::{Table, Write};
use crate::causes::causes;

/// Writes of one kind that failed with one error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What was attempted first, on what.
    pub write: String,
    /// The error.
    pub error: String,
    /// How many failed.
    pub count: usize,
    /// Their table, and whether they were to put an entry.
    kind: (Table, bool),
}

impl Failure {
    /// Whether both tell of the same trouble.
    pub fn is_like(&self, other: &Self) -> bool {
        (self.kind, &self.error) == (other.kind, &other.error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.write, self.error)?;
        match self.count - 1 {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

/// What became of a plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The snapshot's revision.
    pub revision: u64,
    /// Writes made.
    pub writes: usize,
    /// Writes that failed, by kind and error.
    pub failures: Vec<Failure>,
    /// Writes that were not tried, since they need what failed, or a map was full.
    pub left_out: usize,
    /// Interfaces that did not get all of their new policies: they keep the old ones, or are closed
    /// to what is missing or to all.
    pub held_back: BTreeSet<u32>,
}

impl Report {
    /// The number of writes that failed.
    pub fn failed(&self) -> usize {
        self.failures.iter().map(|failure| failure.count).sum()
    }

    pub(super) fn fail(&mut self, write: &Write, error: &dyn Error) {
        let (kind, error) = ((write.table(), write.is_put()), causes(error));
        let same = |failure: &&mut Failure| failure.kind == kind && failure.error == error;
        match self.failures.iter_mut().find(same) {
            Some(failure) => failure.count += 1,
            None => self.failures.push(Failure {
                write: write.to_string(),
                error,
                count: 1,
                kind,
            }),
        }
    }
}

/// Whether an error says that there is no room.
pub(super) fn is_full(error: &(dyn Error + 'static)) -> bool {
    let errors = std::iter::successors(Some(error), |error| {
        let error: &'_ (dyn Error + 'static) = *error;
        error.source()
    });
    let mut codes = errors.filter_map(|error| error.downcast_ref::<io::Error>()?.raw_os_error());
    codes.any(|code| [libc::E2BIG, libc::ENOSPC, libc::ENOMEM].contains(&code))
}
