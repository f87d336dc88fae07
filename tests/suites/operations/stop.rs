// SPDX-License-Identifier: Apache-2.0
//! SIGTERM at various moments of a start: the agent exits with 0, soon, and what is enforced stays
//! (rule B3).

use std::{
    fs,
    net::TcpListener,
    time::{Duration, Instant},
};

use nix::{sys::stat::Mode, unistd::mkfifo};

use super::shared::{SUITE, ask, connect, launch, node, of_server};
use netpol_tests::{
    agent::{Agent, Launch},
    privilege::can_enforce,
};

/// Time limit on a busy machine; it usually takes at most a second.
const SOON: Duration = Duration::from_secs(8);

fn ends_soon(agent: &mut Agent) {
    let asked = Instant::now();
    agent.stop().unwrap();
    assert!(
        asked.elapsed() < SOON,
        "it took {:?}\n{}",
        asked.elapsed(),
        agent.log()
    );
}

/// Returns true if the process has blocked SIGTERM until it can handle it: from then on none is
/// lost.
fn listens(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
    let blocked = u64::from_str_radix(blocked.unwrap().trim(), 16).unwrap();
    blocked & (1 << (nix::libc::SIGTERM - 1)) != 0
}

/// Returns true if a thread of the process waits for the other end of a FIFO to be opened.
fn waits_in_open(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads.flatten().any(|thread| {
        fs::read_to_string(thread.path().join("wchan")).is_ok_and(|function| function == "wait_for_partner")
    })
}

fn wait_until(agent: &Agent, is_so: impl Fn(u32) -> bool) {
    let until = Instant::now() + SOON;
    while !is_so(agent.pid().unwrap()) {
        assert!(Instant::now() < until, "{}", agent.log());
        std::thread::yield_now();
    }
}

#[test]
fn b3_sigterm_ends_the_agent_while_it_loads_its_programs() {
    if !can_enforce(SUITE) {
        return;
    }
    let (node, manifests) = node();
    let mut agent = launch(&node, &manifests);
    wait_until(&agent, listens);
    ends_soon(&mut agent);
    assert_eq!(agent.revision(), 0, "{}", agent.log());
    // What it left incomplete is no obstacle.
    agent.restart().unwrap();
    ends_soon(&mut agent);
}

#[test]
fn b3_sigterm_ends_the_agent_while_the_api_server_does_not_answer() {
    if !can_enforce(SUITE) {
        return;
    }
    let (node, manifests) = node();
    let silent = node
        .netns()
        .run(|| Ok(TcpListener::bind("127.0.0.1:0")?))
        .unwrap();
    let kube = of_server(&node, &manifests, silent.local_addr().unwrap());
    let mut agent = Agent::launch(&node, kube).unwrap();
    let _connection = silent.accept().unwrap();
    ends_soon(&mut agent);
    assert_eq!(agent.revision(), 0, "{}", agent.log());
}

#[test]
fn b3_sigterm_ends_the_agent_while_a_file_system_does_not_answer() {
    if !can_enforce(SUITE) {
        return;
    }
    let (node, manifests) = node();
    // Opening a FIFO blocks until someone writes, which nobody does. The blocked thread cannot be
    // stopped.
    let kubeconfig = manifests.path().join("kubeconfig");
    mkfifo(&kubeconfig, Mode::S_IRUSR).unwrap();
    let mut kube = Launch::new("kube".as_ref(), &node.plan().name);
    kube.arguments
        .extend(["--kubeconfig".into(), kubeconfig.clone().into()]);
    let mut agent = Agent::launch(&node, kube).unwrap();
    wait_until(&agent, waits_in_open);
    ends_soon(&mut agent);
    assert!(agent.log().contains("stopped amid work"), "{}", agent.log());
}

#[test]
fn b3_sigterm_ends_the_agent_beside_clients_that_hold_connections() {
    if !can_enforce(SUITE) {
        return;
    }
    let (node, manifests) = node();
    let mut agent = launch(&node, &manifests);
    agent.wait_for_revision_after(0).unwrap();
    let _idle = connect(node.netns()).unwrap();
    // Bound after the other one.
    assert!(ask(node.netns(), "/readyz").unwrap().contains("200 OK"));
    ends_soon(&mut agent);
}
