// SPDX-License-Identifier: Apache-2.0
//! A pod that hides its address from the node, and the interface that it may be behind (rule A8).

use std::fs;

use netpol_agent::datapath::pin_folder;
use netpol_tests::{
    empty::{Empty, Hook},
    lab::Lab,
    probe::Outcome,
};
use nix::net::if_::if_nametoindex;

use crate::{
    bound::{
        apply_and_leave, deny, move_to_loopback, object, relaunch_and_leave, restart_and_leave,
        wait_until_closed,
    },
    hooks::{add_ingress_qdisc, tc},
    startup::{relaunch_without_lists, started, wait},
};

const AHEAD: &str = "programs are there before the pod is known";

/// The agent started after the pod, which has hidden its address from the node, and shows another.
/// Its interface is closed.
fn closed(attach: &str) -> Option<Lab> {
    let mut lab = started("open", &[("deny.yaml", &deny("shop", "app: hidden"))])?;
    lab.agent.stop().unwrap();
    lab.agent.set_argument("--attach", attach);
    let site = lab.add_sandbox("shop/hidden").unwrap();
    move_to_loopback(&lab, &site);
    site.netns.ip("addr add 10.9.9.9/32 dev eth0\n").unwrap();
    lab.agent.restart().unwrap();
    // In open mode, no pod is astray yet. The next agent finds the programs there.
    lab.expect("shop/hidden", "outside", &Outcome::Reached);
    restart_and_leave(&mut lab);
    apply_and_leave(
        &lab,
        "hidden.yaml",
        &object("shop/hidden", "app: hidden", &site.addresses, ""),
    );
    let veth = lab.node.veth("shop/hidden").unwrap().to_owned();
    wait(&lab, 0, "no pod was found behind it", &veth);
    wait_until_closed(&lab, "shop/hidden");
    is_silent(&lab);
    Some(lab)
}

fn is_silent(lab: &Lab) {
    lab.expect("shop/hidden", "outside", &Outcome::Silent);
    lab.expect("outside", "shop/hidden", &Outcome::Silent);
    lab.expect("shop/b", "outside", &Outcome::Reached);
}

/// Later turns leave it closed. So do later agents, before and after they know that a pod is
/// astray.
#[test]
fn a8_what_no_pod_is_found_behind_is_closed_while_one_is_astray() {
    let Some(mut lab) = closed("auto") else {
        return;
    };
    apply_and_leave(&lab, "turn.yaml", &deny("other", "app: nobody"));
    is_silent(&lab);
    restart_and_leave(&mut lab);
    is_silent(&lab);
    lab.agent.wait_for_line(0, "a pod is not enforced on").unwrap();
    apply_and_leave(&lab, "turn.yaml", &deny("other", "app: nobody-else"));
    is_silent(&lab);
}

/// The next agent knows the node's interfaces before it knows any pod: here none ever becomes
/// known.
#[test]
fn a8_b1_what_is_closed_stays_closed_before_the_first_list() {
    for attach in ["tcx", "clsact"] {
        let Some(mut lab) = closed(attach) else {
            return;
        };
        lab.agent.stop().unwrap();
        relaunch_without_lists(&mut lab);
        let veth = lab.node.veth("shop/hidden").unwrap().to_owned();
        wait(&lab, 0, AHEAD, &veth);
        is_silent(&lab);
    }
}

/// An agent of another version left its programs there. Its maps cannot be read.
#[test]
fn a8_b3_what_is_closed_stays_closed_over_an_upgrade_to_other_layouts() {
    for attach in ["tcx", "clsact"] {
        let Some(mut lab) = closed(attach) else {
            return;
        };
        lab.agent.stop().unwrap();
        let own = pin_folder(lab.agent.pin_path());
        fs::rename(own, lab.agent.pin_path().join("v1")).unwrap();
        is_silent(&lab);
        relaunch_and_leave(&mut lab);
        lab.agent
            .wait_for_line(0, "removed what another version of netpol left")
            .unwrap();
        is_silent(&lab);
        lab.agent.wait_for_line(0, "a pod is not enforced on").unwrap();
        apply_and_leave(&lab, "turn.yaml", &deny("other", "app: nobody"));
        is_silent(&lab);
    }
}

