// SPDX-License-Identifier: Apache-2.0
//! The corpus of frames that fuzzing starts from: `tests/frames/seeds.yaml`, a name and hexadecimal
//! digits each. `NETPOL_BLESS=1 cargo test -p netpol-tests --test fuzz` writes the frames that are
//! built here; frames added by hand stay.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::PathBuf};

use anyhow::{Context, Result};
use netpol_agent::evaluate::Packet;
use netpol_common::parse::protocol;

use super::{from_hex, to_hex};
use crate::frames::{MAC, headers, membership, opening};

/// Frames by name.
pub type Seeds = BTreeMap<String, Vec<u8>>;

const V4: [&str; 2] = ["10.244.0.8", "10.244.0.10"];
const V6: [&str; 2] = ["fd00:10:244::8", "fd00:10:244::a"];

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("frames/seeds.yaml")
}

/// Reads the corpus.
///
/// # Errors
/// The file cannot be read, or contains anything else.
pub fn load() -> Result<Seeds> {
    let path = path();
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let lines: BTreeMap<String, String> =
        serde_saphyr::from_str(&text).with_context(|| format!("parsing {}", path.display()))?;
    lines
        .into_iter()
        .map(|(name, digits)| {
            let frame =
                from_hex(&digits).with_context(|| format!("{name}: {digits:?} is not hexadecimal"))?;
            Ok((name, frame))
        })
        .collect()
}

/// Writes the corpus.
///
/// # Errors
/// It cannot be written.
pub fn save(seeds: &Seeds) -> Result<()> {
    let mut text = String::from(
        "# SPDX-License-Identifier: Apache-2.0\n\
         # Frames that fuzzing starts from. `NETPOL_BLESS=1 cargo test -p netpol-tests --test fuzz` writes those that\n\
         # tests/src/fuzz/seeds.rs builds; others stay as they are: add what a run found.\n",
    );
    for (name, frame) in seeds {
        writeln!(text, "{name}: \"{}\"", to_hex(frame))?;
    }
    Ok(fs::write(path(), text)?)
}

/// Builds a frame of every shape that the parser knows, and of similar shapes.
///
/// # Panics
/// Never: the addresses are addresses.
pub fn built() -> Seeds {
    let mut seeds = Seeds::new();
    let mut add = |name: &str, frame: Vec<u8>| drop(seeds.insert(name.to_owned(), frame));
    for (family, ends, icmp) in [("ipv4", V4, protocol::ICMP), ("ipv6", V6, protocol::ICMPV6)] {
        let of = |number, port: u16| {
            let [source, destination] = ends.map(|text| text.parse().expect("an address"));
            let packet = Packet {
                source,
                destination,
                protocol: number,
                port: Some(port),
            };
            opening(&packet, 40_000)
        };
        let shapes = [
            ("tcp-syn", protocol::TCP),
            ("udp", protocol::UDP),
            ("sctp-init", protocol::SCTP),
            ("echo-request", icmp),
            ("gre", 47),
            ("esp", 50),
            ("no-next-header", 59),
        ];
        for (shape, number) in shapes {
            add(&format!("{family}-{shape}"), of(number, 80));
        }
        let mut syn_ack = of(protocol::TCP, 80);
        let flags = headers::behind_ip(&syn_ack) + 13;
        syn_ack[flags] = 0x12;
        add(&format!("{family}-tcp-syn-ack"), syn_ack);
        let mut options = of(protocol::TCP, 8080);
        let offset = headers::behind_ip(&options) + 12;
        options[offset] = 0xf0;
        options.resize(options.len() + 40, 1);
        headers::fit(&mut options);
        add(&format!("{family}-tcp-options"), options);
        // An error quotes the packet that it is about.
        let mut error = of(icmp, 0);
        let quoted = of(protocol::UDP, 53);
        let at = headers::behind_ip(&error);
        error[at] = if icmp == protocol::ICMP { 3 } else { 1 };
        error.extend(&quoted[headers::ETHERNET..]);
        headers::fit(&mut error);
        add(&format!("{family}-icmp-error"), error);
        let udp = of(protocol::UDP, 53);
        add(&format!("{family}-vlan"), headers::with_tag(&udp, [0x81, 0x00]));
        let inner = headers::with_tag(&udp, [0x81, 0x00]);
        add(&format!("{family}-qinq"), headers::with_tag(&inner, [0x88, 0xa8]));
        add(&format!("{family}-padded"), [&udp[..], &[0; 18]].concat());
        add(&format!("{family}-payload"), headers::with_payload(&udp, 700));
        if family == "ipv4" {
            ipv4(&udp, &mut add);
        } else {
            ipv6(&udp, &of(protocol::TCP, 80), &of(icmp, 0), &mut add);
        }
    }
    for (name, frame) in membership::messages() {
        add(name, frame);
    }
    let ethernet = |ether_type: [u8; 2]| [&MAC[..], &MAC, &ether_type, &[0; 46]].concat();
    add("arp", ethernet([0x08, 0x06]));
    add("mpls", ethernet([0x88, 0x47]));
    add("llc", ethernet([0, 46]));
    seeds
}

/// Options and fragments of IPv4.
fn ipv4(udp: &[u8], add: &mut impl FnMut(&str, Vec<u8>)) {
    let options = [0x94, 4, 0, 0]; // Router alert.
    add("ipv4-options", headers::with_options(udp, &options));
    add("ipv4-all-options", headers::with_options(udp, &[1; 40]));
    for (name, field) in [("first", 0x2000), ("middle", 0x20b9), ("last", 0x00b9)] {
        let mut fragment = headers::with_payload(udp, 1400);
        headers::put(&mut fragment, headers::ETHERNET + 6, field);
        add(&format!("ipv4-fragment-{name}"), fragment);
    }
}

/// Extension headers and fragments of IPv6.
fn ipv6(udp: &[u8], tcp: &[u8], echo: &[u8], add: &mut impl FnMut(&str, Vec<u8>)) {
    let chains: [(&str, &[u8]); 10] = [
        ("hop-by-hop", &[0]),
        ("routing", &[43]),
        ("destination", &[60]),
        ("ah", &[51]),
        ("mobility", &[135]),
        ("fragment-atomic", &[44]),
        ("hip", &[139]),
        ("shim6", &[140]),
        ("all-extensions", &[0, 60, 43, 51, 60, 44]),
        ("too-many-extensions", &[60; 9]),
    ];
    for (name, kinds) in chains {
        add(
            &format!("ipv6-{name}"),
            headers::with_extensions(udp, kinds, 1, 0),
        );
    }
    for (name, field) in [("first", 1), ("last", 185 << 3)] {
        let mut fragment = headers::with_extensions(udp, &[44], 0, 0);
        headers::put(&mut fragment, headers::ETHERNET + headers::IPV6 + 2, field);
        add(&format!("ipv6-fragment-{name}"), fragment);
    }
    // There is more than the transport header after the fragment header: a fragment that
    // overwrites it ends at 40 bytes.
    for (name, field) in [("first", 1), ("over", 4 << 3), ("behind", 5 << 3)] {
        let mut fragment = headers::with_extensions(tcp, &[44, 60], 1, 0);
        headers::put(&mut fragment, headers::ETHERNET + headers::IPV6 + 2, field);
        add(&format!("ipv6-fragment-options-{name}"), fragment);
    }
    let mut solicitation = echo.to_vec();
    solicitation[headers::ETHERNET + 7] = 255;
    let at = headers::behind_ip(&solicitation);
    solicitation[at] = 135;
    add("ipv6-neighbour-solicitation", solicitation);
}
