// SPDX-License-Identifier: Apache-2.0
//! The maps with their types: reading them back, writing to them.

mod longest;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    os::fd::{AsFd as _, BorrowedFd},
    path::Path,
};

use aya::{
    Ebpf,
    maps::{
        Array, HashMap, IterableMap as _, MapData, MapInfo, PerCpuArray,
        lpm_trie::{Key, LpmTrie},
    },
};
use ipnet::IpNet;
use netpol_common::{
    abi::{
        self, Address, Config, Counter, Counters, Direction, Endpoint, Flow, FlowKey, Identity, Lifetimes,
        Peer, PolicyMatch, PortValue,
    },
    flow,
};
use thiserror::Error;
use tracing::info;

use self::longest::Longest;
use super::{DatapathError, shares::Shares};
use crate::{
    model::{Frontend, ProtocolMatch},
    sync::{EntryKey, State, Write},
};

/// Bits that IPv4 prefixes are longer by when they are mapped into IPv6.
const MAPPED_BITS: u32 = 96;
/// Replaces a value where it is (linux/bpf.h): see [`abi::Endpoint::lock`].
const BPF_F_LOCK: u64 = 4;

/// The key has a value already, or has none (linux/bpf.h).
const BPF_EXIST: u64 = 2;
const BPF_NOEXIST: u64 = 1;

/// A write is tried again this often when the kernel answers that it may work a moment later (EBUSY, EAGAIN, ENOMEM under contention).
const ATTEMPTS: usize = 5;

/// A map that could not be used.
#[derive(Debug, Error)]
#[error("map {map}: {what}")]
pub struct MapError {
    map: &'static str,
    what: &'static str,
    #[source]
    source: aya::maps::MapError,
}

/// Attaches the name of the map and what was attempted.
trait Named<T> {
    fn on(self, map: &'static str, what: &'static str) -> Result<T, MapError>;
}

impl<T> Named<T> for Result<T, aya::maps::MapError> {
    fn on(self, map: &'static str, what: &'static str) -> Result<T, MapError> {
        self.map_err(|source| MapError { map, what, source })
    }
}

/// Handles of the maps that the agent reads and writes.
pub struct Maps {
    endpoints: HashMap<MapData, u32, Endpoint>,
    bindings: HashMap<MapData, u32, abi::Binding>,
    local_pods: HashMap<MapData, Address, u32>,
    senders: HashMap<MapData, abi::Sender, u32>,
    guarded: HashMap<MapData, abi::Frontend, u32>,
    forwards: LpmTrie<MapData, abi::Forwarded, u32>,
    identities: Longest<Peer>,
    frontends: HashMap<MapData, abi::Frontend, Identity>,
    policies: Longest<PortValue>,
    config: Array<MapData, Config>,
}

/// Whether this process may use BPF at all.
pub fn probe() -> io::Result<()> {
    match Array::<MapData, u32>::create(1, 0) {
        Err(aya::maps::MapError::CreateError { io_error, .. })
            if io_error.kind() == io::ErrorKind::PermissionDenied =>
        {
            Err(io_error)
        }
        // Any other trouble shows, with the map's name, when the object is loaded.
        _ => Ok(()),
    }
}

impl Maps {
    /// Takes the maps out of a loaded object, after a look at whether what was pinned is what this build expects.
    pub fn take(ebpf: &mut Ebpf, folder: &Path) -> Result<Self, DatapathError> {
        check_layout::<u32, Endpoint>(&folder.join("endpoints"))?;
        check_layout::<u32, abi::Binding>(&folder.join("bindings"))?;
        check_layout::<Address, u32>(&folder.join("local_pods"))?;
        check_layout::<abi::Sender, u32>(&folder.join("senders"))?;
        check_layout::<abi::Frontend, u32>(&folder.join("guarded"))?;
        check_layout::<Key<abi::Forwarded>, u32>(&folder.join("forwards"))?;
        check_layout::<abi::Frontend, Identity>(&folder.join("frontends"))?;
        check_layout::<FlowKey, Flow>(&folder.join("flows"))?;
        check_layout::<u32, abi::FlowShare>(&folder.join("flow_shares"))?;
        check_layout::<abi::FragmentKey, abi::Fragment>(&folder.join("fragments"))?;
        check_layout::<u32, Counters>(&folder.join("counters"))?;
        check_layout::<u32, Config>(&folder.join("config"))?;
        Ok(Self {
            endpoints: HashMap::try_from(map(ebpf, "endpoints")?).on("endpoints", "opening")?,
            bindings: HashMap::try_from(map(ebpf, "bindings")?).on("bindings", "opening")?,
            local_pods: HashMap::try_from(map(ebpf, "local_pods")?).on("local_pods", "opening")?,
            senders: HashMap::try_from(map(ebpf, "senders")?).on("senders", "opening")?,
            guarded: HashMap::try_from(map(ebpf, "guarded")?).on("guarded", "opening")?,
            forwards: LpmTrie::try_from(map(ebpf, "forwards")?).on("forwards", "opening")?,
            frontends: HashMap::try_from(map(ebpf, "frontends")?).on("frontends", "opening")?,
            identities: Longest::take(ebpf, folder, ["addresses", "identities"])?,
            policies: Longest::take(ebpf, folder, ["ports", "policies"])?,
            config: Array::try_from(map(ebpf, "config")?).on("config", "opening")?,
        })
    }

