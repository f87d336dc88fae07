// SPDX-License-Identifier: Apache-2.0
//! The image enforces, answers, survives its container's end, and leaves nothing behind.

use std::{collections::BTreeSet, ffi::OsString, fs, path::Path};

use netpol_tests::probe::Outcome::{Reached, Silent};
use serde_json::json;

use super::shared::{World, policy};

/// Sample of packets that policy kept out of a pod.
const DROPPED: &str = r#"netpol_packets_total{direction="ingress",verdict="dropped",reason="policy"} "#;

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name} in {status}")).trim()
}

/// Lists a folder.
fn names(folder: &Path) -> BTreeSet<OsString> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name()).collect()
}

#[expect(
    clippy::too_many_lines,
    reason = "the life of one container, from start to cleanup"
)]
#[test]
fn b3_the_image_enforces_as_the_daemon_set_runs_it() {
    let Some(world) = World::new() else { return };
    let cluster = &world.cluster;
    // The kernel has its own files there.
    let pins = names(&world.host.path("/sys/fs/bpf"));
    world.isolate();
    let mut container = world.start();
    container.wait_for_line("revision applied").unwrap();

    // It is confined exactly as the manifest says.
    let status = fs::read_to_string(format!("/proc/{}/status", container.pid().unwrap())).unwrap();
    // Bits of linux/capability.h: BPF 39, PERFMON 38, NET_ADMIN 12, NET_BROADCAST 11.
    let four: u64 = 1 << 39 | 1 << 38 | 1 << 12 | 1 << 11;
    for set in ["CapEff:", "CapPrm:", "CapBnd:"] {
        assert_eq!(field(&status, set), format!("{four:016x}"), "{status}");
    }
    assert_eq!(field(&status, "CapInh:"), format!("{:016x}", 0), "{status}");
    assert_eq!(
        (field(&status, "NoNewPrivs:"), field(&status, "Seccomp:")),
        ("1", "2"),
        "{status}"
    );
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", container.pid().unwrap())).unwrap();
    let options = |point: &str| {
        let line = mounts.lines().find(|line| line.split(' ').nth(4) == Some(point));
        line.unwrap_or_else(|| panic!("no mount {point} in {mounts}"))
            .split(' ')
            .nth(5)
            .unwrap()
            .to_owned()
    };
    for (point, access) in [
        ("/", "ro"),
        ("/var/lib/cni/results", "ro"),
        ("/sys/fs/bpf", "rw"),
        ("/run/netpol", "rw"),
    ] {
        assert!(
            options(point).split(',').any(|option| option == access),
            "{point} in {mounts}"
        );
    }

    cluster.expect("other/c", "shop/a", &Silent);
    cluster.expect("shop/b", "shop/a", &Reached);
    cluster.expect("node", "shop/a", &Reached);
    cluster.expect("shop/a", "other/c", &Reached);
    assert_eq!(
        (
            cluster.health("/healthz").unwrap(),
            cluster.health("/readyz").unwrap()
        ),
        (200, 200)
    );
    // The programs' counters are read in the container.
    let (code, metrics) = cluster.get("/metrics").unwrap();
    let dropped = metrics.lines().find_map(|line| line.strip_prefix(DROPPED));
    let dropped = dropped.unwrap_or_else(|| panic!("{code}: {metrics}"));
    assert!(code == 200 && dropped != "0", "{code}: {metrics}");
    for (from, code, says) in [("other/c", 1, ": denied"), ("shop/b", 0, ": allowed")] {
        let answer = container
            .exec(&["/netpol", "explain", from, "shop/a", "8080/TCP"])
            .unwrap();
        let text = String::from_utf8_lossy(&answer.stdout);
        assert!(
            answer.status.code() == Some(code) && text.contains(says),
            "{text}{answer:?}"
        );
    }
    let version = container.exec(&["/netpol", "--version"]).unwrap();
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    assert!(
        version.contains("3 eBPF programs: from_pod, to_network, to_pod"),
        "{version}"
    );

    // A change takes effect. A stop changes nothing, and neither does a crash.
    cluster.api.apply(&policy(&json!([]))).unwrap();
    cluster.becomes("shop/b", "shop/a", &Silent);
    assert!(container.end("TERM").unwrap().success(), "{}", container.log());
    // The profile lets it wait for running programs, and it did.
    let log = container.log();
    let waits = log.split("waited_us=").skip(1);
    assert!(waits.clone().any(|wait| !wait.starts_with("0 ")), "{log}");
    assert!(!log.contains("membarrier"), "{log}");
    drop(container);
    cluster.expect("other/c", "shop/a", &Silent);
    cluster.expect("shop/b", "shop/a", &Silent);
    let mut container = world.start();
    container.wait_for_line("revision applied").unwrap();
    cluster.expect("shop/b", "shop/a", &Silent);
    world.isolate();
    cluster.becomes("shop/b", "shop/a", &Reached);
    cluster.expect("other/c", "shop/a", &Silent);
    container.end("KILL").unwrap();
    drop(container);
    cluster.expect("other/c", "shop/a", &Silent);
    cluster.expect("shop/b", "shop/a", &Reached);

    // Removal as README describes it, by the same image.
    assert_ne!(names(&world.host.path("/sys/fs/bpf")), pins);
    let mut cleanup = world.start_as(&world.deployment, Some(&["cleanup"])).unwrap();
    assert!(cleanup.wait().unwrap().success(), "{}", cleanup.log());
    assert_eq!(names(&world.host.path("/sys/fs/bpf")), pins);
    cluster.expect("other/c", "shop/a", &Reached);
}
