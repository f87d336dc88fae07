// SPDX-License-Identifier: Apache-2.0
//! Others' programs at the hooks of a pod's interface open nothing.

use std::process::Command;

use netpol_tests::{
    agent::inside,
    empty::{Empty, Hook},
    lab::{DENY_ALL, Lab},
    probe::Outcome,
};
use nix::net::if_::if_nametoindex;

use crate::shared::lab;

pub fn tc(lab: &Lab, arguments: &str) {
    let mut tc = Command::new("tc");
    let output = inside(tc.args(arguments.split(' ')), lab.node.netns())
        .output()
        .unwrap();
    assert!(output.status.success(), "tc {arguments}: {output:?}");
}

/// Adds a qdisc as the bandwidth plugin does, with a filter: clsact cannot take its place.
pub fn add_ingress_qdisc(lab: &Lab, veth: &str) {
    tc(lab, &format!("qdisc add dev {veth} ingress"));
    let filter = "protocol all prio 1 u32 match u32 0 0 flowid 1:1";
    tc(lab, &format!("filter add dev {veth} parent ffff: {filter}"));
}

/// The bandwidth plugin's qdisc has one list of filters for both directions: the program for one
/// would replace the other's.
#[test]
fn l1_a_pod_with_an_ingress_qdisc_of_others_is_isolated_both_ways() {
    let Some(mut lab) = lab(&[("deny.yaml", DENY_ALL)]) else {
        return;
    };
    lab.agent.stop().unwrap();
    lab.agent.cleanup().unwrap();
    let veth = lab.node.veth("shop/a").unwrap().to_owned();
    add_ingress_qdisc(&lab, &veth);
    lab.agent.set_argument("--attach", "clsact");
    lab.agent.restart().unwrap();
    lab.expect("other/c", "shop/a", &Outcome::Silent);
    lab.expect("shop/a", "other/c", &Outcome::Silent);
    lab.expect("node", "shop/a", &Outcome::Reached);
}

/// A program that runs before ours and accepts packets hides them from ours. It is detected, and
/// ours is moved before it.
#[test]
fn l1_b3_a_program_of_others_before_ours_is_found_and_opens_nothing() {
    let Some(mut lab) = lab(&[("deny.yaml", DENY_ALL)]) else {
        return;
    };
    lab.agent.stop().unwrap();
    lab.agent.set_argument("--resync", "1");
    lab.agent.restart().unwrap();
    let veth = lab.node.veth("shop/a").unwrap().to_owned();
    let index = lab
        .node
        .netns()
        .run(|| Ok(if_nametoindex(veth.as_str())?))
        .unwrap();
    let foreign = [Empty::that_ends_it(), Empty::that_ends_it()].map(Result::unwrap);
    let seen = lab.agent.log_length();
    let _links = lab
        .node
        .netns()
        .run(|| {
            let hooks = foreign.iter().zip([Hook::Ingress, Hook::Egress]);
            hooks
                .map(|(foreign, hook)| foreign.attach_first(index, hook))
                .collect::<anyhow::Result<Vec<_>>>()
        })
        .unwrap();
    let told = lab
        .agent
        .wait_for_line(seen, "programs are not as they were attached")
        .unwrap();
    assert!(told.contains(&veth), "{told}");
    // The turn that repairs follows the detection.
    let seen = lab.agent.log_length();
    lab.apply("more.yaml", &DENY_ALL.replace("deny-all", "deny-more"))
        .unwrap();
    assert!(lab.agent.log_length() > seen);
    lab.expect("other/c", "shop/a", &Outcome::Silent);
    lab.expect("shop/a", "other/c", &Outcome::Silent);
}
