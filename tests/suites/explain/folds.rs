// SPDX-License-Identifier: Apache-2.0
//! Long answers are shortened: what is nearest to a match is shown, the rest is counted, and
//! `--all` prints it.

use std::{fmt::Write, time::Instant};

use netpol_agent::explain::{End, Family, Port, Request, World, explain, known_nodes};
use netpol_tests::{
    manifests::ManifestDir,
    random::Random,
    synthetic::{Size, cluster},
};
use serde_json::Value;

use crate::example::explain_in;

/// Maximum number of lines of an answer for people.
const LINES: usize = 200;

/// Makes a Service of 20 pods that 60 policies of 6 rules isolate; one rule lacks only a label.
fn crowd() -> ManifestDir {
    let mut text = String::new();
    let mut endpoints = Vec::new();
    let mut pod = |name: String, app: &str, ip: String| {
        writeln!(
            text,
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{namespace: shop, name: {name}, labels: {{app: {app}}}}}\n\
             spec: {{nodeName: a, containers: [{{name: main}}]}}\nstatus: {{phase: Running, podIPs: [{{ip: {ip}}}]}}"
        )
        .unwrap();
    };
    pod("client".to_owned(), "client", "10.244.9.9".to_owned());
    for index in 0..20 {
        let ip = format!("10.244.0.{}", index + 10);
        pod(format!("web-{index}"), "web", ip.clone());
        endpoints.push(format!("{{addresses: [{ip}]}}"));
    }
    writeln!(
        text,
        "---\napiVersion: v1\nkind: Service\nmetadata: {{namespace: shop, name: all}}\n\
         spec: {{clusterIP: 10.96.0.9, clusterIPs: [10.96.0.9], ports: [{{port: 80}}]}}\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{namespace: shop, name: all, labels: {{kubernetes.io/service-name: all}}}}\n\
         addressType: IPv4\nports: [{{port: 80, protocol: TCP}}]\nendpoints: [{}]",
        endpoints.join(", ")
    )
    .unwrap();
    for index in 0..60 {
        let peer = |number: usize| {
            format!("{{podSelector: {{matchLabels: {{app: x{number}, tier: front, zone: one}}}}}}")
        };
        let peers: Vec<String> = (0..6).map(peer).collect();
        let rule = format!("{{from: [{}], ports: [{{port: 81}}]}}", peers.join(", "));
        let mut rules = vec![rule; 6];
        if index == 37 {
            rules[4] = "{from: [{podSelector: {matchLabels: {app: near}}}], ports: [{port: 80}]}".to_owned();
        }
        writeln!(
            text,
            "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{namespace: shop, name: policy-{index:03}}}\n\
             spec: {{podSelector: {{matchLabels: {{app: web}}}}, ingress: [{}]}}",
            rules.join(", ")
        )
        .unwrap();
    }
    let folder = ManifestDir::new().unwrap();
    folder.write("all.yaml", &text).unwrap();
    folder
}

#[test]
fn long_answers_are_folded_with_the_nearest_first() {
    let folder = crowd();
    for destination in ["shop/web-7", "shop/all"] {
        let ask = |more: &[&str]| {
            let ends = ["shop/client", destination, "80/TCP"];
            let (code, text, error) = explain_in(folder.path(), &[&ends[..], more].concat());
            assert_eq!(code, Some(1), "{error}");
            text
        };
        let folded = ask(&[]);
        let lines: Vec<&str> = folded.lines().collect();
        assert!(lines.len() <= LINES, "{} lines:\n{folded}", lines.len());
        let policies: Vec<&&str> = lines
            .iter()
            .filter(|line| line.contains("NetworkPolicy "))
            .collect();
        assert_eq!(*policies[0], "    NetworkPolicy shop/policy-037", "{folded}");
        let at = lines
            .iter()
            .position(|line| line.contains("spec.ingress[4]"))
            .unwrap();
        assert!(lines[at + 1].contains("the rule wants `near`"), "{folded}");
        assert!(
            folded.contains("57 more policies isolate it, and match less (--all shows them)"),
            "{folded}"
        );
        let all = ask(&["--all"]);
        assert!(all.lines().count() > 60 * 6 * 18, "{} lines", all.lines().count());
        assert!(!all.contains("--all"), "everything is shown");
        let verdicts = if destination == "shop/all" { 20 } else { 1 };
        assert_eq!(
            folded.contains("16 more verdicts (--all shows them): 0 allowed, 16 denied"),
            verdicts == 20
        );
        // Programs get everything.
        let answer: Value = serde_json::from_str(&ask(&["-o", "json"])).unwrap();
        let found = answer["verdicts"].as_array().unwrap();
        assert_eq!(found.len(), verdicts);
        assert_eq!(found[0]["ingress"]["isolating"].as_array().unwrap().len(), 60);
    }
}

/// Any question in a cluster of 5,000 pods and 3,000 policies in 5 namespaces: hundreds isolate a
/// pod.
#[test]
fn answers_about_a_large_cluster_are_folded() {
    let size = Size {
        pods: 5_000,
        local: 50,
        policies: 3_000,
        namespaces: 5,
    };
    let mut random = Random(5);
    let snapshot = cluster(&mut random, &size);
    let nodes = known_nodes(&snapshot, &[], None);
    let world = World {
        snapshot: &snapshot,
        nodes: &nodes,
        held: None,
    };
    let keys: Vec<_> = snapshot.pods.keys().collect();
    let (mut longest, mut whole, mut most) = (0, 0, 0);
    let started = Instant::now();
    for number in 0..10 {
        let end = |nth: usize| End::Pod(keys[nth * 7_919 % keys.len()].clone());
        let request = Request {
            source: end(number),
            destination: end(number + 10),
            port: "5432/TCP".parse::<Port>().unwrap(),
            family: Some(Family::ALL[0]),
        };
        let Ok(answer) = explain(world, &request) else {
            continue;
        };
        longest = longest.max(answer.to_string().lines().count());
        whole = whole.max(format!("{answer:#}").lines().count());
        let isolating = answer
            .verdicts
            .iter()
            .flat_map(|found| [&found.egress, &found.ingress]);
        most = most.max(isolating.map(|side| side.isolating.len()).max().unwrap_or(0));
    }
    println!(
        "{most} policies, {whole} lines, folded {longest}; {:?}",
        started.elapsed()
    );
    assert!(longest > 5 && longest <= LINES, "{longest} lines");
    assert!(
        most > 10 && whole > longest,
        "{most} policies isolate, {whole} lines of {longest} are shown"
    );
}
