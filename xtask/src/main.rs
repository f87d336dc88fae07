// SPDX-License-Identifier: Apache-2.0
//! Development commands.
fn main() {}
