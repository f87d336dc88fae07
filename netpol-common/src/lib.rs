// SPDX-License-Identifier: Apache-2.0
//! Shared between kernel and agent.
#![no_std]
