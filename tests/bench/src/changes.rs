// SPDX-License-Identifier: Apache-2.0
//! From change to kernel: how long the agent takes from an event, and from the request to the API
//! server, to the last write, by cluster size.

pub mod changed;
pub mod crowd;
pub mod lists;
mod moves;
mod stage;
mod stream;

pub use crowd::{Crowd, LOCAL};
pub use moves::{Effort, Mover, Sample, Timed};
pub use stage::{Stage, Started};

/// Name of the measured node.
pub const NODE: &str = "node-a";
