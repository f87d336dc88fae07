// SPDX-License-Identifier: Apache-2.0
//! Connections that are older than the pods' programs (rule C6), with kube-proxy's rules.

use std::{
    net::SocketAddr,
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use aya::maps::{Array, HashMap, Map, MapData};
use netpol_agent::{datapath::pin_folder, watch::directory};
use netpol_common::abi::{Config, Flow, FlowKey, Lifetimes};
use netpol_tests::{
    agent::{Agent, DEADLINE, Launch},
    manifests::ManifestDir,
    netns::NetNs,
    node::{Node, Plan, Site, member},
    overlay::{self, Overlay},
    pair::{End, Pair, Segments, Transport, Way},
    privilege::can_enforce,
    proxy::{Mode, Proxy},
    services::{Backend, Frontend, Readiness, Service, TCP_PORT, UDP_PORT},
};
use serde_json::{Value, json};

#[path = "open/protocols.rs"]
mod protocols;
#[path = "open/upgrade.rs"]
mod upgrade;

const SUITE: &str = "open";
/// Names and host numbers of the pods.
const PODS: [(&str, u16); 3] = [("shop/a", 10), ("shop/b", 11), ("other/c", 12)];
/// Port of the Service's backend.
const BACKEND_PORT: u16 = 7000;
const MESSAGES: usize = 20;
/// Part of the log line about seeded flows.
const SEEDED: &str = "connections that were open go on";

/// Pod a may open any connection and accepts none. Pod b accepts any and may open none.
const POLICIES: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: a}
spec:
  podSelector: {matchLabels: {app: a}}
  policyTypes: [Ingress, Egress]
  egress: [{}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: b}
spec:
  podSelector: {matchLabels: {app: b}}
  policyTypes: [Ingress, Egress]
  ingress: [{}]
";

/// A node with pods and a Service, without an agent.
struct World {
    manifests: ManifestDir,
    service: Service,
    node: Node,
}

impl World {
    /// Makes the node. `bridged`: frames between pods pass the node's connection tracking.
    fn new(bridged: bool) -> Self {
        let mut node = Node::new(Plan::first("node-a")).unwrap();
        for (name, host) in PODS {
            let addresses = node.plan().pod_networks().map(|net| member(net, host).addr());
            node.add_pod(name, &addresses).unwrap();
        }
        let called = if bridged { "1" } else { "0" };
        node.netns()
            .sysctl(&[
                ("net/bridge/bridge-nf-call-iptables", called),
                ("net/bridge/bridge-nf-call-ip6tables", called),
            ])
            .unwrap();
        let service = Service {
            name: "b".to_owned(),
            number: 1,
            headless: false,
            named_target: false,
            backends: vec![Backend {
                addresses: node.pod("shop/b").unwrap().addresses,
                tcp: BACKEND_PORT,
                udp: BACKEND_PORT,
                readiness: Readiness::Ready,
            }],
            slice_size: 1,
        };
        let manifests = ManifestDir::new().unwrap();
        manifests.write("pods.yaml", &pods(&node, "a")).unwrap();
        manifests
            .write("services.yaml", &joined(&service.manifests()))
            .unwrap();
        manifests.write("policies.yaml", POLICIES).unwrap();
        let world = Self {
            manifests,
            service,
            node,
        };
        world.wait_for_the_wire();
        world
    }

    /// The kernel takes up to a second to notice that a new link is up.
    fn wait_for_the_wire(&self) {
        let (from, to) = (self.site("outside"), self.site("shop/b"));
        let until = Instant::now() + DEADLINE;
        for address in &to.addresses {
            while let Err(error) = Pair::open(&from, &to, Way::direct(*address), Transport::Udp) {
                assert!(Instant::now() < until, "{error:#}");
            }
        }
    }

    /// Like [`World::new`], with kube-proxy's rules and Flannel's.
    fn with_rules(mode: Mode, bridged: bool) -> Self {
        let world = Self::new(bridged);
        world.write_rules(mode);
        world
    }

    fn write_rules(&self, mode: Mode) {
        overlay::connect(&[&self.node], Overlay::Vxlan).unwrap();
        let mut proxy = Proxy::install(mode, &self.node, false).unwrap();
        proxy
            .sync(&directory::load(self.manifests.path()).unwrap())
            .unwrap();
    }

