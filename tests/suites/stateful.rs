// SPDX-License-Identifier: Apache-2.0
//! What the datapath remembers, and who tries to fool it, with real packets: connections that are open while policies, labels and pods
//! change, errors about them, fragments, forged sources, addresses and ports that are used again.

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
