// SPDX-License-Identifier: Apache-2.0
//! A table of the agent's as a map of the kernel's.

use std::path::Path;

use aya::{
    Ebpf, Pod,
    maps::{
        HashMap, MapData,
        lpm_trie::{Key, LpmTrie},
    },
};

use super::{MapError, Named as _, check_layout, map, present};
use crate::{
    datapath::DatapathError,
    sync::Edit::{self, Put, Remove},
};

/// A key or value of a table, as the map has it.
pub(super) trait Encoded: Copy {
    /// The bytes: a type of [`netpol_common::abi`].
    type Bytes;
    /// Flags with which a value is written.
    const FLAGS: u64 = 0;

    /// To bytes.
    fn encode(self) -> Self::Bytes;
    /// From bytes.
    fn decode(bytes: Self::Bytes) -> Self;
}

/// A map that holds a table.
pub(super) trait Table<K, V> {
    /// Hands on each entry.
    fn read(&self, each: impl FnMut(Edit<K, V>)) -> Result<(), MapError>;

    /// Makes a change.
    fn edit(&mut self, edit: &Edit<K, V>) -> Result<(), MapError>;
}

/// A hash map.
pub(super) struct Hash<K: Pod, V: Pod> {
    map: HashMap<MapData, K, V>,
    name: &'static str,
}

impl<K: Pod, V: Pod> Hash<K, V> {
    /// Takes it out of a loaded object.
    pub(super) fn take(ebpf: &mut Ebpf, folder: &Path, name: &'static str) -> Result<Self, DatapathError> {
        check_layout::<K, V>(&folder.join(name))?;
        let map = HashMap::try_from(map(ebpf, name)?).on(name, "opening")?;
        Ok(Self { map, name })
    }
}

impl<K, V> Table<K, V> for Hash<K::Bytes, V::Bytes>
where
    K: Encoded<Bytes: Pod>,
    V: Encoded<Bytes: Pod>,
{
    fn read(&self, mut each: impl FnMut(Edit<K, V>)) -> Result<(), MapError> {
        for entry in self.map.iter() {
            let (key, value) = entry.on(self.name, "reading")?;
            each(Put(K::decode(key), V::decode(value)));
        }
        Ok(())
    }

    fn edit(&mut self, edit: &Edit<K, V>) -> Result<(), MapError> {
        match edit {
            Put(key, value) => {
                let written = self.map.insert(key.encode(), value.encode(), V::FLAGS);
                written.on(self.name, "writing")
            }
            Remove(key) => present(self.map.remove(&key.encode())).on(self.name, "removing an entry"),
        }
    }
}

/// A trie by longest prefix.
pub(super) struct Trie<K: Pod, V: Pod> {
    map: LpmTrie<MapData, K, V>,
    name: &'static str,
}

impl<K: Pod, V: Pod> Trie<K, V> {
    /// Takes it out of a loaded object.
    pub(super) fn take(ebpf: &mut Ebpf, folder: &Path, name: &'static str) -> Result<Self, DatapathError> {
        check_layout::<Key<K>, V>(&folder.join(name))?;
        let map = LpmTrie::try_from(map(ebpf, name)?).on(name, "opening")?;
        Ok(Self { map, name })
    }
}

impl<K, V, B: Pod> Table<K, V> for Trie<B, V::Bytes>
where
    K: Encoded<Bytes = Key<B>>,
    V: Encoded<Bytes: Pod>,
{
    fn read(&self, mut each: impl FnMut(Edit<K, V>)) -> Result<(), MapError> {
        for entry in self.map.iter() {
            let (key, value) = entry.on(self.name, "reading")?;
            each(Put(K::decode(key), V::decode(value)));
        }
        Ok(())
    }

    fn edit(&mut self, edit: &Edit<K, V>) -> Result<(), MapError> {
        match edit {
            Put(key, value) => {
                let written = self.map.insert(&key.encode(), value.encode(), V::FLAGS);
                written.on(self.name, "writing")
            }
            Remove(key) => present(self.map.remove(&key.encode())).on(self.name, "removing an entry"),
        }
    }
}
