// SPDX-License-Identifier: Apache-2.0
//! Pods with their address on a bridge inside, or behind one, as virtual machines have it (rules
//! A6, A8).

use std::{fmt::Write, sync::Arc};

use netpol_tests::{lab::Lab, netns::NetNs, node::Site, probe::Outcome};

use crate::{
    bound::{deny, mac_inside, object, wait_until_bound, wait_until_endpoint, wait_until_seen},
    shared::lab,
};

/// Returns the commands that give a device the addresses of a pod, and its routes.
fn addresses(site: &Site, device: &str) -> String {
    let mut batch = String::new();
    for address in &site.addresses {
        let (length, all, via) = if address.is_ipv4() {
            (24, "0.0.0.0/0", "10.244.0.1")
        } else {
            (64, "::/0", "fd00:10:244::1")
        };
        writeln!(batch, "addr add {address}/{length} dev {device} nodad").unwrap();
        writeln!(batch, "route replace {all} via {via}").unwrap();
    }
    batch
}

fn to_bridge(site: &Site) {
    let bridge = "addr flush dev eth0\nlink add br0 type bridge mcast_snooping 0\nlink set eth0 master br0\nlink set br0 up\n";
    site.netns
        .ip(&format!("{bridge}{}", addresses(site, "br0")))
        .unwrap();
}

/// Moves a pod's addresses and MAC address to a network namespace behind a bridge; eth0 gets
/// another MAC address. The bridge does not learn from eth0, because a node's bridge with hairpin
/// returns broadcasts.
fn to_machine(lab: &Lab, site: &Site) -> Site {
    let own = mac_inside(&site.netns);
    let name = format!("{}vm{}", lab.node.prefix(), site.name.replace('/', "-"));
    let netns = Arc::new(NetNs::create(&name).unwrap());
    let bridge = format!(
        "addr flush dev eth0\nlink set eth0 down\nlink set eth0 address 02:00:00:00:00:77\nlink set eth0 up\n\
         link add k6t type bridge mcast_snooping 0\nlink set eth0 master k6t\n\
         link set eth0 type bridge_slave learning off\n\
         link add tap0 type veth peer name eth0 netns {name}\nlink set tap0 master k6t\n\
         link set tap0 up\nlink set k6t up\n"
    );
    site.netns.ip(&bridge).unwrap();
    let machine = format!(
        "link set eth0 address {own}\nlink set eth0 up\n{}",
        addresses(site, "eth0")
    );
    netns.ip(&machine).unwrap();
    let machine = Site {
        netns,
        ..site.clone()
    };
    lab.serve(&machine).unwrap();
    machine
}

/// Others know the pod by its MAC address, which stays the same.
#[track_caller]
fn enforced(lab: &Lab, pod: &str, name: &str) {
    let expect = |outcome| {
        lab.expect(pod, "shop/b", outcome);
        lab.expect("shop/b", pod, outcome);
        lab.expect(pod, "outside", outcome);
    };
    expect(&Outcome::Reached);
    lab.apply(name, &deny("shop", "app: m")).unwrap();
    expect(&Outcome::Silent);
    lab.expect("node", pod, &Outcome::Reached);
    lab.apply(name, &deny("shop", "app: nobody")).unwrap();
    expect(&Outcome::Reached);
}

/// A pod that changes inside, before or after it is known, keeps working and stays enforced, also
/// by the next agent.
#[track_caller]
fn goes_on(change: impl Fn(&mut Lab, &Site)) {
    for known in [false, true] {
        let Some(mut lab) = lab(&[]) else {
            return;
        };
        let site = lab.add_sandbox("shop/m").unwrap();
        wait_until_seen(&lab, "shop/m");
        let text = object("shop/m", "app: m", &site.addresses, "");
        if known {
            lab.apply("m.yaml", &text).unwrap();
        }
        change(&mut lab, &site);
        if !known {
            lab.apply("m.yaml", &text).unwrap();
        }
        wait_until_bound(&lab, "shop/m", "shop/m");
        enforced(&lab, "shop/m", "deny.yaml");
        lab.agent.stop().unwrap();
        lab.agent.restart().unwrap();
        enforced(&lab, "shop/m", "deny.yaml");
    }
}

