// SPDX-License-Identifier: Apache-2.0
//! A new pod before its policy is programmed (rule B2): what passes, and what continues later.

use std::{fs, net::IpAddr, time::Instant};

use netpol_agent::datapath::links_folder;
use netpol_tests::{
    lab::{DENY_ALL, Lab},
    netns::NetNs,
    probe::{Outcome, PATIENCE},
};
use nix::net::if_::if_nametoindex;

use crate::shared::{TCP, lab, policy_of_a};

const CLOSED: &str = "closed to all but the node until its pod is known";
const KNOWN: &str = "the pod of a closed interface is known";
const SEEDED: &str = "connections that were open go on";

/// Makes the laboratory, with its agent restarted in a mode.
pub fn started(mode: &str, policies: &[(&str, &str)]) -> Option<Lab> {
    let mut lab = lab(policies)?;
    lab.agent.stop().unwrap();
    lab.agent.set_argument("--startup-mode", mode);
    lab.agent
        .set_argument("--pod-cidr", &lab.node.plan().pod_networks()[0].to_string());
    lab.agent.set_argument("--log", "info,netpol_agent=debug");
    lab.agent.restart().unwrap();
    Some(lab)
}

/// Waits for a log line about an interface.
pub fn wait(lab: &Lab, seen: usize, what: &str, veth: &str) -> String {
    let mut seen = seen;
    loop {
        let line = lab.agent.wait_for_line(seen, what).unwrap();
        if line.contains(veth) {
            return line;
        }
        seen += 1;
    }
}

#[test]
fn b2_strict_closes_a_new_pod_until_its_policy_is_in() {
    let Some(mut lab) = started("strict", &[]) else {
        return;
    };
    let seen = lab.agent.log_length();
    lab.add_interface("shop/new").unwrap();
    let veth = lab.node.veth("shop/new").unwrap().to_owned();
    wait(&lab, seen, CLOSED, &veth);
    for (from, to) in [
        ("shop/new", "outside"),
        ("shop/new", "shop/a"),
        ("outside", "shop/new"),
        ("shop/a", "shop/new"),
    ] {
        lab.expect(from, to, &Outcome::Silent);
    }
    lab.expect("node", "shop/new", &Outcome::Reached);
    lab.expect("shop/new", "node", &Outcome::Reached);
    // Others are unaffected.
    lab.expect("shop/b", "outside", &Outcome::Reached);
    let seen = lab.agent.log_length();
    lab.label("shop/new", "app: new").unwrap();
    let told = wait(&lab, seen, KNOWN, &veth);
    assert!(told.contains("shop/new") && told.contains("closed_ms"), "{told}");
    lab.expect("shop/new", "outside", &Outcome::Reached);
    lab.expect("outside", "shop/new", &Outcome::Reached);
    lab.remove_pod("shop/new").unwrap();
}

/// Each pod first connects to what its policy denies: once its interface is closed, and before,
/// while and after it becomes known.
#[test]
fn b2_no_first_packet_of_a_new_pod_gets_through_in_strict_mode() {
    const PODS: usize = 12;
    let Some(mut lab) = started("strict", &[("deny.yaml", DENY_ALL)]) else {
        return;
    };
    let mut times = Vec::new();
    for number in 0..PODS {
        let name = format!("shop/new{number}");
        let (seen, began) = (lab.agent.log_length(), Instant::now());
        lab.add_interface(&name).unwrap();
        let veth = lab.node.veth(&name).unwrap().to_owned();
        wait(&lab, seen, CLOSED, &veth);
        times.push(began.elapsed());
        let probes = lab.probes(&name, "outside", &TCP).unwrap();
        let dial = |when: &str| {
            let outcomes = lab.prober.probe_once(&probes, PATIENCE / 10).unwrap();
            assert!(
                outcomes.iter().all(|outcome| *outcome == Outcome::Silent),
                "{name} {when}: {outcomes:?}"
            );
        };
        dial("before it is known");
        std::thread::scope(|scope| {
            let dialing = scope.spawn(|| dial("while it becomes known"));
            let _ = dialing.join().map_err(std::panic::resume_unwind);
        });
        lab.label(&name, "app: new").unwrap();
        lab.expect(&name, "outside", &Outcome::Silent);
    }
    times.sort();
    println!(
        "from before the interface is made until it is closed: {:?} to {:?}",
        times[0],
        times[PODS - 1]
    );
}

/// Interfaces of others are left alone: on a bridge without an address of the node's pods.
#[test]
fn b2_strict_leaves_the_interfaces_of_others_alone() {
    let Some(mut lab) = started("strict", &[]) else {
        return;
    };
    let other = NetNs::create(&format!("{}docker", lab.node.prefix())).unwrap();
    let made = format!(
        // The pair is on the bridge from its first moment: one on none is a device of the network.
        "link add docker0 type bridge\naddr add 172.17.0.1/16 dev docker0\nlink set docker0 up\n\
         link add vethdocker master docker0 type veth peer name eth0 netns {}\nlink set vethdocker up\n",
        other.name()
    );
    lab.node.netns().ip(&made).unwrap();
    other
        .ip("link set eth0 up\naddr add 172.17.0.2/16 dev eth0\n")
        .unwrap();
    // An interface that comes later is closed, so this one was checked.
    let seen = lab.agent.log_length();
    lab.add_interface("shop/new").unwrap();
    let veth = lab.node.veth("shop/new").unwrap().to_owned();
    wait(&lab, seen, CLOSED, &veth);
    let index = lab
        .node
        .netns()
        .run(|| Ok(if_nametoindex("vethdocker")?))
        .unwrap();
    let prefix = format!("{index}-");
    for pin in fs::read_dir(links_folder(lab.agent.pin_path())).unwrap() {
        let name = pin.unwrap().file_name().into_string().unwrap();
        assert!(!name.starts_with(&prefix), "{name}");
    }
    assert!(!lab.agent.log().contains("vethdocker"), "{}", lab.agent.log());
}

