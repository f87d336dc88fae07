// SPDX-License-Identifier: Apache-2.0
//! A sorted map whose copies share their common entries. It is cheap to keep one per revision, and
//! cheap to compare two.

#[cfg(test)]
mod tests;

use std::{
    borrow::Borrow,
    collections::{BTreeMap, btree_map},
    fmt,
    ops::Index,
    slice,
    sync::Arc,
};

/// Maximum number of entries in a chunk.
const FULL: usize = 128;

/// Adjacent entries, sorted. Never empty.
type Chunk<K, V> = Arc<Vec<(K, V)>>;

/// A sorted map in shared chunks. A copy shares all of them. A change copies one chunk, and the
/// list of chunks if it is shared.
pub struct Map<K, V> {
    chunks: Arc<Vec<Chunk<K, V>>>,
    len: usize,
}

/// Keys without values.
pub type Set<K> = Map<K, ()>;

/// A difference between two maps: the key, and its value in either map.
pub type Change<'a, K, V> = (&'a K, Option<&'a V>, Option<&'a V>);

impl<K, V> Map<K, V> {
    /// Returns an empty map.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns true if there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Iterates over all entries in the order of their keys.
    pub fn iter(&self) -> Iter<'_, K, V> {
        Iter {
            chunks: self.chunks.iter(),
            entries: [].iter(),
        }
    }

    /// Iterates over all keys in order.
    pub fn keys(&self) -> impl Iterator<Item = &K> + Clone {
        self.iter().map(|(key, _)| key)
    }

    /// Iterates over all values in the order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &V> + Clone {
        self.iter().map(|(_, value)| value)
    }

    /// Iterates over the entries after those whose keys are `before`. `before` must hold for the
    /// first keys only.
    pub fn behind(&self, before: impl Fn(&K) -> bool) -> Iter<'_, K, V> {
        let chunk = self
            .chunks
            .partition_point(|chunk| chunk.last().is_some_and(|(key, _)| before(key)));
        let entries = self.chunks.get(chunk).map_or(&[][..], |entries| {
            &entries[entries.partition_point(|(key, _)| before(key))..]
        });
        Iter {
            chunks: self.chunks.get(chunk + 1..).unwrap_or_default().iter(),
            entries: entries.iter(),
        }
    }

    /// Returns the entry with the highest key.
    pub fn last(&self) -> Option<(&K, &V)> {
        let (key, value) = self.chunks.last()?.last()?;
        Some((key, value))
    }

    /// Returns true if both maps share all their chunks.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.chunks, &other.chunks)
    }
}

impl<K: Ord, V> Map<K, V> {
    /// Finds a key: its chunk, and its place there or the place where it would be.
    fn find<Q: Ord + ?Sized>(&self, key: &Q) -> (usize, Result<usize, usize>)
    where
        K: Borrow<Q>,
    {
        let behind = self
            .chunks
            .partition_point(|chunk| chunk.first().is_some_and(|(first, _)| first.borrow() <= key));
        let chunk = behind.saturating_sub(1);
        let place = self.chunks.get(chunk).map_or(Err(0), |entries| {
            entries.binary_search_by(|(found, _)| found.borrow().cmp(key))
        });
        (chunk, place)
    }

    /// Looks up the value of a key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let (chunk, place) = self.find(key);
        Some(&self.chunks.get(chunk)?[place.ok()?].1)
    }

    /// Returns true if there is such a key.
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }
}

impl<K: Ord, V: PartialEq> Map<K, V> {
    /// Returns the differences of `after`, in the order of the keys. If one map was made from the
    /// other, the cost depends only on what differs.
    pub fn diff<'a>(&'a self, after: &'a Self) -> Vec<Change<'a, K, V>> {
        let mut changes = Vec::new();
        if self.is_same(after) {
            return changes;
        }
        let (mut old, mut new) = (Cursor::new(self), Cursor::new(after));
        loop {
            match (old.entry(), new.entry()) {
                (None, None) => return changes,
                (Some(_), Some(_)) if old.is_at_same_chunk(&new) => {
                    old.skip_chunk();
                    new.skip_chunk();
                }
                (Some((key, value)), other) if other.is_none_or(|(next, _)| key < next) => {
                    changes.push((key, Some(value), None));
                    old.advance();
                }
                (other, Some((key, value))) if other.is_none_or(|(next, _)| key < next) => {
                    changes.push((key, None, Some(value)));
                    new.advance();
                }
                (Some((key, before)), Some((_, value))) => {
                    if before != value {
                        changes.push((key, Some(before), Some(value)));
                    }
                    old.advance();
                    new.advance();
                }
                // Covered above: one key exists and the other does not.
                (Some(_), None) | (None, Some(_)) => return changes,
            }
        }
    }
}

/// A place in a map.
struct Cursor<'a, K, V> {
    chunks: &'a [Chunk<K, V>],
    place: usize,
}

impl<'a, K, V> Cursor<'a, K, V> {
    fn new(map: &'a Map<K, V>) -> Self {
        Self {
            chunks: &map.chunks,
            place: 0,
        }
    }

