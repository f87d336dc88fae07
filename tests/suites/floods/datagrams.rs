// SPDX-License-Identifier: Apache-2.0
//! Replies over UDP whose flow was evicted (rule C4).

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use netpol_tests::{lab::Lab, node::Site};

use crate::shared::{FLOODER, NEIGHBOUR, VICTIM, flows, forget, lab, policy};

/// Time limit for what must arrive, on a busy machine.
const LONG: Duration = Duration::from_secs(20);
/// Time to wait for what must not arrive.
const PATIENCE: Duration = Duration::from_millis(400);

fn bound(site: &Site, ipv4: bool) -> UdpSocket {
    let address = site.addresses.iter().find(|address| address.is_ipv4() == ipv4);
    let address = SocketAddr::from((*address.unwrap(), 0));
    site.netns.run(|| Ok(UdpSocket::bind(address)?)).unwrap()
}

fn hears(socket: &UdpSocket, what: &[u8], patience: Duration) -> bool {
    socket.set_read_timeout(Some(patience)).unwrap();
    let mut buffer = [0; 64];
    match socket.recv(&mut buffer) {
        Ok(length) => {
            assert_eq!(&buffer[..length], what);
            true
        }
        Err(_) => false,
    }
}

/// Asserts whether a pod hears the answers to its requests after another's flood evicted their
/// flows.
fn expect_answers(lab: &Lab, heard: bool) {
    let sites = [VICTIM, NEIGHBOUR, FLOODER].map(|pod| lab.site(pod).unwrap());
    for ipv4 in [true, false] {
        let [asking, answering, other] = sites.each_ref().map(|site| bound(site, ipv4));
        let to = answering.local_addr().unwrap();
        asking.send_to(b"question", to).unwrap();
        assert!(hears(&answering, b"question", LONG), "the question");
        for key in flows(lab) {
            forget(lab, &key);
        }
        let back = asking.local_addr().unwrap();
        // From a host that was not asked, and from another port of the host that was.
        let unasked = bound(&sites[1], ipv4);
        for socket in [&other, &unasked] {
            socket.send_to(b"nobody asked", back).unwrap();
            assert!(!hears(&asking, b"nobody asked", PATIENCE), "{socket:?}");
        }
        answering.send_to(b"answer", back).unwrap();
        let patience = if heard { LONG } else { PATIENCE };
        assert_eq!(hears(&asking, b"answer", patience), heard, "IPv4: {ipv4}");
        if heard {
            // Again, by the flow that it made.
            answering.send_to(b"more", back).unwrap();
            assert!(hears(&asking, b"more", LONG), "IPv4: {ipv4}");
        }
    }
}

#[test]
fn c4_an_answer_whose_flow_is_gone_enters_where_connection_tracking_knows_who_asked() {
    let Some(lab) = lab(&policy("victim", "Ingress", "ingress: []")) else {
        return;
    };
    lab.track().unwrap();
    expect_answers(&lab, true);
}

/// Neither end can claim it: the reply is an ordinary datagram.
#[test]
fn c4_an_answer_whose_flow_is_gone_is_judged_where_nothing_knows_who_asked() {
    let Some(lab) = lab(&policy("victim", "Ingress", "ingress: []")) else {
        return;
    };
    expect_answers(&lab, false);
}
