// SPDX-License-Identifier: Apache-2.0
//! `netpol explain` and `netpol matrix` as people run them, against the corpus of cases; and a running agent that answers.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Output},
    thread,
};

use netpol_agent::{
    evaluate::{Unmatched, evaluate, unmatched},
    model::{Direction, Node},
};
use netpol_tests::{
    agent::inside,
    cases::{Case, End, Expectation, Family, Step, load_all},
    cluster::Cluster,
    deploy::Deployment,
    lab::{DENY_ALL, Lab},
    manifests::ManifestDir,
    privilege::{binary, can_enforce, can_use_api_server},
};
use serde_json::{Value, json};

/// Runs the binary.
fn netpol(arguments: &[&str]) -> Output {
    let program = binary().expect("no netpol: set NETPOL_BIN, or build it beside this program");
    Command::new(program)
        .args(arguments)
        .env_remove("NETPOL_LOG")
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn json(output: &Output) -> Value {
    let text = stdout(output);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{}", stderr(output)))
}

/// The objects of a step in a folder.
fn folder(step: &Step) -> ManifestDir {
    let folder = ManifestDir::new().unwrap();
    for (index, object) in step.objects.iter().enumerate() {
        folder
            .write(&format!("{index:03}.json"), &object.to_string())
            .unwrap();
    }
    folder
}

/// `--node` for each node of the case.
fn node_options(nodes: &[Node]) -> Vec<String> {
    let option = |node: &Node| {
        let addresses: Vec<String> = node.addresses.iter().map(ToString::to_string).collect();
        format!("--node={}={}", node.name, addresses.join(","))
    };
    nodes.iter().map(option).collect()
}

fn port_of(expectation: &Expectation) -> String {
    match (expectation.protocol, expectation.port) {
        (6, Some(port)) => format!("{port}/TCP"),
        (17, Some(port)) => format!("{port}/udp"),
        (132, Some(port)) => format!("{port}/SCTP"),
        (1 | 58, None) => "icmp".to_owned(),
        (number, _) => format!("ip/{number}"),
    }
}

/// A node stands for its first address of the family.
fn end_of(case: &Case, end: &End, family: Family) -> String {
    match end {
        End::Node(name) => {
            let node = case.nodes.iter().find(|node| node.name == *name).unwrap();
            let mut addresses = node.addresses.iter();
            let address = addresses.find(|address| Family::of(address) == family).unwrap();
            address.to_string()
        }
        End::Service(key) => format!("service:{key}"),
        other => other.to_string(),
    }
}

/// Runs `check` on every case, two at a time, and gives what is wrong.
fn in_parallel(check: impl Fn(&Case) -> Vec<String> + Sync) -> Vec<String> {
    let cases = load_all().unwrap();
    let halves = cases.chunks(cases.len().div_ceil(2));
    thread::scope(|scope| {
        let check = &check;
        let running: Vec<_> = halves
            .map(|half| scope.spawn(move || half.iter().flat_map(check).collect::<Vec<_>>()))
            .collect();
        running
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    })
}

#[test]
fn explain_gives_the_verdict_of_every_expectation() {
    let wrong = in_parallel(|case| {
        let mut wrong = Vec::new();
        for (index, step) in case.steps.iter().enumerate() {
            let folder = folder(step);
            let source = folder.path().to_str().unwrap();
            let nodes = node_options(&case.nodes);
            for expectation in &step.expectations {
                let family = expectation.family.to_string();
                let from = end_of(case, &expectation.from, expectation.family);
                let to = end_of(case, &expectation.to, expectation.family);
                let port = port_of(expectation);
                let mut arguments = vec!["explain", "--source", source, "-o", "json", "--family", &family];
                arguments.extend([from.as_str(), &to, &port]);
                arguments.extend(nodes.iter().map(String::as_str));
                let output = netpol(&arguments);
                if expectation.via.is_some() {
                    wrong.extend(odd_backend(case, step, expectation, &output));
                    continue;
                }
                let code = if expectation.allowed { 0 } else { 1 };
                let place = format!("{} step {index}: {expectation}", case.name);
                if output.status.code() != Some(code) {
                    wrong.push(format!(
                        "{place}: {} {}{}",
                        output.status,
                        stdout(&output),
                        stderr(&output)
                    ));
                    continue;
                }
                let answer = json(&output);
                wrong.extend(
                    odd_answer(&answer, expectation.allowed).map(|odd| format!("{place}: {odd}: {answer}")),
                );
            }
        }
        wrong
    });
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// What is wrong with the answer to an expectation by a Service: the backend must be among the verdicts with the right one, and what all of
/// them come to must be the exit code.
fn odd_backend(case: &Case, step: &Step, expectation: &Expectation, output: &Output) -> Option<String> {
    let answer = json(output);
    let verdicts = answer["verdicts"].as_array().unwrap();
    let allowed = verdicts
        .iter()
        .filter(|verdict| verdict["allowed"] == true)
        .count();
    let (code, outcome) = match allowed {
        0 => (1, "denied"),
        all if all == verdicts.len() => (0, "allowed"),
        _ => (3, "partly"),
    };
    let backend = step.via_address(&case.nodes, expectation).unwrap().to_string();
    let frontend = step
        .packet(&case.nodes, expectation)
        .unwrap()
        .destination
        .to_string();
    let found = verdicts
        .iter()
        .find(|verdict| verdict["destination"]["address"] == *backend);
    let odd = if output.status.code() != Some(code) || answer["outcome"] != outcome {
        Some("another outcome than the verdicts come to")
    } else if verdicts.iter().any(|verdict| verdict["frontend"] != *frontend) {
        Some("another frontend")
    } else {
        match found {
            None => expectation.allowed.then_some("the backend is missing"),
            Some(verdict) => odd_verdict(verdict, expectation.allowed),
        }
    };
    odd.map(|odd| format!("{}: {expectation}: {odd}: {} {answer}", case.name, output.status))
}

/// What in an answer does not go with its verdict.
fn odd_answer(answer: &Value, allowed: bool) -> Option<&'static str> {
    let outcome = if allowed { "allowed" } else { "denied" };
    if answer["outcome"] != outcome {
        return Some("another outcome than the exit code");
    }
    odd_verdict(&answer["verdicts"][0], allowed)
}

fn odd_verdict(verdict: &Value, allowed: bool) -> Option<&'static str> {
    if verdict["allowed"] != allowed {
        return Some("the wrong verdict");
    }
    let sides = ["egress", "ingress"].map(|side| &verdict[side]);
    for side in sides {
        let isolating = side["isolating"].as_array()?;
        let denied = side["allowed"] == false;
        if denied == isolating.is_empty() {
            return Some("isolating policies are named exactly on a denied side");
        }
        if (side["reason"] == "allowed-by-rule") != side["field"].is_string() {
            return Some("the rule is named exactly where one allows");
        }
        let rules = isolating
            .iter()
            .filter_map(|policy| policy["rules"].as_array())
            .flatten();
        for rule in rules {
            if rule["missing"].as_array().is_none_or(Vec::is_empty) {
                return Some("a rule that does not match without what is missing");
            }
        }
    }
    None
}

