// SPDX-License-Identifier: Apache-2.0
//! One archive for a bug report. What cannot be collected is listed with its error, and the rest is
//! still there. Objects of the cluster are not in it. What looks like a token, a password or a key
//! in a text is taken out.

mod archive;
mod collect;
mod logs;
mod scrub;

pub use archive::write;
pub use collect::{Asked, collect};
pub use scrub::scrub;

/// Something for the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its path in the archive.
    pub path: String,
    /// What it is, in a line.
    pub what: String,
    /// Its text, or why there is none.
    pub text: Result<String, String>,
}
