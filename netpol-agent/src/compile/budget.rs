// SPDX-License-Identifier: Apache-2.0
//! Budgets of objects (rule L2). Objects are counted before anything is built from them.
//!
//! An object over its own limit is refused. The objects of a namespace are admitted in the order of
//! their names as long as they fit the namespace's limit: a namespace harms only itself. If all
//! namespaces together would use too much, none may use more than the level at which they fit. The
//! limit of all can depend on what they ask for.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::model::{Limit, ObjectKey, Text};

/// Amounts of resources.
pub(super) type Weight<const N: usize> = [usize; N];

/// The limit that an object exceeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    /// Index of the resource.
    pub(super) resource: usize,
    /// What the object would use of it.
    pub(super) asked: usize,
    /// The limit.
    limit: usize,
    whose: Whose,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Object,
    Namespace,
    Everyone,
}

impl Refusal {
    /// Words for a refusal, by the names of the resources.
    pub(super) fn describe<'a>(&'a self, resources: &'a [&str]) -> impl fmt::Display + 'a {
        struct Text<'a>(&'a Refusal, &'a str);
        impl fmt::Display for Text<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let Refusal {
                    asked, limit, whose, ..
                } = self.0;
                write!(f, "it comes to {asked} {}, ", self.1)?;
                match whose {
                    Whose::Object => write!(f, "and one object may to {limit}"),
                    Whose::Namespace => write!(f, "and its namespace may to {limit} in all"),
                    Whose::Everyone => {
                        write!(f, "and its namespace may to {limit} while others need the rest")
                    }
                }
            }
        }
        Text(self, resources[self.resource])
    }
}

/// The objects of one kind.
#[derive(Debug)]
pub(super) struct Budget<const N: usize> {
    limits: [Limit; N],
    spaces: BTreeMap<Text, Space<N>>,
    /// What all namespaces would use, each within its own limit.
    asked: Weight<N>,
    /// What a namespace may use so that others get their share.
    level: Weight<N>,
    /// Namespaces whose objects have changed since refusals were last settled.
    stale: BTreeSet<Text>,
}

#[derive(Debug)]
struct Space<const N: usize> {
    objects: BTreeMap<Text, Weight<N>>,
    /// What the objects would use that keep to the limit of an object.
    raw: Weight<N>,
    /// The number of objects that exceed it.
    over: usize,
    /// What the namespace would use within its own limit.
    asked: Weight<N>,
    refused: BTreeMap<Text, Refusal>,
}

impl<const N: usize> Budget<N> {
    /// A budget with these limits.
    pub(super) fn new(limits: [Limit; N]) -> Self {
        Self {
            limits,
            spaces: BTreeMap::new(),
            asked: [0; N],
            level: [usize::MAX; N],
            stale: BTreeSet::new(),
        }
    }

    /// Sets what an object would use; `None`: it is gone.
    pub(super) fn set(&mut self, key: &ObjectKey, weight: Option<Weight<N>>) {
        let limits = &self.limits;
        let space = self.spaces.entry(key.namespace.clone()).or_insert_with(|| Space {
            objects: BTreeMap::new(),
            raw: [0; N],
            over: 0,
            asked: [0; N],
            refused: BTreeMap::new(),
        });
        let before = match weight {
            Some(weight) => space.objects.insert(key.name.clone(), weight),
            None => space.objects.remove(&key.name),
        };
        if before == weight {
            return;
        }
        match before {
            Some(before) if over_object(limits, &before).is_some() => space.over -= 1,
            Some(before) => (0..N).for_each(|nth| space.raw[nth] -= before[nth]),
            None => {}
        }
        match weight {
            Some(weight) if over_object(limits, &weight).is_some() => space.over += 1,
            Some(weight) => (0..N).for_each(|nth| space.raw[nth] += weight[nth]),
            None => {}
        }
        self.stale.insert(key.namespace.clone());
    }

    /// The refusal of an object, as of the last time that refusals were settled.
    pub(super) fn refusal(&self, key: &ObjectKey) -> Option<&Refusal> {
        self.spaces.get(&*key.namespace)?.refused.get(&*key.name)
    }

    /// Settles which objects are refused. Returns those of which that has changed.
    pub(super) fn settle(&mut self) -> BTreeSet<ObjectKey> {
        let all = self.limits.map(|limit| limit.all);
        self.settle_within(|_| all, [0; N])
    }

