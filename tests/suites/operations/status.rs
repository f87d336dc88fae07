// SPDX-License-Identifier: Apache-2.0
//! `netpol status`: what it shows of a healthy agent, and that each fault shows.

use std::{
    net::TcpListener,
    path::Path,
    process::{Command, Output},
    time::Instant,
};

use aya::maps::{HashMap, Map, MapData};
use netpol_agent::datapath::pin;
use netpol_common::abi::{Flow, FlowKey};
use netpol_tests::{
    agent::{Agent, DEADLINE},
    lab::{DENY_ALL, Lab},
    privilege::{binary, can_enforce},
};
use serde_json::{Value, json};

use super::shared::{SUITE, node, of_server};

const PODS: [(&str, &str); 2] = [("shop/web", "app: web"), ("data/db", "app: db")];

fn run(socket: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary().unwrap());
    command.args(["status", "--socket"]).arg(socket).args(arguments);
    command.output().unwrap()
}

/// Returns the exit code and the JSON.
fn status(agent: &Agent) -> (Option<i32>, Value) {
    let output = run(&agent.socket(), &["-o", "json"]);
    let text = String::from_utf8_lossy(&output.stdout);
    let shown = serde_json::from_str(&text);
    let shown = shown.unwrap_or_else(|error| {
        panic!(
            "{error}: {text}{}{}",
            String::from_utf8_lossy(&output.stderr),
            agent.log()
        )
    });
    (output.status.code(), shown)
}

/// Returns names and faults of the conditions that failed.
fn failed(shown: &Value) -> Vec<(String, String)> {
    let conditions = shown["conditions"].as_array().unwrap().iter();
    let told = conditions.map(|condition| {
        let name = condition["name"].as_str().unwrap().to_owned();
        let faults = condition["faults"].as_array().unwrap().iter();
        let faults: Vec<_> = faults.map(|fault| fault.as_str().unwrap()).collect();
        (name, faults.join("; "))
    });
    told.filter(|(_, faults)| !faults.is_empty()).collect()
}

/// Asks until exactly this condition fails, and returns the status and what is wrong.
fn wait_until_failed(agent: &Agent, name: &str) -> (Value, String) {
    wait_until(agent, name, || ())
}

/// The same, with something done before each question.
fn wait_until(agent: &Agent, name: &str, prepare: impl Fn()) -> (Value, String) {
    let until = Instant::now() + DEADLINE;
    loop {
        prepare();
        let (code, shown) = status(agent);
        if let [(found, fault)] = &failed(&shown)[..]
            && found == name
        {
            assert_eq!(code, Some(1));
            return (shown.clone(), fault.clone());
        }
        assert!(Instant::now() < until, "{shown:#}\n{}", agent.log());
    }
}

#[test]
fn b3_status_shows_what_is_enforced_and_a_removed_filter() {
    if !can_enforce(SUITE) {
        return;
    }
    let mut lab = Lab::new(&PODS, &[("deny.yaml", DENY_ALL)]).unwrap();
    lab.agent.stop().unwrap();
    lab.agent.set_argument("--attach", "clsact");
    lab.agent.restart().unwrap();
    let (code, shown) = status(&lab.agent);
    assert_eq!(code, Some(0), "{shown:#}");
    assert_eq!(failed(&shown), []);
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(shown["kernel"], release.trim());
    assert_eq!(shown["node"], "node-a");
    assert_eq!(shown["hooks"]["mechanism"], "clsact");
    assert_eq!(
        (&shown["revision"], &shown["revisionKnown"]),
        (&json!(1), &json!(1))
    );
    let veth = lab.node.veth("shop/web").unwrap().to_owned();
    let pods = shown["pods"].as_array().unwrap();
    let web = pods.iter().find(|pod| pod["name"] == "web").unwrap();
    assert_eq!(
        (&web["state"], &web["interfaces"]),
        (&json!("enforced"), &json!([veth]))
    );
    let isolated = json!({"policies": ["deny-all"], "overBudget": false});
    assert_eq!((&web["ingress"], &web["egress"]), (&isolated, &isolated));
    let db = pods.iter().find(|pod| pod["name"] == "db").unwrap();
    assert_eq!(
        db["ingress"]["policies"],
        json!([]),
        "a policy of another namespace"
    );
    let maps = shown["maps"].as_array().unwrap();
    let endpoints = maps.iter().find(|map| map["name"] == "endpoints").unwrap();
    assert_eq!(
        (&endpoints["entries"], &endpoints["capacity"]),
        (&json!(2), &json!(1024))
    );
    let counted = maps.iter().all(|map| map["entries"].is_u64());
    assert!(counted, "{maps:#?}");

    lab.node
        .netns()
        .feed("tc", &["filter", "del", "dev", &veth, "egress"], "")
        .unwrap();
    let (code, shown) = status(&lab.agent);
    assert_eq!(code, Some(1));
    let fault = format!("interface {veth}: to_pod is not attached");
    assert_eq!(failed(&shown), [("no-drift".to_owned(), fault.clone())]);
    assert_eq!(shown["drift"]["found"], json!([fault]));
    // The look repaired it.
    let (code, shown) = status(&lab.agent);
    assert_eq!(code, Some(0), "{shown:#}");
    assert_eq!(shown["drift"]["programs"], 1);
    assert_eq!(shown["drift"]["last"], json!([fault]));

    let text = run(&lab.agent.socket(), &[]);
    let text = String::from_utf8_lossy(&text.stdout);
    let columns = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines: Vec<String> = text.lines().map(columns).collect();
    let row = format!("shop/web enforced {veth} deny-all deny-all");
    assert!(lines.contains(&row), "{text}");
    assert!(text.contains("\n  [+]no-drift ok\n"), "{text}");
}