    fn entry(&self) -> Option<(&'a K, &'a V)> {
        let (key, value) = &self.chunks.first()?[self.place];
        Some((key, value))
    }

    fn is_at_same_chunk(&self, other: &Self) -> bool {
        self.place == 0
            && other.place == 0
            && self
                .chunks
                .first()
                .zip(other.chunks.first())
                .is_some_and(|(own, others)| Arc::ptr_eq(own, others))
    }

    fn skip_chunk(&mut self) {
        self.chunks = &self.chunks[1..];
        self.place = 0;
    }

    fn advance(&mut self) {
        self.place += 1;
        if self.place == self.chunks[0].len() {
            self.skip_chunk();
        }
    }
}

impl<K: Ord + Clone, V: Clone> Map<K, V> {
    /// Sets the value of a key and returns the previous one.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let (chunk, place) = self.find(&key);
        let chunks = Arc::make_mut(&mut self.chunks);
        let Some(shared) = chunks.get_mut(chunk) else {
            chunks.push(Arc::new(vec![(key, value)]));
            self.len += 1;
            return None;
        };
        let entries = Arc::make_mut(shared);
        match place {
            Ok(place) => Some(std::mem::replace(&mut entries[place].1, value)),
            Err(place) => {
                // Chunks that only grow at their end, as from a sorted list, stay full.
                if entries.len() == FULL {
                    let at = if place == FULL { FULL } else { FULL / 2 };
                    let mut upper = Vec::with_capacity(FULL);
                    upper.extend(entries.drain(at..));
                    if place < at || place == at && at < FULL {
                        entries.insert(place, (key, value));
                    } else {
                        upper.insert(place - at, (key, value));
                    }
                    chunks.insert(chunk + 1, Arc::new(upper));
                } else {
                    entries.insert(place, (key, value));
                }
                self.len += 1;
                None
            }
        }
    }

    /// Removes a key and returns its value.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let (chunk, Ok(place)) = self.find(key) else {
            return None;
        };
        let chunks = Arc::make_mut(&mut self.chunks);
        let entries = Arc::make_mut(&mut chunks[chunk]);
        let (_, value) = entries.remove(place);
        self.len -= 1;
        if entries.is_empty() {
            chunks.remove(chunk);
        } else if entries.len() < FULL / 4
            && let Some(next) = chunks.get(chunk + 1)
            && next.len() < FULL / 2
        {
            let next = chunks.remove(chunk + 1);
            Arc::make_mut(&mut chunks[chunk]).extend(next.iter().cloned());
        }
        Some(value)
    }

    /// Changes the value of a key that exists.
    pub fn change<R>(&mut self, key: &K, change: impl FnOnce(&mut V) -> R) -> Option<R> {
        let (chunk, Ok(place)) = self.find(key) else {
            return None;
        };
        let entries = Arc::make_mut(&mut Arc::make_mut(&mut self.chunks)[chunk]);
        Some(change(&mut entries[place].1))
    }
}

/// Iterator over the entries of a map, in order.
pub struct Iter<'a, K, V> {
    chunks: slice::Iter<'a, Chunk<K, V>>,
    entries: slice::Iter<'a, (K, V)>,
}

impl<K, V> Clone for Iter<'_, K, V> {
    fn clone(&self) -> Self {
        Self {
            chunks: self.chunks.clone(),
            entries: self.entries.clone(),
        }
    }
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, value)) = self.entries.next() {
                return Some((key, value));
            }
            self.entries = self.chunks.next()?.iter();
        }
    }
}

impl<'a, K, V> IntoIterator for &'a Map<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for Map<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        Self::from(entries.into_iter().collect::<BTreeMap<K, V>>())
    }
}

impl<K: Ord + Clone, V: Clone> From<BTreeMap<K, V>> for Map<K, V> {
    fn from(entries: BTreeMap<K, V>) -> Self {
        let len = entries.len();
        let mut chunks = Vec::with_capacity(len.div_ceil(FULL));
        let mut entries: btree_map::IntoIter<K, V> = entries.into_iter();
        while entries.len() > 0 {
            chunks.push(Arc::new(entries.by_ref().take(FULL).collect()));
        }
        Self {
            chunks: Arc::new(chunks),
            len,
        }
    }
}

impl<K: Ord + Clone, V: Clone> Extend<(K, V)> for Map<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

impl<K, V> Default for Map<K, V> {
    fn default() -> Self {
        Self {
            chunks: Arc::new(Vec::new()),
            len: 0,
        }
    }
}

impl<K, V> Clone for Map<K, V> {
    fn clone(&self) -> Self {
        Self {
            chunks: self.chunks.clone(),
            len: self.len,
        }
    }
}

impl<K: PartialEq, V: PartialEq> PartialEq for Map<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.is_same(other) || self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<K: Eq, V: Eq> Eq for Map<K, V> {}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for Map<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

impl<K: Ord + Borrow<Q>, V, Q: Ord + ?Sized> Index<&Q> for Map<K, V> {
    type Output = V;

    /// # Panics
    /// If there is no such key.
    fn index(&self, key: &Q) -> &V {
        match self.get(key) {
            Some(value) => value,
            None => panic!("no such key in the map"),
        }
    }
}
