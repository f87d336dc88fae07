// SPDX-License-Identifier: Apache-2.0
//! The demo prints what README shows.

use std::process::Command;

use netpol_tests::{
    privilege::{BINARY, binary, can_enforce},
    shown::Shown,
};

#[test]
fn readme_shows_what_the_demo_prints() {
    if !can_enforce("demo") {
        return;
    }
    let output = Command::new(env!("CARGO_BIN_EXE_netpol-demo"))
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .env(BINARY, binary().unwrap())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    let shown: Vec<Shown> = Shown::all("README.md")
        .unwrap()
        .into_iter()
        .filter(|shown| {
            shown
                .output
                .first()
                .is_some_and(|line| line.starts_with("netpol demo:"))
        })
        .collect();
    assert_eq!(shown.len(), 1);
    shown[0].check(&text).unwrap();
}
