// SPDX-License-Identifier: Apache-2.0
//! Tests the answers of `explain` about a folder: reasons of denials, and Services.

use serde_json::Value;

use crate::example::{cluster, explain_in};

#[test]
fn denial_says_what_is_missing_per_rule_and_peer() {
    let folder = cluster();
    let (code, text, _) = explain_in(folder.path(), &["shop/web", "data/db", "5432/tcp"]);
    assert_eq!(code, Some(1), "{text}");
    for line in [
        "shop/web -> data/db 5432/TCP: denied",
        "IPv4: shop/web (10.244.0.10) -> data/db (10.244.0.20) 5432/TCP: denied",
        "IPv6: shop/web (fd00::10) -> data/db (fd00::20) 5432/TCP: denied",
        "  egress of shop/web: allowed: no policy isolates it for egress",
        "  ingress of data/db: denied: 2 policies isolate it for ingress, and no rule matches",
        "    NetworkPolicy data/db",
        "      spec.ingress[0]",
        "        from[0].namespaceSelector.matchLabels: namespace `shop` has no label `team`; the rule wants `data`",
        "        from[1]: pod `shop/web` is in another namespace: without a namespaceSelector only pods of namespace `data` match",
        "        from[1].podSelector.matchLabels: label `app` of pod `shop/web` is `web`; the rule wants `api`",
        "        ports: port 5432/TCP is not in ports 80/TCP, 443/TCP",
        "      spec.ingress[1]",
        "        from[0].podSelector.matchLabels: label `app` of pod `shop/web` is `web`; the rule wants `api`",
        "        from[0].ipBlock.cidr: 10.244.0.10 is not in 203.0.113.0/24",
        "        ports: port 5432/TCP is not in ports 15432/TCP",
        "    NetworkPolicy data/isolated",
        "      it has no ingress rules, so it allows nothing",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line:?} is not in\n{text}"
        );
    }
    assert!(
        text.contains(
            "except-outside-cidr: NetworkPolicy data/db: spec.ingress[2].from[1].ipBlock.except[0]: "
        ),
        "{text}"
    );

    let (code, text, _) = explain_in(folder.path(), &["203.0.113.9", "data/db", "80/TCP"]);
    assert_eq!(code, Some(1));
    for part in [
        "203.0.113.9 is in except 203.0.113.0/25",
        "203.0.113.9 is no pod, so no selector matches it",
        "note: the addresses of node a are not known",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    let own = ["203.0.113.9", "data/db", "80/TCP", "--node", "a=203.0.113.9"];
    assert_eq!(
        explain_in(folder.path(), &own).0,
        Some(0),
        "A2: the pod's own node"
    );
    let beside = ["203.0.113.200", "data/db", "icmp"];
    let (code, text, _) = explain_in(folder.path(), &beside);
    assert_eq!(code, Some(0));
    assert!(
        text.contains("allowed by NetworkPolicy data/db, spec.ingress[2]"),
        "{text}"
    );
}

