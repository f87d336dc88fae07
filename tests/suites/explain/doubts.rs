// SPDX-License-Identifier: Apache-2.0
//! What objects alone do not tell: `explain` judges each possibility, and says that it cannot tell
//! if they differ.

use netpol_tests::manifests::ManifestDir;
use serde_json::Value;

use crate::example::explain_in;

/// Makes two nodes with pods on both, and a hostNetwork agent on the second.
pub fn world(backend: &str, rules: &str) -> ManifestDir {
    let node = |name: &str, number: u8| {
        let annotations = match backend {
            "" => String::new(),
            backend => format!(", annotations: {{flannel.alpha.coreos.com/backend-type: {backend}}}"),
        };
        format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}{annotations}}}\n\
             spec: {{podCIDR: 10.244.{number}.0/24, podCIDRs: [10.244.{number}.0/24]}}\n\
             status: {{addresses: [{{type: InternalIP, address: 192.0.2.{}}}]}}\n---\n",
            number + 1
        )
    };
    let pod = |key: (&str, &str), node: &str, spec: &str, ips: &[&str]| {
        let ips: Vec<String> = ips.iter().map(|ip| format!("{{ip: {ip}}}")).collect();
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{namespace: {}, name: {}, labels: {{app: {}}}}}\n\
             spec: {{nodeName: {node}, containers: [{{name: main}}]{spec}}}\n\
             status: {{phase: Running, podIPs: [{}]}}\n---\n",
            key.0,
            key.1,
            key.1,
            ips.join(", ")
        )
    };
    let policy = match rules {
        "" => String::new(),
        rules => format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{namespace: shop, name: web}}\n\
             spec: {{podSelector: {{matchLabels: {{app: web}}}}, {rules}}}\n"
        ),
    };
    let text = [
        node("node-a", 0),
        node("node-b", 1),
        pod(("shop", "web"), "node-a", "", &["10.244.0.10"]),
        pod(("shop", "far"), "node-b", "", &["10.244.1.10", "10.244.1.11"]),
        pod(("shop", "twin"), "node-a", "", &["10.244.0.20"]),
        pod(("data", "twin"), "node-b", "", &["10.244.0.20"]),
        pod(
            ("ops", "exporter"),
            "node-b",
            ", hostNetwork: true",
            &["192.0.2.2"],
        ),
        policy,
    ]
    .concat();
    let folder = ManifestDir::new().unwrap();
    folder.write("all.yaml", &text).unwrap();
    folder
}

pub fn from(block: &str) -> String {
    format!("ingress: [{{from: [{{ipBlock: {{cidr: {block}}}}}]}}]")
}

#[test]
fn a4_a_node_may_have_the_address_of_its_tunnel_on_what_it_sends() {
    let all = "ingress: [{from: [{ipBlock: {cidr: 192.0.2.2/32}}, {ipBlock: {cidr: 10.244.1.0/31}}]}]";
    for (backend, rules, source, code) in [
        // The address does not matter if nothing isolates the pod, or nothing is allowed.
        ("vxlan", String::new(), "ops/exporter", 0),
        ("vxlan", "ingress: []".to_owned(), "ops/exporter", 1),
        ("vxlan", from("192.0.2.2/32"), "ops/exporter", 3),
        ("vxlan", from("192.0.2.2/32"), "192.0.2.2", 3),
        ("vxlan", from("10.244.1.0/32"), "ops/exporter", 3),
        ("vxlan", from("10.244.1.1/32"), "192.0.2.2", 3),
        ("vxlan", all.to_owned(), "ops/exporter", 0),
        ("", from("192.0.2.2/32"), "ops/exporter", 3),
        ("host-gw", from("192.0.2.2/32"), "ops/exporter", 0),
        ("host-gw", from("10.244.1.0/32"), "ops/exporter", 1),
        // The question is about the address on the packet.
        ("vxlan", from("192.0.2.2/32"), "10.244.1.0", 1),
        ("vxlan", from("10.244.1.0/32"), "10.244.1.0", 0),
        // The pod's own node, as its object gives it (rule A2), and an unused address.
        ("vxlan", "ingress: []".to_owned(), "192.0.2.1", 0),
        ("vxlan", from("203.0.113.0/24"), "203.0.113.9", 0),
        // A pod's own address does not change.
        ("vxlan", from("10.244.1.10/32"), "shop/far", 1),
    ] {
        let folder = world(backend, &rules);
        let (found, text, error) = explain_in(folder.path(), &[source, "shop/web", "80/TCP"]);
        assert_eq!(found, Some(code), "{backend:?} {rules} {source}:\n{text}{error}");
    }
    let folder = world("vxlan", &from("192.0.2.2/32"));
    let (_, text, _) = explain_in(folder.path(), &["ops/exporter", "shop/web", "80/TCP"]);
    for line in [
        "ops/exporter -> shop/web 80/TCP: cannot tell",
        "  ingress of shop/web: cannot tell: allowed if the packet arrives from 192.0.2.2, denied if from 10.244.1.0 (the tunnel's \
         address of node node-b)",
        "note: cannot tell whether it is enforced on node-a: only an agent that is asked there can",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line:?} is not in\n{text}"
        );
    }
    let (_, text, _) = explain_in(
        folder.path(),
        &["-o", "json", "ops/exporter", "shop/web", "80/TCP"],
    );
    let answer: Value = serde_json::from_str(&text).unwrap();
    let ingress = &answer["verdicts"][0]["ingress"];
    assert_eq!(
        (
            &answer["outcome"],
            &answer["allowed"],
            &ingress["verdict"],
            &ingress["reason"],
            &ingress["enforced"]
        ),
        (
            &"cannot-tell".into(),
            &false.into(),
            &"cannot-tell".into(),
            &"address-on-arrival".into(),
            &"cannot-tell".into()
        )
    );
}

