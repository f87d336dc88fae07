// SPDX-License-Identifier: Apache-2.0
//! Test harness.

pub mod cases;
mod expectation;
pub mod lookup;
pub mod objects;
pub mod random;
