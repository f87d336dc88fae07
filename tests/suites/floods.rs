// SPDX-License-Identifier: Apache-2.0
//! Floods (rule C4): what is allowed goes on, what is denied stays out, and what could not be told is counted.

#[path = "floods/datagrams.rs"]
mod datagrams;
#[path = "floods/events.rs"]
mod events;
#[path = "floods/fragments.rs"]
mod fragments;
#[path = "floods/shared.rs"]
mod shared;
#[path = "floods/syn.rs"]
mod syn;
