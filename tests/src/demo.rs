// SPDX-License-Identifier: Apache-2.0
//! The demo: a node with the pods of a folder of manifests, the agent on it as in production, and the matrix of who reaches whom,
//! before and after each policy, from real connections. Each cell is held against the reference evaluator.

mod changes;
mod kept;
mod matrix;
mod scene;
mod stage;
mod story;

pub use kept::{clean, serve, show};
pub use story::{Options, on_signals, run};
