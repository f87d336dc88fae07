// SPDX-License-Identifier: Apache-2.0
//! Numbers of profiles when peers come and go. Most groups keep their number: the kernel is written
//! for each that gets another.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use super::{
    Profiles,
    groups::GroupId,
    profile::{NO_POD, Profile, ProfileId},
};

/// Groups of one profile that stay equal.
pub(super) struct Part {
    /// The profile.
    pub(super) from: ProfileId,
    /// Whether the part may keep the profile's number: it says the same of every peer that stays
    /// active.
    pub(super) keeps: bool,
    /// How many groups these are.
    pub(super) count: usize,
    /// The groups.
    pub(super) groups: Which,
    /// Their new profile.
    pub(super) content: Arc<Profile>,
}

/// Groups of a profile.
pub(super) enum Which {
    These(BTreeSet<GroupId>),
    /// Not listed: there may be very many.
    AllBut(BTreeSet<GroupId>),
}

impl Profiles {
    /// Gives each part a number. A profile keeps its number for one of its parts. If several parts
    /// become equal, or equal to an unchanged profile, the number is that of the largest.
    pub(super) fn number(&mut self, parts: Vec<Part>) {
        for part in parts.iter().filter(|part| part.from != NO_POD) {
            self.forget_content(part.from);
            self.idle.insert(part.from);
        }
        let mut claims = Vec::new();
        for (nth, part) in parts.iter().enumerate() {
            if part.keeps && part.from != NO_POD {
                claims.push((Reverse(part.count), part.from, nth));
            }
            // An unchanged profile.
            if let Some(&same) = self.ids.get(&part.content) {
                claims.push((Reverse(self.known[&same].groups.len()), same, nth));
            }
        }
        claims.sort_unstable();
        let mut number_of: HashMap<Arc<Profile>, ProfileId> = HashMap::from([(Arc::default(), NO_POD)]);
        let mut given = BTreeSet::from([NO_POD]);
        for (_, id, nth) in claims {
            let content = &parts[nth].content;
            if !given.contains(&id) && !number_of.contains_key(content) {
                given.insert(id);
                number_of.insert(content.clone(), id);
            }
        }
        let mut moves: Vec<(GroupId, ProfileId)> = Vec::new();
        for part in &parts {
            let Some(&id) = number_of.get(&part.content) else {
                number_of.insert(part.content.clone(), self.intern(part.content.clone()));
                continue;
            };
            let same = self.ids.get(&part.content).copied();
            if same == Some(id) {
                continue;
            }
            // Another profile that is equal now had more groups.
            if let Some(same) = same {
                moves.extend(self.known[&same].groups.iter().map(|group| (*group, id)));
                self.idle.insert(same);
            }
            self.say(id, part.content.clone());
        }
        for Part {
            from,
            groups,
            content,
            ..
        } in parts
        {
            let id = number_of[&content];
            if id == from {
                continue;
            }
            match groups {
                Which::These(groups) => moves.extend(groups.into_iter().map(|group| (group, id))),
                Which::AllBut(others) => {
                    let all = self.known[&from].groups.iter();
                    moves.extend(
                        all.filter(|group| !others.contains(*group))
                            .map(|group| (*group, id)),
                    );
                }
            }
        }
        moves
            .into_iter()
            .for_each(|(group, id)| self.move_group(group, id));
    }

    /// Gives a number its profile, which no other number has.
    fn say(&mut self, id: ProfileId, content: Arc<Profile>) {
        self.ids.insert(content.clone(), id);
        let known = self.known.entry(id).or_default();
        if known.profile != content {
            known.profile = content;
            self.renamed.insert(id);
        }
    }
}
