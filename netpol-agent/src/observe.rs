// SPDX-License-Identifier: Apache-2.0
//! What people and monitoring see: events of dropped packets, metrics, health.

pub mod events;
pub mod http;
pub mod metrics;
pub mod program_log;
pub mod status;
