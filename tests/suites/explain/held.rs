// SPDX-License-Identifier: Apache-2.0
//! Compares a running agent's answers about ends that objects alone do not decide with real
//! packets: missing interfaces, closed ones, ones with other addresses, and policies over budget
//! (rules A6, A8, A9, B2, L2).

use std::{
    fmt::Write,
    net::{IpAddr, Ipv6Addr, SocketAddrV6, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use netpol_tests::{
    lab::{DENY_ALL, Lab},
    node::{Site, member},
    privilege::can_enforce,
    probe::{Outcome, Probe, Service},
};
use nix::net::if_::if_nametoindex;
use serde_json::Value;

use crate::shared::{netpol, stderr, stdout};

const PORT: u16 = 9_000;
const PODS: [(&str, &str); 3] = [("shop/a", "app: a"), ("shop/b", "app: b"), ("other/c", "app: c")];
/// Time limit for what must arrive, on a busy machine.
const LONG: Duration = Duration::from_secs(20);
/// Time to wait for what must not arrive.
const PATIENCE: Duration = Duration::from_millis(400);

/// Returns exit code and answer of the agent.
fn ask(lab: &Lab, from: &str, to: &str, port: &str) -> (i32, Value) {
    let socket = lab.agent.socket();
    let socket = socket.to_str().unwrap();
    let output = netpol(&["explain", "--socket", socket, "-o", "json", from, to, port]);
    let answer = serde_json::from_str(&stdout(&output));
    let answer = answer.unwrap_or_else(|error| panic!("{error}: {}{}", stdout(&output), stderr(&output)));
    (output.status.code().unwrap(), answer)
}

/// Compares the answer with a probe of TCP 8080: a denial is silence (rule A7). One side must have
/// `reason`.
#[track_caller]
fn agrees(lab: &Lab, from: (&Site, IpAddr), to: (&Site, IpAddr), reason: &str) {
    let probe = Probe {
        source: from.1,
        ..Probe::new(from.0, to.0, to.1, Service::Tcp(8080)).unwrap()
    };
    let outcome = lab.prober.probe(std::slice::from_ref(&probe)).unwrap().remove(0);
    let (code, answer) = ask(lab, &from.1.to_string(), &to.1.to_string(), "8080/TCP");
    assert_eq!(
        code,
        i32::from(outcome == Outcome::Silent),
        "{probe} is {outcome:?}:\n{answer:#}"
    );
    let verdict = &answer["verdicts"][0];
    let reasons = [&verdict["egress"]["reason"], &verdict["ingress"]["reason"]];
    assert!(reasons.contains(&&Value::from(reason)), "{answer:#}");
}

fn policy(name: &str, app: &str, rules: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{namespace: shop, name: {name}}}\n\
         spec: {{podSelector: {{matchLabels: {{app: {app}}}}}, {rules}}}\n---\n"
    )
}

fn pod(key: &str, label: &str, node: &str, ips: &[IpAddr]) -> String {
    let (namespace, name) = key.split_once('/').unwrap();
    let ips: Vec<String> = ips.iter().map(|ip| format!("{{ip: \"{ip}\"}}")).collect();
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{namespace: {namespace}, name: {name}, labels: {{{label}}}}}\n\
         spec: {{nodeName: {node}, containers: [{{name: main, image: example}}]}}\n\
         status: {{phase: Running, podIPs: [{}]}}\n---\n",
        ips.join(", ")
    )
}

/// Writes a file and waits for the turn that takes it, whichever pods lack an interface.
fn apply_and_leave(lab: &Lab, file: &str, text: &str) {
    let seen = lab.agent.log_length();
    lab.manifests.write(file, text).unwrap();
    lab.agent.wait_for_line(seen, "revision applied").unwrap();
}

/// Returns the link-local address of a pod's interface.
fn link_local(site: &Site) -> Ipv6Addr {
    let text = site
        .netns
        .run(|| Ok(std::fs::read_to_string("/proc/thread-self/net/if_inet6")?))
        .unwrap();
    let line = text
        .lines()
        .find(|line| line.starts_with("fe80") && line.ends_with("eth0"));
    Ipv6Addr::from(u128::from_str_radix(&line.unwrap()[..32], 16).unwrap())
}

fn connects(from: &Site, to: Ipv6Addr, patience: Duration) -> bool {
    let attempt = from.netns.run(|| {
        let to = SocketAddrV6::new(to, PORT, 0, if_nametoindex("eth0")?);
        Ok(TcpStream::connect_timeout(&to.into(), patience).is_ok())
    });
    attempt.unwrap()
}