#[expect(
    clippy::too_many_lines,
    reason = "one cluster, asked about each kind of frontend"
)]
#[test]
fn a5_each_backend_of_a_service_has_a_verdict() {
    let folder = cluster();
    let answer = |ends: [&str; 2], port: &str| {
        let (code, text, error) = explain_in(folder.path(), &["-o", "json", ends[0], ends[1], port]);
        let answer: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}{error}"));
        let verdicts = answer["verdicts"].as_array().unwrap();
        let backends: Vec<_> = verdicts
            .iter()
            .map(|verdict| {
                let text = |value: &Value| value.as_str().unwrap().to_owned();
                (
                    text(&verdict["destination"]["name"]),
                    text(&verdict["port"]),
                    verdict["allowed"] == true,
                )
            })
            .collect();
        (
            code.unwrap(),
            answer["outcome"].as_str().unwrap().to_owned(),
            backends,
        )
    };
    let backend = |name: &str, allowed| (format!("data/{name}"), "15432/TCP".to_owned(), allowed);
    let (db, spare) = (backend("db", true), backend("spare", true));
    for (end, port) in [
        ("data/sql", "5432/TCP"),
        ("data/svc/sql", "5432/tcp"),
        ("service:data/sql", "5432/tcp"),
        ("10.96.0.7", "5432/TCP"),
    ] {
        let expected = (0, "allowed".to_owned(), vec![db.clone(), spare.clone()]);
        assert_eq!(answer(["shop/web", end], port), expected, "{end} {port}");
    }
    // For the others, masquerading may write an address of the node, which is not among data/db's
    // peers.
    for (end, port) in [
        ("203.0.113.50", "5432/TCP"),
        ("203.0.113.51", "5432/TCP"),
        ("192.0.2.1", "30432/TCP"),
    ] {
        let expected = (
            3,
            "cannot-tell".to_owned(),
            vec![backend("db", false), spare.clone()],
        );
        assert_eq!(answer(["shop/web", end], port), expected, "{end} {port}");
    }
    // From a pod that is also a backend: its path to itself is allowed, the other backend denies.
    let expected = (1, "partly".to_owned(), vec![backend("db", false), spare]);
    assert_eq!(answer(["data/spare", "data/sql"], "5432/TCP"), expected);
    assert_eq!(
        answer(["data/db", "data/empty"], "80/TCP"),
        (1, "denied".to_owned(), vec![])
    );

    let (code, text, _) = explain_in(folder.path(), &["data/spare", "data/sql", "5432/TCP"]);
    assert_eq!(code, Some(1));
    for line in [
        "data/spare -> data/sql 5432/TCP: partly: 1 of 2 are allowed",
        "IPv4: data/spare (10.244.0.21) -> 10.96.0.7 -> data/db (10.244.0.20) 15432/TCP: denied",
        "IPv4: data/spare (10.244.0.21) -> 10.96.0.7 -> data/spare (10.244.0.21) 15432/TCP: allowed",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line:?} is not in\n{text}"
        );
    }
    let (code, text, _) = explain_in(folder.path(), &["shop/web", "data/empty", "80/TCP"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("has no ready endpoints"), "{text}");
    // Except through the ClusterIP, the backend may not see the pod's address.
    for (end, known, is_told) in [
        ("203.0.113.50", "a=203.0.113.9", true),
        ("203.0.113.50", "b=203.0.113.9", true),
        ("10.96.0.7", "a=203.0.113.9", false),
    ] {
        let (_, text, _) = explain_in(folder.path(), &["shop/web", end, "5432/TCP", "--node", known]);
        let line = "  ingress of data/db: cannot tell: allowed if the packet arrives from 10.244.0.10, denied if from ";
        assert_eq!(text.contains(line), is_told, "{text}");
    }
    let (code, text, _) = explain_in(
        folder.path(),
        &["shop/web", "203.0.113.50", "5432/TCP", "--node", "a=10.1.2.3"],
    );
    assert_eq!(code, Some(3), "{text}");
    assert!(
        text.contains("denied if from 10.1.2.3 (an address of its node, by masquerade: a)"),
        "{text}"
    );
    // A headless Service is its pods, on any port.
    let (code, text, _) = explain_in(folder.path(), &["shop/web", "data/bare", "9999/TCP"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("-> data/spare (10.244.0.21) 9999/TCP: allowed"),
        "{text}"
    );
    // At other ports than its Service's, an ExternalIP is an ordinary address, and so is a node's.
    for end in ["203.0.113.50", "192.0.2.1"] {
        let (code, text, _) = explain_in(folder.path(), &["-o", "json", "shop/web", end, "80/TCP"]);
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (code, &answer["verdicts"][0]["frontend"]),
            (Some(0), &Value::Null),
            "{text}"
        );
    }
}

#[test]
fn a1_a_pod_behind_its_own_service_is_told_what_it_lacks() {
    let folder = cluster();
    let isolated = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {namespace: data, name: spare}\n\
                    spec: {podSelector: {matchLabels: {app: spare}}, ingress: [{from: [{podSelector: {matchLabels: {app: db}}}]}]}\n";
    folder.write("spare.yaml", isolated).unwrap();
    let (code, text, _) = explain_in(folder.path(), &["data/spare", "data/sql", "5432/TCP"]);
    assert_eq!(code, Some(1), "{text}");
    let missing =
        "from[0].podSelector.matchLabels: label `app` of pod `data/spare` is `spare`; the rule wants `db`";
    assert!(text.contains(missing), "{text}");
    let (code, text, _) = explain_in(folder.path(), &["data/spare", "data/spare", "15432/TCP"]);
    assert_eq!(code, Some(0), "directly: {text}");
}
