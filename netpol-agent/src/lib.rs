// SPDX-License-Identifier: Apache-2.0
//! The netpol agent, in the order that data flows through it.
//!
//! `watch` (cluster or folder) → `compile` (pure) → `sync` (diff and write) → `datapath` (kernel) →
//! `observe` (events, metrics).

pub mod app;
mod causes;
pub mod cli;
pub mod compile;
pub mod datapath;
pub mod evaluate;
pub mod explain;
pub mod matrix;
pub mod model;
pub mod observe;
pub mod progress;
pub mod records;
pub mod sync;
pub mod sysdump;
pub mod verify;
pub mod watch;