#[test]
fn a6_a_second_address_of_a_family_is_no_source() {
    let folder = world("vxlan", "");
    let (code, text, _) = explain_in(folder.path(), &["10.244.1.10", "shop/web", "80/TCP"]);
    assert_eq!(code, Some(0), "{text}");
    let (code, text, _) = explain_in(folder.path(), &["10.244.1.11", "shop/web", "80/TCP"]);
    assert_eq!(code, Some(1), "{text}");
    let line = "  egress of shop/far: denied: what pod shop/far sends from 10.244.1.11 is dropped as spoofed: only the first address";
    assert!(text.contains(line), "{text}");
    // Packets for it do not enter the pod (rule A9).
    let (code, text, _) = explain_in(folder.path(), &["shop/web", "10.244.1.11", "80/TCP"]);
    assert_eq!(code, Some(1), "{text}");
}

#[test]
fn a8_an_address_that_two_pods_claim_is_told_where_it_matters() {
    let select = |namespace: &str| {
        format!(
            "ingress: [{{from: [{{podSelector: {{}}, namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {namespace}}}}}}}]}}]"
        )
    };
    for (rules, code) in [
        (String::new(), 0),
        ("ingress: []".to_owned(), 1),
        (select("shop"), 3),
        (select("data"), 3),
        (select("none"), 1),
        (
            "ingress: [{from: [{podSelector: {}, namespaceSelector: {}}]}]".to_owned(),
            0,
        ),
    ] {
        let folder = world("vxlan", &rules);
        let (found, text, _) = explain_in(folder.path(), &["10.244.0.20", "shop/web", "80/TCP"]);
        assert_eq!(found, Some(code), "{rules}:\n{text}");
        let claimed = "10.244.0.20 is claimed by data/twin and shop/twin";
        assert_eq!(text.contains(claimed), code == 3, "{text}");
    }
}

#[test]
fn a_pod_and_a_service_of_one_name_are_told_apart() {
    let folder = world("", "ingress: []");
    let service = "apiVersion: v1\nkind: Service\nmetadata: {namespace: shop, name: web}\n\
                   spec: {clusterIP: 10.96.0.9, clusterIPs: [10.96.0.9], ports: [{port: 80}]}\n";
    folder.write("service.yaml", service).unwrap();
    let ask = |to: &[&str]| explain_in(folder.path(), &[&["shop/far"], to, &["80/TCP"]].concat());
    let (code, _, error) = ask(&["shop/web"]);
    assert_eq!(code, Some(2));
    assert!(
        error.contains("there is a pod and a Service shop/web: say shop/pod/web or shop/svc/web"),
        "{error}"
    );
    for pod in [
        &["shop/pod/web"][..],
        &["pod:shop/web"],
        &["-n", "shop", "pod/web"],
    ] {
        let (code, text, error) = ask(pod);
        assert_eq!(code, Some(1), "{pod:?}: {text}{error}");
        assert!(
            text.contains("-> shop/web (10.244.0.10) 80/TCP: denied"),
            "{text}"
        );
    }
    for service in [
        &["shop/svc/web"][..],
        &["service:shop/web"],
        &["-n", "shop", "svc/web"],
    ] {
        let (code, text, error) = ask(service);
        assert_eq!(code, Some(1), "{service:?}: {text}{error}");
        assert!(text.contains("has no ready endpoints"), "{text}");
    }
}
