// SPDX-License-Identifier: Apache-2.0
//! Runs the binary as people do.

use std::process::{Command, Output};

use netpol_tests::privilege::binary;
use serde_json::Value;

/// Runs the binary.
pub fn netpol(arguments: &[&str]) -> Output {
    let program = binary().expect("no netpol: set NETPOL_BIN, or build it beside this program");
    Command::new(program)
        .args(arguments)
        .env_remove("NETPOL_LOG")
        .output()
        .unwrap()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

pub fn json(output: &Output) -> Value {
    let text = stdout(output);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{}", stderr(output)))
}
