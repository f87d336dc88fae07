// SPDX-License-Identifier: Apache-2.0
//! Services that claim others' addresses (rules A5, A9): of hosts outside, of pods and of nodes,
//! with and without kube-proxy's rules for them.

use std::net::IpAddr;

use netpol_tests::{
    node::Site,
    probe::{Outcome, PATIENCE, Probe, Prober, Service as Port},
    server::Servers,
    two_nodes::Cluster,
};
use serde_json::{Value, json};

use crate::{egress::TO_WEB, for_each_mode, shared::egress};

const PORTS: [Port; 2] = [Port::Tcp(8080), Port::Udp(5353)];
/// A host outside, a pod of each node, and the other node.
const CLAIMED: [&str; 4] = ["outside", "bad-a", "bad-b", "node-b"];
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";

fn addresses(cluster: &Cluster, sites: &[&str]) -> Vec<IpAddr> {
    let sites = sites.iter().map(|name| cluster.site(name).unwrap().addresses);
    sites.flatten().collect()
}

/// Makes a Service with all ports that anything here has, so that the answer tells where a packet
/// went.
fn claim(labels: &Value, claimed: &[IpAddr], backends: &[IpAddr]) -> Vec<Value> {
    let ports = |key: &str| {
        json!([
            {"name": "tcp", "protocol": "TCP", key: 8080},
            {"name": "udp", "protocol": "UDP", key: 5353},
        ])
    };
    let mut ports_of_service = ports("port");
    ports_of_service[0]["nodePort"] = json!(30200);
    let mut objects = vec![json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "shop", "name": "claim", "labels": labels},
        "spec": {
            "type": "LoadBalancer", "clusterIP": "10.96.0.200",
            "clusterIPs": ["10.96.0.200", "fd00:10:96::c8"], "ipFamilies": ["IPv4", "IPv6"],
            "externalIPs": claimed, "ports": ports_of_service,
        },
    })];
    for (family, is_ipv4) in [("IPv4", true), ("IPv6", false)] {
        let own = backends.iter().filter(|address| address.is_ipv4() == is_ipv4);
        objects.push(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"namespace": "shop", "name": format!("claim-{}", family.to_lowercase()),
                         "labels": {"kubernetes.io/service-name": "claim"}},
            "addressType": family, "ports": ports("port"),
            "endpoints": own.map(|address| json!({"addresses": [address]})).collect::<Vec<_>>(),
        }));
    }
    objects
}

fn to(cluster: &Cluster, from: &str, sites: &[&str]) -> Vec<Probe> {
    let probes = sites
        .iter()
        .map(|site| cluster.to_site(from, site, &PORTS).unwrap());
    probes.flatten().collect()
}

/// Makes a policy that allows pods with label `bad`, the outside and the other node: everything
/// that is claimed, but not the backends of the claiming Service.
fn to_claimed(cluster: &Cluster) -> String {
    let blocks = addresses(cluster, &["outside", "node-b"]);
    let blocks = blocks.iter().map(|address| {
        let length = if address.is_ipv4() { 32 } else { 128 };
        format!("{{ipBlock: {{cidr: \"{address}/{length}\"}}}}")
    });
    let peers: Vec<String> = blocks
        .chain(["{podSelector: {matchLabels: {app: bad}}}".to_owned()])
        .collect();
    egress("client", &format!("{{to: [{}]}}", peers.join(", ")))
}

/// For another proxy, which does not run here, and in the moment before kube-proxy's rules appear
/// or after they are gone.
fn a9_a_service_that_nobody_translates_opens_and_closes_nothing(cluster: &mut Cluster) {
    let claimed = addresses(cluster, &CLAIMED);
    let backends = addresses(cluster, &["web-a", "web-b"]);
    for (labels, with_rules) in [(json!({PROXY_NAME: "other"}), true), (json!({}), false)] {
        let objects = claim(&labels, &claimed, &backends);
        cluster.set_more(&objects, with_rules).unwrap();
        let probes = to(cluster, "client", &CLAIMED);
        cluster.set_policies(&[egress("client", TO_WEB)]).unwrap();
        cluster.expect(
            &format!("only its backends are allowed, {labels}"),
            &probes,
            &Outcome::Silent,
        );
        cluster.set_policies(&[to_claimed(cluster)]).unwrap();
        cluster.expect(
            &format!("its backends are denied, {labels}"),
            &probes,
            &Outcome::Reached,
        );
    }
}

