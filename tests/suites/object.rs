// SPDX-License-Identifier: Apache-2.0
//! The embedded object: its BTF against the agent's layouts, its programs and maps, and what
//! `bpftool` shows of them in the kernel.

#[path = "object/btf.rs"]
mod btf;
#[path = "object/dump.rs"]
mod dump;

use netpol_common::abi;

use btf::Btf;

const SUITE: &str = "object";

/// Numbers of `enum bpf_map_type` (`linux/bpf.h`), with bpftool's names.
const HASH: (u64, &str) = (1, "hash");
const ARRAY: (u64, &str) = (2, "array");
const PER_CPU_ARRAY: (u64, &str) = (6, "percpu_array");
const LRU_HASH: (u64, &str) = (9, "lru_hash");
const LPM_TRIE: (u64, &str) = (11, "lpm_trie");
const RING_BUFFER: (u64, &str) = (27, "ringbuf");

/// Name, type, and the sizes of keys and values.
type Map = (&'static str, (u64, &'static str), usize, usize);

/// Every pinned map.
const MAPS: [Map; 20] = [
    ("senders", HASH, size_of::<abi::Sender>(), 4),
    ("restricted", HASH, size_of::<abi::Frontend>(), 4),
    ("local_pods", HASH, size_of::<abi::Address>(), 4),
    ("forwards", LPM_TRIE, 4 + size_of::<abi::Forwarded>(), 4),
    (
        "frontends",
        HASH,
        size_of::<abi::Frontend>(),
        size_of::<abi::Identity>(),
    ),
    ("endpoints", HASH, 4, size_of::<abi::Endpoint>()),
    ("bindings", HASH, 4, size_of::<abi::Binding>()),
    (
        "addresses",
        HASH,
        size_of::<abi::Address>(),
        size_of::<abi::Peer>(),
    ),
    (
        "ports",
        HASH,
        size_of::<abi::PolicyMatch>(),
        size_of::<abi::PortValue>(),
    ),
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
    ("flows", HASH, size_of::<abi::FlowKey>(), size_of::<abi::Flow>()),
    ("flow_shares", ARRAY, 4, size_of::<abi::FlowShare>()),
    ("flow_rings", ARRAY, 4, size_of::<abi::FlowKey>()),
    ("inherited", HASH, size_of::<abi::Address>(), 4),
    (
        "fragments",
        LRU_HASH,
        size_of::<abi::FragmentKey>(),
        size_of::<abi::Fragment>(),
    ),
    ("events", RING_BUFFER, 0, 0),
    ("event_budget", PER_CPU_ARRAY, 4, size_of::<abi::EventBudget>()),
    ("counters", PER_CPU_ARRAY, 4, size_of::<abi::Counters>()),
    ("config", ARRAY, 4, size_of::<abi::Config>()),
];

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
    hold!(Endpoint Binding Forwarded Address Identity Frontend Sender PolicyMatch PolicyValue Peer PortValue FlowKey Flow FlowShare FragmentKey Fragment Event Counter Counters Config Lifetimes EventBudget SkBuff Tracking);
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
    // The pinned ones, and one that only the programs use.
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
