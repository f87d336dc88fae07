// SPDX-License-Identifier: Apache-2.0
//! Code that the kernel programs and the agent share: the layout of every map ([`abi`]), header
//! parsing over bytes ([`parse`]), and the verdict over a trait of lookups ([`decide`]).
//!
//! It uses no heap, never panics and does no I/O, so the same code runs in the kernel, in unit and
//! property tests, and under a fuzzer.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod abi;
pub mod checksum;
pub mod decide;
pub mod flow;
pub mod parse;
pub mod quota;
pub mod tag;