/// Rule C2: a connection that is allowed by its address continues, even if a Service later claims
/// that.
fn a9_c2_a_service_over_an_address_ends_no_connection_to_it(cluster: &mut Cluster) {
    cluster.set_policies(&[to_claimed(cluster)]).unwrap();
    let mut probes = to(cluster, "client", &CLAIMED);
    probes.retain(|probe| matches!(probe.service, Port::Tcp(_)));
    let prober = Prober::new().unwrap();
    let mut open: Vec<_> = probes
        .iter()
        .map(|probe| prober.converse(probe).unwrap())
        .collect();
    let mut ask = |when: &str| {
        for (open, probe) in open.iter_mut().zip(&probes) {
            assert_eq!(open.ask(PATIENCE), Outcome::Reached, "{when}: {probe}");
        }
    };
    ask("before");
    let claimed = addresses(cluster, &CLAIMED);
    let objects = claim(&json!({}), &claimed, &addresses(cluster, &["web-a"]));
    for with_rules in [false, true] {
        cluster.set_more(&objects, with_rules).unwrap();
        ask(&format!("with a Service, rules: {with_rules}"));
    }
    cluster.set_more(&[], true).unwrap();
    ask("after");
}

/// With kube-proxy's rules, a packet to a host that a Service claims ends at the Service's backend,
/// and policy judges that (rule A5). Policy judges claimed addresses of pods and nodes as such.
fn a5_a9_what_kube_proxy_translates_is_judged_on_the_backend(cluster: &mut Cluster) {
    let claimed = addresses(cluster, &CLAIMED);
    let objects = claim(&json!({}), &claimed, &addresses(cluster, &["web-b"]));
    cluster.set_more(&objects, true).unwrap();
    let outside = addresses(cluster, &["outside"]);
    let by_service = cluster.probes("client", &outside, &PORTS, "web-b").unwrap();
    cluster.set_policies(&[egress("client", TO_WEB)]).unwrap();
    cluster.expect("its backend is allowed", &by_service, &Outcome::Reached);
    let others = to(cluster, "client", &CLAIMED[1..]);
    cluster.expect("addresses of pods and nodes", &others, &Outcome::Silent);
    cluster.set_policies(&[to_claimed(cluster)]).unwrap();
    let all = to(cluster, "client", &CLAIMED);
    cluster.expect("its backend is denied", &all, &Outcome::Silent);
}

/// kube-proxy does not serve addresses of a family in which a Service has no ClusterIP.
fn a9_a_service_of_one_family_claims_nothing_of_the_other(cluster: &mut Cluster) {
    let claimed = addresses(cluster, &["bad-a", "bad-b", "outside"]);
    let claimed: Vec<IpAddr> = claimed.into_iter().filter(IpAddr::is_ipv6).collect();
    let mut objects = claim(&json!({}), &claimed, &addresses(cluster, &["web-a"]));
    objects[0]["spec"]["clusterIPs"] = json!(["10.96.0.200"]);
    objects[0]["spec"]["ipFamilies"] = json!(["IPv4"]);
    for with_rules in [false, true] {
        cluster.set_more(&objects, with_rules).unwrap();
        let mut probes = to(cluster, "client", &["bad-a", "bad-b", "outside"]);
        probes.retain(|probe| probe.destination.is_ipv6());
        cluster.set_policies(&[egress("client", TO_WEB)]).unwrap();
        cluster.expect("not allowed", &probes, &Outcome::Silent);
        cluster.set_policies(&[to_claimed(cluster)]).unwrap();
        cluster.expect("allowed", &probes, &Outcome::Reached);
    }
}

