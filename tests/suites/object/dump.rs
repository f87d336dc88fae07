// SPDX-License-Identifier: Apache-2.0
//! Tests what bpftool shows of the pinned maps of a loaded object.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use netpol_agent::{
    datapath::pin,
    evaluate::Packet,
    model::{Direction, ProtocolMatch},
    sync::{EntryKey, Put, Write},
};
use netpol_common::abi::{self, ABI_VERSION, ACTION_ACCEPT};
use netpol_tests::progrun::{Bench, on_bench};
use serde_json::Value;

use crate::{
    MAPS, SUITE,
    btf::{Btf, bpftool},
};

/// Returns the entries of a pinned map as `bpftool map dump` prints them.
fn dump(pin_path: &Path, map: &str) -> Result<Vec<Value>> {
    let path = pin(pin_path, map);
    let dump = bpftool(&["map", "dump", "pinned", path.to_str().context("a path in UTF-8")?])?;
    let entries = dump.as_array().cloned().unwrap_or_default();
    ensure!(!entries.is_empty(), "map {map} is empty");
    Ok(entries)
}

/// Makes an entry of policy 3 for an identity.
fn put_policy(identity: u32, protocol: Option<ProtocolMatch>) -> Write {
    let value = abi::PolicyValue {
        action: ACTION_ACCEPT,
        rule: 1,
    };
    Write::Policies(Put((3, EntryKey { identity, protocol }), value))
}

fn put_identity(prefix: IpNet, identity: u32) -> Write {
    let identity = abi::Identity { identity, flags: 0 };
    Write::Identities(Put(prefix, identity))
}

/// Writes an entry of each map, by its usual writer.
fn fill(bench: &mut Bench, ifindex: u32) -> Result<()> {
    let peer = Ipv4Addr::new(10, 244, 0, 11);
    let endpoint = abi::Endpoint {
        id: 7,
        ingress_policy: 3,
        egress_policy: 4,
        ipv4: [10, 244, 0, 10],
        ifindex,
        ..abi::Endpoint::default()
    };
    let port = ProtocolMatch {
        protocol: 6,
        port: 8080,
        prefix_len: 16,
    };
    for write in [
        Write::Config(abi::Config {
            abi_version: ABI_VERSION,
            epoch: 9,
            events_per_second: 0,
            next_endpoint: 8,
            next_policy: 5,
            lifetimes: abi::Lifetimes::default(),
        }),
        put_policy(2, Some(port)),
        put_policy(3, None),
        put_identity(IpAddr::V4(peer).into(), 2),
        put_identity("10.245.0.0/16".parse()?, 3),
        Write::Endpoints(Put(ifindex, endpoint)),
    ] {
        bench.write(&write)?;
    }
    let packet = Packet {
        source: peer.into(),
        destination: Ipv4Addr::new(10, 244, 0, 10).into(),
        protocol: 6,
        port: Some(8080),
    };
    let uplink = bench.uplink();
    ensure!(
        bench.opens(Direction::Ingress, ifindex, uplink, &packet)?,
        "the entries allow it"
    );
    Ok(())
}

#[test]
fn maps_dump_with_named_fields() {
    if Btf::of_object().is_none() {
        return;
    }
    on_bench(SUITE, 1, |bench| {
        let pin_path = bench.pin_path().to_owned();
        for (name, (_, kind), key, value) in MAPS {
            let path = pin(&pin_path, name);
            let shown = bpftool(&["map", "show", "pinned", path.to_str().context("a path in UTF-8")?])?;
            assert_eq!(shown["type"], kind, "{name}");
            assert_eq!(
                [&shown["bytes_key"], &shown["bytes_value"]],
                [key, value],
                "{name}"
            );
        }

        let ifindex = bench.interfaces()[0];
        fill(bench, ifindex)?;
        let entry = |map: &str, value: &str| -> Result<[Value; 2]> {
            let formatted = &dump(&pin_path, map)?[0]["formatted"];
            Ok([formatted["key"].clone(), formatted[value].clone()])
        };
        let [key, endpoint] = entry("endpoints", "value")?;
        assert_eq!(key, ifindex);
        assert_eq!(
            [
                &endpoint["id"],
                &endpoint["ingress_policy"],
                &endpoint["egress_policy"]
            ],
            [7, 3, 4]
        );
        let [key, peer] = entry("addresses", "value")?;
        assert_eq!(key["octets"], peer["address"]["octets"]);
        assert_eq!([&peer["class"]["identity"], &peer["class"]["flags"]], [2, 0]);
        let [key, identity] = entry("identities", "value")?;
        assert_eq!(key["prefix_len"], 112, "{key}");
        assert!(key.to_string().contains("octets"), "{key}");
        assert_eq!([&identity["identity"], &identity["flags"]], [3, 0]);
        let [key, port] = entry("ports", "value")?;
        assert_eq!(key, port["entry"]);
        assert_eq!([&key["policy"], &key["identity"], &key["protocol"]], [3, 2, 6]);
        assert_eq!(
            [&port["value"]["action"], &port["value"]["rule"]],
            [ACTION_ACCEPT, 1]
        );
        let [key, value] = entry("policies", "value")?;
        assert_eq!(key["prefix_len"], 64, "{key}");
        for field in ["policy", "identity", "protocol", "port"] {
            assert!(
                key.to_string().contains(&format!("\"{field}\":")),
                "{field}: {key}"
            );
        }
        assert_eq!([&value["action"], &value["rule"]], [ACTION_ACCEPT, 1]);
        let [key, flow] = entry("flows", "value")?;
        assert_eq!([&key["endpoint"], &key["protocol"]], [7, 6]);
        assert_eq!(key["remote"]["octets"].as_array().map(Vec::len), Some(16));
        assert_eq!([&flow["packets"], &flow["policy"], &flow["epoch"]], [1, 3, 9]);
        let [_, config] = entry("config", "value")?;
        assert_eq!([&config["epoch"], &config["next_policy"]], [9, 5]);
        let [_, counters] = entry("counters", "values")?;
        let packets = |counter: &str| -> u64 {
            let cpus = counters.as_array().into_iter().flatten();
            cpus.map(|cpu| cpu["value"][counter]["packets"].as_u64().unwrap())
                .sum()
        };
        assert_eq!([packets("forwarded"), packets("flows_created")], [1, 1]);
        Ok(())
    });
}
