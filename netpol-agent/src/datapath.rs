// SPDX-License-Identifier: Apache-2.0
//! datapath.

pub mod object;
