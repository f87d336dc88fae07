// SPDX-License-Identifier: Apache-2.0
//! Any bytes as a file of manifests, through the decoder and, if they are read, through the
//! compiler and the evaluator.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    netpol_tests::fuzz::entry::manifest(bytes);
});
