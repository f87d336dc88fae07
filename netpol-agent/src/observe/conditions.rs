// SPDX-License-Identifier: Apache-2.0
//! Named conditions of a healthy agent, and what is wrong where one is not met. Readiness and
//! `netpol status` show them.

use std::{
    collections::BTreeSet,
    fmt,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::status::Status;
use crate::progress::{LATE, Part, Phase, Seen};

/// Faults of a condition that are named; the others are only counted.
const NAMED: usize = 10;
/// A turn that takes longer than this hangs. Those of the largest clusters take seconds.
const HANGS: Duration = Duration::from_secs(600);

/// A condition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Its name, which does not change between versions.
    pub name: String,
    /// True if the agent is not ready without it. A failed condition of the others makes no agent
    /// unready: the node's other pods would gain nothing.
    pub needed: bool,
    /// What is wrong; empty if it is met. Sentences without their full stops.
    pub faults: Vec<String>,
}

impl Condition {
    pub(super) fn new(name: &str, needed: bool, faults: impl IntoIterator<Item = String>) -> Self {
        Self {
            name: name.to_owned(),
            needed,
            faults: faults.into_iter().collect(),
        }
    }

    /// Returns true if nothing is wrong.
    pub fn is_met(&self) -> bool {
        self.faults.is_empty()
    }
}

/// As a line of the API server's `/readyz?verbose`, but with the reasons.
impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_met() {
            return write!(f, "[+]{} ok", self.name);
        }
        let named = &self.faults[..self.faults.len().min(NAMED)];
        write!(f, "[-]{} failed: {}", self.name, named.join("; "))?;
        match self.faults.len() - named.len() {
            0 => Ok(()),
            others => write!(f, "; and {others} more"),
        }
    }
}

/// The condition of a live agent: its loop goes on. The process ends by itself when another stage
/// does.
pub fn live(seen: &Seen, now: Instant) -> Condition {
    let worked = seen
        .working
        .map_or(Duration::ZERO, |since| now.duration_since(since));
    let hangs = (worked > HANGS).then(|| {
        format!(
            "a turn hangs since {} s: revision {} is {}",
            worked.as_secs(),
            seen.known,
            seen.phase
        )
    });
    Condition::new("loop", true, hangs)
}

/// All conditions, those first that the agent is not ready without.
pub fn conditions(status: &Status, seen: &Seen, now: Instant) -> Vec<Condition> {
    let missing = |part| seen.missing.get(&part).map(Phase::to_string);
    let overdue = status.unenforced.iter().filter(|(_, pod)| pod.overdue);
    let overdue = overdue.map(|(key, pod)| format!("pod {key} is not enforced on: {}", pod.why));
    let unattached = status.unattached.iter();
    let unattached = unattached.map(|(who, why)| format!("nothing is enforced at {who}: {why}"));
    let unwritten = (status.endpoints_held_back > 0).then(|| {
        format!(
            "{} pods keep an older policy or are closed, as writes to the kernel failed",
            status.endpoints_held_back
        )
    });
    let misnamed = status
        .misnamed
        .then(|| "no node and no pod of the cluster has the name of --node-name".to_owned());
    let unread = seen.unread.iter().map(|(what, unread)| {
        let since = now.duration_since(unread.since).as_secs();
        format!("{what} cannot be read since {since} s: {}", unread.why)
    });
    vec![
        Condition::new("objects-listed", true, missing(Part::Objects)),
        Condition::new("interfaces-read", true, missing(Part::Interfaces)),
        Condition::new("cni-results-read", true, missing(Part::Records)),
        Condition::new("revision-enforced", true, unenforced(status, seen)),
        Condition::new("changes-enforced", false, late(seen, now)),
        Condition::new("source-readable", false, unread),
        Condition::new("writes-made", false, unwritten),
        Condition::new("programs-attached", false, unattached),
        Condition::new("pods-enforced", false, overdue),
        Condition::new("node-name-known", false, misnamed),
        Condition::new("within-budget", false, over_budget(status)),
    ]
}

/// Says why no complete revision is in the kernel yet.
fn unenforced(status: &Status, seen: &Seen) -> Option<String> {
    (!status.ready).then(|| match &seen.phase {
        Phase::Loop(_) => format!("waiting for revision {}: {}", seen.known, seen.phase),
        phase => phase.to_string(),
    })
}

/// Describes the oldest change if it has waited longer than [`LATE`].
pub fn late(seen: &Seen, now: Instant) -> Option<String> {
    let age = seen.age(now);
    (age > LATE).then(|| {
        format!(
            "a change is not enforced after {} s, of revisions up to {}: {}",
            age.as_secs(),
            seen.known,
            seen.phase
        )
    })
}