    fn start(&self) -> Agent {
        Agent::start(&self.node, self.manifests.path()).unwrap()
    }

    /// Starts the agent with this attach mode.
    fn start_attached(&self, attach: &str) -> Agent {
        let mut launch = Launch::new(self.manifests.path(), &self.node.plan().name);
        launch.arguments.extend(["--attach".into(), attach.into()]);
        let agent = Agent::launch(&self.node, launch).unwrap();
        agent.wait_for_revision_after(0).unwrap();
        agent
    }

    /// Asserts how many filters of netpol an interface of the node has.
    #[track_caller]
    fn filters_are(&self, interface: &str, count: usize) {
        let listed = self.node.netns().run(|| {
            let sides = ["ingress", "egress"].map(|side| {
                let mut tc = Command::new("tc");
                tc.args(["filter", "show", "dev", interface, side]).output()
            });
            let [ingress, egress] = sides;
            Ok([ingress?.stdout, egress?.stdout].concat())
        });
        let listed = String::from_utf8(listed.unwrap()).unwrap();
        let ours = listed.lines().filter(|line| line.contains("_pod"));
        assert_eq!(ours.count(), count, "{listed}");
    }

    fn site(&self, name: &str) -> Site {
        match name {
            "outside" => self.node.outside(),
            pod => self.node.pod(pod).unwrap(),
        }
    }

    /// Opens a connection of each transport and family.
    fn open(&self, from: &str, to: &str) -> Vec<Pair> {
        let (from, to) = (self.site(from), self.site(to));
        let ways = to.addresses.iter().map(|address| Way::direct(*address));
        ways.flat_map(|way| Transport::ALL.map(|transport| Pair::open(&from, &to, way, transport).unwrap()))
            .collect()
    }

    /// Does the same through the Service's ClusterIPs, to pod b.
    fn open_through_service(&self, from: &str) -> Vec<Pair> {
        let (from, to) = (self.site(from), self.site("shop/b"));
        let addresses = self.service.addresses(Frontend::ClusterIp);
        let mut pairs = Vec::new();
        for (frontend, backend) in addresses.into_iter().zip(to.addresses.clone()) {
            for (transport, port) in [(Transport::Tcp, TCP_PORT), (Transport::Udp, UDP_PORT)] {
                let way = Way {
                    frontend: SocketAddr::new(frontend, port),
                    backend: SocketAddr::new(backend, BACKEND_PORT),
                };
                pairs.push(Pair::open(&from, &to, way, transport).unwrap());
            }
        }
        pairs
    }

    /// Opens connections that the policies allow, by all paths.
    fn open_allowed(&self) -> Vec<Pair> {
        let mut pairs = self.open("shop/a", "shop/b");
        pairs.extend(self.open("shop/a", "outside"));
        pairs.extend(self.open("outside", "shop/b"));
        pairs.extend(self.open_through_service("shop/a"));
        pairs
    }

    /// Returns how many TCP segments between the sites were lost since the node was made.
    fn lost(&self) -> u64 {
        let sites: Vec<Site> = self
            .node
            .pods()
            .into_iter()
            .chain([self.node.outside()])
            .collect();
        Segments::lost(sites.iter().map(|site| &*site.netns)).unwrap()
    }

    /// Asserts that each connection carries messages, from this end first, and that no segment was
    /// lost since `before` were. A segment sent again is not counted: on a busy machine an
    /// acknowledgement can be late.
    #[track_caller]
    fn all_go_on(&self, pairs: &mut [Pair], first: End, before: u64) {
        for pair in pairs {
            pair.goes_on(first, MESSAGES);
        }
        assert_eq!(self.lost(), before, "segments were lost");
    }

    /// Asserts that the policies are active: no new connection is opened to pod a or by pod b.
    #[track_caller]
    fn is_enforced(&self) {
        for (from, to) in [("other/c", "shop/a"), ("shop/b", "other/c")] {
            let (from, to) = (self.site(from), self.site(to));
            for transport in Transport::ALL {
                for address in &to.addresses {
                    let opened = Pair::open(&from, &to, Way::direct(*address), transport);
                    assert!(opened.is_err(), "{} is open", opened.unwrap());
                }
            }
        }
    }
}

