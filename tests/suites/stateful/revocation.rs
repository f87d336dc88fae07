// SPDX-License-Identifier: Apache-2.0
//! Connections whose policy is revoked, and attempts of either end to restore them (rules C3, C4).

use std::{
    io::{Error, ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
};

use aya::maps::{HashMap, Map, MapData};
use netpol_agent::datapath::pin_folder;
use netpol_common::{
    abi::{Flow, FlowKey},
    flow::{ACK, RST},
};
use netpol_tests::{lab::Lab, raw};

use crate::{
    reuse::{connect_from, exchange},
    shared::{LONG, PATIENCE, lab, of_family, policy, wire},
};

const OPEN: &str = "ingress: [{from: [{podSelector: {matchLabels: {app: a}}}]}]\n  egress: [{}]";
const REVOKED: &str = "ingress: []\n  egress: [{}]";

/// Longer than a flow lives after a reset, nanoseconds.
const AFTER_RESET: u64 = 11_000_000_000;

fn flows(lab: &Lab) -> HashMap<MapData, FlowKey, Flow> {
    let pin = pin_folder(lab.agent.pin_path()).join("flows");
    Map::HashMap(MapData::from_pin(pin).unwrap()).try_into().unwrap()
}

/// How the flow is lost.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Loss {
    /// The opener sent a RST outside of the window, and both ends were silent until a closed flow
    /// expires.
    ForgedReset,
    /// It was evicted.
    Evicted,
}

fn is_silence(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Reads until something comes or time runs out; retries after a signal.
fn come(stream: &mut TcpStream, buffer: &mut [u8]) -> std::io::Result<usize> {
    loop {
        match stream.read(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn nothing_enters_after_revocation(tracked: bool) {
    let open = policy("b", "app: b", OPEN);
    let Some(lab) = lab(&[("b.yaml", &open)]) else {
        return;
    };
    if tracked {
        lab.track().unwrap();
    }
    let (client, server) = (lab.site("shop/a").unwrap(), lab.site("shop/b").unwrap());
    let at_client = wire(&lab, "shop/a");
    let at_server = wire(&lab, "shop/b");
    let cases = [
        (true, Loss::ForgedReset),
        (false, Loss::ForgedReset),
        (true, Loss::Evicted),
        (false, Loss::Evicted),
    ];
    for (number, (ipv4, loss)) in cases.into_iter().enumerate() {
        let from = SocketAddr::new(of_family(&client, ipv4), 41_000 + number as u16);
        let to = SocketAddr::new(of_family(&server, ipv4), 7100);
        let listener = server.netns.run(|| Ok(TcpListener::bind(to)?)).unwrap();
        let mut stream = connect_from(&client, from, to).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        exchange(&mut stream, &mut accepted);
        if loss == Loss::ForgedReset {
            let ports = (from.port(), to.port());
            for flags in [RST, RST | ACK] {
                let reset = raw::tcp(from.ip(), to.ip(), ports, flags);
                let packet = raw::ip(from.ip(), to.ip(), 6, &reset, None);
                at_client.send(at_server.mac(), &packet).unwrap();
            }
            exchange(&mut stream, &mut accepted);
        }
        lab.apply("b.yaml", &policy("b", "app: b", REVOKED)).unwrap();

        // The client is cut off, and its stack retransmits.
        stream.write_all(b"evil").unwrap();
        accepted.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut buffer = [0; 4];
        let cut = come(&mut accepted, &mut buffer);
        assert!(cut.as_ref().is_err_and(is_silence), "{ipv4} {loss:?}: {cut:?}");
        let mut table = flows(&lab);
        for entry in table.iter().collect::<Vec<_>>() {
            let (key, flow) = entry.unwrap();
            if key.local_port != to.port().to_be_bytes() {
                continue;
            }
            match loss {
                Loss::Evicted => table.remove(&key).unwrap(),
                Loss::ForgedReset => {
                    let last_seen = flow.last_seen - AFTER_RESET;
                    table.insert(key, Flow { last_seen, ..flow }, 0).unwrap();
                }
            }
        }
        // The server's segment meets no live flow, if it was lost.
        accepted.write_all(b"late").unwrap();
        for _ in 0..3 {
            let entered = come(&mut accepted, &mut buffer);
            let silent = entered.as_ref().is_err_and(is_silence);
            assert!(silent, "{ipv4} {loss:?}, tracked {tracked}: {entered:?}");
        }

        // A connection that is allowed again continues.
        lab.apply("b.yaml", &open).unwrap();
        accepted.set_read_timeout(Some(LONG)).unwrap();
        accepted.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"evil");
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"late");
    }
}

#[test]
fn c4_after_revocation_nothing_enters_by_what_the_pod_sends_again() {
    nothing_enters_after_revocation(false);
}

#[test]
fn c4_after_revocation_connection_tracking_still_says_who_opened() {
    nothing_enters_after_revocation(true);
}
