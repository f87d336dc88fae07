// SPDX-License-Identifier: Apache-2.0
//! What people and monitoring see: events of dropped packets, metrics, health, and answers to `netpol explain`.

pub mod events;
pub mod http;
pub mod metrics;
pub mod program_log;
mod serve;
pub mod socket;
pub mod status;