#[test]
fn a8_l1_status_names_a_pod_that_is_not_enforced_and_a_map_that_is_nearly_full() {
    if !can_enforce(SUITE) {
        return;
    }
    let mut lab = Lab::new(&PODS, &[]).unwrap();
    lab.agent.stop().unwrap();
    lab.agent.set_argument("--flow-capacity", "1024");
    lab.agent.restart().unwrap();
    // Soon after its start, the agent removes flows that are of no endpoint.
    let flows = pin(lab.agent.pin_path(), "flows");
    let (shown, fault) = wait_until(&lab.agent, "maps-have-room", || fill_up(&flows, 1000));
    assert!(
        fault.starts_with("map flows is nearly full: 1000 of 1024"),
        "{shown:#}"
    );

    // Then it looks every ten seconds.
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {namespace: shop, name: macvlan}\n\
               spec: {nodeName: node-a, containers: []}\n\
               status: {podIPs: [{ip: 192.0.2.200}]}\n";
    lab.manifests.write("macvlan.yaml", pod).unwrap();
    let (shown, fault) = wait_until_failed(&lab.agent, "pods-enforced");
    assert!(
        fault.contains("pod shop/macvlan is not enforced on: no veth"),
        "{fault}"
    );
    let pods = shown["pods"].as_array().unwrap();
    let macvlan = pods.iter().find(|pod| pod["name"] == "macvlan").unwrap();
    assert_eq!(
        (&macvlan["state"], &macvlan["interfaces"]),
        (&json!("open"), &json!([]))
    );
    assert!(
        macvlan["reason"]
            .as_str()
            .unwrap()
            .starts_with("no veth of this node"),
        "{shown:#}"
    );
    let text = run(&lab.agent.socket(), &[]);
    let text = String::from_utf8_lossy(&text.stdout);
    assert!(text.contains("\n  shop/macvlan: no veth of this node"), "{text}");
}

/// Adds flows of an endpoint that nobody has.
fn fill_up(path: &Path, count: u16) {
    let map = Map::HashMap(MapData::from_pin(path).unwrap());
    let mut flows: HashMap<MapData, FlowKey, Flow> = HashMap::try_from(map).unwrap();
    for number in 0..count {
        let key = FlowKey {
            endpoint: u32::MAX,
            local_port: number.to_be_bytes(),
            ..FlowKey::default()
        };
        flows.insert(key, Flow::default(), 0).unwrap();
    }
}

#[test]
fn b3_status_says_that_the_api_server_is_away() {
    if !can_enforce(SUITE) {
        return;
    }
    let (node, manifests) = node();
    let gone = node
        .netns()
        .run(|| Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?))
        .unwrap();
    let agent = Agent::launch(&node, of_server(&node, &manifests, gone)).unwrap();
    agent.wait_for_line(0, "answering netpol explain").unwrap();
    let until = Instant::now() + DEADLINE;
    let (code, shown) = loop {
        let (code, shown) = status(&agent);
        if shown["unread"].as_array().unwrap().len() == 6 {
            break (code, shown);
        }
        assert!(Instant::now() < until, "{shown:#}\n{}", agent.log());
    };
    assert_eq!((code, &shown["ready"]), (Some(1), &json!(false)));
    let pods = shown["unread"].as_array().unwrap().iter();
    let pods = pods.map(|unread| (&unread["resource"], unread["reason"].as_str().unwrap()));
    let refused = pods
        .filter(|(_, reason)| reason.contains("Connection refused"))
        .count();
    assert_eq!(refused, 6, "{shown:#}");
    let names: Vec<String> = failed(&shown).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["objects-listed", "revision-enforced", "source-readable"]);
}

#[test]
fn status_without_an_agent_is_an_error() {
    if !can_enforce(SUITE) {
        return;
    }
    let output = run(Path::new("/run/netpol/nobody.sock"), &[]);
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        told.contains("/run/netpol/nobody.sock (does an agent run here?)"),
        "{told}"
    );
}
