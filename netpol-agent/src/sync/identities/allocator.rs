// SPDX-License-Identifier: Apache-2.0
//! Numbers for the classes of addresses and frontends.

use std::collections::BTreeMap;

use crate::{compile::ClassId, model::Map, sync::Meaning};

/// For up to so many classes, numbers are looked up one by one.
const FEW: usize = 16;

/// Allocates numbers for classes.
pub struct Allocator<F, S> {
    /// New numbers.
    fresh: F,
    /// What the numbers in use stand for.
    owners: Map<u32, Meaning>,
    /// Numbers of each class, once more than a few classes asked.
    by_class: Option<BTreeMap<ClassId, Vec<u32>>>,
    /// For each class that asked, a number in use that it may join.
    joinable: BTreeMap<ClassId, Option<u32>>,
    /// The new number of each class that got one.
    pub fresh_of: BTreeMap<ClassId, u32>,
    stable: S,
}

impl<F: Iterator<Item = u32>, S: Fn(u32, ClassId) -> bool> Allocator<F, S> {
    /// Allocates numbers in use, of these `owners`, if they are `stable`, and else `fresh` ones.
    pub fn new(fresh: F, owners: Map<u32, Meaning>, stable: S) -> Self {
        Self {
            fresh,
            owners,
            by_class: None,
            joinable: BTreeMap::new(),
            fresh_of: BTreeMap::new(),
            stable,
        }
    }

    /// The numbers in use of a class.
    fn numbers_of(&mut self, class: ClassId) -> Vec<u32> {
        if self.by_class.is_none() && self.joinable.len() < FEW {
            let of_class = self.owners.iter().filter(|(_, meaning)| meaning.class == class);
            return of_class.map(|(number, _)| *number).collect();
        }
        let owners = &self.owners;
        let by_class = self.by_class.get_or_insert_with(|| {
            let mut by_class: BTreeMap<ClassId, Vec<u32>> = BTreeMap::new();
            for (number, meaning) in owners {
                by_class.entry(meaning.class).or_default().push(*number);
            }
            by_class
        });
        by_class.get(&class).cloned().unwrap_or_default()
    }

    /// The number for an address of a class, which carries `current` now.
    pub fn allocate(&mut self, class: ClassId, current: Option<u32>) -> u32 {
        if let Some(current) = current
            && self
                .owners
                .get(&current)
                .is_some_and(|meaning| meaning.class == class)
        {
            return current;
        }
        if !self.joinable.contains_key(&class) {
            let mut numbers = self.numbers_of(class).into_iter();
            let join = numbers.find(|number| (self.stable)(*number, class));
            self.joinable.insert(class, join);
        }
        let join = self.joinable[&class];
        join.unwrap_or_else(|| {
            let fresh = &mut self.fresh;
            *self.fresh_of.entry(class).or_insert_with(|| match fresh.next() {
                Some(number) => number,
                None => unreachable!("the maps have room for fewer than there are numbers"),
            })
        })
    }
}
