// SPDX-License-Identifier: Apache-2.0
//! The embedded object: its BTF against the layouts that the agent uses, its programs and maps, and what `bpftool` shows of them once
//! they are in the kernel.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result, ensure};
use netpol_agent::{
    compile::ProtocolMatch,
    datapath::{object::EBPF_OBJECT, pin_folder},
    evaluate::Packet,
    model::Direction,
    sync::{EntryKey, Write},
};
use netpol_common::abi::{self, ABI_VERSION, ACTION_ACCEPT};
use netpol_tests::{
    privilege,
    progrun::{Bench, on_bench},
};
use serde_json::Value;

const SUITE: &str = "object";

/// The numbers of `enum bpf_map_type` (`linux/bpf.h`), and the names that bpftool gives them.
const HASH: (u64, &str) = (1, "hash");
const ARRAY: (u64, &str) = (2, "array");
const PER_CPU_ARRAY: (u64, &str) = (6, "percpu_array");
const LRU_HASH: (u64, &str) = (9, "lru_hash");
const LPM_TRIE: (u64, &str) = (11, "lpm_trie");
const RING_BUFFER: (u64, &str) = (27, "ringbuf");

/// Name, type, and the sizes of keys and values.
type Map = (&'static str, (u64, &'static str), usize, usize);

/// Every pinned map.
const MAPS: [Map; 10] = [
    ("local_pods", HASH, size_of::<abi::Address>(), 4),
    (
        "frontends",
        HASH,
        size_of::<abi::Frontend>(),
        size_of::<abi::Identity>(),
    ),
    ("endpoints", HASH, 4, size_of::<abi::Endpoint>()),
    (
        "identities",
        LPM_TRIE,
        4 + size_of::<abi::Address>(),
        size_of::<abi::Identity>(),
    ),
    (
        "policies",
        LPM_TRIE,
        4 + size_of::<abi::PolicyMatch>(),
        size_of::<abi::PolicyValue>(),
    ),
    (
        "flows",
        LRU_HASH,
        size_of::<abi::FlowKey>(),
        size_of::<abi::Flow>(),
    ),
    ("events", RING_BUFFER, 0, 0),
    ("event_budget", PER_CPU_ARRAY, 4, size_of::<abi::EventBudget>()),
    ("counters", PER_CPU_ARRAY, 4, size_of::<abi::Counters>()),
    ("config", ARRAY, 4, size_of::<abi::Config>()),
];

/// Runs `bpftool` and reads the JSON that it prints.
fn bpftool(arguments: &[&str]) -> Result<Value> {
    let output = Command::new("bpftool").arg("-j").args(arguments).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "bpftool {arguments:?}: {text}");
    serde_json::from_str(&text).with_context(|| format!("bpftool {arguments:?} printed {text}"))
}

/// The types of the embedded object by their number.
struct Btf(BTreeMap<u64, Value>);

