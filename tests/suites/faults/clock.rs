// SPDX-License-Identifier: Apache-2.0
//! The node's clock jumps, as where it is wrong until the network is up. Only the agent's clock
//! does here: libfaketime tells it another time of day.

use std::{fs, path::Path};

use netpol_tests::probe::Outcome::Silent;
use tempfile::TempDir;

use super::answers::{ACCOUNT, NAMESPACE, World, policy};

/// As Debian has it.
const LIBRARY: &str = "/usr/$LIB/faketime/libfaketimeMT.so.1";

/// Moves the clock of all who read that file.
fn set_clock(file: &Path, days: u32) {
    fs::write(file, format!("+{days}d\n")).unwrap();
}

/// The server's certificate has ended by the agent's clock. Later its token is another, and would
/// be read again in ten years.
#[test]
fn b3_a_clock_that_jumps_changes_nothing_and_is_no_reason_to_keep_an_old_token() {
    let Some(mut world) = World::new() else { return };
    let token = world.read_token_from_file();
    let folder = TempDir::new().unwrap();
    let clock = folder.path().join("clock");
    set_clock(&clock, 100);
    world.agent.set_environment("LD_PRELOAD", LIBRARY);
    world.agent.set_environment("FAKETIME_TIMESTAMP_FILE", &clock);
    world.agent.set_environment("FAKETIME_NO_CACHE", "1");
    world.agent.set_environment("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    world.agent.restart().unwrap();
    world.only("b");

    set_clock(&clock, 3650);
    world.end_token();
    world.wait_until_told("certificate");
    world.only("b");

    set_clock(&clock, 0);
    world.wait_until_told("Unauthorized");
    world.only("b");
    let api = &world.cluster.api;
    api.apply(&policy("nobody")).unwrap();
    fs::write(&token, api.token(NAMESPACE, ACCOUNT).unwrap()).unwrap();
    world.cluster.becomes("shop/b", "shop/a", &Silent);
    world.wait_until_told("[+]source-readable ok");
    world.only("nobody");
}