    /// What they hold.
    pub fn read(&self) -> Result<State, MapError> {
        let mut state = State {
            config: self.config.get(&0, 0).on("config", "reading")?,
            ..State::default()
        };
        for entry in self.endpoints.iter() {
            let (ifindex, endpoint) = entry.on("endpoints", "reading")?;
            state.endpoints.insert(ifindex, endpoint);
        }
        for (key, identity) in self.identities.read()? {
            state.identities.insert(prefix(&key), identity);
        }
        for entry in self.local_pods.iter() {
            let (address, ifindex) = entry.on("local_pods", "reading")?;
            state.local_pods.insert(ip(&address), ifindex);
        }
        for entry in self.senders.iter() {
            let (key, ifindex) = entry.on("senders", "reading")?;
            state.senders.insert((key.bridge, key.number), ifindex);
        }
        for entry in self.guarded.iter() {
            let (key, _) = entry.on("guarded", "reading")?;
            state.guarded.insert(frontend(&key), ());
        }
        for entry in self.forwards.iter() {
            let (key, _) = entry.on("forwards", "reading")?;
            state.forwards.insert(forwarded(&key));
        }
        for entry in self.frontends.iter() {
            let (key, identity) = entry.on("frontends", "reading")?;
            state.frontends.insert(frontend(&key), identity);
        }
        for (key, value) in self.policies.read()? {
            let (policy, key) = entry_key(&key);
            state.record(&Write::PutPolicy { policy, key, value });
        }
        Ok(state)
    }

    /// What map `bindings` holds.
    pub fn bindings(&self) -> Result<BTreeMap<u32, abi::Binding>, MapError> {
        let entries = self.bindings.iter();
        entries.map(|entry| entry.on("bindings", "reading")).collect()
    }

    /// Writes an entry of map `bindings`, or removes it.
    pub fn set_binding(&mut self, ifindex: u32, binding: Option<&abi::Binding>) -> Result<(), MapError> {
        retry(|| match binding {
            Some(binding) => self
                .bindings
                .insert(ifindex, binding, 0)
                .on("bindings", "writing"),
            None => present(self.bindings.remove(&ifindex)).on("bindings", "removing an entry"),
        })
    }

    /// Makes a write; attaching is not one of these.
    pub fn write(&mut self, write: &Write) -> Result<(), MapError> {
        retry(|| match write {
            Write::Config(config) => self.config.set(0, config, 0).on("config", "writing"),
            Write::PutPolicy { policy, key, value } => {
                self.policies.insert(&policy_key(*policy, key), *value)
            }
            Write::RemovePolicy { policy, key } => self.policies.remove(&policy_key(*policy, key)),
            Write::PutIdentity { prefix, identity } => {
                self.identities.insert(&address_key(*prefix), *identity)
            }
            Write::RemoveIdentity(prefix) => self.identities.remove(&address_key(*prefix)),
            Write::PutEndpoint { ifindex, endpoint } => self
                .endpoints
                .insert(ifindex, endpoint, BPF_F_LOCK)
                .on("endpoints", "writing"),
            Write::RemoveEndpoint(ifindex) => {
                present(self.endpoints.remove(ifindex)).on("endpoints", "removing an entry")
            }
            Write::PutFrontend { frontend, identity } => self
                .frontends
                .insert(frontend_key(frontend), identity, 0)
                .on("frontends", "writing"),
            Write::RemoveFrontend(frontend) => {
                present(self.frontends.remove(&frontend_key(frontend))).on("frontends", "removing an entry")
            }
            Write::PutLocalPod { address, ifindex } => self
                .local_pods
                .insert(mapped(*address), ifindex, 0)
                .on("local_pods", "writing"),
            Write::RemoveLocalPod(address) => {
                present(self.local_pods.remove(&mapped(*address))).on("local_pods", "removing an entry")
            }
            Write::PutSender { sender, ifindex } => self
                .senders
                .insert(sender_key(*sender), ifindex, 0)
                .on("senders", "writing"),
            Write::RemoveSender(sender) => {
                present(self.senders.remove(&sender_key(*sender))).on("senders", "removing an entry")
            }
            Write::PutGuarded(backend) => self
                .guarded
                .insert(frontend_key(backend), 1, 0)
                .on("guarded", "writing"),
            Write::RemoveGuarded(backend) => {
                present(self.guarded.remove(&frontend_key(backend))).on("guarded", "removing an entry")
            }
            Write::PutForward(ifindex, prefix) => self
                .forwards
                .insert(&forwarded_key(*ifindex, *prefix), 1, 0)
                .on("forwards", "writing"),
            Write::RemoveForward(ifindex, prefix) => {
                present(self.forwards.remove(&forwarded_key(*ifindex, *prefix)))
                    .on("forwards", "removing an entry")
            }
            Write::Attach(_) | Write::Detach(_) | Write::AttachDevice(_) | Write::DetachDevice(_) => Ok(()),
        })
    }
}

