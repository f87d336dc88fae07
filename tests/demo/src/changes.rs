// SPDX-License-Identifier: Apache-2.0
//! Describes a policy's effect in few lines: connections that changed alike share a line.

use std::collections::{BTreeMap, BTreeSet};

use super::matrix::{Answers, Matrix};

type Services = BTreeSet<usize>;
/// Whether connections were gained, the families unless both, and the services.
type Change = (bool, String, Services);
/// Rows by column.
type Pairs = BTreeMap<usize, BTreeSet<usize>>;

/// Returns a line for each group of connections that lost or gained the same services; names the
/// family if only that changed.
pub fn describe(matrix: &Matrix, before: &Answers, after: &Answers) -> Vec<String> {
    let (old, new) = (matrix.passed(before), matrix.passed(after));
    let mut alike: BTreeMap<Change, Pairs> = BTreeMap::new();
    for (&(row, column), services) in &new {
        let Some(earlier) = old.get(&(row, column)) else {
            continue;
        };
        let mut changed: BTreeMap<(bool, String), Services> = BTreeMap::new();
        for (index, ((now, asked), (then, _))) in services.iter().zip(earlier).enumerate() {
            for (gained, from, to) in [(false, now, then), (true, then, now)] {
                let families: String = to.chars().filter(|family| !from.contains(*family)).collect();
                if !families.is_empty() {
                    let families = if families == *asked {
                        String::new()
                    } else {
                        families
                    };
                    changed.entry((gained, families)).or_default().insert(index);
                }
            }
        }
        for ((gained, families), services) in changed {
            let group = alike.entry((gained, families, services)).or_default();
            group.entry(column).or_default().insert(row);
        }
    }
    let mut lines = Vec::new();
    for ((gained, families, services), columns) in alike {
        let mut merged: BTreeMap<BTreeSet<usize>, BTreeSet<usize>> = BTreeMap::new();
        // A site is not asked about itself. With itself added, the members of a group have the same
        // set.
        let with_itself = |column: usize, rows: &BTreeSet<usize>| -> BTreeSet<usize> {
            rows.iter().copied().chain([column]).collect()
        };
        for (&column, rows) in &columns {
            let whole = with_itself(column, rows);
            let shared = columns
                .iter()
                .filter(|(other, rows)| with_itself(**other, rows) == whole)
                .count()
                > 1;
            let key = if shared { whole } else { rows.clone() };
            merged.entry(key).or_default().insert(column);
        }
        for (rows, columns) in merged {
            let sign = if gained {
                "+ now reaches "
            } else {
                "- reaches no more "
            };
            let family = if families.is_empty() {
                String::new()
            } else {
                format!(", IPv{families} only")
            };
            lines.push(format!(
                "{sign}({}{family})  {} -> {}",
                ports(matrix, &services),
                names(matrix, &rows),
                names(matrix, &columns)
            ));
        }
    }
    lines
}

fn ports(matrix: &Matrix, services: &Services) -> String {
    if services.len() == matrix.services.len() {
        return "every port".to_owned();
    }
    let words: Vec<_> = services
        .iter()
        .map(|&index| matrix.services[index].to_string())
        .collect();
    words.join(", ")
}

/// Lists names of sites; `namespace/*` stands for all pods of a namespace.
fn names(matrix: &Matrix, chosen: &BTreeSet<usize>) -> String {
    let space = |index: usize| {
        matrix.sites[index]
            .name
            .split_once('/')
            .map(|(namespace, _)| namespace)
    };
    let mut words = Vec::new();
    for &index in chosen {
        let word = match space(index) {
            Some(namespace) => {
                let all = (0..matrix.sites.len()).filter(|&other| space(other) == Some(namespace));
                let (members, present): (Vec<_>, Vec<_>) =
                    all.map(|other| (other, chosen.contains(&other))).unzip();
                if members.len() > 1 && present.iter().all(|present| *present) {
                    format!("{namespace}/*")
                } else {
                    matrix.sites[index].name.clone()
                }
            }
            None => matrix.sites[index].name.clone(),
        };
        if !words.contains(&word) {
            words.push(word);
        }
    }
    words.join(", ")
}
