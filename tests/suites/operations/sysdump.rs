// SPDX-License-Identifier: Apache-2.0
//! `netpol sysdump`: what is in the archive, what never is, and what is there without an agent.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
};

use flate2::read::GzDecoder;
use netpol_tests::{
    agent::inside,
    lab::{DENY_ALL, Lab},
    privilege::{binary, can_enforce},
};
use serde_json::Value;

use super::shared::SUITE;

/// What a kubeconfig or a log might have by mistake.
const TOKEN: &str = "eyJhbGciOiJSUzI1NiIsImtpZCI6IngifQ.eyJzdWIiOiJuZXRwb2wifQ.c2lnbmF0dXJl";

/// Makes an archive, and returns its files by name and what was said.
fn dump(lab: &Lab, to: &Path, log: &Path) -> (BTreeMap<String, String>, String) {
    let mut command = Command::new(binary().unwrap());
    command.arg("sysdump").arg("--output").arg(to);
    command.arg("--log-file").arg(log);
    command.arg("--pin-path").arg(lab.agent.pin_path());
    command.arg("--socket").arg(lab.agent.socket());
    let output = inside(&mut command, lab.node.netns()).output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{told}");
    let mut archive = tar::Archive::new(GzDecoder::new(File::open(to).unwrap()));
    let mut files = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().into_owned();
        let mut parts = path.components();
        let folder = parts.next().unwrap().as_os_str().to_str().unwrap().to_owned();
        assert!(folder.starts_with("netpol-sysdump-"), "{folder}");
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        files.insert(parts.as_path().display().to_string(), text);
    }
    (files, told)
}

#[test]
fn sysdump_has_what_a_bug_report_needs_and_no_token() {
    if !can_enforce(SUITE) {
        return;
    }
    let pods = [("shop/web", "app: web"), ("shop/client", "app: client")];
    let mut lab = Lab::new(&pods, &[("deny.yaml", DENY_ALL)]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("agent.log");
    fs::write(&log, format!("{}\nrefused: Bearer {TOKEN}\n", lab.agent.log())).unwrap();
    let to = folder.path().join("first.tar.gz");
    let (files, told) = dump(&lab, &to, &log);
    assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o600);
    let status: Value = serde_json::from_str(&files["status.json"]).unwrap();
    assert_eq!(status["pods"].as_array().unwrap().len(), 2);
    assert!(
        files["status.txt"].contains("shop/web"),
        "{}",
        files["status.txt"]
    );
    let entries = |files: &BTreeMap<String, String>, map: &str| {
        let text = &files[&format!("bpf/maps/{map}.txt")];
        text.lines().filter(|line| !line.starts_with('#')).count()
    };
    assert_eq!(entries(&files, "endpoints"), 2);
    assert_eq!(entries(&files, "config"), 1);
    assert!(entries(&files, "addresses") + entries(&files, "identities") > 0);
    assert!(
        files["bpf/programs.txt"].contains("name to_pod "),
        "{}",
        files["bpf/programs.txt"]
    );
    assert!(files["bpf/pins.txt"].contains("/endpoints\n"));
    let veth = lab.node.veth("shop/web").unwrap();
    for file in ["network/devices.txt", "network/link.txt", "network/qdisc.txt"] {
        assert!(files[file].contains(veth), "{file}: {}", files[file]);
    }
    let logged = format!("logs{}", log.display());
    assert!(files[&logged].contains("revision applied"));
    assert!(
        files[&logged].ends_with("refused: Bearer [removed]\n"),
        "{}",
        files[&logged]
    );
    let mounts = &files["node/mounts.txt"];
    let of_bpf = mounts.lines().all(|line| line.contains(" - bpf "));
    assert!(of_bpf && !mounts.is_empty(), "{mounts}");
    for (name, text) in &files {
        assert!(!text.contains(TOKEN), "{name}");
        assert!(
            name == "CONTENTS.txt" || files["CONTENTS.txt"].contains(name),
            "{name}"
        );
    }
    assert!(
        told.contains(&format!("{} files in {}", files.len(), to.display())),
        "{told}"
    );

    // Without an agent, and without its log, the rest is still there.
    lab.agent.stop().unwrap();
    let nothing = folder.path().join("no.log");
    let (files, told) = dump(&lab, &folder.path().join("second.tar.gz"), &nothing);
    assert!(!files.contains_key("status.json"));
    assert_eq!(entries(&files, "endpoints"), 2);
    for text in [&told, &files["CONTENTS.txt"]] {
        assert!(
            text.contains("status.json") && text.contains("does an agent run here?"),
            "{text}"
        );
        assert!(text.contains("no.log: No such file or directory"), "{text}");
    }

    // What is there is not written over.
    let mut command = Command::new(binary().unwrap());
    let again = command.arg("sysdump").arg("-o").arg(&to).output().unwrap();
    assert_eq!(again.status.code(), Some(2));
    let told = String::from_utf8_lossy(&again.stderr);
    assert!(told.contains("first.tar.gz (--output): File exists"), "{told}");
}
