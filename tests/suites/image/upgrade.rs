// SPDX-License-Identifier: Apache-2.0
//! The image replaces a container of another version on a node with open connections.

use std::{fs, net::IpAddr};

use netpol_agent::datapath::pin_folder;
use netpol_tests::{
    pair::{End, Pair, Transport, Way},
    probe::Outcome::{Reached, Silent},
};

use super::shared::World;

/// Opens a connection with each transport and family that `shop/a`'s policy allows.
fn open(world: &World) -> Vec<Pair> {
    let site = |name| world.cluster.node.pod(name).unwrap();
    let (from, to) = (site("shop/b"), site("shop/a"));
    let ways = to
        .addresses
        .iter()
        .copied()
        .map(|address: IpAddr| Way::direct(address));
    let ways = ways.flat_map(|way| Transport::ALL.map(|transport| (way, transport)));
    ways.map(|(way, transport)| Pair::open(&from, &to, way, transport).unwrap())
        .collect()
}

#[test]
fn b3_the_image_takes_over_from_another_version_and_is_rolled_back() {
    let Some(world) = World::new() else { return };
    let cluster = &world.cluster;
    world.isolate();
    let mut older = world.start();
    older.wait_for_line("revision applied").unwrap();
    let mut pairs = open(&world);
    let pins = world.host.path("/sys/fs/bpf/netpol");
    for version in ["v1", "v2"] {
        // What is pinned is another version's from now on: `older` does not open its pins again.
        let other = pins.join(version);
        fs::rename(pin_folder(&pins), &other).unwrap();

        // A container that comes too early leaves all to the one that runs.
        let mut early = world.start();
        assert!(!early.wait().unwrap().success());
        assert!(
            early.log().contains("another netpol process works on"),
            "{}",
            early.log()
        );
        drop(early);
        cluster.expect("other/c", "shop/a", &Silent);
        cluster.expect("shop/b", "shop/a", &Reached);

        assert!(older.end("TERM").unwrap().success(), "{}", older.log());
        drop(older);
        for pair in &mut pairs {
            pair.goes_on(End::Opened, 2);
        }
        let newer = world.start();
        newer
            .wait_for_line("removed what another version of netpol left")
            .unwrap();
        assert!(!other.exists());
        for pair in &mut pairs {
            pair.goes_on(End::Opened, 2);
        }
        cluster.expect("other/c", "shop/a", &Silent);
        cluster.expect("shop/b", "shop/a", &Reached);
        older = newer;
    }
}
