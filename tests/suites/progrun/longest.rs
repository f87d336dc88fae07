// SPDX-License-Identifier: Apache-2.0
//! Longest-prefix tables with a separate map for whole keys: keys that do not fit there, and values
//! with another key.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use anyhow::{Context, Result};
use aya::maps::{HashMap, Map, MapData};
use ipnet::IpNet;
use netpol_agent::{
    datapath::pin_folder,
    evaluate::Packet,
    model::Direction,
    sync::{EntryKey, Put, Remove, Write},
};
use netpol_common::abi::{ACTION_ACCEPT, Address, Endpoint, Identity, Peer, PolicyValue};
use netpol_tests::progrun::{Bench, on_bench};

use super::SUITE;

const POLICY: u32 = 3;
const FRIEND: u32 = 2;
const STRANGER: u32 = 1;
const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 10);

/// Enforces a policy on a pod that only friends may reach.
fn guard(bench: &mut Bench) -> Result<()> {
    let ifindex = bench.interfaces()[0];
    let key = EntryKey {
        identity: FRIEND,
        protocol: None,
    };
    let value = PolicyValue {
        action: ACTION_ACCEPT,
        rule: 1,
    };
    bench.write(&Write::Policies(Put((POLICY, key), value)))?;
    let endpoint = Endpoint {
        id: 7,
        ingress_policy: POLICY,
        ipv4: POD.octets(),
        ifindex,
        ..Endpoint::default()
    };
    bench.write(&Write::Endpoints(Put(ifindex, endpoint)))
}

fn put(bench: &mut Bench, prefix: impl Into<IpNet>, identity: u32) -> Result<()> {
    let identity = Identity { identity, flags: 0 };
    bench.write(&Write::Identities(Put(prefix.into(), identity)))
}

fn remove(bench: &mut Bench, address: Ipv4Addr) -> Result<()> {
    bench.write(&Write::Identities(Remove(IpAddr::from(address).into())))
}

/// Returns true if a peer reaches the pod.
fn reaches(bench: &mut Bench, peer: Ipv4Addr) -> Result<bool> {
    let packet = Packet {
        source: peer.into(),
        destination: POD.into(),
        protocol: 6,
        port: Some(8080),
    };
    let (ifindex, uplink) = (bench.interfaces()[0], bench.uplink());
    bench.forget_flows()?;
    bench.opens(Direction::Ingress, ifindex, uplink, &packet)
}

/// Returns the number of entries in both maps.
fn held(bench: &Bench) -> Result<[usize; 2]> {
    let map = |name: &str| MapData::from_pin(pin_folder(bench.pin_path()).join(name));
    let whole: HashMap<_, Address, Peer> = Map::HashMap(map("addresses")?).try_into()?;
    let trie: aya::maps::LpmTrie<_, Address, Identity> = Map::LpmTrie(map("identities")?).try_into()?;
    Ok([whole.keys().count(), trie.keys().count()])
}

#[test]
fn p5_an_entry_of_the_address_counts_before_any_prefix() {
    on_bench(SUITE, 1, |bench| {
        guard(bench)?;
        let peer = Ipv4Addr::new(10, 1, 2, 3);
        put(bench, "10.1.0.0/16".parse::<IpNet>()?, FRIEND)?;
        assert!(reaches(bench, peer)?, "by its prefix");
        put(bench, IpAddr::from(peer), STRANGER)?;
        assert!(!reaches(bench, peer)?, "by itself");
        assert!(reaches(bench, Ipv4Addr::new(10, 1, 2, 4))?, "its neighbour");
        put(bench, IpAddr::from(peer), FRIEND)?;
        put(bench, "10.1.2.0/24".parse::<IpNet>()?, STRANGER)?;
        assert!(reaches(bench, peer)?, "by itself, in a narrower prefix");
        remove(bench, peer)?;
        assert!(!reaches(bench, peer)?, "by its prefix again");
        Ok(())
    });
}

/// A whole address that does not fit into the hash map is found as a prefix, and is removed
/// wherever it is.
#[test]
fn l1_an_address_that_finds_no_room_is_found_all_the_same() {
    on_bench(SUITE, 1, |bench| {
        guard(bench)?;
        let address = |number: usize| Ipv4Addr::from(0x0b00_0000 + number as u32);
        let pin = pin_folder(bench.pin_path()).join("addresses");
        let room = aya::maps::MapInfo::from_pin(pin)?.max_entries() as usize;
        let mut expected = BTreeMap::new();
        for number in 0..room + 2 {
            let identity = if number % 2 == 0 { FRIEND } else { STRANGER };
            put(bench, IpAddr::from(address(number)), identity)?;
            expected.insert(IpNet::from(IpAddr::from(address(number))), identity);
        }
        assert_eq!(held(bench)?, [room, 2]);
        let identities = |bench: &Bench| -> Result<BTreeMap<IpNet, u32>> {
            let state = bench.read()?;
            let found = state.identities.iter();
            Ok(found.map(|(prefix, class)| (*prefix, class.identity)).collect())
        };
        assert!(identities(bench)? == expected, "read back");
        for number in [0, 1, room, room + 1] {
            assert_eq!(reaches(bench, address(number))?, number % 2 == 0, "{number}");
        }
        // It moves to the hash map when there is room again: the entry behind it no longer counts.
        put(bench, IpAddr::from(address(1)), FRIEND)?;
        remove(bench, address(2))?;
        put(bench, IpAddr::from(address(room)), STRANGER)?;
        assert_eq!(held(bench)?, [room, 2]);
        assert!(reaches(bench, address(1))? && !reaches(bench, address(2))?);
        assert!(!reaches(bench, address(room))?);
        let class = identities(bench)?
            .get(&IpAddr::from(address(room)).into())
            .copied();
        assert_eq!(class, Some(STRANGER));
        remove(bench, address(room))?;
        assert_eq!(held(bench)?, [room - 1, 1]);
        assert!(!reaches(bench, address(room))?);
        Ok(())
    });
}

/// A value with another address counts for nobody. It is read back as something that the agent
/// never writes, and a write repairs it.
#[test]
fn b3_a_value_of_another_address_is_repaired() {
    on_bench(SUITE, 1, |bench| {
        guard(bench)?;
        let [peer, other] = [Ipv4Addr::new(10, 1, 2, 3), Ipv4Addr::new(10, 1, 2, 4)];
        put(bench, "10.1.0.0/16".parse::<IpNet>()?, FRIEND)?;
        for address in [peer, other] {
            put(bench, IpAddr::from(address), FRIEND)?;
        }
        let [key, others] = [peer, other].map(|address| Address::from_ipv4(address.octets()));
        let data = MapData::from_pin(pin_folder(bench.pin_path()).join("addresses"))?;
        let mut map: HashMap<_, Address, Peer> = Map::HashMap(data).try_into()?;
        let wrong = map.get(&others, 0)?;
        map.insert(key, wrong, 0)?;
        assert!(!reaches(bench, peer)?, "it is the other's");
        let found = bench.read()?.identities;
        let class = found.get(&IpAddr::from(peer).into()).context("it is there")?;
        assert_ne!(class.identity, FRIEND);
        put(bench, IpAddr::from(peer), FRIEND)?;
        assert!(reaches(bench, peer)?);
        Ok(())
    });
}
