// SPDX-License-Identifier: Apache-2.0
//! The agent as something that runs on a node: stopped at any moment, short of descriptors, asked
//! by those who mean no good.

#[path = "operations/descriptors.rs"]
mod descriptors;
#[path = "operations/pins.rs"]
mod pins;
#[path = "operations/shared.rs"]
mod shared;
#[path = "operations/stop.rs"]
mod stop;
