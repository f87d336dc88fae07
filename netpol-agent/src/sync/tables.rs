// SPDX-License-Identifier: Apache-2.0
//! The tables that the agent writes, each in one row: its key and value, what of it depends on
//! what, and its words in messages. All that treats tables alike follows from the rows: [`State`],
//! [`Write`], what a write makes of the state, and what a failed one is called.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use netpol_common::abi::{Config, Endpoint, Identity, PolicyValue};

use super::{EntryKey, EntryMap};
use crate::model::{Frontend, Map, Set};

/// One change of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edit<K, V> {
    /// Adds an entry, or replaces it.
    Put(K, V),
    /// Removes an entry. It is fine if there is none.
    Remove(K),
}

impl<K, V> Edit<K, V> {
    /// The key of the entry.
    pub const fn key(&self) -> &K {
        match self {
            Self::Put(key, _) | Self::Remove(key) => key,
        }
    }

    /// Whether there is an entry afterwards.
    pub const fn is_put(&self) -> bool {
        matches!(self, Self::Put(..))
    }
}

/// What depends on a table, when a write of it fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// What policies say, and of whom.
    Policy,
    /// What the check after a Service's translation looks at (rule A5). It stays as long as an
    /// endpoint is held back: that one may still need it.
    PostDnat,
    /// What is of single interfaces.
    Interface,
}

/// Where the kernel has a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder {
    /// A map, which can be full.
    Map,
    /// Hooks of interfaces.
    Hooks,
}

