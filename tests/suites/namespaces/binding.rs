// SPDX-License-Identifier: Apache-2.0
//! An interface belongs to one pod for its life, and no pod can choose which (rule A8).

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{IpAddr, Ipv6Addr, TcpStream},
    process::Command,
    time::{Duration, Instant},
};

use netpol_tests::{
    node::Site,
    probe::Outcome,
    raw::{self, Wire},
};

use crate::{
    bound::{
        apply_and_leave, binding, deny, move_to_loopback, object, record, restart_and_leave,
        wait_until_bound, wait_until_isolated, wait_until_seen,
    },
    shared::lab,
};

#[test]
fn a8_a_pod_that_moves_its_address_before_it_is_known_is_enforced_on() {
    let Some(mut lab) = lab(&[]) else {
        return;
    };
    let site = lab.add_sandbox("shop/m").unwrap();
    wait_until_seen(&lab, "shop/m");
    move_to_loopback(&lab, &site);
    lab.apply("m.yaml", &object("shop/m", "app: m", &site.addresses, ""))
        .unwrap();
    lab.expect("shop/m", "outside", &Outcome::Reached);
    lab.apply("deny.yaml", &deny("shop", "app: m")).unwrap();
    for _ in 0..2 {
        lab.expect("shop/m", "outside", &Outcome::Silent);
        lab.expect("shop/m", "shop/b", &Outcome::Silent);
        lab.expect("shop/b", "shop/m", &Outcome::Silent);
        lab.agent.stop().unwrap();
        lab.agent.restart().unwrap();
    }
}

/// Advertises, as a router, a prefix in which hosts give themselves addresses (RFC 4861, 4.2 and
/// 4.6.2), for `seconds`.
fn advertise(from: &Site, prefix: Ipv6Addr, seconds: u32) {
    let source = "fe80::a".parse().unwrap();
    let everyone = Ipv6Addr::from([0xff02, 0, 0, 0, 0, 0, 0, 1]);
    let mut payload = vec![0; 8];
    payload.extend([3, 4, 64, 0xc0]);
    payload.extend([seconds.to_be_bytes(), seconds.to_be_bytes(), [0; 4]].concat());
    payload.extend(prefix.octets());
    let (protocol, message) = raw::icmp(source, everyone.into(), [134, 0], [64, 0, 0, 0], &payload);
    let mut packet = raw::ip(source, everyone.into(), protocol, &message, None);
    packet[7] = 255;
    let wire = Wire::open(&from.netns, "cni0").unwrap();
    wire.send([0x33, 0x33, 0, 0, 0, 1], &packet).unwrap();
}

/// Anyone on the link can give a pod addresses. They are not those that it had from the start.
#[test]
fn a8_an_address_that_a_router_advertises_binds_nothing() {
    let Some(mut lab) = lab(&[]) else {
        return;
    };
    lab.agent.stop().unwrap();
    let site = lab.add_sandbox("shop/m").unwrap();
    let node = lab.site("node").unwrap();
    site.netns
        .sysctl(&[("net/ipv6/conf/eth0/accept_ra", "1")])
        .unwrap();
    let has = |prefix: &str| {
        let shown = site.netns.run(|| {
            let mut ip = Command::new("ip");
            Ok(ip.args(["-6", "-o", "address", "show", "dev", "eth0"]).output()?)
        });
        String::from_utf8_lossy(&shown.unwrap().stdout).contains(&format!("inet6 {prefix}"))
    };
    // One that expires, and one that never does.
    for (prefix, seconds) in [("fd00:bad:1:", 3600), ("fd00:bad:2:", u32::MAX)] {
        let until = Instant::now() + Duration::from_secs(20);
        while !has(prefix) {
            assert!(Instant::now() < until, "{prefix}");
            advertise(&node, format!("{prefix}:").parse().unwrap(), seconds);
            std::thread::yield_now();
        }
    }
    lab.agent.restart().unwrap();
    wait_until_seen(&lab, "shop/m");
    let (_, bound) = binding(&lab, "shop/m").unwrap();
    let own: BTreeSet<IpAddr> = site.addresses.iter().copied().collect();
    assert_eq!(bound.into_iter().collect::<BTreeSet<_>>(), own);
}

