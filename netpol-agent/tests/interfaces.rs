// SPDX-License-Identifier: Apache-2.0
//! Reads pods' veths from the kernel, and follows its events, in network namespaces of the tests.

#[path = "support/namespaces.rs"]
mod namespaces;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use namespaces::{Pod, drop_capability, enter_new, ip, privileged};
use netpol_agent::{
    datapath::interfaces::{
        Interfaces, InterfacesError, PodInterface, Sight, addresses_behind, watch, watch_routes,
    },
    progress::Progress,
};
use tokio::{sync::Notify, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// Ends a test that would otherwise wait for ever.
const PATIENCE: Duration = Duration::from_secs(20);

struct Watched {
    rx: tokio::sync::watch::Receiver<Option<Arc<Interfaces>>>,
    settled: tokio::sync::watch::Sender<BTreeSet<u32>>,
    reread: Arc<Notify>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), InterfacesError>>,
}

impl Watched {
    fn start() -> Self {
        Self::start_after(BTreeMap::new())
    }

    /// Starts after an earlier agent, with what that saw first.
    fn start_after(sights: BTreeMap<u32, Sight>) -> Self {
        let (settled, settled_rx) = tokio::sync::watch::channel(BTreeSet::new());
        let (tx, rx) = tokio::sync::watch::channel(None);
        let stop = CancellationToken::new();
        let reread = Arc::new(Notify::new());
        let task = tokio::spawn(watch(
            tx,
            sights,
            settled_rx,
            reread.clone(),
            Progress::default(),
            stop.clone(),
        ));
        Self {
            rx,
            settled,
            reread,
            stop,
            task,
        }
    }