fn map(ebpf: &mut Ebpf, name: &'static str) -> Result<aya::maps::Map, MapError> {
    let missing = || aya::maps::MapError::InvalidName { name: name.into() };
    ebpf.take_map(name)
        .ok_or_else(missing)
        .on(name, "finding it in the object")
}

/// What is to be removed and is not there is removed.
fn present(removed: Result<(), aya::maps::MapError>) -> Result<(), aya::maps::MapError> {
    match removed {
        Err(aya::maps::MapError::KeyNotFound | aya::maps::MapError::ElementNotFound) => Ok(()),
        Err(aya::maps::MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {
            Ok(())
        }
        other => other,
    }
}

fn retry(mut write: impl FnMut() -> Result<(), MapError>) -> Result<(), MapError> {
    let mut attempt = 1;
    loop {
        match write() {
            Err(MapError {
                source: aya::maps::MapError::SyscallError(error),
                ..
            }) if attempt < ATTEMPTS && is_transient(&error.io_error) => {
                attempt += 1;
            }
            result => return result,
        }
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EBUSY | libc::EAGAIN | libc::ENOMEM)
    )
}

fn check_layout<K, V>(path: &Path) -> Result<(), DatapathError> {
    let info = MapInfo::from_pin(path).on("pinned", "asking the kernel about a pinned map")?;
    let found = (info.key_size() as usize, info.value_size() as usize);
    let expected = (size_of::<K>(), size_of::<V>());
    if found == expected {
        return Ok(());
    }
    let text = |(key, value): (usize, usize)| format!("keys of {key} and values of {value} bytes");
    Err(DatapathError::OtherLayout {
        path: path.to_owned(),
        found: text(found),
        expected: text(expected),
    })
}

/// The flows of a pinned map whose capacity is another than asked for; the map is unpinned, so that loading makes a new one.
pub fn unpin_flows_of_other_capacity(
    path: &Path,
    capacity: u32,
) -> Result<Vec<(FlowKey, Flow)>, DatapathError> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    check_layout::<FlowKey, Flow>(path)?;
    let data = MapData::from_pin(path).on("flows", "opening")?;
    let found = data.info().on("flows", "asking for its capacity")?.max_entries();
    if found == capacity {
        return Ok(Vec::new());
    }
    let flows = HashMap::try_from(aya::maps::Map::HashMap(data)).on("flows", "opening")?;
    let entries = flows.iter().filter_map(Result::ok).collect();
    super::bpffs::remove(path)?;
    info!(
        from = found,
        to = capacity,
        "the flow table is made anew with another capacity"
    );
    Ok(entries)
}

/// The flow table, for connections that were open before a pod's programs were there.
pub struct FlowTable<'a>(HashMap<&'a mut MapData, FlowKey, Flow>);

impl<'a> FlowTable<'a> {
    /// Opens it.
    pub fn open(ebpf: &'a mut Ebpf) -> Result<Self, MapError> {
        let missing = || aya::maps::MapError::InvalidName { name: "flows".into() };
        let map = ebpf
            .map_mut("flows")
            .ok_or_else(missing)
            .on("flows", "finding it in the object")?;
        Ok(Self(HashMap::try_from(map).on("flows", "opening")?))
    }

    /// Entries that it holds.
    pub fn capacity(&self) -> Result<u32, MapError> {
        let info = self.0.map().info().on("flows", "asking for its capacity")?;
        Ok(info.max_entries())
    }