#[test]
fn matrix_lists_every_pair_with_the_evaluator_s_verdict() {
    let wrong = in_parallel(|case| {
        let mut wrong = Vec::new();
        for (index, step) in case.steps.iter().enumerate() {
            let folder = folder(step);
            let nodes = node_options(&case.nodes);
            let mut arguments = vec![
                "matrix",
                "--source",
                folder.path().to_str().unwrap(),
                "-o",
                "json",
            ];
            // A Service's backend is a pod like any other, at its own port.
            let at_backend = |expectation: &Expectation| -> Option<Expectation> {
                let Some(backend) = expectation.via.clone() else {
                    return Some(expectation.clone());
                };
                let translated = step.translated(&case.nodes, expectation).unwrap()?;
                Some(Expectation {
                    to: backend,
                    port: translated.packet.port,
                    ..expectation.clone()
                })
            };
            let expectations: Vec<Expectation> = step.expectations.iter().filter_map(at_backend).collect();
            if expectations.is_empty() {
                continue; // Nothing is led to any pod.
            }
            let ports: Vec<String> = expectations.iter().map(port_of).collect();
            arguments.extend(ports.iter().flat_map(|port| ["--port", port]));
            arguments.extend(nodes.iter().map(String::as_str));
            let output = netpol(&arguments);
            assert_eq!(
                output.status.code(),
                Some(0),
                "{}: {}",
                case.name,
                stderr(&output)
            );
            let mut pairs = BTreeMap::new();
            for pair in json(&output).as_array().unwrap() {
                let text = |field: &str| pair[field].as_str().unwrap().to_lowercase();
                let port = match pair["port"].as_u64() {
                    Some(port) => format!("{port}/{}", text("protocol")),
                    None if text("protocol") == "icmp" => "icmp".to_owned(),
                    None => format!("ip/{}", text("protocol")),
                };
                let key = (text("from"), text("to"), text("family"), port);
                let allowed = pair["allowed"].as_bool().unwrap();
                let before = pairs.insert(key, allowed);
                assert_eq!(before, None, "{}: a pair is listed twice: {pair}", case.name);
            }
            let pods: Vec<_> = step
                .snapshot
                .pods
                .values()
                .filter(|pod| !pod.host_network && !pod.terminal)
                .collect();
            let families = [Family::Ipv4, Family::Ipv6].map(|family| {
                let count = pods.iter().filter(|pod| has_family(pod, family)).count();
                count * count.saturating_sub(1)
            });
            let mut distinct = ports.clone();
            distinct.sort();
            distinct.dedup();
            assert_eq!(
                pairs.len(),
                families.iter().sum::<usize>() * distinct.len(),
                "{} step {index}",
                case.name
            );
            for expectation in &expectations {
                let is_listed = |end: &End| pods.iter().any(|pod| *end == End::Pod(pod.key.clone()));
                if !is_listed(&expectation.from)
                    || !is_listed(&expectation.to)
                    || expectation.from == expectation.to
                {
                    continue;
                }
                let key = (
                    expectation.from.to_string(),
                    expectation.to.to_string(),
                    expectation.family.to_string(),
                    port_of(expectation).to_lowercase(),
                );
                if pairs.get(&key) != Some(&expectation.allowed) {
                    wrong.push(format!(
                        "{} step {index}: {expectation}: {:?}",
                        case.name,
                        pairs.get(&key)
                    ));
                }
            }
        }
        wrong
    });
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

fn has_family(pod: &netpol_agent::model::Pod, family: Family) -> bool {
    pod.addresses.iter().any(|address| Family::of(address) == family)
}

#[test]
fn every_rule_that_does_not_match_says_why() {
    let mut denied = 0;
    for case in load_all().unwrap() {
        for step in &case.steps {
            for expectation in &step.expectations {
                if expectation.via.is_some() {
                    continue; // Looked at in the answers of the command.
                }
                let packet = step.packet(&case.nodes, expectation).unwrap();
                let evaluation = evaluate(&step.snapshot, &case.nodes, &packet);
                for (direction, side) in [
                    (Direction::Egress, &evaluation.egress),
                    (Direction::Ingress, &evaluation.ingress),
                ] {
                    let found: Vec<Unmatched> = unmatched(&step.snapshot, &case.nodes, &packet, direction);
                    assert_eq!(found.is_empty(), side.allowed, "{}: {expectation}", case.name);
                    let mut rules = found.iter().flat_map(|policy| &policy.rules);
                    assert!(
                        rules.all(|rule| !rule.missing.is_empty()),
                        "{}: {expectation}: {found:?}",
                        case.name
                    );
                    denied += usize::from(!side.allowed);
                }
            }
        }
    }
    assert!(denied > 50, "only {denied} sides are denied");
}

const CLUSTER: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {tier: front}}
---
apiVersion: v1
kind: Namespace
metadata: {name: data, labels: {tier: back}}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web, labels: {app: web}}
spec: {nodeName: a, containers: [{name: main}]}
status: {phase: Running, podIPs: [{ip: 10.244.0.10}, {ip: "fd00::10"}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: data, name: db, labels: {app: db}}
spec: {nodeName: a, containers: [{name: main}]}
status: {phase: Running, podIPs: [{ip: 10.244.0.20}, {ip: "fd00::20"}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: data, name: spare, labels: {app: spare}}
spec: {nodeName: a, containers: [{name: main}]}
status: {phase: Running, podIPs: [{ip: 10.244.0.21}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: data, name: starting}
spec: {containers: [{name: main}]}
status: {phase: Pending}
---
apiVersion: v1
kind: Service
metadata: {namespace: data, name: sql}
spec: {clusterIP: 10.96.0.7, clusterIPs: [10.96.0.7], externalIPs: [203.0.113.50], ports: [{name: sql, port: 5432, targetPort: 15432, nodePort: 30432}]}
status: {loadBalancer: {ingress: [{ip: 203.0.113.51}]}}
---
apiVersion: v1
kind: Node
metadata: {name: b}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: data, name: bare}
spec: {clusterIP: None, clusterIPs: [None], ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: data, name: bare-1, labels: {kubernetes.io/service-name: bare}}
addressType: IPv4
ports: [{port: 80, protocol: TCP}]
endpoints: [{addresses: [10.244.0.21]}]
---
apiVersion: v1
kind: Service
metadata: {namespace: data, name: empty}
spec: {clusterIP: 10.96.0.8, clusterIPs: [10.96.0.8], ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: data, name: sql-1, labels: {kubernetes.io/service-name: sql}}
addressType: IPv4
ports: [{name: sql, port: 15432, protocol: TCP}]
endpoints: [{addresses: [10.244.0.20]}, {addresses: [10.244.0.21]}, {addresses: [10.244.0.99], conditions: {ready: false}}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: data, name: db}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from: [{namespaceSelector: {matchLabels: {team: data}}}, {podSelector: {matchLabels: {app: api}}}]
    ports: [{port: 80}, {port: 443}]
  - from: [{namespaceSelector: {matchLabels: {tier: front}}, podSelector: {matchLabels: {app: api}}}]
  - from: [{ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.0/25]}}, {ipBlock: {cidr: 10.0.0.0/8, except: [192.0.2.0/24]}}]
  - from: [{namespaceSelector: {matchLabels: {tier: front}}}]
    ports: [{port: 15432}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: data, name: isolated}
