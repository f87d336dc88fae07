// SPDX-License-Identifier: Apache-2.0
//! Sets of peers. They are small in memory: a pod may match many thousands of peers, and there is
//! one such set for each group of pods.

use std::{fmt, iter, sync::Arc};

/// Number of a peer, given once by a compiler.
pub type PeerId = u64;

/// Peers by number. 64 neighbouring numbers are one word of 16 bytes. Copies are cheap and share
/// all words. To compare, join or subtract two sets costs their words.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PeerSet(Arc<[Word]>);

/// Peers of a word.
const WIDTH: u64 = 64;

/// The peers from `64 * place` on, lowest bit first. Never empty.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Word {
    place: u64,
    bits: u64,
}

impl Word {
    fn of(peer: PeerId) -> Self {
        Self {
            place: peer / WIDTH,
            bits: 1 << (peer % WIDTH),
        }
    }

    fn is_before(&self, place: u64) -> bool {
        #[cfg(test)]
        tests::COMPARED.set(tests::COMPARED.get() + 1);
        self.place < place
    }
}

impl PeerSet {
    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether both share their memory.
    #[cfg(test)]
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Number of peers.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.bits.count_ones() as usize).sum()
    }

    /// The peers, ascending.
    pub fn iter(&self) -> impl Iterator<Item = PeerId> + Clone {
        self.0.iter().flat_map(|word| {
            let next = |bits: &u64| Some(bits & (bits - 1)).filter(|left| *left != 0);
            let bits = iter::successors(Some(word.bits), next);
            bits.map(|bits| word.place * WIDTH + u64::from(bits.trailing_zeros()))
        })
    }

    /// Whether a peer is among them.
    pub fn contains(&self, peer: PeerId) -> bool {
        let one = Word::of(peer);
        let place = self.0.binary_search_by_key(&one.place, |word| word.place);
        place.is_ok_and(|place| self.0[place].bits & one.bits != 0)
    }

    /// Whether both have a peer in common. Costs the words of both together, or less if one has
    /// few.
    pub fn intersects(&self, other: &Self) -> bool {
        let (few, mut many) = if self.0.len() <= other.0.len() {
            (&self.0, &*other.0)
        } else {
            (&other.0, &*self.0)
        };
        for word in few.iter() {
            // Near the last one, if both are dense.
            let mut reach = 1;
            while many.get(reach).is_some_and(|far| !word.is_before(far.place)) {
                reach *= 2;
            }
            let near = &many[..many.len().min(reach + 1)];
            many = &many[near.partition_point(|near| near.is_before(word.place))..];
            match many.split_first() {
                Some((same, behind)) if same.place == word.place => {
                    if same.bits & word.bits != 0 {
                        return true;
                    }
                    many = behind;
                }
                Some(_) => {}
                None => return false,
            }
        }
        false
    }

    /// The peers of either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        if other.is_empty() {
            return self.clone();
        }
        if self.is_empty() {
            return other.clone();
        }
        self.merge(other, |own, others| own | others)
    }

    /// The peers that the other has not.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        if !self.intersects(other) {
            return self.clone();
        }
        self.merge(other, |own, others| own & !others)
    }

    /// The peers of both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        if self.is_empty() || other.is_empty() {
            return Self::default();
        }
        self.merge(other, |own, others| own & others)
    }

    /// The peers that only one of them has.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        if self == other {
            return Self::default();
        }
        self.merge(other, |own, others| own ^ others)
    }

    /// The peers of any of many sets. Costs the words of all together, once.
    pub fn union_of<'a>(sets: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut sets = sets.into_iter();
        let Some(first) = sets.next() else {
            return Self::default();
        };
        let Some(second) = sets.next() else {
            return first.clone();
        };
        let sets = [first, second].into_iter().chain(sets);
        let mut words: Vec<Word> = sets.flat_map(|set| set.0.iter().copied()).collect();
        // Each set is sorted. This sort is fast on sorted runs.
        words.sort();
        words.dedup_by(|next, word| {
            let same = next.place == word.place;
            if same {
                word.bits |= next.bits;
            }
            same
        });
        Self(words.into())
    }

    /// Combines the words of both by `bits`; a missing word has no bits.
    fn merge(&self, other: &Self, bits: impl Fn(u64, u64) -> u64) -> Self {
        let mut words = Vec::with_capacity(self.0.len().max(other.0.len()));
        let mut push = |place, bits| {
            if bits != 0 {
                words.push(Word { place, bits });
            }
        };
        let (mut own, mut others) = (self.0.iter().peekable(), other.0.iter().peekable());
        loop {
            let place = match (own.peek(), others.peek()) {
                (Some(one), Some(two)) => one.place.min(two.place),
                (Some(one), None) | (None, Some(one)) => one.place,
                (None, None) => return Self(words.into()),
            };
            let at = |word: &&Word| word.place == place;
            let [one, two] =
                [own.next_if(at), others.next_if(at)].map(|word| word.map_or(0, |word| word.bits));
            push(place, bits(one, two));
        }
    }
}