    /// Its descriptor.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.map().fd().as_fd()
    }

    /// Adds a flow, unless there is one that still lives at `now`, or its endpoint may have no
    /// more. Whether it was added.
    pub fn add(
        &mut self,
        shares: &Shares,
        key: &FlowKey,
        flow: &Flow,
        now: u64,
        lifetimes: &Lifetimes,
    ) -> Result<bool, MapError> {
        match self.0.get(key, 0) {
            Ok(held) if flow::alive(&held, key.protocol, now, lifetimes) => return Ok(false),
            Ok(_) => {
                retry(|| self.0.insert(key, flow, BPF_EXIST).on("flows", "writing"))?;
                return Ok(true);
            }
            Err(aya::maps::MapError::KeyNotFound) => {}
            Err(error) => return Err(error).on("flows", "reading"),
        }
        if !shares.take(key.endpoint) {
            return Ok(false);
        }
        let written = retry(|| self.0.insert(key, flow, BPF_NOEXIST).on("flows", "writing"));
        if written.is_err() {
            shares.give_back(key.endpoint);
        }
        written.map(|()| true)
    }
}

/// The descriptor of a map.
pub fn descriptor<'a>(ebpf: &'a Ebpf, name: &'static str) -> Result<BorrowedFd<'a>, MapError> {
    let missing = || aya::maps::MapError::InvalidName { name: name.into() };
    match ebpf
        .map(name)
        .ok_or_else(missing)
        .on(name, "finding it in the object")?
    {
        aya::maps::Map::Array(map) => Ok(map.fd().as_fd()),
        _ => Err(missing()).on(name, "opening"),
    }
}

/// Map `inherited`: addresses whose connections in the kernel's tracking may be of others than the
/// pod that has them.
pub struct Doubted {
    map: HashMap<MapData, Address, u32>,
    held: BTreeSet<IpAddr>,
}

impl Doubted {
    /// Takes it out of the object, and reads what it holds.
    pub fn open(ebpf: &mut Ebpf) -> Result<Self, MapError> {
        let map: HashMap<_, Address, u32> =
            HashMap::try_from(map(ebpf, "inherited")?).on("inherited", "opening")?;
        let held = map.keys().map(|address| address.map(|address| ip(&address)));
        let held = held.collect::<Result<_, _>>().on("inherited", "reading")?;
        Ok(Self { map, held })
    }

    /// The addresses.
    pub fn addresses(&self) -> &BTreeSet<IpAddr> {
        &self.held
    }

    /// Replaces them.
    pub fn set(&mut self, addresses: BTreeSet<IpAddr>) -> Result<(), MapError> {
        for address in addresses.difference(&self.held) {
            retry(|| self.map.insert(mapped(*address), 1, 0).on("inherited", "writing"))?;
        }
        for address in self.held.difference(&addresses) {
            present(self.map.remove(&mapped(*address))).on("inherited", "removing an entry")?;
        }
        self.held = addresses;
        Ok(())
    }
}

/// Puts flows into a new table.
pub fn restore_flows(ebpf: &mut Ebpf, flows: Vec<(FlowKey, Flow)>) -> Result<(), MapError> {
    let Some(map) = ebpf.map_mut("flows") else {
        return Ok(());
    };
    let mut table: HashMap<_, FlowKey, Flow> = HashMap::try_from(map).on("flows", "opening")?;
    for (key, flow) in flows {
        table.insert(key, flow, 0).on("flows", "copying")?;
    }
    Ok(())
}

/// An address as keys have it.
pub(super) fn mapped(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(address) => Address::from_ipv4(address.octets()),
        IpAddr::V6(address) => Address::from_ipv6(address.octets()),
    }
}

/// The address of a key.
fn ip(address: &Address) -> IpAddr {
    IpAddr::from(address.octets).to_canonical()
}

fn sender_key((bridge, number): (u32, u32)) -> abi::Sender {
    abi::Sender { bridge, number }
}

fn frontend_key(frontend: &Frontend) -> abi::Frontend {
    abi::Frontend {
        address: mapped(frontend.address),
        port: frontend.port.to_be_bytes(),
        protocol: frontend.protocol,
        pad: 0,
    }
}

fn frontend(key: &abi::Frontend) -> Frontend {
    Frontend {
        address: ip(&key.address),
        protocol: key.protocol,
        port: u16::from_be_bytes(key.port),
    }
}

/// The key of a prefix.
fn address_key(prefix: IpNet) -> Key<Address> {
    match prefix.trunc() {
        IpNet::V4(net) => Key::new(
            MAPPED_BITS + u32::from(net.prefix_len()),
            Address::from_ipv4(net.network().octets()),
        ),
        IpNet::V6(net) => Key::new(
            u32::from(net.prefix_len()),
            Address::from_ipv6(net.network().octets()),
        ),
    }
}

