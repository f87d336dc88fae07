// SPDX-License-Identifier: Apache-2.0
//! Programs on veths: attached, replaced in place, and removed without touching others' programs.
//! Each test has its own network namespace and bpffs.

#[path = "support/namespaces.rs"]
mod namespaces;

use std::{
    collections::BTreeSet,
    fs::{read_dir, rename},
    path::{Path, PathBuf},
    process::Command,
};

use aya::{
    Ebpf, EbpfLoader,
    programs::{
        LinkOrder, SchedClassifier, TcAttachType, loaded_links,
        tc::{NlOptions, TcAttachOptions},
    },
};
use namespaces::{Pod, enter_new, ip, not_run, privileged, run};
use netpol_agent::datapath::{
    attach::{AttachError, Attacher, Fault, Hook, Mechanism, Mode, cleanup, take_over},
    object,
};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    net::if_::if_nametoindex,
    sched::{CloneFlags, unshare},
};
use zerocopy::IntoBytes as _;

const SUITE: &str = "attach";
const HOOKS: [(Hook, TcAttachType); 2] = [
    (Hook::FromPod, TcAttachType::Ingress),
    (Hook::ToPod, TcAttachType::Egress),
];

/// A node with a bpffs.
struct Node {
    object: Vec<u64>,
    bpffs: tempfile::TempDir,
}

impl Node {
    fn load(&self) -> Ebpf {
        EbpfLoader::new()
            .default_map_pin_directory(self.bpffs.path())
            .load(self.object.as_bytes())
            .unwrap()
    }

    fn links(&self) -> PathBuf {
        self.bpffs.path().join("links")
    }

    fn attacher(&self, mode: Mode) -> Attacher {
        Attacher::new(mode, self.links()).unwrap()
    }

    /// Starts an agent that attaches and ends.
    fn attach_and_end(&self, mode: Mode, name: &str) {
        let mut ebpf = self.load();
        self.attacher(mode).attach(&mut ebpf, index(name), name).unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = umount2(self.bpffs.path(), MntFlags::MNT_DETACH);
    }
}

