// SPDX-License-Identifier: Apache-2.0
//! The attacker, two victims, a friend that a victim trusts and that sends nothing, Services for
//! both victims, and many versions of the policies, all with the same meaning for the attacker.

use std::net::IpAddr;

use netpol_agent::watch::directory;
use netpol_tests::{
    capture,
    lab::Lab,
    node::{Plan, member},
    proxy::{Mode, Proxy},
    services::{Backend, Readiness, Service},
};

use crate::judge::{Judge, Policy};

/// Sends everything.
pub const ATTACKER: &str = "shop/attacker";
/// Isolated for ingress; the attacker may reach [`TCP`] and [`UDP`].
pub const NARROW: &str = "shop/narrow";
/// Isolated in both directions; nothing is allowed.
pub const CLOSED: &str = "shop/closed";
/// May send anything to [`NARROW`] in some versions, and sends nothing.
pub const FRIEND: &str = "shop/friend";

/// The open TCP port of [`NARROW`].
pub const TCP: u16 = 8080;
/// Its open UDP port.
pub const UDP: u16 = 5353;

const PODS: [(&str, &str); 4] = [
    (ATTACKER, "app: attacker"),
    (NARROW, "app: narrow"),
    (CLOSED, "app: closed"),
    (FRIEND, "app: friend"),
];
const FILE: &str = "policies.yaml";

/// Attacker, victims and everything between them.
pub struct World {
    /// Node, pods and agent.
    pub lab: Lab,
    /// Services for [`NARROW`] and [`CLOSED`].
    pub services: Vec<Service>,
    _proxy: Proxy,
}

impl World {
    /// Makes the world, with the first version of the policies active.
    pub fn new() -> Self {
        let services: Vec<Service> = (1..).zip([NARROW, CLOSED]).map(service).collect();
        let manifests: Vec<String> = services
            .iter()
            .flat_map(Service::manifests)
            .map(|object| object.to_string())
            .collect();
        let files = [("services.yaml", manifests.join("\n---\n")), (FILE, version(0))];
        let files: Vec<(&str, &str)> = files.iter().map(|(file, text)| (*file, text.as_str())).collect();
        let lab = Lab::new(&PODS, &files).unwrap();
        // Fragments are not reassembled on the way.
        lab.node
            .netns()
            .sysctl(&[
                ("net/bridge/bridge-nf-call-iptables", "0"),
                ("net/bridge/bridge-nf-call-ip6tables", "0"),
            ])
            .unwrap();
        let snapshot = directory::load(lab.manifests.path()).unwrap();
        assert!(snapshot.diagnostics.is_empty(), "{:?}", snapshot.diagnostics);
        let mut proxy = Proxy::install(Mode::Iptables, &lab.node, false).unwrap();
        proxy.sync(&snapshot).unwrap();
        Self {
            lab,
            services,
            _proxy: proxy,
        }
    }

    /// Returns a pod's IPv4 and IPv6 address.
    pub fn addresses(&self, name: &str) -> [IpAddr; 2] {
        capture::addresses(&self.lab.site(name).unwrap()).unwrap()
    }

    /// Returns a pod's MAC address.
    pub fn mac(&self, pod: &str) -> [u8; 6] {
        capture::mac(&self.lab.site(pod).unwrap().netns, "eth0").unwrap()
    }

    /// Returns the MAC address of the node's bridge.
    pub fn bridge(&self) -> [u8; 6] {
        capture::mac(self.lab.node.netns(), "cni0").unwrap()
    }

    /// Makes a judge of what a victim receives.
    pub fn judge(&self, pod: &str) -> Judge {
        Judge::new(Policy {
            own: self.addresses(pod),
            attacker: self.addresses(ATTACKER),
            open: if pod == NARROW {
                vec![(6, TCP), (17, UDP)]
            } else {
                vec![]
            },
            bridge: self.bridge(),
            veth: capture::mac(self.lab.node.netns(), self.lab.node.veth(pod).unwrap()).unwrap(),
            node: self.lab.site("node").unwrap().addresses,
        })
    }

    /// Activates a version of the policies.
    pub fn apply(&self, number: usize) {
        self.lab.apply(FILE, &version(number)).unwrap();
    }
}

fn service((number, pod): (u8, &str)) -> Service {
    let plan = Plan::first("node-a");
    let host = 10 + PODS.iter().position(|(name, _)| *name == pod).unwrap() as u16;
    Service {
        name: pod.replace("shop/", ""),
        number,
        headless: false,
        named_target: false,
        backends: vec![Backend {
            addresses: plan.pod_networks().map(|net| member(net, host).addr()).to_vec(),
            tcp: TCP,
            udp: UDP,
            readiness: Readiness::Ready,
        }],
        slice_size: 10,
    }
}

/// Returns a version of the policies. The attacker's rule is one policy or two, by labels, by
/// namespace or by addresses. Peers beside it come and go, so that the attacker changes identity.
/// The closed pod's policies have rules that match nobody, or none. The attacker itself is isolated
/// for egress with everything allowed, or not isolated.
fn version(number: usize) -> String {
    let peer = match number % 4 {
        0 => "podSelector: {matchLabels: {app: attacker}}",
        1 => "podSelector: {matchExpressions: [{key: app, operator: In, values: [attacker, nobody]}]}",
        2 => "namespaceSelector: {}, podSelector: {matchLabels: {app: attacker}}",
        _ => "ipBlock: {cidr: 10.244.0.10/32}}, {ipBlock: {cidr: \"fd00:10:244::a/128\"}",
    };
    let ports = match number / 4 % 3 {
        0 => "{port: 8080}, {port: 5353, protocol: UDP}",
        1 => "{port: 8080, endPort: 8080, protocol: TCP}, {port: 5353, protocol: UDP}",
        _ => "{port: 5353, protocol: UDP}, {port: 8080}, {port: 8080}",
    };
    let rule = format!("{{from: [{{{peer}}}], ports: [{ports}]}}");
    let beside = match number / 2 % 4 {
        0 => "",
        1 => ", {from: [{podSelector: {matchLabels: {app: friend}}}]}",
        2 => {
            ", {from: [{ipBlock: {cidr: 203.0.113.0/24}}, {podSelector: {matchLabels: {app: friend}}}], ports: [{port: 1}]}"
        }
        _ => ", {from: [{ipBlock: {cidr: \"2001:db8:7::/48\"}}]}",
    };
    let mut text = policy(
        "narrow",
        "narrow",
        "Ingress",
        &format!("ingress: [{rule}{beside}]"),
    );
    if number % 3 == 1 {
        text += &policy("narrow-again", "narrow", "Ingress", &format!("ingress: [{rule}]"));
    }
    let nobody = if number % 5 < 2 {
        "ingress: [{from: [{podSelector: {matchLabels: {app: nobody}}}]}], egress: [{to: [{podSelector: {matchLabels: {app: nobody}}}]}]"
    } else {
        "ingress: []"
    };
    text += &policy("closed", "closed", "Ingress, Egress", nobody);
    if number % 7 < 3 {
        text += &policy(
            "friend",
            "friend",
            "Ingress",
            "ingress: [{from: [{podSelector: {matchLabels: {app: attacker}}}], ports: [{port: 9, endPort: 99}]}]",
        );
    }
    if number % 6 < 3 {
        text += &policy("attacker", "attacker", "Egress", "egress: [{}]");
    }
    text
}

fn policy(name: &str, app: &str, types: &str, rules: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{namespace: shop, name: {name}}}\n\
         spec: {{podSelector: {{matchLabels: {{app: {app}}}}}, policyTypes: [{types}], {rules}}}\n"
    )
}
