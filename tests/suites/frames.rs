// SPDX-License-Identifier: Apache-2.0
//! Unusual and malformed frames at the hooks of an isolated and of a non-isolated pod. Single
//! frames run through the programs (`BPF_PROG_TEST_RUN`); the others need a wire.

#[path = "frames/checksums.rs"]
mod checksums;
#[path = "frames/programs.rs"]
mod programs;
#[path = "frames/wire.rs"]
mod wire;
