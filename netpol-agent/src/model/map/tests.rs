// SPDX-License-Identifier: Apache-2.0
//! Compares the map with `BTreeMap`, over random changes.

use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;

use super::{FULL, Map};

/// One change: a key, and its new value or none.
fn changes() -> impl Strategy<Value = Vec<(u16, Option<u8>)>> {
    prop::collection::vec((0u16..700, prop::option::weighted(0.7, any::<u8>())), 0..900)
}

fn make(map: &mut Map<u16, u8>, plain: &mut BTreeMap<u16, u8>, changes: &[(u16, Option<u8>)]) {
    for (key, value) in changes {
        match value {
            Some(value) => assert_eq!(map.insert(*key, *value), plain.insert(*key, *value)),
            None => assert_eq!(map.remove(key), plain.remove(key)),
        }
    }
}

proptest! {
    #[test]
    fn it_holds_what_a_plain_map_holds(first in changes(), second in changes(), from in 0u16..700) {
        let (mut map, mut plain) = (Map::new(), BTreeMap::new());
        make(&mut map, &mut plain, &first);
        let (before, plain_before) = (map.clone(), plain.clone());
        make(&mut map, &mut plain, &second);
        prop_assert!(before.iter().eq(&plain_before), "a copy does not change with its origin");
        prop_assert!(map.iter().eq(&plain));
        prop_assert_eq!(map.len(), plain.len());
        prop_assert_eq!(map.last(), plain.last_key_value());
        prop_assert!(map.behind(|key| *key < from).eq(plain.range(from..)));
        for key in 0..700 {
            prop_assert_eq!(map.get(&key), plain.get(&key));
        }
        prop_assert!(map.chunks.iter().all(|chunk| (1..=FULL).contains(&chunk.len())));
        prop_assert_eq!(&map, &plain.iter().map(|(key, value)| (*key, *value)).collect());

        let expected: Vec<_> = (0..700u16)
            .filter(|key| plain_before.get(key) != plain.get(key))
            .map(|key| (key, plain_before.get(&key), plain.get(&key)))
            .collect();
        let found: Vec<_> = before.diff(&map).into_iter().map(|(key, old, new)| (*key, old, new)).collect();
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn a_change_copies_one_chunk() {
    let before: Map<u32, u32> = (0..10_000).map(|number| (number, number)).collect();
    let mut after = before.clone();
    after.insert(5_000, 0);
    after.change(&5_001, |value| *value += 1);
    let pairs = before.chunks.iter().zip(after.chunks.iter());
    assert_eq!(pairs.filter(|(old, new)| !Arc::ptr_eq(old, new)).count(), 1);
    assert_eq!(before.diff(&after).len(), 2);
    assert!(before.is_same(&before.clone()) && before.diff(&before.clone()).is_empty());
}
