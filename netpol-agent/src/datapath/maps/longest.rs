// SPDX-License-Identifier: Apache-2.0
//! Tables with longest-prefix match. Whole keys are in a hash map, as long as it has room: a lookup
//! there costs the same for any number of keys. Prefixes, and whole keys that did not fit, are in
//! an LPM trie. The programs ask the hash map first: its answer is the longest match.

use std::path::Path;

use aya::{
    Ebpf,
    maps::{
        HashMap, MapData, MapError as AyaError,
        lpm_trie::{Key, LpmTrie},
    },
};
use netpol_common::abi::{Address, Identity, Peer, PolicyMatch, PolicyValue, PortValue, bpf_spin_lock};

use super::{
    MapError, Named as _, check_layout,
    encoded::BPF_F_LOCK,
    map, present,
    table::{Encoded, Table},
};
use crate::{
    datapath::DatapathError,
    sync::Edit::{self, Put, Remove},
};

/// The value of a hash map of whole keys: it names its key.
pub(super) trait Whole: aya::Pod {
    /// The key.
    type Key: aya::Pod + PartialEq;
    /// What the trie has as the value.
    type Value: aya::Pod;
    /// The hash map.
    const NAME: &'static str;
    /// Bits of a whole key.
    const BITS: u32;
    /// In the place of a value that names another key: nothing that the agent writes.
    const WRONG: Self::Value;

    /// A value for a key.
    fn new(key: Self::Key, value: Self::Value) -> Self;
    /// The key that it names, and the value.
    fn parts(self) -> (Self::Key, Self::Value);
}

impl Whole for Peer {
    type Key = Address;
    type Value = Identity;
    const NAME: &'static str = "addresses";
    const BITS: u32 = 128;
    const WRONG: Identity = Identity {
        identity: u32::MAX,
        flags: u32::MAX,
    };

    fn new(address: Address, class: Identity) -> Self {
        Self {
            address,
            class,
            lock: bpf_spin_lock::default(),
        }
    }

    fn parts(self) -> (Address, Identity) {
        (self.address, self.class)
    }
}

impl Whole for PortValue {
    type Key = PolicyMatch;
    type Value = PolicyValue;
    const NAME: &'static str = "ports";
    const BITS: u32 = PolicyMatch::ONE_PORT;
    const WRONG: PolicyValue = PolicyValue {
        action: u32::MAX,
        rule: u32::MAX,
    };

    fn new(entry: PolicyMatch, value: PolicyValue) -> Self {
        Self {
            entry,
            value,
            lock: bpf_spin_lock::default(),
        }
    }

    fn parts(self) -> (PolicyMatch, PolicyValue) {
        (self.entry, self.value)
    }
}

/// Handles of both maps.
pub(super) struct Longest<W: Whole> {
    whole: HashMap<MapData, W::Key, W>,
    prefixes: LpmTrie<MapData, W::Key, W::Value>,
    name: &'static str,
}

impl<W: Whole> Longest<W> {
    /// Takes both out of a loaded object, by the name of the trie.
    pub(super) fn take(ebpf: &mut Ebpf, folder: &Path, name: &'static str) -> Result<Self, DatapathError> {
        check_layout::<W::Key, W>(&folder.join(W::NAME))?;
        check_layout::<Key<W::Key>, W::Value>(&folder.join(name))?;
        Ok(Self {
            whole: HashMap::try_from(map(ebpf, W::NAME)?).on(W::NAME, "opening")?,
            prefixes: LpmTrie::try_from(map(ebpf, name)?).on(name, "opening")?,
            name,
        })
    }

    /// Adds or replaces an entry.
    fn insert(&mut self, key: &Key<W::Key>, value: W::Value) -> Result<(), MapError> {
        if key.prefix_len() == W::BITS {
            let whole = W::new(key.data(), value);
            match self.whole.insert(key.data(), whole, BPF_F_LOCK) {
                Err(error) if is_full(&error) => {}
                written => return written.on(W::NAME, "writing"),
            }
        }
        self.prefixes.insert(key, value, 0).on(self.name, "writing")
    }

    /// Removes an entry. What the hash map says goes last, so that nothing is seen that it hid.
    fn remove(&mut self, key: &Key<W::Key>) -> Result<(), MapError> {
        present(self.prefixes.remove(key)).on(self.name, "removing an entry")?;
        if key.prefix_len() == W::BITS {
            present(self.whole.remove(&key.data())).on(W::NAME, "removing an entry")?;
        }
        Ok(())
    }
}

impl<W: Whole, K: Encoded<Bytes = Key<W::Key>>> Table<K, W::Value> for Longest<W> {
    /// Of a key that is in both, what the hash map says is last.
    fn read(&self, mut each: impl FnMut(Edit<K, W::Value>)) -> Result<(), MapError> {
        for entry in self.prefixes.iter() {
            let (key, value) = entry.on(self.name, "reading")?;
            each(Put(K::decode(key), value));
        }
        for entry in self.whole.iter() {
            let (key, value) = entry.on(W::NAME, "reading")?;
            let (named, value) = value.parts();
            let value = if named == key { value } else { W::WRONG };
            each(Put(K::decode(Key::new(W::BITS, key)), value));
        }
        Ok(())
    }

    fn edit(&mut self, edit: &Edit<K, W::Value>) -> Result<(), MapError> {
        match edit {
            Put(key, value) => self.insert(&key.encode(), *value),
            Remove(key) => self.remove(&key.encode()),
        }
    }
}

fn is_full(error: &AyaError) -> bool {
    matches!(error, AyaError::SyscallError(error) if error.io_error.raw_os_error() == Some(libc::E2BIG))
}