macro_rules! tables {
    ($(
        $(#[$doc:meta])*
        $field:ident: $table:ident($key:ty => $value:ty) in $store:ty, $part:ident, $holder:ident, $words:literal;
    )*) => {
        /// What the kernel holds. A copy is cheap.
        #[derive(Debug, Clone, Default, PartialEq)]
        pub struct State {
            /// Map `config`.
            pub config: Config,
            $($(#[$doc])* pub $field: $store,)*
        }

        /// A table.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Table {
            /// Map `config`, which has one entry.
            Config,
            $($(#[$doc])* $table,)*
        }

        /// One change of the kernel's state.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Write {
            /// Replaces the entry of map `config`.
            Config(Config),
            $($(#[$doc])* $table(Edit<$key, $value>),)*
        }

        impl State {
            /// Does to the state what a write does to the kernel.
            pub fn record(&mut self, write: &Write) {
                match write {
                    Write::Config(config) => self.config = *config,
                    $(Write::$table(Edit::Put(key, value)) => Store::put(&mut self.$field, *key, *value),
                    Write::$table(Edit::Remove(key)) => Store::<_, $value>::remove(&mut self.$field, key),)*
                }
            }

            /// Names of the tables that differ from those of another state.
            pub fn differences(&self, other: &Self) -> Vec<&'static str> {
                let mut differing = Vec::new();
                if self.config != other.config {
                    differing.push("config");
                }
                $(if self.$field != other.$field {
                    differing.push(stringify!($field));
                })*
                differing
            }

            /// Whether there is an entry for the key of a write.
            pub(super) fn has(&self, write: &Write) -> bool {
                match write {
                    Write::Config(_) => true,
                    $(Write::$table(edit) => Store::<_, $value>::has(&self.$field, edit.key()),)*
                }
            }
        }

        impl Table {
            /// What depends on it; `None` is everything.
            pub(super) const fn part(self) -> Option<Part> {
                match self {
                    Self::Config => None,
                    $(Self::$table => Some(Part::$part),)*
                }
            }
        }

        impl Write {
            /// The table that it changes.
            pub const fn table(&self) -> Table {
                match self {
                    Self::Config(_) => Table::Config,
                    $(Self::$table(_) => Table::$table,)*
                }
            }

            /// Whether there is an entry afterwards.
            pub const fn is_put(&self) -> bool {
                match self {
                    Self::Config(_) => true,
                    $(Self::$table(edit) => edit.is_put(),)*
                }
            }

            /// Where it may find no room.
            pub(super) fn room(&self) -> Option<Room> {
                match self {
                    $(Self::$table(Edit::Put(key, _)) if Holder::$holder == Holder::Map => Some(Room {
                        table: Table::$table,
                        whole: key.is_whole(),
                    }),)*
                    _ => None,
                }
            }
        }

        /// What is attempted, on which object.
        impl fmt::Display for Write {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    Self::Config(_) => f.write_str("writing the configuration"),
                    $(Self::$table(edit) => {
                        let verb = match (Holder::$holder, edit.is_put()) {
                            (Holder::Map, true) => "writing",
                            (Holder::Map, false) => "removing",
                            (Holder::Hooks, true) => "attaching",
                            (Holder::Hooks, false) => "detaching",
                        };
                        write!(f, concat!("{} ", $words, " {}"), verb, edit.key().name())
                    })*
                }
            }
        }
    };
}

tables! {
    /// Map `endpoints`: the pod behind each interface, by index, with both policies.
    endpoints: Endpoints(u32 => Endpoint) in BTreeMap<u32, Endpoint>,
        Interface, Map, "the endpoint of";
    /// Map `identities`: the class of peers of each address prefix.
    identities: Identities(IpNet => Identity) in Map<IpNet, Identity>,
        Policy, Map, "the identity of";
    /// Map `frontends`: the class of backends of each Service's frontend.
    frontends: Frontends(Frontend => Identity) in Map<Frontend, Identity>,
        Policy, Map, "the identity of frontend";
    /// Map `local_pods`: the interface of each pod, by address.
    local_pods: LocalPods(IpAddr => u32) in BTreeMap<IpAddr, u32>,
        PostDnat, Map, "the interface of the pod with";
    /// Map `senders`: the interface of each sender, by bridge and number.
    senders: Senders((u32, u32) => u32) in BTreeMap<(u32, u32), u32>,
        PostDnat, Map, "the interface of the sender with";
    /// Map `restricted`: backends that are closed to senders nobody knows.
    restricted: Restricted(Frontend => ()) in Set<Frontend>,
        PostDnat, Map, "the restriction of backend";
    /// Map `forwards`: what the pod of an interface sends and receives for beside its own address.
    forwards: Forwards((u32, IpNet) => ()) in BTreeSet<(u32, IpNet)>,
        Interface, Map, "the right to send for";
    /// Map `policies`: what each policy number says of a peer. A number without entries is absent.
    policies: Policies((u32, EntryKey) => PolicyValue) in Map<u32, EntryMap>,
        Policy, Map, "the entry for";
    /// Interfaces that carry this agent's programs.
    attached: Attached(u32 => ()) in BTreeSet<u32>,
        Interface, Hooks, "the programs of";
    /// Devices that carry this agent's program for packets that leave the node.
    attached_devices: AttachedDevices(u32 => ()) in BTreeSet<u32>,
        PostDnat, Hooks, "the program for leaving packets of";
}

/// A part of a map that is full by itself: entries of single addresses or ports have one of their
/// own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Room {
    table: Table,
    whole: bool,
}

/// What a table's key is.
trait Key {
    /// Its name in messages.
    fn name(&self) -> String;

    /// Whether it is of a single address or port, in a table that has others, too.
    fn is_whole(&self) -> bool {
        false
    }
}

impl Key for u32 {
    fn name(&self) -> String {
        format!("interface {self}")
    }
}

impl Key for IpAddr {
    fn name(&self) -> String {
        self.to_string()
    }
}

impl Key for IpNet {
    fn name(&self) -> String {
        self.to_string()
    }

    fn is_whole(&self) -> bool {
        self.prefix_len() == self.max_prefix_len()
    }
}

impl Key for Frontend {
    fn name(&self) -> String {
        SocketAddr::new(self.address, self.port).to_string()
    }
}

impl Key for (u32, u32) {
    fn name(&self) -> String {
        format!("number {} by bridge {}", self.1, self.0)
    }
}

impl Key for (u32, IpNet) {
    fn name(&self) -> String {
        format!("{} by interface {}", self.1, self.0)
    }
}

impl Key for (u32, EntryKey) {
    fn name(&self) -> String {
        format!("identity {} in policy {}", self.1.identity, self.0)
    }

    fn is_whole(&self) -> bool {
        self.1.protocol.is_some_and(|matched| matched.prefix_len == 16)
    }
}

/// The entries of a table in the agent's memory.
trait Store<K, V> {
    fn put(&mut self, key: K, value: V);
    fn remove(&mut self, key: &K);
    fn has(&self, key: &K) -> bool;
}

impl<K: Ord, V> Store<K, V> for BTreeMap<K, V> {
    fn put(&mut self, key: K, value: V) {
        self.insert(key, value);
    }

    fn remove(&mut self, key: &K) {
        Self::remove(self, key);
    }

    fn has(&self, key: &K) -> bool {
        self.contains_key(key)
    }
}

impl<K: Ord> Store<K, ()> for BTreeSet<K> {
    fn put(&mut self, key: K, (): ()) {
        self.insert(key);
    }

    fn remove(&mut self, key: &K) {
        Self::remove(self, key);
    }

    fn has(&self, key: &K) -> bool {
        self.contains(key)
    }
}

impl<K: Ord + Clone, V: Clone> Store<K, V> for Map<K, V> {
    fn put(&mut self, key: K, value: V) {
        self.insert(key, value);
    }

    fn remove(&mut self, key: &K) {
        Self::remove(self, key);
    }

    fn has(&self, key: &K) -> bool {
        self.contains_key(key)
    }
}

impl Store<(u32, EntryKey), PolicyValue> for Map<u32, EntryMap> {
    fn put(&mut self, (policy, key): (u32, EntryKey), value: PolicyValue) {
        let added = self.change(&policy, |entries| entries.insert(key, value));
        if added.is_none() {
            self.insert(policy, EntryMap::from_iter([(key, value)]));
        }
    }

    fn remove(&mut self, (policy, key): &(u32, EntryKey)) {
        let emptied = self.change(policy, |entries| {
            entries.remove(key);
            entries.is_empty()
        });
        if emptied == Some(true) {
            Self::remove(self, policy);
        }
    }

    fn has(&self, (policy, key): &(u32, EntryKey)) -> bool {
        self.get(policy).is_some_and(|entries| entries.contains_key(key))
    }
}