impl Btf {
    /// `None` where they cannot be read, which is said.
    fn of_object() -> Option<Self> {
        let no_bpftool = Command::new("bpftool").arg("version").output().is_err();
        let obstacle = if no_bpftool {
            Some("no bpftool: install it")
        } else if EBPF_OBJECT.is_none() {
            Some("this build has no eBPF programs")
        } else {
            None
        };
        if !privilege::settle(SUITE, obstacle.map(str::to_owned)) {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("object");
        fs::write(&path, EBPF_OBJECT.unwrap()).unwrap();
        let dump = bpftool(&["btf", "dump", "file", path.to_str().unwrap()]).unwrap();
        let types = dump["types"].as_array().unwrap().iter();
        Some(Self(
            types
                .map(|entry| (entry["id"].as_u64().unwrap(), entry.clone()))
                .collect(),
        ))
    }

    fn find(&self, kind: &str, name: &str) -> &Value {
        let mut found = self
            .0
            .values()
            .filter(|entry| entry["kind"] == kind && entry["name"] == name);
        let first = found.next().unwrap_or_else(|| panic!("no {kind} {name}"));
        assert!(
            found.next().is_none(),
            "the object has more than one {kind} {name}"
        );
        first
    }

    fn at(&self, id: &Value) -> &Value {
        &self.0[&id.as_u64().expect("a type's number")]
    }

    /// Size of a type in bytes.
    fn size(&self, id: &Value) -> usize {
        let entry = self.at(id);
        match entry["kind"].as_str().unwrap() {
            "ARRAY" => entry["nr_elems"].as_u64().unwrap() as usize * self.size(&entry["type_id"]),
            "TYPEDEF" | "CONST" => self.size(&entry["type_id"]),
            _ => entry["size"]
                .as_u64()
                .unwrap_or_else(|| panic!("no size: {entry}")) as usize,
        }
    }

    /// Name, offset and size of each member of a structure.
    fn layout(&self, name: &str) -> Vec<(String, usize, usize)> {
        let members = self.find("STRUCT", name)["members"].as_array().unwrap().iter();
        members
            .map(|member| {
                let bits = member["bits_offset"].as_u64().unwrap() as usize;
                assert_eq!(bits % 8, 0, "{member}");
                (
                    member["name"].as_str().unwrap().to_owned(),
                    bits / 8,
                    self.size(&member["type_id"]),
                )
            })
            .collect()
    }

    /// What a member of a map's definition points at.
    fn pointee(&self, definition: &Value, member: &str) -> Option<&Value> {
        let mut members = definition["members"].as_array().unwrap().iter();
        let found = members.find(|entry| entry["name"] == member)?;
        let pointer = self.at(&found["type_id"]);
        assert_eq!(pointer["kind"], "PTR", "{member}");
        Some(&pointer["type_id"])
    }
}

#[test]
fn layouts_are_those_of_the_abi() {
    let Some(btf) = Btf::of_object() else { return };
    macro_rules! hold {
        ($($name:ident)*) => { $(
            let ours: Vec<_> = abi::$name::LAYOUT
                .iter()
                .map(|(name, offset, size)| ((*name).to_owned(), *offset, *size))
                .collect();
            assert_eq!(btf.layout(stringify!($name)), ours, stringify!($name));
            let size = btf.find("STRUCT", stringify!($name))["size"].as_u64();
            assert_eq!(size, Some(size_of::<abi::$name>() as u64), stringify!($name));
        )* };
    }
    hold!(Endpoint Address Identity Frontend PolicyMatch PolicyValue FlowKey Flow Event Counter Counters Config Lifetimes EventBudget);
}

#[test]
fn programs_and_maps_are_there() {
    let Some(btf) = Btf::of_object() else { return };
    for program in ["from_pod", "to_pod", "to_network"] {
        assert_eq!(btf.find("FUNC", program)["linkage"], "global");
    }
    let variables = btf.find("DATASEC", ".maps")["vars"].as_array().unwrap();
    let mut names: Vec<&str> = variables
        .iter()
        .map(|variable| btf.at(&variable["type_id"])["name"].as_str().unwrap())
        .collect();
    names.sort_unstable();
    // Beside those that are pinned, one that nobody but the programs sees.
    let mut expected: Vec<&str> = MAPS.iter().map(|map| map.0).chain(["scratch"]).collect();
    expected.sort_unstable();
    assert_eq!(names, expected);
    for (name, (number, _), key, value) in MAPS {
        let definition = btf.at(&btf.find("VAR", name)["type_id"]);
        let array = btf.at(btf.pointee(definition, "type").unwrap());
        assert_eq!(array["nr_elems"], number, "type of map {name}");
        if key > 0 {
            for (member, size) in [("key", key), ("value", value)] {
                let pointee = btf.pointee(definition, member).unwrap();
                assert_eq!(btf.size(pointee), size, "{member} of map {name}");
            }
        }
    }
}

/// The entries of a pinned map as `bpftool map dump` prints them.
fn dump(folder: &Path, map: &str) -> Result<Vec<Value>> {
    let path = folder.join(map);
    let dump = bpftool(&["map", "dump", "pinned", path.to_str().context("a path in UTF-8")?])?;
    let entries = dump.as_array().cloned().unwrap_or_default();
    ensure!(!entries.is_empty(), "map {map} is empty");
    Ok(entries)
}

/// An entry of each map, through the ways that write it.
fn fill(bench: &mut Bench, ifindex: u32) -> Result<()> {
    let peer = Ipv4Addr::new(10, 244, 0, 11);
    let endpoint = abi::Endpoint {
        id: 7,
        ingress_policy: 3,
        egress_policy: 4,
        ipv4: [10, 244, 0, 10],
        ipv6: [0; 16],
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
        Write::PutPolicy {
            policy: 3,
            key: EntryKey {
                identity: 2,
                protocol: Some(port),
            },
            value: abi::PolicyValue {
                action: ACTION_ACCEPT,
                rule: 1,
            },
        },
        Write::PutIdentity {
            prefix: IpAddr::V4(peer).into(),
            identity: abi::Identity {
                identity: 2,
                flags: 0,
            },
        },
        Write::PutEndpoint { ifindex, endpoint },
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
        let folder = pin_folder(bench.pin_path());
        for (name, (_, kind), key, value) in MAPS {
            let path = folder.join(name);
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
            let formatted = &dump(&folder, map)?[0]["formatted"];
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
        let [key, identity] = entry("identities", "value")?;
        assert!(key.to_string().contains("octets"), "{key}");
        assert_eq!([&identity["identity"], &identity["flags"]], [2, 0]);
        let [key, value] = entry("policies", "value")?;
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
