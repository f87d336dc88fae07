// SPDX-License-Identifier: Apache-2.0
//! Compact labels: most pods share theirs with other pods, and nearly all keys and values are
//! shared.

use std::{collections::BTreeMap, fmt, ops::Index, sync::Arc};

/// Labels of a pod or a namespace, or those that a selector demands. A copy is cheap.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Labels(Arc<[Label]>);

/// Key and value.
type Label = (Arc<str>, Arc<str>);

impl Labels {
    /// Returns an empty set of labels.
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks up the value of a label.
    pub fn get(&self, key: &str) -> Option<&str> {
        let place = self.0.binary_search_by(|(known, _)| (**known).cmp(key)).ok()?;
        Some(&self.0[place].1)
    }

    /// Returns true if there is such a label.
    pub fn contains_key(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// Iterates over keys and values, in the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }

    /// Returns the number of labels.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns true if there are no labels.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sets a label.
    pub fn insert(&mut self, key: impl Into<Arc<str>>, value: impl Into<Arc<str>>) {
        let mut labels: BTreeMap<Arc<str>, Arc<str>> = self.0.iter().cloned().collect();
        labels.insert(key.into(), value.into());
        self.0 = labels.into_iter().collect();
    }

    /// Removes a label.
    pub fn remove(&mut self, key: &str) {
        self.0 = self
            .0
            .iter()
            .filter(|(known, _)| **known != *key)
            .cloned()
            .collect();
    }

    /// Returns the same labels with other copies of the texts, as `text` gives them.
    pub(crate) fn with_texts(&self, mut text: impl FnMut(&Arc<str>) -> Arc<str>) -> Self {
        Self(
            self.0
                .iter()
                .map(|(key, value)| (text(key), text(value)))
                .collect(),
        )
    }

    /// Returns true if someone else shares these labels.
    pub(crate) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

impl From<BTreeMap<String, String>> for Labels {
    fn from(labels: BTreeMap<String, String>) -> Self {
        Self(
            labels
                .into_iter()
                .map(|(key, value)| (key.into(), value.into()))
                .collect(),
        )
    }
}

impl FromIterator<Label> for Labels {
    /// Of two values for a key the last one counts.
    fn from_iter<I: IntoIterator<Item = Label>>(labels: I) -> Self {
        let mut labels: Vec<Label> = labels.into_iter().collect();
        labels.sort_by(|(key, _), (other, _)| key.cmp(other));
        labels.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            if same {
                std::mem::swap(&mut later.1, &mut kept.1);
            }
            same
        });
        Self(labels.into())
    }
}

impl FromIterator<(String, String)> for Labels {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(labels: I) -> Self {
        labels.into_iter().collect::<BTreeMap<_, _>>().into()
    }
}

impl<const N: usize> From<[(String, String); N]> for Labels {
    fn from(labels: [(String, String); N]) -> Self {
        labels.into_iter().collect()
    }
}

impl Index<&str> for Labels {
    type Output = str;

    /// # Panics
    /// If there is no such label.
    fn index(&self, key: &str) -> &str {
        match self.get(key) {
            Some(value) => value,
            None => panic!("no label {key}"),
        }
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_found_by_their_keys() {
        let mut labels =
            Labels::from([("b", "2"), ("a", "1")].map(|(key, value)| (key.to_owned(), value.to_owned())));
        labels.insert("c", "3");
        labels.insert("b", "4");
        assert_eq!(
            labels.iter().collect::<Vec<_>>(),
            [("a", "1"), ("b", "4"), ("c", "3")]
        );
        assert_eq!(
            (labels.get("b"), labels.get("d"), &labels["c"]),
            (Some("4"), None, "3")
        );
        labels.remove("a");
        assert_eq!((labels.len(), labels.contains_key("a")), (2, false));
    }
}