/// Runs a test on a thread in its own namespaces.
fn on_a_node(test: impl FnOnce(&Node) + Send) {
    if !privileged(SUITE) {
        return;
    }
    let Some(object) = object::for_any_kernel() else {
        return not_run(SUITE, "this build has no eBPF programs");
    };
    std::thread::scope(|scope| {
        let node = scope.spawn(|| {
            enter_new();
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
            let bpffs = tempfile::Builder::new()
                .prefix(&format!("netpol-attach-{}-", std::process::id()))
                .tempdir()
                .unwrap();
            mount(
                Some("bpf"),
                bpffs.path(),
                Some("bpf"),
                MsFlags::empty(),
                None::<&str>,
            )
            .unwrap();
            test(&Node { object, bpffs });
        });
        if let Err(panic) = node.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn index(name: &str) -> u32 {
    if_nametoindex(name).unwrap()
}

/// Returns the ids of the TCX programs at a hook, in order.
fn tcx_programs(name: &str, attach_type: TcAttachType) -> Vec<u32> {
    let (_, programs) = SchedClassifier::query_tcx(name, attach_type).unwrap();
    programs.iter().map(aya::programs::ProgramInfo::id).collect()
}

/// Returns the id of the link that runs a program.
fn link_of(program: u32) -> u32 {
    let mut links = loaded_links()
        .map(Result::unwrap)
        .filter(|link| link.program_id() == program);
    links.next().unwrap().id()
}

/// Returns the ids of the programs of our filters at a hook, as `tc` shows them, and the number of
/// all filters there.
fn filters(name: &str, attach_type: TcAttachType) -> (Vec<String>, usize) {
    let side = if attach_type == TcAttachType::Ingress {
        "ingress"
    } else {
        "egress"
    };
    let shown = run(Command::new("tc").args(["filter", "show", "dev", name, side]));
    let all: Vec<_> = shown.lines().filter(|line| line.contains(" handle ")).collect();
    let ours = all
        .iter()
        .filter(|line| line.contains("from_pod") || line.contains("to_pod"))
        .map(|line| {
            line.split(" id ")
                .nth(1)
                .unwrap()
                .split(' ')
                .next()
                .unwrap()
                .to_owned()
        })
        .collect();
    (ours, all.len())
}

fn has_clsact(name: &str) -> bool {
    run(Command::new("tc").args(["qdisc", "show", "dev", name])).contains("clsact")
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = read_dir(folder).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn links_outlive_the_agent_and_are_taken_over_in_place() {
    on_a_node(|node| {
        let pod = Pod::new();
        pod.connect("host0");
        node.attach_and_end(Mode::Tcx, "host0");
        let before = HOOKS.map(|(_, side)| tcx_programs("host0", side));
        assert!(before.iter().all(|programs| programs.len() == 1), "{before:?}");
        assert_ne!(before[0], before[1]);
        let links = [0, 1].map(|hook| link_of(before[hook][0]));

        node.attach_and_end(Mode::Tcx, "host0");
        let after = HOOKS.map(|(_, side)| tcx_programs("host0", side));
        assert!(after.iter().all(|programs| programs.len() == 1), "{after:?}");
        assert!(
            before.iter().all(|programs| !after.contains(programs)),
            "{before:?} {after:?}"
        );
        assert_eq!(
            links,
            [0, 1].map(|hook| link_of(after[hook][0])),
            "the links are the same"
        );
    });
}

#[test]
fn auto_takes_tcx_where_it_is() {
    on_a_node(|node| {
        let has_tcx = SchedClassifier::query_tcx("lo", TcAttachType::Ingress).is_ok();
        let found = node.attacher(Mode::Auto).mechanism();
        assert_eq!(found == Mechanism::Tcx, has_tcx);
        assert_eq!(node.attacher(Mode::Clsact).mechanism(), Mechanism::Clsact);
    });
}

#[test]
fn a_pin_of_a_gone_interface_is_not_taken_for_its_successor() {
    on_a_node(|node| {
        let pod = Pod::new();
        pod.connect("host0");
        let index = index("host0");
        node.attach_and_end(Mode::Tcx, "host0");
        ip("link del host0");
        ip(&format!(
            "link add host0 index {index} type veth peer name other0"
        ));
        assert!(tcx_programs("host0", TcAttachType::Ingress).is_empty());

        node.attach_and_end(Mode::Tcx, "host0");
        for (_, side) in HOOKS {
            assert_eq!(tcx_programs("host0", side).len(), 1);
        }
    });
}

#[test]
fn a_removed_pin_is_put_back_for_the_same_link() {
    on_a_node(|node| {
        let pod = Pod::new();
        pod.connect("host0");
        let index = index("host0");
        let (mut ebpf, mut attacher) = (node.load(), node.attacher(Mode::Tcx));
        attacher.attach(&mut ebpf, index, "host0").unwrap();
        let programs = tcx_programs("host0", TcAttachType::Ingress);
        let link = link_of(programs[0]);
        std::fs::remove_file(node.links().join(format!("{index}-from_pod"))).unwrap();
        assert_eq!(
            tcx_programs("host0", TcAttachType::Ingress),
            programs,
            "the agent holds it"
        );

        attacher.attach(&mut ebpf, index, "host0").unwrap();
        drop((attacher, ebpf));
        assert_eq!(tcx_programs("host0", TcAttachType::Ingress), programs);
        assert_eq!(link_of(programs[0]), link);
    });
}

#[test]
fn an_interface_that_vanished_is_named() {
    on_a_node(|node| {
        let pod = Pod::new();
        pod.connect("host0");
        for mode in [Mode::Tcx, Mode::Clsact] {
            let (mut ebpf, mut attacher) = (node.load(), node.attacher(mode));
            let error = attacher.attach(&mut ebpf, 4711, "absent0").unwrap_err();
            assert!(matches!(&error, AttachError::Gone { interface, index: 4711 } if interface == "absent0"));
            assert!(error.to_string().contains("absent0"), "{error}");
            // The name now belongs to another interface, which stays as it is.
            let error = attacher.attach(&mut ebpf, 4711, "host0").unwrap_err();
            assert!(matches!(error, AttachError::Gone { .. }), "{error}");
            assert!(tcx_programs("host0", TcAttachType::Ingress).is_empty());
            assert!(!has_clsact("host0"));
        }
    });
}

#[test]
fn a_device_of_the_network_becomes_a_pods_veth_and_back() {
    for mode in [Mode::Tcx, Mode::Clsact] {
        on_a_node(move |node| {
            let pod = Pod::new();
            pod.connect("host0");
            let index = index("host0");
            let (mut ebpf, mut attacher) = (node.load(), node.attacher(mode));
            let counts = || {
                HOOKS.map(|(_, side)| match mode {
                    Mode::Clsact => filters("host0", side).1,
                    _ => tcx_programs("host0", side).len(),
                })
            };
            attacher.attach_device(&mut ebpf, index, "host0").unwrap();
            assert_eq!(counts(), [0, 1], "{mode:?}");
            attacher.attach(&mut ebpf, index, "host0").unwrap();
            attacher.detach_device(index).unwrap();
            assert_eq!(counts(), [1, 1], "{mode:?}: a pod's veth stays one");
            attacher.attach_device(&mut ebpf, index, "host0").unwrap();
            assert_eq!(counts(), [0, 1], "{mode:?}");
            attacher.detach_device(index).unwrap();
            if mode == Mode::Tcx {
                assert_eq!(counts(), [0, 0]);
            }
            assert!(!has_clsact("host0"));
            assert_eq!(names(&node.links()), BTreeSet::new());
        });
    }
}

#[test]
fn what_is_not_wanted_any_more_is_removed() {
    for mode in [Mode::Tcx, Mode::Clsact] {
        on_a_node(|node| {
            let (one, two, three) = (Pod::new(), Pod::new(), Pod::new());
            for (pod, name) in [(&one, "one0"), (&two, "two0"), (&three, "three0")] {
                pod.connect(name);
                node.attach_and_end(mode, name);
            }
            let kept = index("one0");
            ip("link del three0");
            node.attacher(mode).retain(&BTreeSet::from([kept])).unwrap();
            for (_, side) in HOOKS {
                let count = |name| tcx_programs(name, side).len() + filters(name, side).0.len();
                assert_eq!((count("one0"), count("two0")), (1, 0), "{mode:?}");
            }
            assert!(!has_clsact("two0"));
            let prefix = format!("{kept}-");
            assert!(names(&node.links()).iter().all(|name| name.starts_with(&prefix)));
        });
    }
}

#[test]
fn cleanup_removes_all_of_ours_and_nothing_else() {
    on_a_node(|node| {
        let pod = Pod::new();
        pod.connect("host0");
        let mut foreign = node.load();
        let program: &mut SchedClassifier = foreign.program_mut("to_pod").unwrap().try_into().unwrap();
        program.load().unwrap();
        let order = TcAttachOptions::TcxOrder(LinkOrder::first());
        program
            .attach_with_options("host0", TcAttachType::Ingress, order)
            .unwrap();
        let theirs = tcx_programs("host0", TcAttachType::Ingress);

        node.attach_and_end(Mode::Tcx, "host0");
        let both = tcx_programs("host0", TcAttachType::Ingress);
        assert_eq!(both[1..], theirs, "ours comes first");

        assert_eq!(cleanup(&node.links()).unwrap(), 1);
        assert_eq!(tcx_programs("host0", TcAttachType::Ingress), theirs);
        assert!(tcx_programs("host0", TcAttachType::Egress).is_empty());
        assert!(!node.links().exists());
        assert_eq!(cleanup(&node.links()).unwrap(), 0, "again is no error");
    });
}

#[test]
fn filters_outlive_the_agent_and_are_replaced_in_place() {
    on_a_node(|node| {
        let pod = Pod::new();
        pod.connect("host0");
        node.attach_and_end(Mode::Clsact, "host0");
        let before = HOOKS.map(|(_, side)| filters("host0", side));
        assert!(
            before.iter().all(|(ours, all)| (ours.len(), *all) == (1, 1)),
            "{before:?}"
        );
        node.attach_and_end(Mode::Clsact, "host0");
        let after = HOOKS.map(|(_, side)| filters("host0", side));
        assert!(
            after.iter().all(|(ours, all)| (ours.len(), *all) == (1, 1)),
            "{after:?}"
        );
        assert!(
            before.iter().all(|program| !after.contains(program)),
            "{before:?} {after:?}"
        );

        assert_eq!(cleanup(&node.links()).unwrap(), 1);
        assert!(!has_clsact("host0"), "the qdisc was ours");
    });
}

#[test]
fn a_qdisc_or_filter_of_others_stays() {
    on_a_node(|node| {
        let (one, two) = (Pod::new(), Pod::new());
        one.connect("one0");
        two.connect("two0");
        run(Command::new("tc").args(["qdisc", "add", "dev", "one0", "clsact"]));
        node.attach_and_end(Mode::Clsact, "one0");
        node.attach_and_end(Mode::Clsact, "two0");
        // Others' filter on the qdisc that we added: the same program with their handle.
        let mut foreign = node.load();
        let program: &mut SchedClassifier = foreign.program_mut("from_pod").unwrap().try_into().unwrap();
        program.load().unwrap();
        let options = TcAttachOptions::Netlink(Default::default());
        program
            .attach_with_options("two0", TcAttachType::Ingress, options)
            .unwrap();
        assert_eq!(filters("two0", TcAttachType::Ingress).1, 2);

        assert_eq!(cleanup(&node.links()).unwrap(), 2);
        assert!(has_clsact("one0"), "it was there before");
        assert_eq!(filters("one0", TcAttachType::Ingress).1, 0);
        assert!(has_clsact("two0"), "others use it");
        assert_eq!(filters("two0", TcAttachType::Ingress).1, 1);
        assert_eq!(filters("two0", TcAttachType::Egress).1, 0);
    });
}

#[test]
fn a_change_of_the_mechanism_leaves_one() {
    on_a_node(|node| {
        let pod = Pod::new();
        pod.connect("host0");
        for mode in [Mode::Clsact, Mode::Tcx, Mode::Clsact, Mode::Tcx] {
            node.attach_and_end(mode, "host0");
            for (hook, side) in HOOKS {
                let counts = (tcx_programs("host0", side).len(), filters("host0", side).0.len());
                let wanted = if mode == Mode::Tcx { (1, 0) } else { (0, 1) };
                assert_eq!(counts, wanted, "{mode:?} {hook}");
            }
        }
        assert!(!has_clsact("host0"));
    });
}

/// The next agent has another folder of pins. The earlier one may have used another mechanism.
#[test]
fn b3_another_versions_programs_give_way_to_this_ones() {
    for old in [Mode::Tcx, Mode::Clsact] {
        for new in [Mode::Tcx, Mode::Clsact] {
            on_a_node(|node| {
                let pod = Pod::new();
                pod.connect("host0");
                node.attach_and_end(old, "host0");
                let other = node.bpffs.path().join("other");
                rename(node.links(), &other).unwrap();
                assert!(!node.attacher(new).is_attached(index("host0")).unwrap());
                node.attach_and_end(new, "host0");
                assert!(node.attacher(new).is_attached(index("host0")).unwrap());
                take_over(&other, &node.links()).unwrap();
                assert!(!other.exists());
                let attached = |tcx, clsact| {
                    for (hook, side) in HOOKS {
                        let counts = (tcx_programs("host0", side).len(), filters("host0", side).1);
                        assert_eq!(counts, (tcx, clsact), "{old:?} {new:?} {hook}");
                    }
                };
                let tcx = usize::from(new == Mode::Tcx);
                attached(tcx, 1 - tcx);
                assert_eq!(has_clsact("host0"), new == Mode::Clsact, "{old:?} {new:?}");
                cleanup(&node.links()).unwrap();
                attached(0, 0);
                assert!(!has_clsact("host0"), "{old:?} {new:?}: the qdisc was ours");
            });
        }
    }
}

fn tc(arguments: &str) {
    run(Command::new("tc").args(arguments.split(' ')));
}

/// Adds the bandwidth plugin's qdisc, which has one list of filters for both directions, with a
/// filter in it.
fn ingress_qdisc_in_use(name: &str) {
    tc(&format!("qdisc add dev {name} ingress"));
    tc(&format!(
        "filter add dev {name} parent ffff: protocol all prio 1 u32 match u32 0 0 flowid 1:1"
    ));
}

/// Links are used where filters would replace each other, and nothing of others is touched.
#[test]
fn l1_an_ingress_qdisc_of_others_keeps_no_program_away() {
    on_a_node(|node| {
        let pod = Pod::new();
        pod.connect("host0");
        ingress_qdisc_in_use("host0");
        let (mut ebpf, mut attacher) = (node.load(), node.attacher(Mode::Clsact));
        for _ in 0..2 {
            attacher.attach(&mut ebpf, index("host0"), "host0").unwrap();
            for (_, side) in HOOKS {
                assert_eq!(tcx_programs("host0", side).len(), 1);
            }
            assert_eq!(attacher.faults(&mut ebpf, index("host0"), "host0").unwrap(), []);
        }
        let shown = run(Command::new("tc").args(["filter", "show", "dev", "host0", "parent", "ffff:"]));
        assert!(shown.contains("u32") && !shown.contains("_pod"), "{shown}");
    });
}

#[test]
fn l1_an_empty_ingress_qdisc_is_replaced() {
    on_a_node(|node| {
        let pod = Pod::new();
        pod.connect("host0");
        tc("qdisc add dev host0 ingress");
        let mut ebpf = node.load();
        let mut attacher = Attacher::without_tcx(node.links()).unwrap();
        attacher.attach(&mut ebpf, index("host0"), "host0").unwrap();
        assert!(has_clsact("host0"));
        for (_, side) in HOOKS {
            assert_eq!(filters("host0", side).0.len(), 1);
        }
        assert_eq!(attacher.faults(&mut ebpf, index("host0"), "host0").unwrap(), []);
    });
}

/// A kernel without TCX cannot run both programs there. That is an error with the interface's name,
/// never a single program for both directions.
#[test]
fn l1_without_tcx_an_ingress_qdisc_of_others_is_an_error() {
    on_a_node(|node| {
        let pod = Pod::new();
        pod.connect("host0");
        ingress_qdisc_in_use("host0");
        let mut ebpf = node.load();
        let mut attacher = Attacher::without_tcx(node.links()).unwrap();
        let error = attacher.attach(&mut ebpf, index("host0"), "host0").unwrap_err();
        assert!(
            matches!(&error, AttachError::OtherQdisc { interface, kind, .. } if interface == "host0" && kind == "ingress"),
            "{error}"
        );
        let shown = run(Command::new("tc").args(["filter", "show", "dev", "host0", "parent", "ffff:"]));
        assert!(shown.contains("u32") && !shown.contains("_pod"), "{shown}");
    });
}

/// Others' changes at a hook are found when it is read back. Attaching again repairs it, and their
/// programs stay.
#[test]
fn b3_what_others_do_to_a_hook_is_seen_and_made_good() {
    for mode in [Mode::Tcx, Mode::Clsact] {
        on_a_node(|node| {
            let pod = Pod::new();
            pod.connect("host0");
            let index = index("host0");
            let (mut ebpf, mut attacher) = (node.load(), node.attacher(mode));
            let (mut foreign, mut other) = (node.load(), node.load());
            attacher.attach(&mut ebpf, index, "host0").unwrap();
            for ((hook, side), side_name) in HOOKS.into_iter().zip(["ingress", "egress"]) {
                let pin = node.links().join(format!("{index}-{hook}"));
                // Before ours.
                let program: &mut SchedClassifier =
                    foreign.program_mut("to_network").unwrap().try_into().unwrap();
                let _ = program.load();
                let order = if mode == Mode::Tcx {
                    TcAttachOptions::TcxOrder(LinkOrder::first())
                } else {
                    TcAttachOptions::Netlink(NlOptions {
                        priority: 1,
                        ..NlOptions::default()
                    })
                };
                program.attach_with_options("host0", side, order).unwrap();
                let faults =
                    |attacher: &Attacher, ebpf: &mut Ebpf| attacher.faults(ebpf, index, "host0").unwrap();
                assert_eq!(
                    faults(&attacher, &mut ebpf),
                    [(hook, Fault::NotFirst)],
                    "{mode:?}"
                );
                attacher.attach(&mut ebpf, index, "host0").unwrap();
                assert_eq!(faults(&attacher, &mut ebpf), [], "{mode:?} {hook}: moved");
                let count = match mode {
                    Mode::Tcx => tcx_programs("host0", side).len(),
                    _ => filters("host0", side).1,
                };
                assert_eq!(count, 2, "{mode:?} {hook}: theirs stays");

                // Removes ours.
                if mode == Mode::Tcx {
                    run(Command::new("bpftool")
                        .args(["link", "detach", "pinned"])
                        .arg(&pin));
                } else {
                    tc(&format!(
                        "filter del dev host0 {side_name} prio 1 handle 0x6e657470 bpf"
                    ));
                }
                assert_eq!(faults(&attacher, &mut ebpf), [(hook, Fault::Absent)], "{mode:?}");
                attacher.attach(&mut ebpf, index, "host0").unwrap();
                assert_eq!(
                    faults(&attacher, &mut ebpf),
                    [],
                    "{mode:?} {hook}: attached again"
                );

                // Gives its place to others, under the same name, handle or pin.
                node.attacher(mode).attach(&mut other, index, "host0").unwrap();
                assert_eq!(faults(&attacher, &mut ebpf).len(), 2, "{mode:?}");
                attacher.attach(&mut ebpf, index, "host0").unwrap();
                assert_eq!(faults(&attacher, &mut ebpf), [], "{mode:?} {hook}: taken back");

                // The last descriptor would end it.
                if mode == Mode::Tcx {
                    std::fs::remove_file(pin).unwrap();
                    assert_eq!(faults(&attacher, &mut ebpf), [(hook, Fault::Unpinned)]);
                    attacher.attach(&mut ebpf, index, "host0").unwrap();
                    assert_eq!(faults(&attacher, &mut ebpf), [], "{mode:?} {hook}: pinned again");
                }
            }
        });
    }
}

/// An agent that ends while it moves a program leaves the hook closed, and a link that the next
/// agent removes.
#[test]
fn b3_an_agent_that_ends_while_it_moves_a_program_leaves_no_gap() {
    on_a_node(|node| {
        let pod = Pod::new();
        pod.connect("host0");
        let index = index("host0");
        node.attach_and_end(Mode::Tcx, "host0");
        let pin = node.links().join(format!("{index}-from_pod"));
        let next = node.links().join(format!("{index}-from_pod-next"));
        // The new link exists, and the old one has not ended yet.
        let mut ebpf = node.load();
        let program: &mut SchedClassifier = ebpf.program_mut("from_pod").unwrap().try_into().unwrap();
        program.load().unwrap();
        let first = TcAttachOptions::TcxOrder(LinkOrder::first());
        let id = program
            .attach_with_options("host0", TcAttachType::Ingress, first)
            .unwrap();
        let link: aya::programs::links::FdLink = program.take_link(id).unwrap().try_into().unwrap();
        drop(link.pin(&next).unwrap());
        assert!(pin.exists() && next.exists());

        node.attach_and_end(Mode::Tcx, "host0");
        assert!(!next.exists());
        assert_eq!(tcx_programs("host0", TcAttachType::Ingress).len(), 1);
        assert_eq!(cleanup(&node.links()).unwrap(), 1);
    });
}
