// SPDX-License-Identifier: Apache-2.0
//! The datapath's state and attempts to abuse it, with real packets: open connections while
//! policies, labels and pods change, errors about them, fragments, forged sources, and reused
//! addresses and ports.

#[path = "stateful/changes.rs"]
mod changes;
#[path = "stateful/errors.rs"]
mod errors;
#[path = "stateful/fragments.rs"]
mod fragments;
#[path = "stateful/no_loss.rs"]
mod no_loss;
#[path = "stateful/reuse.rs"]
mod reuse;
#[path = "stateful/revocation.rs"]
mod revocation;
#[path = "stateful/shared.rs"]
mod shared;
#[path = "stateful/spoofing.rs"]
mod spoofing;
