// SPDX-License-Identifier: Apache-2.0
//! The answer of `/readyz`.

use std::{collections::BTreeSet, fmt::Write as _, time::Instant};

use axum::http::StatusCode;

use crate::{
    observe::status::Status,
    progress::{LATE, Phase, Seen},
};

/// Objects over budget that are named; the others are only counted.
const OBJECTS: usize = 10;

/// Returns status and text: whether a complete revision is enforced, and what is wrong.
pub(super) fn answer(status: &Status, seen: &Seen, now: Instant, verbose: bool) -> (StatusCode, String) {
    let late = late(seen, now);
    let (code, mut text) = if status.ready {
        let mut told = format!("enforcing revision {}\n", status.revision);
        for (who, why) in &status.unattached {
            let _ = writeln!(told, "not enforced: {who}: {why}");
        }
        if let Some(late) = &late {
            let _ = writeln!(told, "late: {late}");
        }
        (StatusCode::OK, told)
    } else {
        let told = match &seen.phase {
            Phase::Loop(_) => format!("waiting for revision {}: {}\n", seen.known, seen.phase),
            phase => format!("{phase}\n"),
        };
        (StatusCode::SERVICE_UNAVAILABLE, told)
    };
    if verbose {
        text += &conditions(status, late);
    }
    (code, text)
}

/// Describes the oldest change if it has waited longer than [`LATE`].
fn late(seen: &Seen, now: Instant) -> Option<String> {
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

/// Lists each condition in the form of the API server's `/readyz?verbose`. A failed condition does
/// not make the agent unready: the node's other pods would gain nothing.
fn conditions(status: &Status, late: Option<String>) -> String {
    let overdue: Vec<_> = status.unenforced.iter().filter(|(_, pod)| pod.overdue).collect();
    let mut text = String::new();
    for (good, name) in [
        (overdue.is_empty(), "pods-enforced"),
        (!status.misnamed, "node-name-known"),
        (late.is_none(), "changes-enforced"),
        (status.over_budget.is_empty(), "within-budget"),
    ] {
        let (sign, how) = if good { ('+', "ok") } else { ('-', "failed") };
        let _ = writeln!(text, "[{sign}]{name} {how}");
    }
    for (key, pod) in overdue {
        let _ = writeln!(text, "pod {key} is not enforced on: {}", pod.why);
    }
    if let Some(late) = late {
        let _ = writeln!(text, "{late}");
    }
    let objects: BTreeSet<&str> = status
        .over_budget
        .keys()
        .map(|found| found.object.as_str())
        .collect();
    for object in objects.iter().take(OBJECTS) {
        let found = status.over_budget.keys().find(|found| found.object == *object);
        let message = found.map_or("", |found| &found.message);
        let _ = writeln!(text, "{object} is over budget: {message}");
    }
    if let Some(others) = objects.len().checked_sub(OBJECTS).filter(|others| *others > 0) {
        let _ = writeln!(text, "{others} other objects are over budget");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        model::Diagnostic,
        progress::{Part, Progress, Step},
    };

    const SECOND: Duration = Duration::from_secs(1);

    fn all_there(progress: &Progress) -> Instant {
        progress.came(Part::Interfaces, Instant::now());
        progress.came(Part::Records, Instant::now());
        progress.published(1, Instant::now());
        let since = progress.look().since;
        for part in [Part::Objects, Part::Interfaces, Part::Records] {
            progress.take(part);
        }
        since.unwrap()
    }

    #[test]
    fn b1_before_the_first_turn_each_phase_is_told_as_it_is() {
        let (status, progress) = (Status::default(), Progress::default());
        let said = || answer(&status, &progress.look(), Instant::now(), false);
        let not_ready = |text: &str| (StatusCode::SERVICE_UNAVAILABLE, text.to_owned());
        assert_eq!(
            said(),
            not_ready("waiting for the first complete list of objects\n")
        );
        all_there(&progress);
        progress.begin(Step::Compiling);
        assert_eq!(said(), not_ready("waiting for revision 1: being compiled\n"));
        progress.begin(Step::Writing);
        assert_eq!(
            said(),
            not_ready("waiting for revision 1: being written to the kernel\n")
        );
        progress.end(false);
        assert_eq!(
            said(),
            not_ready("waiting for revision 1: writes to the kernel failed, and are tried again\n")
        );
    }

    #[test]
    fn l2_a_change_that_waits_for_more_than_ten_seconds_shows_and_leaves_the_agent_ready() {
        let status = Status {
            ready: true,
            revision: 1,
            ..Status::default()
        };
        let progress = Progress::default();
        all_there(&progress);
        progress.end(true);
        progress.published(2, Instant::now());
        let since = progress.look().since.unwrap();
        progress.take(Part::Objects);
        progress.begin(Step::Compiling);
        let said = |after| answer(&status, &progress.look(), since + after, true);
        let (code, text) = said(10 * SECOND);
        assert_eq!(code, StatusCode::OK);
        assert_eq!(
            text,
            "enforcing revision 1\n[+]pods-enforced ok\n[+]node-name-known ok\n[+]changes-enforced ok\n[+]within-budget ok\n"
        );
        let (code, text) = said(23 * SECOND);
        assert_eq!(code, StatusCode::OK);
        let late = "a change is not enforced after 23 s, of revisions up to 2: being compiled\n";
        assert!(
            text.starts_with(&format!("enforcing revision 1\nlate: {late}")),
            "{text}"
        );
        assert!(text.contains("\n[-]changes-enforced failed\n"), "{text}");
        assert!(text.ends_with(&format!("\n{late}")), "{text}");
        progress.end(true);
        assert!(said(23 * SECOND).1.contains("[+]changes-enforced ok"));
    }

    #[test]
    fn l2_what_is_over_budget_is_named_and_many_are_counted() {
        let mut status = Status {
            ready: true,
            ..Status::default()
        };
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
        let (_, text) = answer(&status, &Progress::default().look(), Instant::now(), true);
        assert!(text.contains("\n[-]within-budget failed\n"), "{text}");
        let named = text.matches(" is over budget: it comes to too much\n").count();
        assert_eq!(named, 10, "{text}");
        assert!(text.ends_with("\n2 other objects are over budget\n"), "{text}");
    }
}
