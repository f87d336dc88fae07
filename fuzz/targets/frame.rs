// SPDX-License-Identifier: Apache-2.0
//! Any bytes as a frame, through the header parser.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    netpol_tests::fuzz::entry::frame(bytes);
});
