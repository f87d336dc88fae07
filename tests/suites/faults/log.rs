// SPDX-License-Identifier: Apache-2.0
//! The disk of the agent's log is full, or its reader has stopped.

use std::{
    fs::OpenOptions,
    io::{self, ErrorKind, PipeReader, PipeWriter, Write as _},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use netpol_tests::{
    lab::{Lab, SERVICES},
    privilege::{binary, can_enforce},
    probe::{
        Outcome::{self, Reached, Silent},
        PATIENCE,
    },
};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

const SUITE: &str = "faults";
const PODS: [(&str, &str); 2] = [("shop/a", "app: a"), ("shop/b", "app: b")];
const DEADLINE: Duration = Duration::from_secs(30);

/// Only pods with this label reach pod a.
fn policy(app: &str) -> String {
    format!(
        "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{namespace: shop, name: a}}
spec:
  podSelector: {{matchLabels: {{app: a}}}}
  policyTypes: [Ingress]
  ingress: [{{from: [{{podSelector: {{matchLabels: {{app: {app}}}}}}}]}}]
"
    )
}

/// A pipe that takes no byte more.
fn stalled() -> io::Result<(PipeReader, PipeWriter)> {
    let (reader, mut writer) = io::pipe()?;
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    loop {
        match writer.write(&[b'x'; 4096]) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok((reader, writer))
}

#[track_caller]
fn becomes(lab: &Lab, outcome: &Outcome) {
    let probes = lab.probes("shop/b", "shop/a", &SERVICES).unwrap();
    let until = Instant::now() + DEADLINE;
    while lab
        .prober
        .probe_once(&probes, PATIENCE)
        .unwrap()
        .iter()
        .any(|found| found != outcome)
    {
        assert!(Instant::now() < until, "it does not become {outcome:?}");
    }
    lab.expect("shop/b", "shop/a", outcome);
}

#[test]
fn b3_a_log_that_cannot_be_written_holds_nobody_up() {
    if !can_enforce(SUITE) {
        return;
    }
    let mut lab = Lab::new(&PODS, &[("policy.yaml", &policy("b"))]).unwrap();
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let (_unread, stalled) = stalled().unwrap();
    for log in [Stdio::from(full), Stdio::from(stalled)] {
        lab.agent.stop().unwrap();
        lab.manifests.write("policy.yaml", &policy("nobody")).unwrap();
        lab.agent.relaunch_unheard(log).unwrap();
        becomes(&lab, &Silent);
        lab.manifests.write("policy.yaml", &policy("b")).unwrap();
        becomes(&lab, &Reached);
    }
    lab.agent.stop().unwrap();
}

/// A job whose log cannot be written has done its work, and need not come again.
#[test]
fn what_was_done_is_done_though_it_cannot_be_told() {
    if !can_enforce(SUITE) {
        return;
    }
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let ended = Command::new(binary().unwrap())
        .args(["cleanup", "--pin-path", "/sys/fs/bpf/netpol-test-none"])
        .stdout(full)
        .output()
        .unwrap();
    assert!(ended.status.success(), "{ended:?}");
}