fn pods(node: &Node, app_of_a: &str) -> String {
    let pods = node.pods().into_iter().map(|site| {
        let (namespace, name) = site.name.split_once('/').unwrap();
        let app = if name == "a" { app_of_a } else { name };
        let ips: Vec<Value> = site.addresses.iter().map(|ip| json!({"ip": ip})).collect();
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"namespace": namespace, "name": name, "labels": {"app": app}},
            "spec": {"nodeName": node.plan().name, "containers": [{"name": "main", "image": "example"}]},
            "status": {"phase": "Running", "podIPs": ips},
        })
    });
    joined(&pods.collect::<Vec<_>>())
}

/// JSON is YAML.
fn joined(objects: &[Value]) -> String {
    let texts: Vec<String> = objects.iter().map(Value::to_string).collect();
    texts.join("\n---\n") + "\n"
}

/// No allowed connection loses a packet when the agent starts, whichever end sends next, even if it
/// was not answered before.
fn go_on(mode: Mode, first: End) {
    if !can_enforce(SUITE) {
        return;
    }
    let world = World::with_rules(mode, true);
    let mut pairs = world.open_allowed();
    // The others wait for their first answer.
    for pair in pairs.iter_mut().skip(2).step_by(3) {
        pair.goes_on(End::Opened, 2);
    }
    let before = world.lost();
    let agent = world.start();
    agent.wait_for_line(0, SEEDED).unwrap();
    world.all_go_on(&mut pairs, first, before);
    world.is_enforced();
}

#[test]
fn c6_open_connections_go_on_with_a_reply_over_iptables() {
    go_on(Mode::Iptables, End::Opened);
}

#[test]
fn c6_open_connections_go_on_with_a_reply_over_nftables() {
    go_on(Mode::Nftables, End::Opened);
}

#[test]
fn c6_open_connections_go_on_with_the_opener() {
    go_on(Mode::Iptables, End::Opener);
}

/// A connection that policy denies to its opener is cut at both ends, although the other end may
/// open connections.
#[test]
fn c6_c2_an_open_connection_that_policy_denies_is_cut_at_its_next_packet() {
    if !can_enforce(SUITE) {
        return;
    }
    let world = World::with_rules(Mode::Iptables, true);
    let mut pairs = world.open("other/c", "shop/a");
    pairs.extend(world.open("outside", "shop/a"));
    pairs.extend(world.open("shop/b", "other/c"));
    for pair in &mut pairs {
        pair.goes_on(End::Opened, 1);
    }
    let _agent = world.start();
    for pair in &mut pairs {
        pair.is_cut(End::Opened);
        pair.is_cut(End::Opener);
    }
}

/// [`World::lost`] counts what is lost, although it is sent again and the connection goes on.
#[test]
fn what_is_lost_is_counted_although_it_is_sent_again() {
    if !can_enforce(SUITE) {
        return;
    }
    let world = World::new(false);
    let mut pairs = world.open("shop/a", "shop/b");
    pairs.retain(|pair| pair.to_string().starts_with("Tcp"));
    let before = world.lost();
    world.all_go_on(&mut pairs, End::Opened, before);
    let (client, server) = (world.site("shop/a"), world.site("shop/b"));
    let hole = |verb: &str| {
        let routes = client.addresses.iter();
        let lines = routes.map(|address| format!("route {verb} blackhole {address}\n"));
        server.netns.ip(&lines.collect::<String>()).unwrap();
    };
    for pair in &mut pairs {
        hole("add");
        assert!(!pair.says(End::Opened, Duration::from_millis(1)).unwrap());
        hole("del");
    }
    assert!(world.lost() > before);
}

