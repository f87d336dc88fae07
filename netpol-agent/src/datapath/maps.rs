// SPDX-License-Identifier: Apache-2.0
//! The maps with their types: reading them back, writing to them.

mod counters;
mod encoded;
mod flows;
mod longest;
mod table;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    os::fd::{AsFd as _, BorrowedFd},
    path::Path,
};

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, MapInfo},
};
use netpol_common::abi::{self, Address, Config, Endpoint, Flow, FlowKey, Identity, Peer, PortValue};
use thiserror::Error;

pub use self::{
    counters::CounterMap,
    flows::{FlowTable, bring_back_flows, restore_flows, set_aside_flows},
};
use self::{
    longest::Longest,
    table::{Encoded as _, Hash, Table as _, Trie},
};
use super::DatapathError;
use crate::sync::{State, Write};

/// How many times a write is tried while the kernel answers that it may work a moment later (EBUSY,
/// EAGAIN, ENOMEM under contention).
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

/// Adds the name of the map and what was attempted to an error.
pub(super) trait Named<T> {
    fn on(self, map: &'static str, what: &'static str) -> Result<T, MapError>;
}

impl<T> Named<T> for Result<T, aya::maps::MapError> {
    fn on(self, map: &'static str, what: &'static str) -> Result<T, MapError> {
        self.map_err(|source| MapError { map, what, source })
    }
}

macro_rules! tables {
    ($($name:ident: $table:ident in $map:ty;)*) => {
        /// The map of each table.
        struct Tables {
            $($name: $map,)*
        }

        impl Tables {
            fn take(ebpf: &mut Ebpf, folder: &Path) -> Result<Self, DatapathError> {
                Ok(Self {
                    $($name: <$map>::take(ebpf, folder, stringify!($name))?,)*
                })
            }

            fn read(&self, state: &mut State) -> Result<(), MapError> {
                $(self.$name.read(|put| state.record(&Write::$table(put)))?;)*
                Ok(())
            }

            /// Makes a write of one of them.
            fn write(&mut self, write: &Write) -> Result<(), MapError> {
                match write {
                    $(Write::$table(edit) => self.$name.edit(edit),)*
                    Write::Config(_) | Write::Attached(_) | Write::AttachedDevices(_) => Ok(()),
                }
            }
        }
    };
}

tables! {
    endpoints: Endpoints in Hash<u32, Endpoint>;
    identities: Identities in Longest<Peer>;
    frontends: Frontends in Hash<abi::Frontend, Identity>;
    local_pods: LocalPods in Hash<Address, u32>;
    senders: Senders in Hash<abi::Sender, u32>;
    restricted: Restricted in Hash<abi::Frontend, u32>;
    forwards: Forwards in Trie<abi::Forwarded, u32>;
    policies: Policies in Longest<PortValue>;
}

/// Handles of the maps that the agent reads and writes.
pub struct Maps {
    tables: Tables,
    bindings: HashMap<MapData, u32, abi::Binding>,
    config: Array<MapData, Config>,
}

/// Checks that this process may use BPF at all.
pub fn probe() -> io::Result<()> {
    match Array::<MapData, u32>::create(1, 0) {
        Err(aya::maps::MapError::CreateError { io_error, .. })
            if io_error.kind() == io::ErrorKind::PermissionDenied =>
        {
            Err(io_error)
        }
        // Any other fault shows when the object is loaded, with the map's name.
        _ => Ok(()),
    }
}

impl Maps {
    /// Takes the maps out of a loaded object, after a look at whether what was pinned is what this
    /// build expects.
    pub fn take(ebpf: &mut Ebpf, folder: &Path) -> Result<Self, DatapathError> {
        check_layout::<u32, abi::Binding>(&folder.join("bindings"))?;
        check_layout::<FlowKey, Flow>(&folder.join("flows"))?;
        check_layout::<u32, abi::FlowShare>(&folder.join("flow_shares"))?;
        check_layout::<abi::FragmentKey, abi::Fragment>(&folder.join("fragments"))?;
        check_layout::<u32, Config>(&folder.join("config"))?;
        Ok(Self {
            tables: Tables::take(ebpf, folder)?,
            bindings: HashMap::try_from(map(ebpf, "bindings")?).on("bindings", "opening")?,
            config: Array::try_from(map(ebpf, "config")?).on("config", "opening")?,
        })
    }

    /// What they hold.
    pub fn read(&self) -> Result<State, MapError> {
        let mut state = State {
            config: self.config.get(&0, 0).on("config", "reading")?,
            ..State::default()
        };
        self.tables.read(&mut state)?;
        Ok(state)
    }

    /// Reads map `bindings`.
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
            write => self.tables.write(write),
        })
    }
}

/// An address as keys have it.
pub(super) fn mapped(address: IpAddr) -> Address {
    address.encode()
}

fn map(ebpf: &mut Ebpf, name: &'static str) -> Result<aya::maps::Map, MapError> {
    let missing = || aya::maps::MapError::InvalidName { name: name.into() };
    ebpf.take_map(name)
        .ok_or_else(missing)
        .on(name, "finding it in the object")
}

/// Counts removing an entry that is missing as success.
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

/// Pins a pinned map once more.
pub fn pin_again(map: &'static str, from: &Path, to: &Path) -> Result<(), MapError> {
    let data = MapData::from_pin(from).on(map, "opening that of another version")?;
    let pinned = data.pin(to);
    pinned
        .map_err(|error| aya::maps::MapError::PinError {
            name: Some(map.to_owned()),
            error,
        })
        .on(map, "pinning that of another version")
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
        let held = map.keys().map(|address| address.map(IpAddr::decode));
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
            retry(|| self.map.insert(address.encode(), 1, 0).on("inherited", "writing"))?;
        }
        for address in self.held.difference(&addresses) {
            present(self.map.remove(&address.encode())).on("inherited", "removing an entry")?;
        }
        self.held = addresses;
        Ok(())
    }
}
