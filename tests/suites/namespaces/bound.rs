// SPDX-License-Identifier: Apache-2.0
//! Reads the agent's bindings, and writes objects as the API server gives them and records as
//! libcni does.

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use netpol_agent::{app::bind::stored_bindings, datapath::pin_folder};
use netpol_common::abi;
use netpol_tests::{agent::inside, lab::Lab, netns::NetNs, node::Site};
use serde_json::{Value, json};

/// Time limit for what must happen in the end, on a busy machine.
const LONG: Duration = Duration::from_secs(20);

/// Returns the content of map `bindings` for a sandbox's interface: the pod's name, if any, and the
/// addresses.
pub fn binding(lab: &Lab, sandbox: &str) -> Option<(String, Vec<IpAddr>)> {
    let index = u32::try_from(link(lab, lab.node.veth(sandbox).unwrap())["ifindex"].as_u64()?).ok()?;
    let pin = pin_folder(lab.agent.pin_path()).join("bindings");
    let data = aya::maps::MapData::from_pin(pin).unwrap();
    let map = aya::maps::HashMap::<_, u32, abi::Binding>::try_from(aya::maps::Map::HashMap(data)).unwrap();
    let stored: BTreeMap<u32, abi::Binding> = map
        .get(&index, 0)
        .ok()
        .map(|found| (index, found))
        .into_iter()
        .collect();
    let found = stored_bindings(&stored).remove(&index)?;
    let name = found.pod.map(|(pod, _)| pod.key.to_string()).unwrap_or_default();
    Some((name, found.addresses.into_iter().collect()))
}

/// Waits until the agent has this binding, and returns it.
pub fn wait_for_binding(
    lab: &Lab,
    sandbox: &str,
    wanted: impl Fn(&str, &[IpAddr]) -> bool,
) -> (String, Vec<IpAddr>) {
    let until = Instant::now() + LONG;
    loop {
        let found = binding(lab, sandbox);
        match found {
            Some((name, addresses)) if wanted(&name, &addresses) => return (name, addresses),
            found => assert!(
                Instant::now() < until,
                "{sandbox}: {found:?}\n{}",
                lab.agent.log()
            ),
        }
        std::thread::yield_now();
    }
}

/// Waits until the agent has seen the addresses of a sandbox.
pub fn wait_until_seen(lab: &Lab, sandbox: &str) {
    wait_for_binding(lab, sandbox, |_, addresses| !addresses.is_empty());
}

/// Waits until the agent has bound a sandbox to a pod.
pub fn wait_until_bound(lab: &Lab, sandbox: &str, pod: &str) {
    wait_for_binding(lab, sandbox, |name, _| name == pod);
}

/// Returns the content of map `endpoints` for a sandbox's interface.
pub fn endpoint(lab: &Lab, sandbox: &str) -> Option<abi::Endpoint> {
    let index = link(lab, lab.node.veth(sandbox).unwrap())["ifindex"].as_u64()?;
    let pin = pin_folder(lab.agent.pin_path()).join("endpoints");
    let data = aya::maps::MapData::from_pin(pin).unwrap();
    let map = aya::maps::HashMap::<_, u32, abi::Endpoint>::try_from(aya::maps::Map::HashMap(data)).unwrap();
    map.get(&u32::try_from(index).ok()?, 0).ok()
}

/// Waits until the endpoint is as wanted.
pub fn wait_until_endpoint(lab: &Lab, sandbox: &str, wanted: impl Fn(&abi::Endpoint) -> bool) {
    let until = Instant::now() + LONG;
    while !endpoint(lab, sandbox).as_ref().is_some_and(&wanted) {
        assert!(Instant::now() < until, "{sandbox}\n{}", lab.agent.log());
        std::thread::yield_now();
    }
}

/// Waits until a sandbox has programs and no endpoint.
pub fn wait_until_closed(lab: &Lab, sandbox: &str) {
    let until = Instant::now() + LONG;
    while endpoint(lab, sandbox).is_some() {
        assert!(Instant::now() < until, "{sandbox}\n{}", lab.agent.log());
        std::thread::yield_now();
    }
}

/// Waits until the kernel has an egress policy for a sandbox; its binding is written earlier.
pub fn wait_until_isolated(lab: &Lab, sandbox: &str) {
    wait_until_endpoint(lab, sandbox, |endpoint| {
        endpoint.egress_policy != abi::POLICY_UNRESTRICTED
    });
}

