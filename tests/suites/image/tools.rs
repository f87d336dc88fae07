// SPDX-License-Identifier: Apache-2.0
//! `netpol verify` and `netpol sysdump` as docs/operations.md runs them: on the node, out of the
//! agent's container.

use std::process::{Command, Output};

use netpol_tests::agent::inside;

use super::shared::World;

#[test]
fn the_tools_run_on_the_node_out_of_the_container() {
    let Some(world) = World::new() else { return };
    let container = world.start();
    container.wait_for_line("revision applied").unwrap();
    let root = format!("/proc/{}/root", container.pid().unwrap());
    let run = |arguments: &[&str]| -> (Output, String) {
        let mut command = Command::new(format!("{root}/netpol"));
        command.args(arguments);
        command.args(["--socket", &format!("{root}/run/netpol/agent.sock")]);
        let output = inside(&mut command, world.cluster.node.netns()).output().unwrap();
        let told = [&output.stdout, &output.stderr].map(|part| String::from_utf8_lossy(part).into_owned());
        (output, told.concat())
    };
    let (output, told) = run(&["verify"]);
    assert!(output.status.success() && told.ends_with("enforces\n"), "{told}");
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("a.tar.gz");
    let pins = format!("{root}/sys/fs/bpf/netpol");
    let (output, told) = run(&[
        "sysdump",
        "--output",
        archive.to_str().unwrap(),
        "--pin-path",
        &pins,
    ]);
    assert!(output.status.success() && archive.exists(), "{told}");
    for file in ["status.json", "bpf/programs.txt", "bpf/links.txt", "bpf/maps/"] {
        assert!(!told.contains(&format!("not collected: {file}")), "{told}");
    }
}
