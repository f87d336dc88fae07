// SPDX-License-Identifier: Apache-2.0
//! Attempts of a pod with full control of its own network namespace to be another pod, or unknown
//! (rule A8).

use netpol_tests::{lab::Lab, probe::Outcome};

use crate::{
    bound::{binding, deny, wait_until_bound},
    shared::lab,
};

/// Commands inside `shop/a`, and commands that undo them. In between, the pod still reaches others
/// with its own address if `works`.
struct Attack {
    name: &'static str,
    does: String,
    undoes: &'static str,
    works: bool,
}

fn attacks(lab: &Lab) -> Vec<Attack> {
    let victim = &lab.site("other/c").unwrap().addresses[0];
    let thousands: String = (0..3000u32)
        .map(|number| {
            format!(
                "addr add 172.16.{}.{}/32 dev eth0\n",
                number / 250,
                number % 250 + 1
            )
        })
        .collect();
    let attack = |name, does: String, undoes, works| Attack {
        name,
        does,
        undoes,
        works,
    };
    vec![
        attack(
            "its interface has another name",
            "link set eth0 name eth9\n".into(),
            "link set eth9 name eth0\n",
            true,
        ),
        attack(
            "a veth of its own",
            format!(
                "link add own0 type veth peer name own1\nlink set own0 up\nlink set own1 up\naddr add {victim}/32 dev own0\n"
            ),
            "link del own0\n",
            true,
        ),
        attack(
            "thousands of addresses",
            thousands,
            "addr flush dev eth0 to 172.16.0.0/12\n",
            true,
        ),
        attack(
            "the node's address",
            "addr add 10.244.0.1/32 dev lo\n".into(),
            "addr del 10.244.0.1/32 dev lo\n",
            false,
        ),
        attack(
            "the address of another",
            format!("addr add {victim}/32 dev lo\n"),
            "addr flush dev lo to 10.244.0.0/24\n",
            true,
        ),
        attack(
            "another MAC address",
            "link set eth0 address 02:00:00:00:be:ef\n".into(),
            "",
            false,
        ),
    ]
}

#[test]
fn a8_nothing_that_a_pod_does_inside_makes_it_another_or_nobody() {
    let Some(lab) = lab(&[]) else {
        return;
    };
    wait_until_bound(&lab, "shop/a", "shop/a");
    let before = binding(&lab, "shop/a");
    let site = lab.site("shop/a").unwrap();
    for attack in attacks(&lab) {
        println!("{}", attack.name);
        site.netns.ip(&attack.does).unwrap();
        if attack.works {
            lab.expect("shop/a", "outside", &Outcome::Reached);
        }
        lab.apply("deny.yaml", &deny("shop", "app: a")).unwrap();
        lab.expect("shop/a", "outside", &Outcome::Silent);
        lab.expect("shop/b", "shop/a", &Outcome::Silent);
        lab.expect("other/c", "shop/b", &Outcome::Reached);
        lab.apply("deny.yaml", &deny("shop", "app: nobody")).unwrap();
        if attack.works {
            lab.expect("shop/a", "outside", &Outcome::Reached);
        }
        assert_eq!(binding(&lab, "shop/a"), before, "{}", attack.name);
        if !attack.undoes.is_empty() {
            site.netns.ip(attack.undoes).unwrap();
        }
    }
    assert_eq!(binding(&lab, "other/c").unwrap().0, "other/c");
}

/// The pod moves its end of the veth to its own new namespace, which has another number on the
/// node.
#[test]
fn a8_an_interface_that_a_pod_moves_away_stays_its_own() {
    let Some(mut lab) = lab(&[]) else {
        return;
    };
    let away = lab.add_sandbox("other/away").unwrap();
    let site = lab.site("shop/a").unwrap();
    wait_until_bound(&lab, "shop/a", "shop/a");
    let before = binding(&lab, "shop/a");
    site.netns
        .ip(&format!(
            "link set eth0 name moved0\nlink set moved0 netns {}\n",
            away.netns.name()
        ))
        .unwrap();
    let victim = &lab.site("other/c").unwrap().addresses[0];
    away.netns
        .ip(&format!("addr add {victim}/24 dev moved0\nlink set moved0 up\n"))
        .unwrap();
    lab.apply("deny.yaml", &deny("shop", "app: nobody")).unwrap();
    assert_eq!(binding(&lab, "shop/a"), before);
    assert_eq!(binding(&lab, "other/c").unwrap().0, "other/c");
}
