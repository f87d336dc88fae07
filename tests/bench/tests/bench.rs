// SPDX-License-Identifier: Apache-2.0
//! Checks that the benchmarks measure what they claim: each packet takes the path that its figure
//! is named for.

use anyhow::Result;
use netpol_agent::datapath::attach::Hook;
use netpol_bench::{
    packet::{
        all_paths, lookups,
        path::{Meets, Path, measure},
        stage::Stage,
        world::Shape,
    },
    wire::{
        traffic::Kind,
        world::{Variant, Way, World},
    },
};
use netpol_tests::privilege;

const SUITE: &str = "benchmarks";

/// The smallest world.
const SMALL: Shape = Shape { peers: 10, ports: 1 };

/// A measurement fails if a packet gets another verdict, or leaves other flows and events, than its
/// path does.
#[test]
fn every_path_is_the_one_that_it_is_named_for() -> Result<()> {
    if !privilege::can_load(SUITE) {
        return Ok(());
    }
    let stage = Stage::new(SMALL)?;
    for path in all_paths() {
        let cost = stage.with(move |world| measure(world, path))?;
        assert!(cost.path > cost.empty, "{path:?} costs nothing: {cost:?}");
    }
    Ok(())
}

/// A packet of a known connection looks into the flow table once, and into no policy, of any size.
#[test]
fn an_established_connection_asks_no_policy() -> Result<()> {
    if !privilege::can_load(SUITE) {
        return Ok(());
    }
    let stage = Stage::new(SMALL)?;
    for path in all_paths() {
        let counts = stage.with(move |world| {
            let state = world.bench.read()?;
            lookups::count(&state, &path.script(world)?)
        })?;
        let of = |map| counts.get(map).copied().unwrap_or_default();
        // Each open port has its own entry. A closed port is also looked up in the wider entries.
        let judged = path.isolated && path.meets != Meets::Established;
        let denied = judged && path.meets != Meets::Accept;
        let policies = (of("ports"), of("policies"));
        assert_eq!(policies, (judged.into(), denied.into()), "{path:?}: {counts:?}");
        let flows = (of("flows"), of("flows (write)"));
        // A packet that opens a connection first looks for an existing one: neither end alone can
        // start it anew (rule C4).
        let expected = (1, u32::from(path.meets == Meets::Accept));
        assert_eq!(flows, expected, "{path:?}: {counts:?}");
    }
    Ok(())
}

/// A larger world has its size: the usual path is still the one it is named for.
#[test]
fn a_larger_world_has_the_same_paths() -> Result<()> {
    if !privilege::can_load(SUITE) {
        return Ok(());
    }
    let stage = Stage::new(Shape {
        peers: 2000,
        ports: 100,
    })?;
    for hook in [Hook::FromPod, Hook::ToPod] {
        for meets in [Meets::Established, Meets::Accept, Meets::Deny] {
            stage.with(move |world| measure(world, Path::usual(hook, meets)))?;
        }
    }
    Ok(())
}

/// Making a world checks that the closed port is closed.
#[test]
fn traffic_gets_through_where_policies_select_the_pods() -> Result<()> {
    if !privilege::can_enforce(SUITE) {
        return Ok(());
    }
    for variant in [Variant::NoAgent, Variant::Netpol(3)] {
        let world = World::new(variant)?;
        for kind in [Kind::RequestResponse, Kind::Connections, Kind::Packets] {
            for way in Way::ALL {
                let (from, to) = world.ends(way)?;
                let rate = kind.measure(&from, &to, std::time::Duration::from_millis(50))?;
                assert!(rate > 0.0, "{variant}, {way}: {}", kind.name());
            }
        }
    }
    Ok(())
}
