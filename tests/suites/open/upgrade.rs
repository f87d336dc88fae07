// SPDX-License-Identifier: Apache-2.0
//! Changes of the attach mechanism, and remains of an agent of another version (rules B3, C6).

use std::{
    fs,
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use aya::maps::MapInfo;
use netpol_agent::datapath::{CounterReader, OBSERVED_MAPS, PINNED_MAPS, bpffs, pin, pin_folder};
use netpol_common::abi::Direction;
use netpol_tests::{agent::Agent, node::Site, pair::End, privilege::can_enforce, proxy::Mode};

use super::{MESSAGES, POLICIES, SEEDED, SUITE, World, reused_address, seeds_nothing};

/// Part of the log line about removed pins of another version.
const SWEPT: &str = "removed what another version of netpol left";

/// A filter replaces a TCX link: open connections continue, also over a gap; a restart seeds
/// nothing.
#[test]
fn c6_open_connections_go_on_with_filters_of_clsact() {
    if !can_enforce(SUITE) {
        return;
    }
    let world = World::with_rules(Mode::Iptables, true);
    let mut pairs = world.open_allowed();
    let before = world.lost();
    let mut agent = world.start_attached("clsact");
    agent.wait_for_line(0, SEEDED).unwrap();
    let veth = world.node.veth("shop/a").unwrap().to_owned();
    world.filters_are(&veth, 2);
    for pair in &mut pairs {
        pair.goes_on(End::Opened, MESSAGES);
    }
    agent.stop().unwrap();
    agent.cleanup().unwrap();
    world.filters_are(&veth, 0);
    pairs.extend(world.open("shop/a", "other/c"));
    agent.restart().unwrap();
    agent.wait_for_line(0, SEEDED).unwrap();
    world.all_go_on(&mut pairs, End::Opened, before);
    world.is_enforced();
    seeds_nothing(&mut agent);
}

/// In the line that tells that maps were kept.
const KEPT: &str = "maps of another version are kept";

/// What the other version has in common with this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Common {
    /// The layouts of all maps.
    All,
    /// Those of all maps but `flows`.
    Tables,
    /// Those of all maps but one of the tables, whose numbers are in the others.
    NoTables,
    /// None.
    Nothing,
}

/// An agent finds programs and maps of another version. Where it keeps the flows or can read them,
/// connections that the kernel does not track go on, too.
fn other_version(attach: &str, common: Common) {
    if !can_enforce(SUITE) {
        return;
    }
    let tracked = matches!(common, Common::Tables | Common::Nothing);
    let world = World::with_rules(Mode::Iptables, tracked);
    let mut agent = world.start_attached(attach);
    let mut pairs = if tracked {
        world.open_allowed()
    } else {
        // Answers through a Service come from the pod itself, where the bridge is not tracked.
        let mut pairs = world.open("shop/a", "shop/b");
        pairs.extend(world.open("outside", "shop/b"));
        pairs
    };
    for pair in &mut pairs {
        pair.goes_on(End::Opened, 1);
    }
    agent.stop().unwrap();
    let enforcing = |agent: &Agent, without: &[&str]| {
        let maps = PINNED_MAPS.into_iter();
        let maps = maps.filter(|map| !OBSERVED_MAPS.contains(map) && !without.contains(map));
        ids(agent, maps)
    };
    let of_flows = ["flows", "flow_shares", "flow_rings"];
    let (all, tables) = (enforcing(&agent, &[]), enforcing(&agent, &of_flows));
    let other = agent.pin_path().join("v1");
    fs::rename(pin_folder(agent.pin_path()), &other).unwrap();
    let layouts = other.join("layouts");
    for entry in bpffs::list(&layouts).unwrap() {
        let is_of_flows = entry.to_string_lossy().contains("/flows-");
        let is_of_policies = entry.to_string_lossy().contains("/policies-");
        if common == Common::Nothing
            || common == Common::Tables && is_of_flows
            || common == Common::NoTables && is_of_policies
        {
            bpffs::remove(&entry).unwrap();
        }
    }
    world.is_enforced();
    pairs.extend(world.open("shop/a", "other/c"));
    let before = world.lost();
    agent.restart().unwrap();
    agent.wait_for_line(0, SWEPT).unwrap();
    assert!(!other.exists());
    if common != Common::Nothing {
        agent.wait_for_line(0, KEPT).unwrap();
    }
    match common {
        Common::All | Common::Tables => assert_eq!(enforcing(&agent, &of_flows), tables),
        Common::NoTables => {
            let free = ["bindings", "inherited"];
            let kept = |id: &u32| all.contains(id);
            assert_eq!(enforcing(&agent, &[]).iter().filter(|id| kept(id)).count(), 2);
            assert!(!enforcing(&agent, &free).iter().any(kept), "all together");
        }
        Common::Nothing => {}
    }
    if common == Common::All {
        assert_eq!(enforcing(&agent, &[]), all);
    } else {
        agent.wait_for_line(0, SEEDED).unwrap();
        let anew = enforcing(&agent, &[]);
        assert!(anew.iter().any(|id| !all.contains(id)), "{anew:?} {all:?}");
    }
    world.all_go_on(&mut pairs, End::Opened, before);
    world.is_enforced();
}

