// SPDX-License-Identifier: Apache-2.0
//! Fixed cases, and random worlds.

mod cases;
mod random;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::*;

/// The current state, and what an agent remembers of it.
#[derive(Debug, Clone, Default)]
struct Stage {
    pods: BTreeMap<ObjectKey, LocalPod>,
    interfaces: Interfaces,
    records: Records,
    holds: BTreeMap<u32, abi::Endpoint>,
    bindings: Bindings,
    clock: u64,
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("ns", name)
}

fn ips(texts: &[&str]) -> BTreeSet<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

impl Stage {
    /// Adds a pod with the UID `uid`.
    fn pod(&mut self, name: &str, uid: &str, addresses: &[&str]) -> &mut LocalPod {
        let pod = LocalPod {
            uid: uid.to_owned(),
            addresses: ips(addresses).into_iter().collect(),
            ..LocalPod::default()
        };
        self.pods.insert(key(name), pod);
        self.pods.get_mut(&key(name)).unwrap()
    }

    /// Adds an interface `vethN` into the network namespace N, with a MAC address made from its
    /// index.
    fn veth(&mut self, index: u32, addresses: &[&str]) -> &mut PodInterface {
        let interface = PodInterface {
            index,
            name: format!("veth{index}"),
            mac: [2, 0, 0, 0, 0, index as u8],
            namespace: index as i32,
            addresses: ips(addresses),
            peer_mac: Some([6, 0, 0, 0, 0, index as u8]),
            link_locals: BTreeSet::from([eui64([6, 0, 0, 0, 0, index as u8])]),
            ..PodInterface::default()
        };
        self.interfaces.pods.insert(index, interface);
        self.interfaces.pods.get_mut(&index).unwrap()
    }

    /// Adds a record, newer than those before, that `vethN` was made for a pod.
    fn record(&mut self, index: u32, name: &str, uid: &str, addresses: &[&str]) -> &mut Record {
        self.clock += 1;
        let record = Record {
            pod: key(name),
            uid: uid.to_owned(),
            network: "cbr0".to_owned(),
            interface: "eth0".to_owned(),
            on_node: vec![(format!("veth{index}"), [2, 0, 0, 0, 0, index as u8])],
            mac: Some([6, 0, 0, 0, 0, index as u8]),
            addresses: ips(addresses),
            written: SystemTime::UNIX_EPOCH + Duration::from_secs(self.clock),
        };
        let file = format!("record-{}", self.clock);
        self.records.insert(file.clone(), Arc::new(record));
        Arc::make_mut(self.records.get_mut(&file).unwrap())
    }

    /// Binds, and remembers the bindings.
    fn bind(&mut self) -> Bound {
        let world = World {
            pods: &self.pods,
            interfaces: &self.interfaces,
            records: &self.records,
            holds: &self.holds,
        };
        let bound = bind(world, &self.bindings);
        self.bindings = bound.bindings.clone();
        let again = bind(world, &self.bindings);
        assert_eq!(
            (&again.pods, &again.links, &again.standing),
            (&bound.pods, &bound.links, &bound.standing)
        );
        bound
    }

    /// Restarts the agent, which then knows what the kernel stored.
    fn restart(&mut self) {
        for (ifindex, binding) in &mut self.bindings {
            let again = Binding::from_stored(&binding.to_stored(*ifindex));
            assert_eq!(again, *binding);
            *binding = again;
        }
    }

    /// Restarts the agent, which then knows nothing.
    fn forget(&mut self) {
        self.bindings.clear();
    }
}

/// Formats the bindings as `INDEX:NAME`, with `?` before one of several and `!` where nothing
/// passes.
fn told(bound: &Bound) -> String {
    let interfaces = bound.pods.iter().map(|(ifindex, key)| {
        let link = &bound.links[ifindex];
        let mark = match (link.closed, link.rivals.is_empty()) {
            (true, _) => "!",
            (false, false) => "?",
            (false, true) => "",
        };
        let rivals: String = link.rivals.iter().map(|key| format!("|{}", &*key.name)).collect();
        format!("{ifindex}:{mark}{}{rivals}", &*key.name)
    });
    interfaces.collect::<Vec<_>>().join(" ")
}

/// Returns why a pod is not enforced on.
fn why(bound: &Bound, name: &str) -> String {
    match &bound.standing[&key(name)] {
        Standing::Bound(interfaces) => format!("bound {interfaces:?}"),
        Standing::Not(why) => why.to_string(),
    }
}
