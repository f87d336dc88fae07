// SPDX-License-Identifier: Apache-2.0
//! Frames that are unusual or wrong, at the hooks of a pod that is isolated and of one that is not: single ones through the programs
//! (`BPF_PROG_TEST_RUN`), and what a wire carries that they cannot be given so.

#[path = "frames/checksums.rs"]
mod checksums;
#[path = "frames/programs.rs"]
mod programs;
#[path = "frames/wire.rs"]
mod wire;