#[test]
fn b3_c6_an_upgrade_to_other_layouts_keeps_connections_with_tcx() {
    other_version("tcx", Common::Nothing);
}

#[test]
fn b3_c6_an_upgrade_to_other_layouts_keeps_connections_with_clsact() {
    other_version("clsact", Common::Nothing);
}

#[test]
fn b3_c6_an_upgrade_keeps_maps_of_the_same_layout_and_connections_that_nobody_tracks_with_tcx() {
    other_version("tcx", Common::All);
}

#[test]
fn b3_c6_an_upgrade_keeps_maps_of_the_same_layout_and_connections_that_nobody_tracks_with_clsact() {
    other_version("clsact", Common::All);
}

#[test]
fn b3_c6_an_upgrade_to_another_layout_of_a_table_keeps_what_was_bound_and_moves_the_flows() {
    other_version("tcx", Common::NoTables);
}

#[test]
fn b3_c6_an_upgrade_to_another_layout_of_flows_keeps_the_tables() {
    other_version("tcx", Common::Tables);
}

/// Gives what is pinned the name of another version with another layout of a table, and starts the
/// agent.
fn restart_over_another_table(agent: &mut Agent) {
    agent.stop().unwrap();
    let other = agent.pin_path().join("v1");
    fs::rename(pin_folder(agent.pin_path()), &other).unwrap();
    for entry in bpffs::list(&other.join("layouts")).unwrap() {
        if entry.to_string_lossy().contains("/policies-") {
            bpffs::remove(&entry).unwrap();
        }
    }
    agent.restart().unwrap();
    agent.wait_for_line(0, SWEPT).unwrap();
}

/// A flow that is moved allows nothing: the policy of now is asked.
#[test]
fn c2_b3_a_moved_flow_is_judged_by_the_policy_of_now() {
    if !can_enforce(SUITE) {
        return;
    }
    let world = World::with_rules(Mode::Iptables, false);
    let mut agent = world.start_attached("tcx");
    let mut pairs = world.open("shop/a", "shop/b");
    for pair in &mut pairs {
        pair.goes_on(End::Opened, 1);
    }
    let narrower = POLICIES.replace("ingress: [{}]", "ingress: []");
    assert_ne!(narrower, POLICIES);
    world.manifests.write("policies.yaml", &narrower).unwrap();
    restart_over_another_table(&mut agent);
    for pair in &mut pairs {
        pair.is_cut(End::Opened);
    }
}

/// What an earlier version knew of an address that another pod had before, its successor knows: the
/// kernel still has the other pod's connections.
#[test]
fn c3_b3_a_reused_address_does_not_inherit_connections_by_an_upgrade() {
    reused_address(|agent| {
        agent.stop().unwrap();
        let other = agent.pin_path().join("v1");
        fs::rename(pin_folder(agent.pin_path()), &other).unwrap();
        agent.restart().unwrap();
        agent.wait_for_line(0, SWEPT).unwrap();
    });
}

/// In the line that tells that they were removed.
const OBSERVED_SWEPT: &str = "counters and events of another version are removed";

/// How long a datagram may be on its way.
const ON_ITS_WAY: Duration = Duration::from_millis(500);

/// Datagrams from pod c, each millisecond, all the while. Those that come are read at once, so that
/// none is lost for want of memory.
struct Stream {
    running: JoinHandle<(usize, usize)>,
    stop: Arc<AtomicBool>,
}