/// Names each object over a budget once, with the first thing that is.
fn over_budget(status: &Status) -> Vec<String> {
    let mut objects = BTreeSet::new();
    let found = status.over_budget.keys();
    found
        .filter(|found| objects.insert(found.object.as_str()))
        .map(|found| format!("{} is over budget: {}", found.object, found.message))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        model::{Diagnostic, ObjectKey},
        observe::status::Unenforced,
        progress::{Progress, Step},
    };

    /// Names of the conditions that are not met.
    fn failed(status: &Status, progress: &Progress) -> Vec<String> {
        let all = conditions(status, &progress.look(), Instant::now());
        all.into_iter()
            .filter(|condition| !condition.is_met())
            .map(|condition| condition.name)
            .collect()
    }

    fn running() -> (Status, Progress) {
        let progress = Progress::default();
        progress.came(Part::Interfaces, Instant::now());
        progress.came(Part::Records, Instant::now());
        progress.published(1, Instant::now());
        let status = Status {
            ready: true,
            ..Status::default()
        };
        (status, progress)
    }

    #[test]
    fn b1_what_a_start_waits_for_is_a_condition_of_its_own() {
        let (status, progress) = (Status::default(), Progress::default());
        let all = [
            "objects-listed",
            "interfaces-read",
            "cni-results-read",
            "revision-enforced",
        ];
        assert_eq!(failed(&status, &progress), all);
        progress.came(Part::Interfaces, Instant::now());
        progress.came(Part::Records, Instant::now());
        assert_eq!(
            failed(&status, &progress),
            ["objects-listed", "revision-enforced"]
        );
        progress.published(1, Instant::now());
        assert_eq!(failed(&status, &progress), ["revision-enforced"]);
        let (status, progress) = running();
        assert_eq!(failed(&status, &progress), [""; 0]);
    }

    #[test]
    fn l1_each_fault_fails_its_condition() {
        let (healthy, progress) = running();
        let unenforced = |overdue| {
            let pod = Unenforced {
                since: Instant::now(),
                why: "no veth".to_owned(),
                overdue,
            };
            BTreeMap::from([(ObjectKey::new("shop", "web"), pod)])
        };
        let mut table = vec![
            ("writes-made", healthy.clone()),
            ("programs-attached", healthy.clone()),
            ("pods-enforced", healthy.clone()),
            ("node-name-known", healthy.clone()),
        ];
        table[0].1.endpoints_held_back = 1;
        table[1]
            .1
            .unattached
            .insert("veth7".to_owned(), "full".to_owned());
        table[2].1.unenforced = unenforced(true);
        table[3].1.misnamed = true;
        for (name, status) in table {
            assert_eq!(failed(&status, &progress), [name]);
        }
        let waiting = Status {
            unenforced: unenforced(false),
            ..healthy.clone()
        };
        assert_eq!(failed(&waiting, &progress), [""; 0], "its interface may come yet");
        progress.unread("pods", "refused".to_owned());
        progress.unread("pods", "timed out".to_owned());
        let all = conditions(&healthy, &progress.look(), Instant::now());
        let line = all
            .iter()
            .find(|condition| !condition.is_met())
            .map(ToString::to_string);
        let told = "[-]source-readable failed: pods cannot be read since 0 s: timed out";
        assert_eq!(line.as_deref(), Some(told));
        progress.read("pods");
        assert_eq!(failed(&healthy, &progress), [""; 0]);
    }

    #[test]
    fn l2_what_is_over_budget_is_named_and_many_are_counted() {
        let (mut status, progress) = running();
        for number in 10..22 {
            for field in ["spec.ingress", "spec.egress"] {
                let diagnostic = Diagnostic {
                    code: "policy-over-budget",
                    object: format!("NetworkPolicy shop/p-{number}"),
                    field: field.to_owned(),
                    message: "it comes to too much".to_owned(),
                };
                status.over_budget.insert(diagnostic, ());
            }
        }
        let all = conditions(&status, &progress.look(), Instant::now());
        let text = all.last().unwrap().to_string();
        assert!(
            text.starts_with("[-]within-budget failed: NetworkPolicy shop/p-10 is"),
            "{text}"
        );
        assert_eq!(
            text.matches(" is over budget: it comes to too much").count(),
            NAMED,
            "{text}"
        );
        assert!(text.ends_with("; and 2 more"), "{text}");
    }

    #[test]
    fn a_turn_that_does_not_end_is_no_sign_of_life() {
        let (_, progress) = running();
        assert!(live(&progress.look(), Instant::now() + 2 * HANGS).is_met());
        progress.begin(Step::Writing);
        let since = progress.look().working.unwrap();
        let told = |after| live(&progress.look(), since + after).to_string();
        assert_eq!(told(HANGS), "[+]loop ok");
        let hangs = "[-]loop failed: a turn hangs since 601 s: revision 1 is being written to the kernel";
        assert_eq!(told(HANGS + Duration::from_secs(1)), hangs);
        progress.end(false);
        assert!(live(&progress.look(), since + 2 * HANGS).is_met(), "it goes on");
    }
}