/// The prefix of a key.
fn prefix(key: &Key<Address>) -> IpNet {
    let address = std::net::Ipv6Addr::from(key.data().octets);
    let length = key.prefix_len();
    let (address, length) = match address.to_ipv4_mapped() {
        Some(v4) if length >= MAPPED_BITS => (IpAddr::V4(v4), length - MAPPED_BITS),
        _ => (IpAddr::V6(address), length),
    };
    // The kernel refuses longer prefixes than the key has bits.
    IpNet::new(address, length as u8)
        .unwrap_or_else(|_| IpNet::from(address))
        .trunc()
}

/// Bits of the interface index, which comes before the prefix.
const INDEX_BITS: u32 = u32::BITS;

fn forwarded_key(ifindex: u32, prefix: IpNet) -> Key<abi::Forwarded> {
    let key = address_key(prefix);
    let forwarded = abi::Forwarded {
        ifindex,
        address: key.data(),
    };
    Key::new(INDEX_BITS + key.prefix_len(), forwarded)
}

fn forwarded(key: &Key<abi::Forwarded>) -> (u32, IpNet) {
    let abi::Forwarded { ifindex, address } = key.data();
    // Each entry has the whole index: the agent writes no others.
    let length = key.prefix_len().saturating_sub(INDEX_BITS);
    (ifindex, prefix(&Key::new(length, address)))
}

fn policy_key(policy: u32, key: &EntryKey) -> Key<PolicyMatch> {
    let (prefix_len, protocol, port) = match key.protocol {
        None => (PolicyMatch::ALL_PROTOCOLS, 0, 0),
        Some(ProtocolMatch {
            protocol,
            port,
            prefix_len,
        }) => (PolicyMatch::ALL_PORTS + u32::from(prefix_len), protocol, port),
    };
    Key::new(
        prefix_len,
        PolicyMatch {
            policy,
            identity: key.identity,
            protocol,
            port: port.to_be_bytes(),
            pad: 0,
        },
    )
}

fn entry_key(key: &Key<PolicyMatch>) -> (u32, EntryKey) {
    let data = key.data();
    let protocol = key
        .prefix_len()
        .checked_sub(PolicyMatch::ALL_PORTS)
        .map(|bits| ProtocolMatch {
            protocol: data.protocol,
            port: u16::from_be_bytes(data.port),
            prefix_len: bits as u8,
        });
    (
        data.policy,
        EntryKey {
            identity: data.identity,
            protocol,
        },
    )
}

/// The map of counters, opened by its pin.
pub struct CounterMap(PerCpuArray<MapData, Counters>);

impl CounterMap {
    /// Opens a pinned map.
    pub fn open(path: &Path) -> Result<Self, MapError> {
        let data = MapData::from_pin(path).on("counters", "opening")?;
        Ok(Self(
            PerCpuArray::try_from(aya::maps::Map::PerCpuArray(data)).on("counters", "opening")?,
        ))
    }

    /// The sums over CPUs of one direction.
    pub fn read(&self, direction: Direction) -> Result<Counters, MapError> {
        let values = self.0.get(&(direction as u32), 0).on("counters", "reading")?;
        Ok(values
            .iter()
            .fold(Counters::default(), |sum, value| add(&sum, value)))
    }
}

fn add(a: &Counters, b: &Counters) -> Counters {
    let sum = |a: Counter, b: Counter| Counter {
        packets: a.packets + b.packets,
        bytes: a.bytes + b.bytes,
    };
    Counters {
        forwarded: sum(a.forwarded, b.forwarded),
        policy: sum(a.policy, b.policy),
        malformed: sum(a.malformed, b.malformed),
        ether_type: sum(a.ether_type, b.ether_type),
        vlan: sum(a.vlan, b.vlan),
        fragment: sum(a.fragment, b.fragment),
        extension_headers: sum(a.extension_headers, b.extension_headers),
        no_endpoint: sum(a.no_endpoint, b.no_endpoint),
        egress_backend: sum(a.egress_backend, b.egress_backend),
        unknown_sender: sum(a.unknown_sender, b.unknown_sender),
        spoofed: sum(a.spoofed, b.spoofed),
        not_own_address: sum(a.not_own_address, b.not_own_address),
        flows_created: sum(a.flows_created, b.flows_created),
        flow_insert_failures: a.flow_insert_failures + b.flow_insert_failures,
    }
}