/// Starts the agent where no API server answers, so that no list ever comes.
pub fn relaunch_without_lists(lab: &mut Lab) {
    let config = lab.manifests.path().join("kubeconfig");
    let text = "{apiVersion: v1, kind: Config, current-context: c, clusters: [{name: c, cluster: {server: \"https://127.0.0.1:9\"}}], \
                users: [{name: c, user: {}}], contexts: [{name: c, context: {cluster: c, user: c}}]}";
    fs::write(&config, text).unwrap();
    lab.agent.set_argument("--source", "kube");
    lab.agent.set_argument("--kubeconfig", config.to_str().unwrap());
    lab.agent.relaunch().unwrap();
}

/// A pod that comes while no agent runs is closed as soon as one starts, before any list: here none
/// ever comes.
#[test]
fn b2_b1_strict_closes_before_the_first_list_and_keeps_what_is_enforced() {
    let Some(mut lab) = started("strict", &[("deny.yaml", DENY_ALL)]) else {
        return;
    };
    lab.agent.kill().unwrap();
    lab.add_interface("other/new").unwrap();
    lab.expect("other/new", "outside", &Outcome::Reached);
    relaunch_without_lists(&mut lab);
    let veth = lab.node.veth("other/new").unwrap().to_owned();
    wait(&lab, 0, CLOSED, &veth);
    lab.expect("other/new", "outside", &Outcome::Silent);
    lab.expect("node", "other/new", &Outcome::Reached);
    // Isolated before, and not isolated before.
    lab.expect("outside", "shop/a", &Outcome::Silent);
    lab.expect("outside", "other/c", &Outcome::Reached);
}

/// A connection that a pod opened while everything passed continues if its policy allows it, and is
/// cut otherwise. The programs were there all the time, so connection tracking is not asked.
#[test]
fn b2_c6_what_a_new_pod_opened_before_its_policy_goes_on_if_that_allows_it() {
    opened_before_its_policy(false, |_| true);
}

/// The same if the pod's status lacks some addresses that its interface had when the programs came:
/// connection tracking is asked for each.
#[test]
fn b2_c6_what_a_new_pod_opened_goes_on_though_its_status_has_fewer_addresses() {
    opened_before_its_policy(true, IpAddr::is_ipv4);
}

/// `late`: the programs come after the pod's addresses. `in_status`: which of these its status has.
fn opened_before_its_policy(late: bool, in_status: impl Fn(&IpAddr) -> bool) {
    let Some(mut lab) = started(
        "open",
        &[("a.yaml", &policy_of_a("egress: [{to: [{podSelector: {}}]}]"))],
    ) else {
        return;
    };
    let mut seen = lab.agent.log_length();
    if late {
        lab.agent.stop().unwrap();
    }
    lab.add_interface("shop/new").unwrap();
    if late {
        lab.agent.restart().unwrap();
        seen = 0;
    }
    let veth = lab.node.veth("shop/new").unwrap().to_owned();
    wait(&lab, seen, "programs are there before the pod is known", &veth);
    // The kernel takes a moment to notice that a new link is up.
    lab.expect("shop/new", "shop/b", &Outcome::Reached);
    lab.expect("shop/new", "outside", &Outcome::Reached);
    let open = |to: &str| {
        let probes = lab.probes("shop/new", to, &TCP).unwrap();
        probes
            .iter()
            .filter(|probe| in_status(&probe.destination))
            .map(|probe| lab.prober.converse(probe).unwrap())
            .collect::<Vec<_>>()
    };
    let (mut allowed, mut denied) = (open("shop/b"), open("outside"));
    for conversation in allowed.iter_mut().chain(&mut denied) {
        assert_eq!(conversation.ask(PATIENCE), Outcome::Reached, "before");
    }
    let revision = lab.agent.revision();
    let more = lab.manifests.path().join("new.yaml");
    let address = |site: &netpol_tests::node::Site| {
        let ips: Vec<String> = site
            .addresses
            .iter()
            .filter(|ip| in_status(ip))
            .map(|ip| format!("{{ip: \"{ip}\"}}"))
            .collect();
        ips.join(", ")
    };
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{namespace: shop, name: new, labels: {{app: a}}}}\n\
         spec: {{nodeName: node-a, containers: [{{name: main, image: example}}]}}\n\
         status: {{phase: Running, podIPs: [{}]}}\n",
        address(&lab.site("shop/new").unwrap())
    );
    fs::write(&more, pod).unwrap();
    lab.agent.wait_for_revision_after(revision).unwrap();
    for conversation in &mut allowed {
        assert_eq!(conversation.ask(PATIENCE), Outcome::Reached, "allowed");
    }
    for conversation in &mut denied {
        assert_eq!(conversation.ask(PATIENCE / 4), Outcome::Silent, "denied");
    }
    let log = lab.agent.log_since(seen);
    assert!(!log.contains(SEEDED), "{log}");
}
