// SPDX-License-Identifier: Apache-2.0
//! x
#[test]
fn x() {}