#[test]
fn a8_policies_reach_a_pod_that_moved_its_address() {
    let Some(lab) = lab(&[]) else {
        return;
    };
    let site = lab.site("shop/a").unwrap();
    move_to_loopback(&lab, &site);
    lab.expect("shop/a", "outside", &Outcome::Reached);
    lab.expect("shop/b", "shop/a", &Outcome::Reached);
    lab.apply("deny.yaml", &deny("shop", "app: a")).unwrap();
    lab.expect("shop/a", "outside", &Outcome::Silent);
    lab.expect("shop/b", "shop/a", &Outcome::Silent);
}

/// A pod has the next pod's address beside its own, before either is known.
#[test]
fn a8_a_pod_that_takes_the_next_pods_address_does_not_become_it() {
    let Some(mut lab) = lab(&[("deny.yaml", &deny("shop", "isolated: yes-it-is"))]) else {
        return;
    };
    let m = lab.add_sandbox("shop/m").unwrap();
    wait_until_seen(&lab, "shop/m");
    let next = lab.next_addresses();
    for address in &next {
        let length = if address.is_ipv4() { 32 } else { 128 };
        m.netns
            .ip(&format!("addr add {address}/{length} dev eth0 nodad\n"))
            .unwrap();
    }
    let isolated = "isolated: yes-it-is";
    apply_and_leave(&lab, "v.yaml", &object("shop/v", isolated, &next, ""));
    for address in &next {
        let length = if address.is_ipv4() { 32 } else { 128 };
        m.netns
            .ip(&format!("addr del {address}/{length} dev eth0\n"))
            .unwrap();
    }
    let v = lab.add_sandbox("shop/v").unwrap();
    assert_eq!(v.addresses, next);
    wait_until_bound(&lab, "shop/v", "shop/v");
    wait_until_isolated(&lab, "shop/v");
    assert_eq!(binding(&lab, "shop/m").unwrap().0, "");
    lab.apply("m.yaml", &object("shop/m", "app: m", &m.addresses, ""))
        .unwrap();
    wait_until_bound(&lab, "shop/m", "shop/m");
    for site in ["outside", "shop/b"] {
        lab.expect("shop/v", site, &Outcome::Silent);
        lab.expect(site, "shop/v", &Outcome::Silent);
        lab.expect("shop/m", site, &Outcome::Reached);
        lab.expect(site, "shop/m", &Outcome::Reached);
    }
}

/// A finalizer keeps the object of a pod whose address is the next pod's.
#[test]
fn a8_a_pod_that_hangs_in_deletion_neither_opens_nor_closes_the_next_one() {
    // In either order of names, and with either isolated.
    for (old, new) in [("shop/aa", "shop/zz"), ("shop/zz", "shop/aa")] {
        for new_isolated in [true, false] {
            let Some(mut lab) = lab(&[("deny.yaml", &deny("shop", "app: isolated"))]) else {
                return;
            };
            let labels = |isolated| if isolated { "app: isolated" } else { "app: open" };
            let going = ", deletionTimestamp: \"2026-11-29T00:00:00Z\", finalizers: [example.com/stuck]";
            let site = lab.add_sandbox(old).unwrap();
            let addresses = site.addresses.clone();
            lab.apply(
                "old.yaml",
                &object(old, labels(!new_isolated), &addresses, ", uid: old"),
            )
            .unwrap();
            wait_until_bound(&lab, old, old);
            let text = object(
                old,
                labels(!new_isolated),
                &addresses,
                &format!(", uid: old{going}"),
            );
            lab.apply("old.yaml", &text).unwrap();
            drop(site);
            lab.node.remove_pod(old).unwrap();

            lab.sandbox_with(new, &addresses).unwrap();
            wait_until_seen(&lab, new);
            apply_and_leave(
                &lab,
                "new.yaml",
                &object(new, labels(new_isolated), &addresses, ", uid: new"),
            );
            wait_until_bound(&lab, new, new);
            if new_isolated {
                wait_until_isolated(&lab, new);
            }
            let expected = if new_isolated {
                Outcome::Silent
            } else {
                Outcome::Reached
            };
            for _ in 0..2 {
                for site in ["outside", "shop/b"] {
                    lab.expect(new, site, &expected);
                    lab.expect(site, new, &expected);
                }
                restart_and_leave(&mut lab);
            }
        }
    }
}

