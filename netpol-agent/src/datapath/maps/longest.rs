// SPDX-License-Identifier: Apache-2.0
//! Tables with longest-prefix match. Whole keys are in a hash map, as long as it has room: a lookup
//! there costs the same for any number of keys. Prefixes, and whole keys that did not fit, are in an
//! LPM trie. The programs ask the hash map first: its answer is the longest match.

use std::path::Path;

use aya::{
    Ebpf,
    maps::{
        HashMap, MapData, MapError as AyaError,
        lpm_trie::{Key, LpmTrie},
    },
};
use netpol_common::abi::{Address, Identity, Peer, PolicyMatch, PolicyValue, PortValue, bpf_spin_lock};

use super::{BPF_F_LOCK, MapError, Named as _, check_layout, map, present};
use crate::datapath::DatapathError;

/// The value of a hash map of whole keys: it names its key.
pub(super) trait Whole: aya::Pod {
    /// The key.
    type Key: aya::Pod + PartialEq;
    /// What the trie has as the value.
    type Value: aya::Pod;
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

/// Key and value, as in the trie.
type Entry<W> = (Key<<W as Whole>::Key>, <W as Whole>::Value);

/// Handles of both maps.
pub(super) struct Longest<W: Whole> {
    whole: HashMap<MapData, W::Key, W>,
    prefixes: LpmTrie<MapData, W::Key, W::Value>,
    names: [&'static str; 2],
}

impl<W: Whole> Longest<W> {
    /// Takes both out of a loaded object, by the names of the hash map and of the trie.
    pub(super) fn take(
        ebpf: &mut Ebpf,
        folder: &Path,
        names: [&'static str; 2],
    ) -> Result<Self, DatapathError> {
        check_layout::<W::Key, W>(&folder.join(names[0]))?;
        check_layout::<Key<W::Key>, W::Value>(&folder.join(names[1]))?;
        Ok(Self {
            whole: HashMap::try_from(map(ebpf, names[0])?).on(names[0], "opening")?,
            prefixes: LpmTrie::try_from(map(ebpf, names[1])?).on(names[1], "opening")?,
            names,
        })
    }

    /// What they say: of a key that is in both, what the hash map says is last.
    pub(super) fn read(&self) -> Result<Vec<Entry<W>>, MapError> {
        let mut entries = Vec::new();
        for entry in self.prefixes.iter() {
            entries.push(entry.on(self.names[1], "reading")?);
        }
        for entry in self.whole.iter() {
            let (key, value) = entry.on(self.names[0], "reading")?;
            let (named, value) = value.parts();
            let value = if named == key { value } else { W::WRONG };
            entries.push((Key::new(W::BITS, key), value));
        }
        Ok(entries)
    }

    /// Adds or replaces an entry.
    pub(super) fn insert(&mut self, key: &Key<W::Key>, value: W::Value) -> Result<(), MapError> {
        if key.prefix_len() == W::BITS {
            match self
                .whole
                .insert(key.data(), W::new(key.data(), value), BPF_F_LOCK)
            {
                Err(error) if is_full(&error) => {}
                written => return written.on(self.names[0], "writing"),
            }
        }
        self.prefixes.insert(key, value, 0).on(self.names[1], "writing")
    }

    /// Removes an entry. What the hash map says goes last, so that nothing is seen that it hid.
    pub(super) fn remove(&mut self, key: &Key<W::Key>) -> Result<(), MapError> {
        present(self.prefixes.remove(key)).on(self.names[1], "removing an entry")?;
        if key.prefix_len() == W::BITS {
            present(self.whole.remove(&key.data())).on(self.names[0], "removing an entry")?;
        }
        Ok(())
    }
}

fn is_full(error: &AyaError) -> bool {
    matches!(error, AyaError::SyscallError(error) if error.io_error.raw_os_error() == Some(libc::E2BIG))
}