impl FromIterator<PeerId> for PeerSet {
    /// Takes peers in any order; ascending is the least work.
    fn from_iter<I: IntoIterator<Item = PeerId>>(peers: I) -> Self {
        let mut words: Vec<Word> = Vec::new();
        let mut ascend = true;
        for one in peers.into_iter().map(Word::of) {
            match words.last_mut() {
                Some(last) if last.place == one.place => last.bits |= one.bits,
                last => {
                    ascend &= last.is_none_or(|last| last.place < one.place);
                    words.push(one);
                }
            }
        }
        if words.is_empty() {
            return Self::default();
        }
        let set = Self(words.into());
        if ascend {
            set
        } else {
            Self::union_of([&set, &Self::default()])
        }
    }
}

impl fmt::Debug for PeerSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    thread_local! {
        /// How often this thread compared two words.
        pub(super) static COMPARED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
    }

    impl PartialEq<BTreeSet<PeerId>> for PeerSet {
        fn eq(&self, other: &BTreeSet<PeerId>) -> bool {
            self.iter().eq(other.iter().copied())
        }
    }

    fn peers() -> impl Strategy<Value = BTreeSet<PeerId>> {
        // Beside each other, at the borders of words, far apart.
        let one = prop_oneof![0..400_u64, Just(u64::MAX), Just(u64::MAX - 63), any::<u64>()];
        prop::collection::btree_set(one, 0..60)
    }

    proptest! {
        #[test]
        fn they_are_what_sets_are(one in peers(), two in peers(), order in any::<u64>()) {
            let mut shuffled: Vec<PeerId> = one.iter().chain(&one).copied().collect();
            shuffled.sort_by_key(|peer| (*peer ^ order).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let (a, b): (PeerSet, PeerSet) = (one.iter().copied().collect(), two.iter().copied().collect());
            prop_assert_eq!(&a, &shuffled.into_iter().collect::<PeerSet>());
            prop_assert_eq!(&a, &one);
            prop_assert_eq!(a == b, one == two);
            prop_assert_eq!((a.len(), a.is_empty()), (one.len(), one.is_empty()));
            prop_assert!(one.iter().all(|peer| a.contains(*peer)));
            prop_assert!(two.iter().all(|peer| a.contains(*peer) == one.contains(peer)));
            prop_assert_eq!(a.intersects(&b), !one.is_disjoint(&two));
            prop_assert_eq!(&a.union(&b), &(&one | &two));
            prop_assert_eq!(&PeerSet::union_of([&a, &b, &a]), &(&one | &two));
            prop_assert_eq!(&a.minus(&b), &(&one - &two));
            prop_assert_eq!(&a.intersection(&b), &(&one & &two));
            prop_assert_eq!(&a.difference(&b), &(&one ^ &two));
            prop_assert_eq!(&a.minus(&b).union(&a.intersection(&b)), &a);
        }
    }

    #[test]
    fn peers_beside_each_other_share_words() {
        let many: PeerSet = (64..64 + 16_000).collect();
        assert_eq!(many.0.len(), 250);
    }

    /// Each rule of a policy is held so against each class (rule L2).
    #[test]
    fn l2_sets_of_many_words_cost_their_words_together_and_few_words_less() {
        let evens = |words: u64| -> PeerSet { (0..words).map(|word| word * WIDTH).collect() };
        let odds = |words: u64| -> PeerSet { (0..words).map(|word| word * WIDTH + 1).collect() };
        let compared = |one: &PeerSet, two: &PeerSet| {
            COMPARED.set(0);
            assert!(!one.intersects(two) && !two.intersects(one));
            COMPARED.get() / 2
        };
        for words in [1, 64, 4096] {
            let cost = compared(&evens(words), &odds(words));
            assert!(cost <= 3 * words as usize, "{words}: {cost}");
        }
        let one: PeerSet = [4000 * WIDTH].into_iter().collect();
        let cost = compared(&one, &odds(4096));
        assert!(cost <= 30, "{cost}");
    }
}