/// Programs that were removed and attached again, and programs that stay over a restart.
#[test]
fn c6_connections_opened_in_a_gap_go_on_and_without_a_gap_nothing_is_seeded() {
    if !can_enforce(SUITE) {
        return;
    }
    let world = World::with_rules(Mode::Nftables, true);
    let mut agent = world.start();
    let mut pairs = world.open_allowed();
    agent.stop().unwrap();
    agent.cleanup().unwrap();
    pairs.extend(world.open("shop/a", "other/c"));
    let before = world.lost();
    agent.restart().unwrap();
    agent.wait_for_line(0, SEEDED).unwrap();
    world.all_go_on(&mut pairs, End::Opened, before);
    agent.stop().unwrap();
    agent.restart().unwrap();
    for pair in &mut pairs {
        pair.goes_on(End::Opened, 1);
    }
    world.is_enforced();
    seeds_nothing(&mut agent);
}

/// Asserts that a restart seeds no connection without a flow if the programs were there all the
/// time.
#[track_caller]
fn seeds_nothing(agent: &mut Agent) {
    agent.stop().unwrap();
    let pin = pin_folder(agent.pin_path()).join("flows");
    let map = Map::HashMap(MapData::from_pin(pin).unwrap());
    let mut flows: HashMap<_, FlowKey, Flow> = map.try_into().unwrap();
    let keys: Vec<FlowKey> = flows.keys().map(Result::unwrap).collect();
    assert!(!keys.is_empty());
    for key in keys {
        flows.remove(&key).unwrap();
    }
    agent.restart().unwrap();
    assert!(!agent.log().contains(SEEDED), "{}", agent.log());
}

/// Connection tracking began while the connection was open, and takes its first packet, a reply,
/// for the opener's. Neither seeds nor programs believe that. No end alone can open it again at
/// pods that are isolated in both directions (rule C4). New connections work as usual.
#[test]
fn c6_c4_a_guess_at_who_opened_a_connection_opens_nothing() {
    if !can_enforce(SUITE) {
        return;
    }
    let world = World::new(true);
    let mut pairs: Vec<Pair> = world.open("shop/a", "shop/b");
    // For UDP there is no way to detect it.
    pairs.retain(|pair| pair.to_string().starts_with("Tcp"));
    assert_eq!(pairs.len(), 2);
    world.write_rules(Mode::Iptables);
    for pair in &mut pairs {
        pair.goes_on(End::Opened, 2);
    }
    let _agent = world.start();
    for pair in &mut pairs {
        pair.is_cut(End::Opened);
    }
    for pair in &mut world.open("shop/a", "shop/b") {
        pair.goes_on(End::Opened, MESSAGES);
    }
}

/// If connection tracking does not see the bridge's frames, the agent says so and continues. Routed
/// connections are known.
#[test]
fn c6_what_is_not_tracked_is_told_once() {
    if !can_enforce(SUITE) {
        return;
    }
    let world = World::with_rules(Mode::Iptables, false);
    let mut routed = world.open("shop/a", "outside");
    let agent = world.start();
    for pair in &mut routed {
        pair.goes_on(End::Opened, MESSAGES);
    }
    let log = agent.log();
    assert_eq!(log.matches("are not tracked").count(), 1, "{log}");
    world.is_enforced();
}

/// Handshakes that a denied opener began, and that cannot be completed before the agent starts.
#[test]
fn c6_a_half_open_connection_that_policy_denies_is_not_let_in() {
    if !can_enforce(SUITE) {
        return;
    }
    let world = World::with_rules(Mode::Iptables, true);
    let (client, server) = (world.site("other/c"), world.site("shop/a"));
    let hole = |verb: &str| {
        let lines: Vec<String> = client
            .addresses
            .iter()
            .map(|address| format!("route {verb} blackhole {address}\n"))
            .collect();
        server.netns.ip(&lines.concat()).unwrap();
    };
    hole("add");
    let listeners: Vec<_> = server
        .addresses
        .iter()
        .map(|address| {
            let address = SocketAddr::new(*address, BACKEND_PORT);
            server
                .netns
                .run(|| Ok(std::net::TcpListener::bind(address)?))
                .unwrap()
        })
        .collect();
    let openers: Vec<_> = listeners
        .iter()
        .map(|listener| {
            let address = listener.local_addr().unwrap();
            let netns = Arc::clone(&client.netns);
            thread::spawn(move || {
                netns.run(|| {
                    // SYNs go out after 1, 3 and 7 s. Loading the programs takes some of these on a
                    // busy machine.
                    let patience = Duration::from_millis(7500);
                    Ok(std::net::TcpStream::connect_timeout(&address, patience)?)
                })
            })
        })
        .collect();
    // Their first segments are in the connection table before the agent reads it.
    let tracked = || {
        let table = world.node.netns().run(|| {
            let found = std::fs::read_to_string("/proc/thread-self/net/nf_conntrack");
            Ok(found.unwrap_or_default().matches("SYN_SENT").count())
        });
        table.unwrap()
    };
    let retransmitted = |netns: &NetNs| Segments::read(netns).unwrap().retransmitted;
    let until = Instant::now() + Duration::from_millis(900);
    while tracked() < openers.len() && Instant::now() < until {
        thread::yield_now();
    }
    let before = retransmitted(&client.netns);
    let agent = world.start();
    hole("del");
    // The second segment of each is dropped.
    let seen = agent.wait_for_line(0, "packet dropped").unwrap();
    assert!(seen.contains("\"policy\""), "{seen}");
    for opener in openers {
        let opened = opener.join().unwrap();
        assert!(opened.is_err(), "a denied connection was opened: {opened:?}");
    }
    assert!(retransmitted(&client.netns) > before, "no segment was sent again");
}

