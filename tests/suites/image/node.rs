// SPDX-License-Identifier: Apache-2.0
//! Tests nodes that lack something that others have.

use std::fs;

use netpol_tests::{container::Host, deploy::HOST_PATHS, probe::Outcome::Silent};

use super::shared::World;

#[test]
fn it_starts_where_no_mount_is_shared_and_libcni_keeps_no_results() {
    let Some(world) = World::new() else { return };
    // The node of all these tests has neither. If that changes, this tests nothing.
    let bpffs = world.host.path("/sys/fs/bpf");
    let results = world.host.path("/var/lib/cni/results");
    assert!(!Host::is_shared(&bpffs).unwrap() && !results.exists());
    let mounted = world.deployment.host_paths().unwrap();
    let mounted: Vec<_> = mounted
        .iter()
        .map(|(path, kind, read_only)| (path.as_str(), kind.as_str(), *read_only))
        .collect();
    assert_eq!(mounted, HOST_PATHS);
    world.isolate();
    let container = world.start();
    container.wait_for_line("revision applied").unwrap();
    world.cluster.expect("other/c", "shop/a", &Silent);
    assert_eq!(fs::read_dir(results).unwrap().count(), 0);
}

#[test]
fn without_bpffs_it_ends_and_says_so_and_its_next_start_finds_what_was_mounted() {
    let Some(world) = World::new() else { return };
    world.isolate();
    world.host.unmount_bpffs().unwrap();
    let mut container = world.start();
    assert!(!container.wait().unwrap().success());
    assert!(
        container.log().contains("mount -t bpf bpf /sys/fs/bpf"),
        "{}",
        container.log()
    );
    drop(container);
    world.host.mount_bpffs().unwrap();
    let container = world.start();
    container.wait_for_line("revision applied").unwrap();
    world.cluster.expect("other/c", "shop/a", &Silent);
}