spec: {podSelector: {matchLabels: {app: db}}}
"#;

fn explain_in(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut all = vec!["explain", "--source", folder.to_str().unwrap()];
    all.extend(arguments);
    let output = netpol(&all);
    (output.status.code(), stdout(&output), stderr(&output))
}

fn cluster() -> ManifestDir {
    let folder = ManifestDir::new().unwrap();
    folder.write("all.yaml", CLUSTER).unwrap();
    folder
}

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
fn exit_codes_and_errors_that_name_what_is_wrong() {
    let folder = cluster();
    for (arguments, code, part) in [
        (["shop/web", "data/db", "15432/TCP"], 0, ""),
        (["shop/web", "data/db", "15432/UDP"], 1, ""),
        (
            ["shop/wbe", "data/db", "80/TCP"],
            2,
            "there is no pod or Service shop/wbe",
        ),
        (
            ["shop/wbe", "data/db", "80/TCP"],
            2,
            "the pods of namespace shop are web",
        ),
        (["shpo/web", "data/db", "80/TCP"], 2, "there is no namespace shpo"),
        (
            ["shop/web", "service:data/db", "80/TCP"],
            2,
            "there is no Service data/db",
        ),
        (
            ["shop/web", "data/starting", "80/TCP"],
            2,
            "pod data/starting has no address",
        ),
        (["shop/web", "data/db", "80"], 2, "\"80\" is no port"),
        (["shop/web", "data/db", "http/TCP"], 2, "\"http/TCP\" is no port"),
        (
            ["shop/web", "data", "80/TCP"],
            2,
            "\"data\" is neither an IP address nor namespace/name",
        ),
        (
            ["fd00::10", "data/spare", "80/TCP"],
            2,
            "share no addresses of one family",
        ),
        (
            ["shop/web", "data/sql", "80/TCP"],
            2,
            "Service data/sql has no port 80/TCP; it has 5432/TCP",
        ),
    ] {
        let (found, out, error) = explain_in(folder.path(), &arguments);
        assert_eq!(found, Some(code), "{arguments:?}: {out}{error}");
        assert!(error.contains(part), "{arguments:?}: {error}");
    }
    let (code, _, error) = explain_in(
        folder.path(),
        &["shop/web", "data/spare", "80/TCP", "--family", "ipv6"],
    );
    assert_eq!(code, Some(2));
    assert!(error.contains("share no IPv6 addresses"), "{error}");
    let (code, _, error) = explain_in(&folder.path().join("nowhere"), &["a/b", "a/c", "80/TCP"]);
    assert_eq!(code, Some(2));
    assert!(error.contains("nowhere"), "{error}");
    let missing = folder.path().join("no.sock");
    let output = netpol(&[
        "explain",
        "--socket",
        missing.to_str().unwrap(),
        "a/b",
        "a/c",
        "80/TCP",
    ]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("no.sock"), "{}", stderr(&output));
    let output = netpol(&["matrix", "--source", missing.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
}

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
        ("service:data/sql", "5432/tcp"),
        ("10.96.0.7", "5432/TCP"),
        ("203.0.113.50", "5432/TCP"),
        ("203.0.113.51", "5432/TCP"),
        ("192.0.2.1", "30432/TCP"),
    ] {
        let expected = (0, "allowed".to_owned(), vec![db.clone(), spare.clone()]);
        assert_eq!(answer(["shop/web", end], port), expected, "{end} {port}");
    }
    // From a pod that is a backend itself: its own way counts, and the other denies.
    let expected = (3, "partly".to_owned(), vec![backend("db", false), spare]);
    assert_eq!(answer(["data/spare", "data/sql"], "5432/TCP"), expected);
    assert_eq!(
        answer(["data/db", "data/empty"], "80/TCP"),
        (1, "denied".to_owned(), vec![])
    );

    let (code, text, _) = explain_in(folder.path(), &["data/spare", "data/sql", "5432/TCP"]);
    assert_eq!(code, Some(3));
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
    // Beside the ClusterIP the backend does not see the pod's address.
    for (end, is_told) in [("203.0.113.50", true), ("10.96.0.7", false)] {
        let (_, text, _) = explain_in(folder.path(), &["shop/web", end, "5432/TCP"]);
        let note = "note: ingress of data/db is judged here from 10.244.0.10; by 203.0.113.50";
        assert_eq!(text.contains(note), is_told, "{text}");
    }
    // A headless Service is its pods, on whatever port.
    let (code, text, _) = explain_in(folder.path(), &["shop/web", "data/bare", "9999/TCP"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("-> data/spare (10.244.0.21) 9999/TCP: allowed"),
        "{text}"
    );
    // Beside its Service's port an ExternalIP is an address like any other, and so is a node's.
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

#[test]
fn matrix_without_ports_takes_those_that_policies_name_and_html_is_one_file() {
    let folder = cluster();
    let source = folder.path().to_str().unwrap();
    let pairs = json(&netpol(&["matrix", "--source", source, "-o", "json"]));
    let mut ports: Vec<u64> = pairs
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| pair["port"].as_u64().unwrap())
        .collect();
    ports.dedup();
    assert_eq!(ports, [80, 443, 15432]);
    let table = stdout(&netpol(&["matrix", "--source", source, "--port", "15432/tcp"]));
    for line in [
        "15432/TCP IPv4",
        "1 data/db    - + +",
        "2 data/spare . - +",
        "3 shop/web   + + -",
    ] {
        assert!(
            table.lines().any(|found| found == line),
            "{line:?} is not in\n{table}"
        );
    }
    let page = stdout(&netpol(&["matrix", "--source", source, "-o", "html"]));
    assert!(page.starts_with("<!doctype html>") && page.contains("data/db"));
    for external in ["http:", "https:", "src=", "url(", "@import", "<script", "<link"] {
        assert!(!page.contains(external), "{external}");
    }
}

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

#[test]
fn a_cluster_is_listed_once_and_judged() {
    if !can_use_api_server("explain") {
        return;
    }
    let mut cluster = Cluster::new().unwrap();
    cluster.namespace("shop", &json!({"team": "shop"})).unwrap();
    for name in ["shop/a", "shop/b"] {
        cluster.add_pod(name, &json!({"app": &name[5..]})).unwrap();
    }
    let deny = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": "shop", "name": "deny"},
        "spec": {"podSelector": {"matchLabels": {"app": "a"}}},
    });
    cluster.api.apply(&deny).unwrap();
    for object in &Deployment::load().unwrap().objects {
        cluster.api.apply(object).unwrap();
    }
    let token = cluster.api.token("kube-system", "netpol").unwrap();
    let file = cluster.api.kubeconfig("explain", &token).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(binary().unwrap());
        command.args(arguments).arg("--kubeconfig").arg(&file);
        inside(&mut command, cluster.node.netns()).output().unwrap()
    };
    let explain = ["explain", "--source", "kube", "-o", "json"];
    let output = run(&[&explain[..], &["shop/b", "shop/a", "80/TCP"]].concat());
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let answer = json(&output);
    assert_eq!(
        answer["verdicts"][0]["ingress"]["isolating"][0]["policy"],
        "shop/deny"
    );
    let output = run(&[&explain[..], &["shop/a", "shop/b", "80/TCP"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let pairs = json(&run(&["matrix", "--source", "kube", "-o", "json"]));
    let allowed = |pair: &Value| pair["allowed"].as_bool().unwrap();
    let of = |to: &str| {
        pairs
            .as_array()
            .unwrap()
            .iter()
            .filter(|pair| pair["to"] == *to)
            .map(allowed)
            .collect::<Vec<_>>()
    };
    assert_eq!((of("shop/a"), of("shop/b")), (vec![false; 2], vec![true; 2]));
}

#[test]
fn a_cluster_that_does_not_answer_is_no_verdict() {
    let folder = ManifestDir::new().unwrap();
    let file = folder.path().join("kubeconfig");
    // Nothing listens on port 1 of the loopback.
    let config = "{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}], \
                  clusters: [{name: c, cluster: {server: \"http://127.0.0.1:1\"}}], users: [{name: u, user: {}}]}";
    fs::write(&file, config).unwrap();
    let output = netpol(&[
        "explain",
        "--source",
        "kube",
        "--timeout",
        "1",
        "--kubeconfig",
        file.to_str().unwrap(),
        "a/b",
        "a/c",
        "80/TCP",
    ]);
    assert_eq!(output.status.code(), Some(2), "{}", stdout(&output));
    assert!(
        stderr(&output).contains("no complete list"),
        "{}",
        stderr(&output)
    );
}
