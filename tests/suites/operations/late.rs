// SPDX-License-Identifier: Apache-2.0
//! What an agent reports while a change is on its way to the kernel, and about objects over budget
//! (rule L2).

use std::time::Instant;

use netpol_tests::{
    agent::DEADLINE,
    lab::{DENY_ALL, Lab},
    privilege::can_enforce,
};
use serde_json::{Value, json};

use super::shared::{LISTEN, SUITE, ask};

const PODS: [(&str, &str); 1] = [("shop/web", "app: web")];
/// Pods of other nodes, each with its own label: as many classes, prefixes and entries.
const MANY: usize = 4000;
/// Selectors of such labels, each with a port.
const SELECTORS: usize = 500;

/// Makes a laboratory whose agent serves metrics and health.
fn lab() -> Lab {
    let mut lab = Lab::new(&PODS, &[("deny.yaml", DENY_ALL)]).unwrap();
    lab.agent.stop().unwrap();
    lab.agent.set_argument("--listen", LISTEN);
    lab
}

/// Makes a list of objects that takes a while to compile and to write.
fn many() -> String {
    let pods = (0..MANY).map(|number| {
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "namespace": "shop",
                "name": format!("far-{number}"),
                "labels": {"number": number.to_string()},
            },
            "spec": {"nodeName": "elsewhere", "containers": []},
            "status": {"podIPs": [{"ip": format!("10.200.{}.{}", number / 250, number % 250 + 1)}]},
        })
    });
    let peers: Vec<Value> = (0..SELECTORS)
        .map(|number| json!({"podSelector": {"matchLabels": {"number": number.to_string()}}}))
        .collect();
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": "shop", "name": "many"},
        "spec": {"podSelector": {}, "ingress": [{"from": peers, "ports": [{"port": 8080}]}]},
    });
    let items: Vec<Value> = pods.chain([policy]).collect();
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

/// Returns a metric's value.
fn value(metrics: &str, name: &str) -> f64 {
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("{name} in\n{metrics}"))
        .parse()
        .unwrap()
}

#[test]
fn l2_a_change_that_is_not_enforced_yet_shows_while_the_agent_is_busy_with_it() {
    if !can_enforce(SUITE) {
        return;
    }
    let mut lab = lab();
    lab.agent.restart().unwrap();
    let before = lab.agent.revision();
    let metrics = || {
        let text = ask(lab.node.netns(), "/metrics").unwrap();
        let value = |name| value(&text, name);
        (
            value("netpol_revision") as u64,
            value("netpol_revision_known") as u64,
            value("netpol_change_waiting_seconds"),
        )
    };
    assert_eq!(metrics(), (before, before, 0.0));
    lab.manifests.write("many.json", &many()).unwrap();
    let until = Instant::now() + DEADLINE;
    let mut longest: f64 = 0.0;
    loop {
        let (enforced, known, waiting) = metrics();
        if enforced > before {
            break;
        }
        if known > before {
            assert!(waiting > 0.0, "revision {known} is known and not enforced");
            longest = longest.max(waiting);
        }
        assert!(Instant::now() < until, "{}", lab.agent.log());
    }
    let applied = lab.agent.wait_for_revision_after(before).unwrap();
    assert_eq!(metrics(), (applied, applied, 0.0));
    assert!(longest > 0.0, "nothing was seen of it");
}

#[test]
fn b1_the_first_turn_is_not_told_as_waiting_for_lists() {
    if !can_enforce(SUITE) {
        return;
    }
    let mut lab = lab();
    lab.manifests.write("many.json", &many()).unwrap();
    lab.agent.relaunch().unwrap();
    lab.agent.wait_for_line(0, "manifest folder read").unwrap();
    lab.agent.wait_for_line(0, "serving metrics and health").unwrap();
    let until = Instant::now() + DEADLINE;
    let mut said = std::collections::BTreeSet::new();
    loop {
        let answer = ask(lab.node.netns(), "/readyz").unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        if head.starts_with("HTTP/1.1 200 ") {
            assert_eq!(body, "enforcing revision 1\n");
            break;
        }
        assert!(head.starts_with("HTTP/1.1 503 "), "{answer}");
        said.insert(body.to_owned());
        assert!(Instant::now() < until, "{}", lab.agent.log());
    }
    assert!(
        said.contains("waiting for revision 1: being compiled\n"),
        "{said:?}"
    );
    let lists = said.iter().find(|body| body.contains("list of objects"));
    assert_eq!(lists, None, "{said:?}");
}

#[test]
fn l2_a_policy_over_budget_is_named_by_readiness_and_leaves_the_agent_ready() {
    if !can_enforce(SUITE) {
        return;
    }
    let mut lab = lab();
    lab.agent.restart().unwrap();
    let ready = || ask(lab.node.netns(), "/readyz?verbose").unwrap();
    assert!(ready().contains("[+]within-budget ok\n"), "{}", ready());
    let peers: Vec<Value> = (0..300)
        .map(|number| json!({"podSelector": {"matchLabels": {"number": number.to_string()}}}))
        .collect();
    let ports: Vec<Value> = (0..300).map(|port| json!({"port": 2 * port + 1})).collect();
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": "shop", "name": "dear"},
        "spec": {"podSelector": {}, "ingress": [{"from": peers, "ports": ports}]},
    });
    let before = lab.agent.revision();
    lab.manifests.write("dear.json", &policy.to_string()).unwrap();
    lab.agent.wait_for_revision_after(before).unwrap();
    let answer = ready();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(
        answer.contains(
            "[-]within-budget failed: NetworkPolicy shop/dear is over budget: it comes to 90000 pairs"
        ),
        "{answer}"
    );
    let before = lab.agent.revision();
    lab.manifests.remove("dear.json").unwrap();
    lab.agent.wait_for_revision_after(before).unwrap();
    assert!(ready().contains("[+]within-budget ok\n"), "{}", ready());
}