/// A pod's own node is open (rule A2). That opens nothing else, whatever Service has it as a
/// backend.
fn a2_a9_a_slice_that_names_the_node_opens_no_other_way(cluster: &mut Cluster) {
    let claimed = addresses(cluster, &["outside", "bad-a", "bad-b"]);
    let objects = claim(&json!({}), &claimed, &addresses(cluster, &["node-a"]));
    cluster.set_policies(&[egress("client", "")]).unwrap();
    for with_rules in [false, true] {
        cluster.set_more(&objects, with_rules).unwrap();
        let elsewhere = cluster.site("node-b").unwrap().addresses;
        let mut closed = cluster
            .probes("client", &elsewhere, &[Port::Tcp(30200)], "node-a")
            .unwrap();
        closed.extend(to(cluster, "client", &["bad-a", "bad-b", "node-b"]));
        closed.extend(to(cluster, "far", &["outside", "bad-a", "bad-b", "node-a"]));
        if !with_rules {
            closed.extend(to(cluster, "client", &["outside"]));
        }
        cluster.expect(&format!("rules: {with_rules}"), &closed, &Outcome::Silent);
    }
    // kube-proxy leads it to the node that the pod is on.
    let outside = addresses(cluster, &["outside"]);
    let by_service = cluster.probes("client", &outside, &PORTS, "node-a").unwrap();
    cluster.expect("its own node", &by_service, &Outcome::Reached);
}

/// As a node-local DNS cache, which takes the ClusterIP of the Service that it replaces, and keeps
/// kube-proxy's rules away from it. What counts is where a packet ends.
fn a2_what_ends_at_the_node_is_open_whatever_service_has_its_address(cluster: &mut Cluster) {
    let objects = claim(&json!({}), &[], &addresses(cluster, &["bad-b"]));
    let node = cluster.site("node-a").unwrap();
    let virtual_ips = ["10.96.0.200", "fd00:10:96::c8"].map(|text| text.parse::<IpAddr>().unwrap());
    cluster.set_more(&objects, true).unwrap();
    let probes = cluster.probes("client", &virtual_ips, &PORTS, "node-a").unwrap();
    cluster.set_policies(&[egress("client", "")]).unwrap();
    cluster.expect("led to a pod", &probes, &Outcome::Silent);
    let tables = [
        ("iptables-restore", virtual_ips[0]),
        ("ip6tables-restore", virtual_ips[1]),
    ];
    for (program, address) in tables {
        let rules = format!(
            "*raw\n-A PREROUTING -d {address} -j NOTRACK\n-A OUTPUT -s {address} -j NOTRACK\nCOMMIT\n"
        );
        node.netns.feed(program, &["--noflush"], &rules).unwrap();
        // An IPv6 address can be listened on only when it is no longer tentative.
        let settled = if address.is_ipv6() { " nodad" } else { "" };
        node.netns
            .ip(&format!("addr add {address} dev lo{settled}\n"))
            .unwrap();
    }
    let cache = Servers::new().unwrap();
    let site = Site {
        addresses: virtual_ips.to_vec(),
        ..node
    };
    cache.add(&site, &PORTS).unwrap();
    cluster
        .set_policies(&[egress("client", ""), crate::shared::ingress("client", "")])
        .unwrap();
    cluster.expect("ends at the node", &probes, &Outcome::Reached);
    drop(cache);
    for (program, address) in tables {
        site.netns
            .feed(program, &[], "*raw\n:PREROUTING ACCEPT\n:OUTPUT ACCEPT\nCOMMIT\n")
            .unwrap();
        site.netns.ip(&format!("addr del {address} dev lo\n")).unwrap();
    }
    cluster.set_policies(&[egress("client", "")]).unwrap();
    cluster.expect("led to a pod again", &probes, &Outcome::Silent);
}

for_each_mode!(
    a9_a_service_that_nobody_translates_opens_and_closes_nothing,
    a9_c2_a_service_over_an_address_ends_no_connection_to_it,
    a5_a9_what_kube_proxy_translates_is_judged_on_the_backend,
    a9_a_service_of_one_family_claims_nothing_of_the_other,
    a2_a9_a_slice_that_names_the_node_opens_no_other_way,
    a2_what_ends_at_the_node_is_open_whatever_service_has_its_address,
);
