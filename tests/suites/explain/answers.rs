// SPDX-License-Identifier: Apache-2.0
//! What `explain` says of a folder: reasons of a denial, and Services.

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

#[test]
fn a_service_stands_for_its_ready_backends() {
    let folder = cluster();
    for end in ["data/sql", "10.96.0.7"] {
        let (code, text, _) = explain_in(folder.path(), &["-o", "json", "shop/web", end, "5432/TCP"]);
        assert_eq!(code, Some(0), "{text}");
        let answer: Value = serde_json::from_str(&text).unwrap();
        let backends: Vec<_> = answer["verdicts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|verdict| (verdict["destination"]["name"].as_str(), verdict["port"].as_str()))
            .collect();
        let port = Some("15432/TCP");
        assert_eq!(backends, [(Some("data/db"), port), (Some("data/spare"), port)]);
    }
    let (code, text, _) = explain_in(folder.path(), &["data/spare", "data/sql", "5432/TCP"]);
    assert_eq!(code, Some(1), "one of two backends denies: {text}");
    assert!(text.contains("data/spare is itself a backend"), "{text}");
    let (code, text, _) = explain_in(folder.path(), &["shop/web", "data/empty", "80/TCP"]);
    assert_eq!(code, Some(1));
    assert!(
        text.contains("Service data/empty has no ready endpoints"),
        "{text}"
    );
}
