// SPDX-License-Identifier: Apache-2.0
//! The agent as a service on a node: stopped at any moment, short of descriptors, asked by
//! malicious clients, or asked while it is busy.

#[path = "operations/descriptors.rs"]
mod descriptors;
#[path = "operations/health.rs"]
mod health;
#[path = "operations/late.rs"]
mod late;
#[path = "operations/metrics.rs"]
mod metrics;
#[path = "operations/pins.rs"]
mod pins;
#[path = "operations/shared.rs"]
mod shared;
#[path = "operations/status.rs"]
mod status;
#[path = "operations/stop.rs"]
mod stop;
#[path = "operations/sysdump.rs"]
mod sysdump;
#[path = "operations/verify.rs"]
mod verify;