/// Configured lifetimes are in the kernel, at once and after a restart with others. Others have the
/// default.
#[test]
fn c3_lifetimes_are_those_that_the_agent_was_told() {
    if !can_enforce(SUITE) {
        return;
    }
    let world = World::new(true);
    let mut agent = world.start();
    let held = |agent: &Agent| {
        let pin = pin_folder(agent.pin_path()).join("config");
        let map = Map::Array(MapData::from_pin(pin).unwrap());
        let config: Config = Array::try_from(map).unwrap().get(&0, 0).unwrap();
        config.lifetimes
    };
    assert_eq!(held(&agent), Lifetimes::default());
    agent.stop().unwrap();
    agent.set_argument("--flow-lifetime", "udp-established=77");
    agent.restart().unwrap();
    let told = Lifetimes {
        udp_established: 77,
        ..Lifetimes::default()
    };
    assert_eq!(held(&agent), told);
}

/// A new pod gets the address of a removed one: its own connections continue, the other's are not
/// its. The same holds after `later` happened to the agent.
fn reused_address(later: impl FnOnce(&mut Agent)) {
    if !can_enforce(SUITE) {
        return;
    }
    let mut world = World::with_rules(Mode::Iptables, true);
    let mut agent = world.start();
    let mut old = world.open("shop/a", "outside");
    for pair in &mut old {
        pair.goes_on(End::Opened, 1);
    }
    let addresses = world.site("shop/a").addresses;
    let mut revision = agent.revision();
    world.node.remove_pod("shop/a").unwrap();
    world
        .manifests
        .write("pods.yaml", &pods(&world.node, "a"))
        .unwrap();
    revision = agent.wait_for_revision_after(revision).unwrap();
    world.node.add_pod("shop/a", &addresses).unwrap();
    let mut own = world.open("shop/a", "outside");
    let heirs: Vec<_> = old
        .iter()
        .filter(|pair| pair.to_string().starts_with("Udp"))
        .map(|pair| {
            let source = pair.source().unwrap();
            let socket = world
                .site("shop/a")
                .netns
                .run(|| Ok(std::net::UdpSocket::bind(source)?));
            socket.unwrap()
        })
        .collect();
    world
        .manifests
        .write("pods.yaml", &pods(&world.node, "a"))
        .unwrap();
    agent.wait_for_revision_after(revision).unwrap();
    later(&mut agent);
    for pair in old.iter_mut().filter(|pair| pair.to_string().starts_with("Udp")) {
        pair.is_cut(End::Opened);
    }
    for heir in heirs {
        heir.set_nonblocking(true).unwrap();
        assert!(
            heir.recv(&mut [0; 8]).is_err(),
            "a packet of the former pod's connection"
        );
    }
    for pair in &mut own {
        pair.goes_on(End::Opened, MESSAGES);
    }
}

#[test]
fn c3_c6_a_reused_address_does_not_inherit_connections() {
    reused_address(|_| {});
}