#[test]
fn a9_a_link_local_address_is_explained_as_its_pod() {
    if !can_enforce("explain") {
        return;
    }
    let lab = Lab::new(&PODS, &[]).unwrap();
    let sites = PODS.map(|(name, _)| lab.site(name).unwrap());
    let ends = sites.each_ref().map(link_local);
    let listeners = sites.each_ref().map(|site| {
        let bound = site
            .netns
            .run(|| Ok(TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT))?));
        bound.unwrap()
    });
    let until = Instant::now() + LONG;
    for end in ends {
        while ask(&lab, &end.to_string(), &ends[0].to_string(), "9000/TCP").0 == 3 {
            assert!(Instant::now() < until, "{end} is not bound");
        }
    }
    let rules = "ingress: [{from: [{podSelector: {matchLabels: {app: b}}}]}]";
    lab.apply("a.yaml", &policy("a", "a", rules)).unwrap();
    let [a, b, c] = &sites;
    for (from, source, to, target) in [
        (b, ends[1], a, ends[0]),
        (c, ends[2], a, ends[0]),
        (a, ends[0], c, ends[2]),
    ] {
        let (code, answer) = ask(&lab, &source.to_string(), &target.to_string(), "9000/TCP");
        let patience = if code == 0 { LONG } else { PATIENCE };
        assert_eq!(connects(from, target, patience), code == 0, "{answer:#}");
        assert_eq!(answer["verdicts"][0]["destination"]["name"], to.name.as_str());
        assert_eq!(answer["verdicts"][0]["source"]["name"], from.name.as_str());
    }
    // An unused one; without an agent, any of them.
    let (code, answer) = ask(&lab, "fe80::bad", &ends[2].to_string(), "9000/TCP");
    assert_eq!(
        (code, &answer["verdicts"][0]["egress"]["reason"]),
        (3, &"link-local".into()),
        "{answer:#}"
    );
    let (code, answer) = ask(&lab, "shop/b", "fe80::bad", "9000/TCP");
    assert_eq!(
        (code, &answer["verdicts"][0]["ingress"]["reason"]),
        (3, &"link-local".into()),
        "{answer:#}"
    );
    let (code, _) = ask(&lab, "fe80::bad", &ends[0].to_string(), "9000/TCP");
    assert_eq!(code, 3);
    let folder = lab.manifests.path().to_str().unwrap();
    let source = ends[1].to_string();
    let output = netpol(&[
        "explain", "--source", folder, &source, "shop/a", "9000/TCP", "--family", "ipv6",
    ]);
    assert_eq!(output.status.code(), Some(3), "{}", stdout(&output));
    drop(listeners);
}

#[test]
fn a6_a9_a_second_address_is_not_the_pods() {
    if !can_enforce("explain") {
        return;
    }
    let lab = Lab::new(&PODS, &[]).unwrap();
    let [a, b] = ["shop/a", "shop/b"].map(|name| lab.site(name).unwrap());
    let second = member(lab.node.plan().pod_networks()[0], 99).addr();
    a.netns.ip(&format!("addr add {second}/24 dev eth0\n")).unwrap();
    // It is last in the object: nothing else about the pod changes.
    let mut ips = a.addresses.clone();
    ips.push(second);
    lab.apply(
        "pods.yaml",
        &[
            pod("shop/a", "app: a", "node-a", &ips),
            pod("shop/b", "app: b", "node-a", &b.addresses),
        ]
        .concat(),
    )
    .unwrap();
    agrees(&lab, (&a, a.addresses[0]), (&b, b.addresses[0]), "not-isolated");
    agrees(&lab, (&a, second), (&b, b.addresses[0]), "spoofed");
    agrees(&lab, (&b, b.addresses[0]), (&a, second), "not-own-address");
}

#[test]
fn a8_a_pod_without_an_interface_is_said_not_to_be_enforced_on() {
    if !can_enforce("explain") {
        return;
    }
    let lab = Lab::new(&PODS, &[]).unwrap();
    // A used address that no veth had from the start, as with macvlan.
    let [outside, b] = ["outside", "shop/b"].map(|name| lab.site(name).unwrap());
    let own = IpAddr::from([198, 51, 100, 77]);
    outside.netns.ip(&format!("addr add {own}/32 dev lo\n")).unwrap();
    let other = b.addresses[0];
    apply_and_leave(
        &lab,
        "macvlan.yaml",
        &pod("shop/macvlan", "app: macvlan", "node-a", &[own]),
    );
    let closed = policy("macvlan", "macvlan", "policyTypes: [Ingress, Egress]");
    apply_and_leave(&lab, "policy.yaml", &closed);
    agrees(&lab, (&outside, own), (&b, other), "not-enforced-here");
    agrees(&lab, (&b, other), (&outside, own), "not-enforced-here");
    let (code, answer) = ask(&lab, "shop/macvlan", "shop/b", "80/TCP");
    let side = &answer["verdicts"][0]["egress"];
    assert_eq!((code, &side["enforced"]), (0, &"not-here".into()), "{answer:#}");
    let text = side["text"].as_str().unwrap();
    for part in [
        "not enforced here, because no veth of this node leads to it",
        "by its policies it is denied",
    ] {
        assert!(text.contains(part), "{text}");
    }
    // The other end's own policies still count.
    apply_and_leave(&lab, "policy.yaml", DENY_ALL);
    agrees(&lab, (&outside, own), (&b, other), "no-rule-matches");
}