    /// The same with a limit of all that depends on what each namespace would use within its own
    /// limit. `least` is what each may use in any case.
    pub(super) fn settle_within(
        &mut self,
        all: impl FnOnce(&[Weight<N>]) -> Weight<N>,
        least: Weight<N>,
    ) -> BTreeSet<ObjectKey> {
        let mut changed = BTreeSet::new();
        if self.stale.is_empty() {
            return changed;
        }
        let own = self.limits.map(|limit| limit.namespace);
        for name in &self.stale {
            let Some(space) = self.spaces.get_mut(name) else {
                continue;
            };
            let (asked, _) = space.admit(&self.limits, &own, &[usize::MAX; N]);
            (0..N).for_each(|nth| self.asked[nth] = self.asked[nth] - space.asked[nth] + asked[nth]);
            space.asked = asked;
        }
        let asked: Vec<_> = self.spaces.values().map(|space| space.asked).collect();
        let all = all(&asked);
        let level: Weight<N> = std::array::from_fn(|nth| {
            if self.asked[nth] <= all[nth] {
                usize::MAX
            } else {
                let asked = self.spaces.values().map(|space| space.asked[nth]).collect();
                level(asked, all[nth]).max(least[nth])
            }
        });
        let mut stale = std::mem::take(&mut self.stale);
        if level != std::mem::replace(&mut self.level, level) {
            stale.extend(self.spaces.keys().cloned());
        }
        for name in stale {
            let Some(space) = self.spaces.get_mut(&name) else {
                continue;
            };
            let (_, refused) = space.admit(&self.limits, &own, &level);
            let key = |object: &Text| ObjectKey::new(name.clone(), object.clone());
            let before = std::mem::replace(&mut space.refused, refused);
            let other = |(object, refusal): &(&Text, &Refusal), than: &BTreeMap<Text, Refusal>| {
                than.get(*object) != Some(*refusal)
            };
            let come = space.refused.iter().filter(|entry| other(entry, &before));
            changed.extend(come.map(|(object, _)| key(object)));
            let gone = before.iter().filter(|entry| other(entry, &space.refused));
            changed.extend(gone.map(|(object, _)| key(object)));
            if space.objects.is_empty() {
                self.spaces.remove(&name);
            }
        }
        changed
    }
}

impl<const N: usize> Space<N> {
    /// What the namespace would use within its own limit, and what is refused if it may not use
    /// more than `level` either. An object over the namespace's own limit does not get the place of
    /// one that the level refuses.
    fn admit(
        &self,
        limits: &[Limit; N],
        own: &Weight<N>,
        level: &Weight<N>,
    ) -> (Weight<N>, BTreeMap<Text, Refusal>) {
        let mut refused = BTreeMap::new();
        let fits = |most: &Weight<N>| (0..N).all(|nth| self.raw[nth] <= most[nth]);
        if self.over == 0 && fits(own) && fits(level) {
            return (self.raw, refused);
        }
        let (mut asked, mut used) = ([0; N], [0; N]);
        for (name, weight) in &self.objects {
            let over = |used: &Weight<N>, most: &Weight<N>| {
                (0..N).find(|&nth| used[nth].saturating_add(weight[nth]) > most[nth])
            };
            let refusal = if let Some(resource) = over_object(limits, weight) {
                Some((resource, limits[resource].object, Whose::Object))
            } else if let Some(resource) = over(&asked, own) {
                Some((resource, own[resource], Whose::Namespace))
            } else {
                (0..N).for_each(|nth| asked[nth] += weight[nth]);
                over(&used, level).map(|resource| (resource, level[resource], Whose::Everyone))
            };
            match refusal {
                Some((resource, limit, whose)) => {
                    let asked = weight[resource];
                    let refusal = Refusal {
                        resource,
                        asked,
                        limit,
                        whose,
                    };
                    refused.insert(name.clone(), refusal);
                }
                None => (0..N).for_each(|nth| used[nth] += weight[nth]),
            }
        }
        (asked, refused)
    }
}

/// The first resource of which an object alone would use too much.
fn over_object<const N: usize>(limits: &[Limit; N], weight: &Weight<N>) -> Option<usize> {
    (0..N).find(|&nth| weight[nth] > limits[nth].object)
}

/// The most that each may use so that all of them fit.
fn level(mut asked: Vec<usize>, all: usize) -> usize {
    asked.sort_unstable();
    let mut left = all;
    for (nth, one) in asked.iter().enumerate() {
        let share = left / (asked.len() - nth);
        if *one > share {
            return share;
        }
        left -= one;
    }
    usize::MAX
}