/// The hooks are full, and the qdisc of others leaves no room for clsact: this version's programs
/// cannot be attached beside those of the other version, which close the interface. Those stay
/// until they can.
#[test]
fn a8_l1_what_another_version_closed_stays_closed_while_nothing_can_be_attached() {
    const MOST_PROGRAMS: usize = 64;
    let Some(mut lab) = closed("tcx") else {
        return;
    };
    lab.agent.stop().unwrap();
    let other = lab.agent.pin_path().join("v1");
    fs::rename(pin_folder(lab.agent.pin_path()), &other).unwrap();
    let veth = lab.node.veth("shop/hidden").unwrap().to_owned();
    let index = lab.node.netns().run(|| Ok(if_nametoindex(veth.as_str())?));
    let index = index.unwrap();
    add_ingress_qdisc(&lab, &veth);
    let full = lab.node.netns().run(|| {
        let one = |_| Empty::load()?.attach(index, Hook::Ingress);
        Ok((0..MOST_PROGRAMS)
            .map_while(|number| one(number).ok())
            .collect::<Vec<_>>())
    });
    let others = full.unwrap();
    assert!((1..MOST_PROGRAMS).contains(&others.len()), "{}", others.len());
    relaunch_and_leave(&mut lab);
    wait(
        &lab,
        0,
        "programs cannot be attached before the pod is known",
        &veth,
    );
    is_silent(&lab);
    // It is tried again.
    let seen = lab.agent.log_length();
    wait(
        &lab,
        seen,
        "programs cannot be attached before the pod is known",
        &veth,
    );
    assert!(other.exists());
    is_silent(&lab);
    drop(others);
    lab.agent
        .wait_for_line(0, "removed what another version of netpol left")
        .unwrap();
    is_silent(&lab);
}

/// Somebody removes the programs of the interface. The agent closes it again, and does not take it
/// for a new one.
#[test]
fn a8_what_is_closed_is_closed_again_where_its_programs_were_removed() {
    let Some(mut lab) = closed("clsact") else {
        return;
    };
    lab.agent.set_argument("--resync", "2");
    restart_and_leave(&mut lab);
    lab.agent.wait_for_line(0, "a pod is not enforced on").unwrap();
    let veth = lab.node.veth("shop/hidden").unwrap().to_owned();
    let seen = lab.agent.log_length();
    tc(&lab, &format!("qdisc del dev {veth} clsact"));
    lab.agent
        .wait_for_line(seen, "programs are not as they were attached")
        .unwrap();
    wait(&lab, seen, AHEAD, &veth);
    is_silent(&lab);
}

/// The interface appears when a pod is astray already, and is closed after its own waiting time,
/// although nothing else happens then.
#[test]
fn a8_what_comes_while_a_pod_is_astray_is_closed_as_well() {
    let Some(mut lab) = started("open", &[("deny.yaml", &deny("shop", "app: hidden"))]) else {
        return;
    };
    let nowhere = ["10.244.0.201".parse().unwrap()];
    apply_and_leave(
        &lab,
        "hidden.yaml",
        &object("shop/hidden", "app: hidden", &nowhere, ""),
    );
    lab.agent.wait_for_line(0, "a pod is not enforced on").unwrap();
    let site = lab.add_sandbox("shop/late").unwrap();
    move_to_loopback(&lab, &site);
    site.netns.ip("addr add 10.9.9.9/32 dev eth0\n").unwrap();
    let veth = lab.node.veth("shop/late").unwrap().to_owned();
    wait(&lab, 0, AHEAD, &veth);
    lab.expect("shop/late", "outside", &Outcome::Reached);
    wait_until_closed(&lab, "shop/late");
    lab.expect("shop/late", "outside", &Outcome::Silent);
}