impl Stream {
    fn start(world: &World, to: &str) -> Self {
        let bound = |site: &Site, port: u16| {
            let socket = site.netns.run(|| Ok(UdpSocket::bind((site.addresses[0], port))?));
            socket.unwrap()
        };
        let (sender, receiver) = (bound(&world.site("other/c"), 0), bound(&world.site(to), 7777));
        let address = receiver.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let running = thread::spawn(move || {
            let (mut sent, mut came) = (0, 0);
            let mut datagram = [0; 64];
            receiver.set_nonblocking(true).unwrap();
            while !stopped.load(Ordering::Relaxed) {
                sent += usize::from(sender.send_to(b"all the while", address).is_ok());
                while receiver.recv(&mut datagram).is_ok() {
                    came += 1;
                }
                thread::park_timeout(Duration::from_millis(1));
            }
            receiver.set_nonblocking(false).unwrap();
            receiver.set_read_timeout(Some(ON_ITS_WAY)).unwrap();
            while came < sent && receiver.recv(&mut datagram).is_ok() {
                came += 1;
            }
            (sent, came)
        });
        Self { running, stop }
    }

    /// How many were sent, and how many came.
    fn end(self) -> (usize, usize) {
        self.stop.store(true, Ordering::Relaxed);
        self.running.join().unwrap()
    }
}

/// The kernel's numbers of these maps.
fn ids(agent: &Agent, maps: impl Iterator<Item = &'static str>) -> Vec<u32> {
    let pins = maps.map(|map| MapInfo::from_pin(pin(agent.pin_path(), map)));
    pins.map(|info| info.unwrap().id()).collect()
}

/// An agent finds counters and events of another version, and programs that write them: these give
/// way, and what enforces stays.
fn other_observed_version(attach: &str) {
    if !can_enforce(SUITE) {
        return;
    }
    let world = World::with_rules(Mode::Iptables, true);
    let mut agent = world.start_attached(attach);
    let mut pairs = world.open_allowed();
    for pair in &mut pairs {
        pair.goes_on(End::Opened, MESSAGES);
    }
    agent.stop().unwrap();
    let enforcing = |agent: &Agent| {
        let maps = PINNED_MAPS.into_iter();
        ids(agent, maps.filter(|map| !OBSERVED_MAPS.contains(map)))
    };
    let observed = |agent: &Agent| ids(agent, OBSERVED_MAPS.into_iter());
    let (kept, remade) = (enforcing(&agent), observed(&agent));
    let own = pin(agent.pin_path(), "counters");
    let own = own.parent().unwrap();
    let other = own.with_file_name("observed-00000000");
    fs::rename(own, &other).unwrap();

    let (denied, allowed) = (Stream::start(&world, "shop/a"), Stream::start(&world, "shop/b"));
    let before = world.lost();
    agent.restart().unwrap();
    agent.wait_for_line(0, OBSERVED_SWEPT).unwrap();
    world.all_go_on(&mut pairs, End::Opened, before);
    let (sent, came) = denied.end();
    assert!(sent > 0 && came == 0, "{came} of {sent} that are denied came");
    let (sent, came) = allowed.end();
    assert!(sent > 0 && came == sent, "{came} of {sent} that are allowed came");

    assert!(!other.exists());
    assert_eq!(enforcing(&agent), kept);
    let new = observed(&agent);
    assert!(new.iter().all(|id| !remade.contains(id)), "{remade:?} {new:?}");
    let counted = CounterReader::open(agent.pin_path()).unwrap();
    let counted = counted.read(Direction::Ingress).unwrap();
    assert!(counted.forwarded.packets > 0, "{counted:?}");
    world.is_enforced();
    seeds_nothing(&mut agent);
    agent.stop().unwrap();
    agent.restart().unwrap();
    agent.wait_for_revision_after(0).unwrap();
    assert_eq!(observed(&agent), new, "of its own version they stay");
}

#[test]
fn b3_counters_and_events_of_another_version_are_remade_without_a_gap_with_tcx() {
    other_observed_version("tcx");
}

#[test]
fn b3_counters_and_events_of_another_version_are_remade_without_a_gap_with_clsact() {
    other_observed_version("clsact");
}
