// SPDX-License-Identifier: Apache-2.0
//! The demo: a node with the pods of a folder of manifests, an agent as in production, and the
//! matrix of who reaches whom, from real connections, before and after each policy. Each cell is
//! compared with the reference evaluator.

mod changes;
mod kept;
mod matrix;
mod scene;
mod stage;
mod story;

pub use kept::{clean, serve, show};
pub use story::{Options, on_signals, run};
