// SPDX-License-Identifier: Apache-2.0
//! netpol.
fn main() {}