#[test]
fn a8_a_pod_that_puts_its_address_on_a_bridge_goes_on_and_is_enforced_on() {
    goes_on(|_, site| to_bridge(site));
}

/// The node's first agent starts when the bridge exists, with another MAC address than the pod's
/// interface.
#[test]
fn a8_an_agent_that_comes_later_finds_the_pod_on_its_bridge() {
    let Some(mut lab) = lab(&[]) else {
        return;
    };
    lab.agent.stop().unwrap();
    let site = lab.add_sandbox("shop/m").unwrap();
    to_bridge(&site);
    site.netns.ip("link set br0 address 02:00:00:00:00:99\n").unwrap();
    lab.manifests
        .write("m.yaml", &object("shop/m", "app: m", &site.addresses, ""))
        .unwrap();
    lab.agent.restart().unwrap();
    wait_until_endpoint(&lab, "shop/m", |endpoint| endpoint.mac == [2, 0, 0, 0, 0, 0x99]);
    enforced(&lab, "shop/m", "deny.yaml");
}

#[test]
fn a8_a_virtual_machine_with_the_pods_mac_address_goes_on_and_is_enforced_on() {
    goes_on(|lab, site| {
        let machine = to_machine(lab, site);
        lab.node.replace_site("shop/m", machine).unwrap();
    });
}

/// As Calico makes them: no bridge, one MAC address for the node's ends of all pods, and the node
/// answers for every address.
#[test]
fn a8_a_routed_pod_behind_a_mac_address_that_all_have_is_enforced_on() {
    let Some(mut lab) = lab(&[]) else {
        return;
    };
    lab.agent.stop().unwrap();
    let site = lab.add_sandbox("shop/m").unwrap();
    let veth = lab.node.veth("shop/m").unwrap().to_owned();
    let mut node = format!(
        "link set {veth} nomaster\nlink set {veth} down\nlink set {veth} address ee:ee:ee:ee:ee:ee\nlink set {veth} up\n\
         addr replace fe80::ecee:eeff:feee:eeee/64 dev {veth} nodad\n"
    );
    let mut pod = "addr flush dev eth0 scope global\nroute add 169.254.1.1 dev eth0 scope link\n".to_owned();
    for address in &site.addresses {
        let (length, way) = if address.is_ipv4() {
            (32, "0.0.0.0/0 via 169.254.1.1 dev eth0")
        } else {
            (128, "::/0 via fe80::ecee:eeff:feee:eeee dev eth0")
        };
        writeln!(node, "route add {address}/{length} dev {veth}").unwrap();
        writeln!(
            pod,
            "addr add {address}/{length} dev eth0 nodad\nroute replace {way}"
        )
        .unwrap();
    }
    lab.node.netns().ip(&node).unwrap();
    let proxy = format!("net/ipv4/conf/{veth}/proxy_arp");
    let at_once = format!("net/ipv4/neigh/{veth}/proxy_delay");
    lab.node
        .netns()
        .sysctl(&[(proxy.as_str(), "1"), (at_once.as_str(), "0")])
        .unwrap();
    site.netns.ip(&pod).unwrap();
    lab.manifests
        .write("m.yaml", &object("shop/m", "app: m", &site.addresses, ""))
        .unwrap();
    lab.agent.restart().unwrap();
    wait_until_bound(&lab, "shop/m", "shop/m");
    let expect = |outcome| {
        lab.expect("shop/m", "outside", outcome);
        lab.expect("outside", "shop/m", outcome);
    };
    expect(&Outcome::Reached);
    lab.apply("deny.yaml", &deny("shop", "app: m")).unwrap();
    expect(&Outcome::Silent);
    lab.expect("node", "shop/m", &Outcome::Reached);
    lab.expect("shop/m", "node", &Outcome::Reached);
}
