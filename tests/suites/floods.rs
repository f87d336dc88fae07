// SPDX-License-Identifier: Apache-2.0
//! Floods (rule C4): allowed traffic continues, denied traffic stays out, and unreported drops are
//! counted.

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
