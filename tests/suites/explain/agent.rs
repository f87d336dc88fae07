// SPDX-License-Identifier: Apache-2.0
//! Tests a running agent that answers on its socket.

use std::fs;

use netpol_tests::{
    lab::{DENY_ALL, Lab},
    privilege::can_enforce,
};
use serde_json::Value;

use crate::shared::{netpol, stderr, stdout};

#[test]
fn a_running_agent_answers_on_its_socket() {
    if !can_enforce("explain") {
        return;
    }
    let pods = [("shop/a", "app: a"), ("shop/b", "app: b"), ("other/c", "app: c")];
    let mut lab = Lab::new(&pods, &[("deny.yaml", DENY_ALL)]).unwrap();
    let socket = lab.agent.socket().to_owned();
    let ask = |from: &str, to: &str| {
        let output = netpol(&[
            "explain",
            "--socket",
            socket.to_str().unwrap(),
            "-o",
            "json",
            from,
            to,
            "80/TCP",
        ]);
        (output.status.code(), stdout(&output) + &stderr(&output))
    };
    let (code, text) = ask("other/c", "shop/a");
    assert_eq!(code, Some(1), "{text}");
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        answer["verdicts"][0]["ingress"]["isolating"][0]["policy"],
        "shop/deny-all"
    );
    let node = lab.site("node").unwrap();
    for address in &node.addresses {
        let (code, text) = ask(&address.to_string(), "shop/a");
        assert_eq!(code, Some(0), "A2: the node is known without being named: {text}");
    }
    let (code, text) = ask("shop/none", "shop/a");
    assert_eq!(code, Some(2));
    assert!(text.contains("there is no pod or Service shop/none"), "{text}");

    let revision = lab.agent.revision();
    lab.manifests.remove("deny.yaml").unwrap();
    lab.agent.wait_for_revision_after(revision).unwrap();
    assert_eq!(
        ask("other/c", "shop/a").0,
        Some(0),
        "the answer follows the objects"
    );

    lab.agent.kill().unwrap();
    assert!(socket.exists(), "a crash leaves the socket");
    assert_eq!(ask("other/c", "shop/a").0, Some(2));
    lab.agent.restart().unwrap();
    assert_eq!(ask("other/c", "shop/a").0, Some(0), "a stale socket is replaced");
    lab.agent.stop().unwrap();
    assert!(!socket.exists(), "an agent that stops takes its socket away");
    fs::write(&socket, "no socket").unwrap();
    lab.agent.restart().unwrap();
    lab.agent
        .wait_for_line(0, "netpol explain cannot ask this agent")
        .unwrap();
    assert_eq!(
        fs::read_to_string(&socket).unwrap(),
        "no socket",
        "it is left alone"
    );
    fs::remove_file(&socket).unwrap();
}
