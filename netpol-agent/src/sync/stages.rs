// SPDX-License-Identifier: Apache-2.0
//! The stages of a plan. A program makes several lookups for one packet: the endpoint, then the
//! class of the address, then the policy's entry. The agent may write between any two of them.
//! Nothing that an earlier lookup led to may be taken away before the program has ended (rule B4).
//! So between two stages the agent waits for all programs that began before.

use std::collections::BTreeMap;

use super::Write;

/// A stage of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Endpoints leave policy numbers that will say different things of them.
    Separate,
    /// All endpoints get their policies.
    Enforce,
    /// What only the old endpoints needed is removed.
    Remove,
    /// What only the removed addresses needed is removed.
    Sweep,
}

/// The writes of each stage, in order. A stage without writes is absent.
pub type Stages = BTreeMap<Stage, Vec<Write>>;