#[test]
fn a8_a_pod_without_a_veth_is_told_of() {
    let Some(mut lab) = lab(&[("deny.yaml", &deny("shop", "app: macvlan"))]) else {
        return;
    };
    lab.agent.stop().unwrap();
    lab.agent.set_argument("--listen", "127.0.0.1:9600");
    lab.agent.restart().unwrap();
    let seen = lab.agent.log_length();
    let address = ["192.0.2.200".parse().unwrap()];
    apply_and_leave(
        &lab,
        "macvlan.yaml",
        &object("shop/macvlan", "app: macvlan", &address, ""),
    );
    let line = lab.agent.wait_for_line(seen, "a pod is not enforced on").unwrap();
    assert!(
        line.contains("\"macvlan\"") && line.contains("no veth of this node leads to it"),
        "{line}"
    );
    let get = |path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let answer = lab.node.netns().run(|| {
            let mut stream = TcpStream::connect("127.0.0.1:9600")?;
            stream.write_all(request.as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        });
        answer.unwrap()
    };
    // The line comes a moment before the turn ends.
    let until = Instant::now() + Duration::from_secs(20);
    while !get("/metrics").contains("netpol_endpoints_unenforced 1") {
        assert!(Instant::now() < until, "{}", get("/metrics"));
    }
    let ready = get("/readyz?verbose");
    assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
    assert!(
        ready.contains("[-]pods-enforced failed: pod shop/macvlan is not enforced on: no veth"),
        "{ready}"
    );
    assert!(!get("/readyz").contains("macvlan"));
    let told = lab.agent.log_length();
    apply_and_leave(&lab, "deny.yaml", &deny("shop", "app: other"));
    assert!(
        !lab.agent
            .log()
            .lines()
            .skip(told)
            .any(|line| line.contains("is not enforced on")),
        "told once"
    );
}

#[test]
fn a8_the_record_of_libcni_comes_before_addresses() {
    let Some(mut lab) = lab(&[("deny.yaml", &deny("shop", "app: isolated"))]) else {
        return;
    };
    let results = tempfile::tempdir().unwrap();
    lab.agent.stop().unwrap();
    lab.agent
        .set_argument("--cni-results", results.path().to_str().unwrap());
    lab.agent.restart().unwrap();
    // Its address was elsewhere from the start; another pod has claimed it.
    let site = lab.add_sandbox("shop/m").unwrap();
    wait_until_seen(&lab, "shop/m");
    lab.apply(
        "other.yaml",
        &object("shop/other", "app: open", &site.addresses, ", uid: other"),
    )
    .unwrap();
    wait_until_bound(&lab, "shop/m", "shop/other");
    lab.expect("shop/m", "outside", &Outcome::Reached);
    apply_and_leave(
        &lab,
        "m.yaml",
        &object("shop/m", "app: isolated", &site.addresses, ", uid: m-1"),
    );
    record(&lab, results.path(), "shop/m", "shop/m", "m-1");
    wait_until_bound(&lab, "shop/m", "shop/m");
    wait_until_isolated(&lab, "shop/m");
    lab.expect("shop/m", "outside", &Outcome::Silent);
    // Neither a malformed record nor a removed one changes anything.
    std::fs::write(results.path().join("cbr0-x-eth0"), "{\"kind\": 5}").unwrap();
    lab.agent.wait_for_line(0, "cannot be read is ignored").unwrap();
    std::fs::remove_file(results.path().join("cbr0-m-1-eth0")).unwrap();
    restart_and_leave(&mut lab);
    wait_until_bound(&lab, "shop/m", "shop/m");
    lab.expect("shop/m", "outside", &Outcome::Silent);
}

#[test]
fn a_node_name_that_nobody_has_is_told_with_the_names_that_there_are() {
    let Some(mut lab) = lab(&[]) else {
        return;
    };
    lab.agent.stop().unwrap();
    lab.agent.set_argument("--node-name", "node-x");
    lab.agent.restart().unwrap();
    let line = lab
        .agent
        .wait_for_line(0, "no node and no pod has the name")
        .unwrap();
    assert!(
        line.contains("\"node-x\"") && line.contains("node-a") && line.contains("ERROR"),
        "{line}"
    );
    let seen = lab.agent.log_length();
    lab.apply(
        "other.yaml",
        &object("shop/other", "app: x", &[], "").replace("node-a", "node-b"),
    )
    .unwrap();
    let line = lab
        .agent
        .wait_for_line(seen, "no node and no pod has the name")
        .unwrap();
    assert!(line.contains("node-a, node-b"), "{line}");
}
