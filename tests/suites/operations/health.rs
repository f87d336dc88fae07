// SPDX-License-Identifier: Apache-2.0
//! What a kubelet asks: whether the agent lives, whether it is ready and why not, and that it ends
//! when a part that it needs does.

use std::{
    fs, io,
    net::TcpListener,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    time::Instant,
};

use netpol_tests::{
    agent::{Agent, DEADLINE},
    lab::{DENY_ALL, Lab},
    netns::NetNs,
    privilege::can_enforce,
    probe::Outcome,
};
use nix::{
    libc,
    sys::socket::{NetlinkAddr, connect, getsockname},
};

use super::shared::{LISTEN, SUITE, ask, node, of_server};

/// Asks until the answer contains `text`, and returns it.
fn wait_for(agent: &Agent, netns: &NetNs, path: &str, text: &str) -> String {
    let until = Instant::now() + DEADLINE;
    loop {
        let answer = ask(netns, path).unwrap_or_default();
        if answer.contains(text) {
            return answer;
        }
        assert!(
            Instant::now() < until,
            "{path} says no {text:?} but\n{answer}\n{}",
            agent.log()
        );
    }
}

#[test]
fn b1_an_agent_whose_api_server_is_away_lives_and_says_what_it_waits_for() {
    if !can_enforce(SUITE) {
        return;
    }
    let (node, manifests) = node();
    // Nobody listens there any more.
    let gone = node
        .netns()
        .run(|| Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?))
        .unwrap();
    let mut launch = of_server(&node, &manifests, gone);
    launch.arguments.extend(["--listen".into(), LISTEN.into()]);
    let agent = Agent::launch(&node, launch).unwrap();
    let ready = wait_for(
        &agent,
        node.netns(),
        "/readyz?verbose",
        "\n[-]source-readable failed: ",
    );
    assert!(ready.starts_with("HTTP/1.1 503 "), "{ready}");
    let waits = "waiting for the first complete list of objects, not there yet: ";
    assert!(
        ready.contains(&format!("[-]objects-listed failed: {waits}")),
        "{ready}"
    );
    assert!(
        ready.contains(&format!("[-]revision-enforced failed: {waits}")),
        "{ready}"
    );
    assert!(ready.contains("pods cannot be read since "), "{ready}");
    assert!(ready.contains("Connection refused"), "{ready}");
    assert!(ready.ends_with("\nreadyz check failed\n"), "{ready}");
    for path in ["/livez", "/healthz"] {
        let lives = ask(node.netns(), path).unwrap();
        assert!(
            lives.starts_with("HTTP/1.1 200 ") && lives.ends_with("\r\n\r\nok\n"),
            "{lives}"
        );
    }
    let lives = ask(node.netns(), "/livez?verbose").unwrap();
    assert!(
        lives.ends_with("\r\n\r\n[+]loop ok\nlivez check passed\n"),
        "{lives}"
    );
}

/// Makes the kernel refuse what a process asks by its netlink sockets: each is connected to a port
/// that nobody has.
fn cut_off_netlink(pid: u32) {
    // SAFETY: no pointers; the result is a new descriptor or an error.
    let process = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    assert!(process >= 0, "{}", io::Error::last_os_error());
    // SAFETY: the descriptor is new, and nobody else's.
    let process = unsafe { OwnedFd::from_raw_fd(process as i32) };
    let mut cut = 0;
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
        let number: i32 = entry.file_name().to_str().unwrap().parse().unwrap();
        // SAFETY: as above.
        let copy = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) };
        if copy < 0 {
            continue;
        }
        // SAFETY: as above.
        let copy = unsafe { OwnedFd::from_raw_fd(copy as i32) };
        if getsockname::<NetlinkAddr>(copy.as_raw_fd()).is_ok() {
            connect(copy.as_raw_fd(), &NetlinkAddr::new(u32::MAX - 1, 0)).unwrap();
            cut += 1;
        }
    }
    assert!(cut > 0, "no netlink sockets");
}

#[test]
fn b3_the_agent_ends_when_a_stage_does_and_what_is_enforced_stays() {
    if !can_enforce(SUITE) {
        return;
    }
    let pods = [("shop/web", "app: web"), ("shop/client", "app: client")];
    let mut lab = Lab::new(&pods, &[("deny.yaml", DENY_ALL)]).unwrap();
    cut_off_netlink(lab.agent.pid().unwrap());
    // The interfaces are to be read again.
    lab.node.netns().ip("addr add 198.51.100.9/32 dev lo\n").unwrap();
    let ended = lab.agent.wait_for_end().unwrap();
    assert_eq!(ended.code(), Some(1), "{}", lab.agent.log());
    let log = lab.agent.log();
    let last = log.lines().last().unwrap_or_default();
    assert!(
        last.starts_with("Error: stage interfaces failed: ") && last.contains("Connection refused"),
        "{log}"
    );
    lab.expect("shop/client", "shop/web", &Outcome::Silent);
    lab.agent.restart().unwrap();
    lab.expect("shop/client", "shop/web", &Outcome::Silent);
}