#[test]
fn b2_an_interface_whose_pod_is_not_known_is_explained() {
    if !can_enforce("explain") {
        return;
    }
    for mode in ["strict", "open"] {
        let mut lab = Lab::new(&PODS, &[]).unwrap();
        lab.agent.stop().unwrap();
        lab.agent.set_argument("--startup-mode", mode);
        lab.agent
            .set_argument("--pod-cidr", &lab.node.plan().pod_networks()[0].to_string());
        lab.agent.restart().unwrap();
        let seen = lab.agent.log_length();
        let new = lab.add_interface("shop/new").unwrap();
        let [b, node] = ["shop/b", "node"].map(|name| lab.site(name).unwrap());
        let [own, other] = [new.addresses[0], b.addresses[0]];
        let strict = mode == "strict";
        if strict {
            lab.agent
                .wait_for_line(seen, "closed to all but the node until its pod is known")
                .unwrap();
        }
        let reason = if strict {
            "closed-until-known"
        } else {
            "not-enforced"
        };
        let until = Instant::now() + LONG;
        loop {
            let (code, answer) = ask(&lab, &own.to_string(), &other.to_string(), "8080/TCP");
            if answer["verdicts"][0]["egress"]["reason"] == reason {
                assert_eq!(code, if strict { 1 } else { 0 }, "{answer:#}");
                break;
            }
            assert!(Instant::now() < until, "{answer:#}");
        }
        if strict {
            agrees(&lab, (&new, own), (&b, other), reason);
            agrees(&lab, (&b, other), (&new, own), reason);
            agrees(&lab, (&node, node.addresses[0]), (&new, own), "not-enforced");
        }
        lab.label("shop/new", "app: new").unwrap();
        agrees(&lab, (&new, own), (&b, other), "not-isolated");
    }
}

/// A policy of half a million entries, because others make 70 classes of addresses.
#[test]
fn l2_a_pod_that_is_over_budget_is_explained_as_closed() {
    if !can_enforce("explain") {
        return;
    }
    const CLASSES: usize = 70;
    const PORTS: usize = 8_000;
    let lab = Lab::new(&PODS, &[]).unwrap();
    let mut objects = String::new();
    for index in 0..CLASSES {
        let address = IpAddr::from([10, 9, 0, u8::try_from(index).unwrap() + 1]);
        objects += &pod(
            &format!("shop/x{index}"),
            &format!("app: x{index}"),
            "node-z",
            &[address],
        );
        let rules = format!("ingress: [{{from: [{{podSelector: {{matchLabels: {{app: x{index}}}}}}}]}}]");
        objects += &policy(&format!("x{index}"), "b", &rules);
    }
    let mut ports = String::new();
    for index in 0..PORTS {
        write!(ports, "{{port: {}}}, ", 8_080 + 2 * index).unwrap();
    }
    objects += &policy("wide", "a", &format!("ingress: [{{ports: [{ports}]}}]"));
    let [a, b, node] = ["shop/a", "shop/b", "node"].map(|name| lab.site(name).unwrap());
    agrees(&lab, (&b, b.addresses[0]), (&a, a.addresses[0]), "not-isolated");
    lab.apply("wide.yaml", &objects).unwrap();
    agrees(&lab, (&b, b.addresses[0]), (&a, a.addresses[0]), "over-budget");
    agrees(&lab, (&node, node.addresses[0]), (&a, a.addresses[0]), "node");
    agrees(
        &lab,
        (&a, a.addresses[0]),
        (&b, b.addresses[0]),
        "no-rule-matches",
    );
    let (_, answer) = ask(&lab, "shop/b", "shop/a", "8080/TCP");
    let codes = answer["diagnostics"]
        .as_array()
        .unwrap()
        .iter()
        .map(|found| &found["code"]);
    assert!(
        codes.into_iter().any(|code| code == "pod-over-budget"),
        "{answer:#}"
    );
}
