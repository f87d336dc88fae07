// SPDX-License-Identifier: Apache-2.0
//! Runs the fuzz targets' entry points (`fuzz/`) on their seeds and on slightly damaged ones.

use std::{collections::BTreeSet, fs, path::Path};

use netpol_common::{abi::DropReason, parse::Parsed};
use netpol_tests::{
    fuzz::{
        entry,
        mutate::{self, Donor},
        seeds,
    },
    random::Random,
};

use super::{FIXED_SEED, seed_folder};

#[test]
fn f3_frames_of_the_corpus_through_the_entry_of_the_fuzz_target() {
    let corpus = seeds::load().unwrap();
    if let Some(folder) = seed_folder() {
        fs::create_dir_all(&folder).unwrap();
        for (name, frame) in &corpus {
            fs::write(folder.join(name), frame).unwrap();
        }
    }
    let mut kinds = BTreeSet::new();
    let mut random = Random(FIXED_SEED);
    for frame in corpus.values() {
        kinds.insert(format!("{:?}", entry::frame(frame)));
        for length in 0..frame.len() {
            assert_ne!(
                entry::frame(&frame[..length.min(13)]),
                Parsed::Packet,
                "no whole header"
            );
            entry::frame(&frame[..length]);
        }
        for _ in 0..300 {
            let mut damaged = frame.clone();
            for _ in 0..1 + random.below(4) {
                let (_, change) = mutate::ALL[random.below(mutate::ALL.len())];
                change(&mut random, &mut damaged, Donor(frame));
            }
            entry::frame(&damaged);
        }
    }
    let unreadable = [
        DropReason::EtherType,
        DropReason::ExtensionHeaders,
        DropReason::Vlan,
    ];
    let every = [Parsed::Packet, Parsed::Neighbour, Parsed::Membership]
        .into_iter()
        .chain(unreadable.map(Parsed::Unreadable));
    let every: BTreeSet<String> = every.map(|kind| format!("{kind:?}")).collect();
    assert_eq!(kinds, every, "the corpus holds every kind of whole frames");
}

fn manifests(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| (path.display().to_string(), fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn manifests_through_the_entry_of_the_fuzz_target() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let seeds = manifests(&root.join("fuzz/seeds/manifest"));
    let (good, broken): (Vec<_>, Vec<_>) = seeds.into_iter().partition(|(name, _)| !name.contains("broken-"));
    for (name, bytes) in manifests(&root.join("deploy/examples")).iter().chain(&good) {
        if name.ends_with(".yaml") || name.ends_with(".json") {
            assert!(entry::manifest(bytes) > 0, "{name} holds objects");
        }
    }
    for (name, bytes) in &broken {
        assert_eq!(entry::manifest(bytes), 0, "{name} holds nothing that is read");
    }
    let mut random = Random(FIXED_SEED);
    for (_, bytes) in good.iter().chain(&broken) {
        for _ in 0..100 {
            let mut damaged = bytes.clone();
            for _ in 0..1 + random.below(6) {
                let at = random.below(damaged.len() + 1);
                match random.below(4) {
                    0 if at < damaged.len() => damaged[at] = random.below(256) as u8,
                    1 => drop(damaged.drain(at..(at + random.below(20)).min(damaged.len()))),
                    2 => {
                        let from = random.below(bytes.len());
                        let to = (from + random.below(40)).min(bytes.len());
                        damaged.splice(at..at, bytes[from..to].iter().copied());
                    }
                    _ => damaged.truncate(at.max(1)),
                }
            }
            entry::manifest(&damaged);
        }
    }
}
