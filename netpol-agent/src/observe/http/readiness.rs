// SPDX-License-Identifier: Apache-2.0
//! The answers of `/livez` and `/readyz`.

use std::{fmt::Write as _, time::Instant};

use axum::http::StatusCode;

use crate::{
    observe::{
        conditions::{Condition, conditions, late, live},
        status::Status,
    },
    progress::{Phase, Seen},
};

/// Returns status and text: whether the agent lives.
pub(super) fn liveness(seen: &Seen, now: Instant, verbose: bool) -> (StatusCode, String) {
    let condition = live(seen, now);
    let code = code(condition.is_met());
    let text = match condition.is_met() {
        true if !verbose => "ok\n".to_owned(),
        _ => listed("livez", &[condition]),
    };
    (code, text)
}

/// Returns status and text: whether a complete revision is enforced, and what is wrong.
pub(super) fn answer(status: &Status, seen: &Seen, now: Instant, verbose: bool) -> (StatusCode, String) {
    let (code, mut text) = if status.ready {
        let mut told = format!("enforcing revision {}\n", status.revision);
        for (who, why) in &status.unattached {
            let _ = writeln!(told, "not enforced: {who}: {why}");
        }
        if let Some(late) = late(seen, now) {
            let _ = writeln!(told, "late: {late}");
        }
        (code(true), told)
    } else {
        let told = match &seen.phase {
            Phase::Loop(_) => format!("waiting for revision {}: {}\n", seen.known, seen.phase),
            phase => format!("{phase}\n"),
        };
        (code(false), told)
    };
    if verbose {
        text += &listed("readyz", &conditions(status, seen, now));
    }
    (code, text)
}

fn code(healthy: bool) -> StatusCode {
    if healthy {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

/// Lists conditions as the API server's `/readyz?verbose` does, with the reasons.
fn listed(check: &str, conditions: &[Condition]) -> String {
    let mut text = String::new();
    for condition in conditions {
        let _ = writeln!(text, "{condition}");
    }
    let mut needed = conditions.iter().filter(|condition| condition.needed);
    let passed = needed.all(Condition::is_met);
    let how = if passed { "passed" } else { "failed" };
    let _ = writeln!(text, "{check} check {how}");
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::progress::{Part, Progress, Step};

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
            "enforcing revision 1\n[+]objects-listed ok\n[+]interfaces-read ok\n[+]cni-results-read ok\n\
             [+]revision-enforced ok\n[+]changes-enforced ok\n[+]source-readable ok\n[+]writes-made ok\n\
             [+]programs-attached ok\n[+]pods-enforced ok\n[+]node-name-known ok\n[+]within-budget ok\n\
             readyz check passed\n"
        );
        let (code, text) = said(23 * SECOND);
        assert_eq!(code, StatusCode::OK);
        let late = "a change is not enforced after 23 s, of revisions up to 2: being compiled\n";
        assert!(
            text.starts_with(&format!("enforcing revision 1\nlate: {late}")),
            "{text}"
        );
        assert!(
            text.contains(&format!("\n[-]changes-enforced failed: {late}")),
            "{text}"
        );
        assert!(text.ends_with("\nreadyz check passed\n"), "{text}");
        progress.end(true);
        assert!(said(23 * SECOND).1.contains("[+]changes-enforced ok"));
    }
}
