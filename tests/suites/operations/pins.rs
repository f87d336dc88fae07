// SPDX-License-Identifier: Apache-2.0
//! Only root can read what the agent pins on bpffs.

use std::{
    fs::{self, DirBuilder, Permissions},
    io::{BufRead as _, BufReader},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::Path,
    process::{Command, Stdio},
};

use netpol_common::abi::ABI_VERSION;
use netpol_tests::{
    agent::{Agent, inside},
    privilege::{binary, can_enforce},
};

use super::shared::{SUITE, node};

fn mode(path: &Path) -> u32 {
    fs::metadata(path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .mode()
        & 0o777
}

#[test]
fn pins_of_an_earlier_agent_are_closed_to_others() {
    if !can_enforce(SUITE) {
        return;
    }
    let (node, manifests) = node();
    let folder = std::path::PathBuf::from(format!("/sys/fs/bpf/netpol-test-open-{}", std::process::id()));
    let versioned = folder.join(format!("v{ABI_VERSION}"));
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(&versioned)
        .unwrap();
    for path in [&folder, &versioned] {
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }
    let agent = Agent::start_at(&node, manifests.path(), &folder).unwrap();
    assert_eq!([mode(&folder), mode(&versioned)], [0o700; 2]);
    drop(agent);
}

/// Who may not look whether there is something says so.
#[test]
fn cleanup_by_another_user_does_not_say_that_there_is_nothing() {
    if !can_enforce(SUITE) {
        return;
    }
    let (node, manifests) = node();
    let agent = Agent::start(&node, manifests.path()).unwrap();
    let below = agent.pin_path().join("below");
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    command
        .arg(binary().unwrap())
        .arg("cleanup")
        .arg("--pin-path")
        .arg(&below);
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{output:?}");
    assert!(
        told.contains("it takes root") && told.contains("ermission denied"),
        "{told}"
    );
}

/// Runs without bpffs, in a new mount namespace, as on a node where nobody mounts it.
const ALONE: &str = "umount /sys/fs/bpf; exec \"$@\"";

#[test]
fn a_bpffs_that_the_agent_mounts_is_roots() {
    if !can_enforce(SUITE) {
        return;
    }
    let (node, manifests) = node();
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", ALONE, "sh"])
        .arg(binary().unwrap())
        .args(["agent", "--node-name", "node-a", "--socket", "none", "--source"])
        .arg(manifests.path())
        .stderr(Stdio::piped());
    let mut agent = inside(&mut command, node.netns()).spawn().unwrap();
    let log = BufReader::new(agent.stderr.take().unwrap());
    let mut lines = Vec::new();
    for line in log.lines().map_while(Result::ok) {
        let applied = line.contains("revision applied");
        lines.push(line);
        if applied {
            break;
        }
    }
    let bpffs = Path::new("/proc")
        .join(agent.id().to_string())
        .join("root/sys/fs/bpf");
    let modes = ["", "netpol", &format!("netpol/v{ABI_VERSION}")].map(|name| {
        let path = bpffs.join(name);
        fs::metadata(&path)
            .map(|found| found.mode() & 0o777)
            .map_err(|error| error.to_string())
    });
    agent.kill().unwrap();
    agent.wait().unwrap();
    let lines = lines.join("\n");
    assert!(lines.contains("mounted bpffs"), "{lines}");
    assert_eq!(modes, [Ok(0o700), Ok(0o700), Ok(0o700)], "{lines}");
}