    /// Waits for a reading as wanted.
    async fn until(&mut self, what: &str, wanted: impl Fn(&Interfaces) -> bool) -> Arc<Interfaces> {
        let found = tokio::time::timeout(
            PATIENCE,
            self.rx.wait_for(|read| read.as_deref().is_some_and(&wanted)),
        )
        .await
        .map(|read| read.unwrap().clone().unwrap());
        found.unwrap_or_else(|_| panic!("never seen: {what}; last: {:#?}", self.rx.borrow()))
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

/// Runs a test in its own namespace, on one thread and the blocking threads that it starts there.
fn on_a_node(test: impl AsyncFnOnce() + Send) {
    if !privileged("interfaces") {
        return;
    }
    std::thread::scope(|scope| {
        let node = scope.spawn(|| {
            enter_new();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(test());
        });
        if let Err(panic) = node.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn addresses(interfaces: &Interfaces, name: &str) -> Option<Vec<String>> {
    let mut named = interfaces.pods.iter().filter(|(_, pod)| pod.name == name);
    let (index, pod) = named.next()?;
    assert!(
        named.next().is_none(),
        "two interfaces called {name}: {interfaces:#?}"
    );
    assert_eq!(*index, pod.index);
    Some(pod.addresses.iter().map(ToString::to_string).collect())
}

fn has(name: &str, wanted: &[&str]) -> impl Fn(&Interfaces) -> bool {
    move |read| addresses(read, name).is_some_and(|found| found == wanted)
}

#[test]
fn a_pod_is_followed_from_its_veth_to_its_end() {
    on_a_node(async || {
        let mut watched = Watched::start();
        watched.until("an empty node", |read| read.pods.is_empty()).await;

        let pod = Pod::new();
        pod.connect("host0");
        watched.until("a pod without addresses", has("host0", &[])).await;
        pod.ip("addr add 10.9.0.2/24 dev eth0");
        let before = watched.until("its address", has("host0", &["10.9.0.2"])).await;

        ip("link set host0 name renamed0");
        let after = watched
            .until("the new name", has("renamed0", &["10.9.0.2"]))
            .await;
        assert!(before.pods.keys().eq(after.pods.keys()), "the index stays");

        drop(pod);
        watched.until("no pod", |read| read.pods.is_empty()).await;
        watched.end().await;
    });
}

fn named<'a>(interfaces: &'a Interfaces, name: &str) -> Option<&'a PodInterface> {
    interfaces.pods.values().find(|pod| pod.name == name)
}

#[test]
fn a8_what_a_pod_changes_inside_later_does_not_count() {
    on_a_node(async || {
        let pod = Pod::new();
        pod.connect("host0");
        pod.ip("addr add 10.9.0.2/24 dev eth0");
        let mut watched = Watched::start();
        let first = watched.until("anything", |_| true).await;
        let (index, bound) = first.pods.first_key_value().unwrap();
        assert!(bound.peer_mac.is_some());
        // A new name distinguishes each reading from the one before.
        let changes = [
            "addr add 10.9.0.3/24 dev eth0",
            "addr del 10.9.0.2/24 dev eth0",
            "addr add 10.9.0.2/32 dev lo",
            "link set eth0 name other0",
            "link add dummy0 type bridge",
            "addr add 10.9.0.4/32 dev dummy0",
        ];
        for (number, change) in changes.iter().enumerate() {
            pod.ip(change);
            let name = format!("host{}", number + 1);
            ip(&format!("link set host{number} name {name}"));
            watched.until(change, has(&name, &["10.9.0.2"])).await;
        }

        // The inside of a settled interface is not read again, unless its index becomes another
        // interface's.
        watched.settled.send(BTreeSet::from([*index])).unwrap();
        pod.ip("link set other0 address 02:00:00:00:00:77");
        ip("link set host6 name host7");
        let last = watched
            .until("the last name", |read| named(read, "host7").is_some())
            .await;
        assert_eq!(named(&last, "host7").unwrap().peer_mac, bound.peer_mac);
        watched.end().await;

        // A later agent takes it from this one.
        let sight = Sight {
            mac: bound.mac,
            addresses: bound.addresses.clone(),
            ..Sight::default()
        };
        let mut watched = Watched::start_after(BTreeMap::from([(*index, sight.clone())]));
        watched
            .until("what was seen first", has("host7", &["10.9.0.2"]))
            .await;
        watched.end().await;
        // But not for another interface with the same index.
        let other = Sight { mac: [2; 6], ..sight };
        let mut watched = Watched::start_after(BTreeMap::from([(*index, other)]));
        watched
            .until("what is there now", has("host7", &["10.9.0.2", "10.9.0.4"]))
            .await;
        watched.end().await;
    });
}

/// As with KubeVirt: the pod's address is on a bridge, and the veth's peer is a port of that.
#[test]
fn a8_an_address_elsewhere_in_the_namespace_counts_for_its_only_veth() {
    on_a_node(async || {
        let (one, two) = (Pod::new(), Pod::new());
        for (pod, address) in [(&one, "10.9.0.2"), (&two, "10.9.0.3")] {
            pod.ip("link add k6t type bridge");
            pod.ip(&format!("addr add {address}/24 dev k6t"));
        }
        one.connect("one0");
        one.ip("link set eth0 master k6t");
        two.connect("two0");
        two.connect_as("two1", "net1");
        let mut watched = Watched::start();
        let first = watched.until("anything", |_| true).await;
        assert_eq!(addresses(&first, "one0").unwrap(), ["10.9.0.2"]);
        for name in ["two0", "two1"] {
            assert!(addresses(&first, name).unwrap().is_empty());
        }
        let namespaces = ["two0", "two1"].map(|name| named(&first, name).unwrap().namespace);
        assert_eq!(namespaces[0], namespaces[1]);
        watched.end().await;
    });
}

/// Any pod on the link may claim to be a router, and so make the kernel give addresses to a pod
/// that has none yet.
#[test]
fn a8_an_address_that_a_router_advertised_is_not_the_pods() {
    on_a_node(async || {
        let pod = Pod::new();
        pod.connect("pod0");
        // As from an advertised prefix: it expires.
        pod.ip("addr add 2001:db8:bad::7/64 dev eth0 nodad valid_lft 600 preferred_lft 600");
        let mut watched = Watched::start();
        let first = watched
            .until("the veth", |read| named(read, "pod0").is_some())
            .await;
        assert!(addresses(&first, "pod0").unwrap().is_empty());
        pod.ip("addr add 10.9.0.2/24 dev eth0");
        watched.until("the pod's own", has("pod0", &["10.9.0.2"])).await;
        watched.end().await;
    });
}

#[test]
fn a6_mac_and_link_local_addresses_of_the_peer_are_read() {
    on_a_node(async || {
        let pod = Pod::new();
        pod.connect("host0");
        pod.ip("link set eth0 address 02:00:00:00:00:55");
        pod.ip("addr add fe80::55/64 dev eth0 nodad");
        let mut watched = Watched::start();
        let wanted = |read: &Interfaces| {
            named(read, "host0").is_some_and(|pod| {
                pod.peer_mac == Some([2, 0, 0, 0, 0, 0x55])
                    && pod.link_locals.contains(&"fe80::55".parse().unwrap())
            })
        };
        watched.until("both", wanted).await;
        watched.end().await;
    });
}

#[test]
fn what_was_there_before_the_watch_is_in_the_first_reading() {
    on_a_node(async || {
        let pod = Pod::new();
        pod.connect("host0");
        pod.ip("addr add 10.9.0.2/24 dev eth0");
        let mut watched = Watched::start();
        let first = watched.until("anything", |_| true).await;
        assert_eq!(
            addresses(&first, "host0").as_deref(),
            Some(&["10.9.0.2".to_owned()][..])
        );
        watched.end().await;
    });
}

#[test]
fn only_veths_into_other_namespaces_are_pods() {
    on_a_node(async || {
        let pod = Pod::new();
        ip("link add here0 type veth peer name here1");
        ip("link add bridge0 type bridge");
        pod.connect("host0");
        ip("link add moved0 type veth peer name moved1");
        let mut watched = Watched::start();
        let names = |read: &Interfaces| read.pods.values().map(|pod| pod.name.clone()).collect::<Vec<_>>();
        let first = watched.until("anything", |_| true).await;
        assert_eq!(names(&first), ["host0"]);

        pod.move_in("moved1");
        watched
            .until("the veth whose peer moved", |read| {
                names(read) == ["host0", "moved0"]
            })
            .await;
        watched.end().await;
    });
}

/// Rule B2: the node's side of a veth shows if it is on the pod network.
#[test]
fn b2_a_veth_has_the_addresses_of_its_bridge_or_what_is_routed_to_it() {
    on_a_node(async || {
        let (one, two) = (Pod::new(), Pod::new());
        one.connect("one0");
        two.connect("two0");
        let mut watched = Watched::start();
        watched.until("two pods", |read| read.pods.len() == 2).await;
        ip("link add bridge0 type bridge");
        ip("addr add 10.9.0.1/24 dev bridge0");
        ip("link set bridge0 up");
        ip("link set one0 master bridge0");
        let of = |read: &Interfaces, name: &str| {
            let found = read.pods.values().find(|pod| pod.name == name);
            found
                .map(|pod| (pod.gateways.clone(), pod.routed.clone()))
                .unwrap()
        };
        let gateway: IpAddr = "10.9.0.1".parse().unwrap();
        let read = watched
            .until("a pod on a bridge", |read| of(read, "one0").0.contains(&gateway))
            .await;
        assert!(of(&read, "one0").1.is_empty() && of(&read, "two0").0.is_empty());
        let routes = tokio::spawn(watch_routes(watched.reread.clone(), watched.stop.clone()));
        // The socket for events exists once the task has run.
        tokio::task::yield_now().await;
        ip("route add 10.9.1.7/32 dev two0");
        let routed = "10.9.1.7/32".parse().unwrap();
        watched
            .until("a routed pod", |read| of(read, "two0").1.contains(&routed))
            .await;
        watched.end().await;
        routes.await.unwrap().unwrap();
    });
}

/// Rule A5: packets that leave the node are checked where they leave, after translation. Tries each
/// kind of device that this kernel has.
#[test]
fn a5_packets_leave_by_devices_that_send_them_on() {
    const KINDS: [(&str, &str, bool); 9] = [
        ("veth", "type veth peer name far0", true),
        ("macvlan", "link lower0 type macvlan", true),
        ("vxlan", "type vxlan id 7 dstport 4789 dev lower0", true),
        ("tun", "", true),
        ("gre", "type gre remote 192.0.2.9", true),
        ("wireguard", "type wireguard", true),
        ("bridge", "type bridge", false),
        ("ifb", "type ifb", false),
        ("dummy", "type dummy", false),
    ];
    on_a_node(async || {
        ip("link add lower0 type veth peer name lower1");
        let mut tried = Vec::new();
        for (number, (kind, arguments, leaves)) in KINDS.into_iter().enumerate() {
            let name = format!("test{number}");
            let mut command = std::process::Command::new("ip");
            if kind == "tun" {
                command.args(["tuntap", "add", &name, "mode", "tun"]);
            } else {
                let arguments = arguments.split(' ');
                let (before, after): (Vec<_>, Vec<_>) = if kind == "macvlan" {
                    (arguments.clone().take(2).collect(), arguments.skip(2).collect())
                } else {
                    (Vec::new(), arguments.collect())
                };
                command.args(["link", "add"]).args(before).arg(&name).args(after);
            }
            if command.output().unwrap().status.success() {
                tried.push((kind, name, leaves));
            } else {
                eprintln!("this kernel has no {kind}");
            }
        }
        // Kinds that even a container's kernel has.
        for kind in ["veth", "bridge"] {
            assert!(tried.iter().any(|(tried, ..)| *tried == kind), "{tried:?}");
        }
        let mut watched = Watched::start();
        let first = watched.until("anything", |_| true).await;
        let devices: Vec<&String> = first.devices.values().collect();
        for (kind, name, leaves) in tried {
            assert_eq!(devices.contains(&&name), leaves, "{kind}");
        }
        watched.end().await;
    });
}

#[test]
fn each_interface_has_its_own_addresses() {
    on_a_node(async || {
        let (one, two) = (Pod::new(), Pod::new());
        one.connect("one0");
        one.connect_as("one1", "net1");
        two.connect("two0");
        one.ip("addr add 10.9.0.2/24 dev eth0");
        one.ip("addr add 10.9.1.2/24 dev net1");
        one.ip("addr add 10.9.2.2/32 dev lo");
        // The same peer index as in the first pod, and its own address on a point-to-point link.
        two.ip("addr add 10.9.0.3 peer 10.9.0.1 dev eth0");
        let mut watched = Watched::start();
        let first = watched.until("anything", |_| true).await;
        assert_eq!(addresses(&first, "one0").unwrap(), ["10.9.0.2"]);
        assert_eq!(addresses(&first, "one1").unwrap(), ["10.9.1.2"]);
        assert_eq!(addresses(&first, "two0").unwrap(), ["10.9.0.3"]);
        watched.end().await;
    });
}

/// Rule A2 depends on it.
#[test]
fn the_node_has_all_its_addresses_but_loopback() {
    on_a_node(async || {
        let mut watched = Watched::start();
        ip("link add bridge0 type bridge");
        ip("link set bridge0 addrgenmode none");
        ip("link set bridge0 up");
        ip("addr add 10.9.0.1/24 dev bridge0");
        ip("addr add fe80::1/64 dev bridge0 nodad");
        ip("addr add 192.0.2.7/32 dev lo");
        let wanted: Vec<IpAddr> = ["10.9.0.1", "192.0.2.7", "fe80::1"]
            .map(|text| text.parse().unwrap())
            .into();
        watched
            .until("the addresses of the node", |read| {
                read.node_addresses.iter().eq(&wanted)
            })
            .await;
        ip("addr del 10.9.0.1/24 dev bridge0");
        watched
            .until("an address less", |read| {
                read.node_addresses.iter().eq(&wanted[1..])
            })
            .await;
        watched.end().await;
    });
}

/// Namespaces end and new ones get their ids at once. An address must never show behind another
/// veth than its own.
#[test]
fn an_address_is_never_seen_behind_another_veth() {
    const PODS: u8 = 24;
    on_a_node(async || {
        let watched = Watched::start();
        let mut rx = watched.rx.clone();
        let churn = std::thread::spawn(|| {
            let mut alive = std::collections::VecDeque::new();
            for number in 1..=PODS {
                let pod = Pod::new();
                pod.connect(&format!("host{number}"));
                pod.ip(&format!("addr add 10.9.0.{number}/24 dev eth0"));
                alive.push_back(pod);
                if alive.len() > 2 {
                    alive.pop_front();
                }
            }
            alive
        });
        let last = format!("host{PODS}");
        let mut readings = 0;
        loop {
            tokio::time::timeout(PATIENCE, rx.changed())
                .await
                .expect("events stopped")
                .unwrap();
            let read = rx.borrow_and_update().clone().unwrap();
            readings += 1;
            for pod in read.pods.values() {
                let own: IpAddr = format!("10.9.0.{}", &pod.name["host".len()..]).parse().unwrap();
                assert!(pod.addresses.iter().all(|address| *address == own), "{read:#?}");
            }
            if addresses(&read, &last).is_some_and(|found| !found.is_empty()) {
                break;
            }
        }
        assert!(readings > 1);
        drop(churn.join().unwrap());
        watched.end().await;
    });
}

#[test]
fn without_the_events_of_other_namespaces_a_reading_on_request_finds_them() {
    const CAP_NET_BROADCAST: u32 = 11;
    on_a_node(async || {
        let pod = Pod::new();
        // A new link's events come from both sides, those of addresses do not.
        pod.connect("host0");
        drop_capability(CAP_NET_BROADCAST);
        let mut watched = Watched::start();
        watched.until("what is there", has("host0", &[])).await;
        pod.ip("addr add 10.9.0.2/24 dev eth0");
        watched.reread.notify_one();
        watched
            .until("the new address", has("host0", &["10.9.0.2"]))
            .await;
        watched.end().await;
    });
}

#[test]
fn a_loss_of_events_is_made_good() {
    on_a_node(async || {
        let pod = Pod::new();
        pod.connect("host0");
        let mut watched = Watched::start();
        watched.until("a pod", has("host0", &[])).await;
        // This thread runs the watch, so nothing takes the events: many more than the socket has
        // room for.
        let flood: String = (0..2000)
            .map(|round| format!("link set host0 mtu {}\n", 1400 + round % 2))
            .collect();
        let batch = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(batch.path(), flood).unwrap();
        ip(&format!("-batch {}", batch.path().display()));
        pod.ip("addr add 10.9.0.2/24 dev eth0");
        watched
            .until("what came after the loss", has("host0", &["10.9.0.2"]))
            .await;
        watched.end().await;
    });
}

/// Twenty thousand changes in one pod lead to few readings, and another pod is seen meanwhile.
#[test]
fn l2_a_pod_that_changes_its_own_addresses_delays_nobody() {
    const CHANGES: usize = 20_000;
    on_a_node(async || {
        let mut watched = Watched::start();
        let (storming, other) = (Pod::new(), Pod::new());
        storming.connect("host0");
        watched.until("the pod that storms", has("host0", &[])).await;
        let path = std::env::temp_dir().join(format!("netpol-storm-{}", std::process::id()));
        let lines = "addr add 10.9.0.2/24 dev eth0\naddr del 10.9.0.2/24 dev eth0\n";
        std::fs::write(&path, lines.repeat(CHANGES / 2)).unwrap();
        let batch = format!("-batch {}", path.display());
        let storm = tokio::task::spawn_blocking(move || {
            storming.ip(&batch);
            storming
        });
        let mut published = watched.rx.clone();
        let counting = tokio::spawn(async move {
            let mut readings = 0;
            while published.changed().await.is_ok() {
                readings += 1;
            }
            readings
        });
        other.connect("host1");
        other.ip("addr add 10.9.0.3/24 dev eth0");
        watched.until("the other pod", has("host1", &["10.9.0.3"])).await;
        let storming = storm.await.unwrap();
        storming.ip("addr add 10.9.0.4/24 dev eth0");
        // The first address that was seen counts, whichever of the two that was (rule A8).
        let seen = |read: &Interfaces| addresses(read, "host0").is_some_and(|found| found.len() == 1);
        watched.until("an address of the pod that storms", seen).await;
        std::fs::remove_file(&path).unwrap();
        watched.end().await;
        let readings: usize = counting.await.unwrap();
        assert!(
            readings * 100 <= CHANGES,
            "{readings} readings of {CHANGES} changes"
        );
    });
}

#[test]
fn only_behind_a_veth_into_another_namespace_are_addresses() {
    on_a_node(async || {
        let pod = Pod::new();
        pod.connect("host0");
        pod.ip("addr add 10.9.0.2/24 dev eth0");
        let index = |name| nix::net::if_::if_nametoindex(name).unwrap();
        let behind = |index| addresses_behind(index).unwrap();
        assert_eq!(
            behind(index("host0")),
            BTreeSet::from(["10.9.0.2".parse().unwrap()])
        );
        assert_eq!(behind(index("lo")), BTreeSet::new());
        assert_eq!(behind(index("host0") + 1000), BTreeSet::new());
    });
}