/// Makes a pod's object. `more` are further fields of its metadata, each after a comma.
pub fn object(pod: &str, label: &str, addresses: &[IpAddr], more: &str) -> String {
    let (namespace, name) = pod.split_once('/').unwrap();
    let ips: Vec<String> = addresses.iter().map(|ip| format!("{{ip: \"{ip}\"}}")).collect();
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{namespace: {namespace}, name: {name}, labels: {{{label}}}{more}}}\n\
         spec: {{nodeName: node-a, containers: [{{name: main, image: example}}]}}\n\
         status: {{phase: Running, podIPs: [{}]}}\n",
        ips.join(", ")
    )
}

/// Makes a policy that isolates the pods with a label in both directions, and allows nothing.
pub fn deny(namespace: &str, label: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{namespace: {namespace}, name: deny}}\n\
         spec:\n  podSelector: {{matchLabels: {{{label}}}}}\n  policyTypes: [Ingress, Egress]\n"
    )
}

/// Like [`Lab::apply`], for when a pod without an interface remains.
pub fn apply_and_leave(lab: &Lab, file: &str, text: &str) {
    let seen = lab.agent.log_length();
    lab.manifests.write(file, text).unwrap();
    lab.agent.wait_for_line(seen, "revision applied").unwrap();
}

/// Restarts the agent when a pod without an interface remains.
pub fn restart_and_leave(lab: &mut Lab) {
    lab.agent.stop().unwrap();
    relaunch_and_leave(lab);
}

/// Starts the agent after it was stopped, when a pod without an interface remains.
pub fn relaunch_and_leave(lab: &mut Lab) {
    lab.agent.relaunch().unwrap();
    lab.agent.wait_for_line(0, "revision applied").unwrap();
}

/// Moves the addresses of a site from its interface to its loopback, where they keep working.
/// Nothing answers neighbour discovery for such an IPv6 address, so its peers get a route.
pub fn move_to_loopback(lab: &Lab, site: &Site) {
    let mut batch = String::new();
    let mac = link_of(&site.netns, "eth0")["address"]
        .as_str()
        .unwrap()
        .to_owned();
    for address in &site.addresses {
        // A route cannot have a tentative IPv6 address as its source.
        let (length, whole, gateway, all, settled) = match address {
            IpAddr::V4(_) => (24, 32, "10.244.0.1", "0.0.0.0/0", ""),
            IpAddr::V6(_) => (64, 128, "fd00:10:244::1", "::/0", " nodad"),
        };
        batch += &format!(
            "addr del {address}/{length} dev eth0\naddr add {address}/{whole} dev lo{settled}\n\
             route replace {gateway} dev eth0 src {address}\n\
             route replace {all} via {gateway} dev eth0 src {address}\n"
        );
    }
    site.netns.ip(&batch).unwrap();
    let ways = [
        (lab.node.netns().clone(), "cni0"),
        (lab.site("shop/b").unwrap().netns, "eth0"),
    ];
    for (netns, device) in ways {
        for address in &site.addresses {
            let way = format!("neigh replace {address} lladdr {mac} dev {device} nud permanent\n");
            netns.ip(&way).unwrap();
        }
    }
}

/// Returns an interface of the node, as `ip` shows it.
fn link(lab: &Lab, name: &str) -> Value {
    link_of(lab.node.netns(), name)
}

/// Returns the MAC address of a pod's interface, as text.
pub fn mac_inside(netns: &Arc<NetNs>) -> String {
    link_of(netns, "eth0")["address"].as_str().unwrap().to_owned()
}

fn link_of(netns: &Arc<NetNs>, name: &str) -> Value {
    let mut ip = Command::new("ip");
    let shown = inside(ip.args(["-j", "link", "show", name]), netns);
    let shown = shown.output().unwrap();
    let links: Value = serde_json::from_slice(&shown.stdout).unwrap();
    links[0].clone()
}

/// Writes libcni's record of a sandbox for a pod.
pub fn record(lab: &Lab, folder: &Path, sandbox: &str, pod: &str, uid: &str) {
    let veth = lab.node.veth(sandbox).unwrap();
    let (namespace, name) = pod.split_once('/').unwrap();
    let ips: Vec<Value> = lab
        .site(sandbox)
        .unwrap()
        .addresses
        .iter()
        .map(|address| json!({"address": format!("{address}/24"), "interface": 1}))
        .collect();
    let text = json!({
        "kind": "cniCacheV1",
        "containerId": uid,
        "ifName": "eth0",
        "networkName": "cbr0",
        "cniArgs": [["K8S_POD_NAMESPACE", namespace], ["K8S_POD_NAME", name], ["K8S_POD_UID", uid]],
        "result": {
            "cniVersion": "1.0.0",
            "interfaces": [
                {"name": veth, "mac": link(lab, veth)["address"]},
                {"name": "eth0", "sandbox": "/var/run/netns/x"},
            ],
            "ips": ips,
        },
    });
    fs::write(folder.join(format!("cbr0-{uid}-eth0")), text.to_string()).unwrap();
}
