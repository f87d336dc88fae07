// SPDX-License-Identifier: Apache-2.0
//! Compares a run with a saved one: what changed by more than the noise of its repetitions.

use super::{Figure, figure::Spread, json::Report, table::number};

/// Relative change of a median that counts.
const THRESHOLD: f64 = 0.05;
/// Relative change of both the median and the 99th percentile of single times that counts.
const TIMES: f64 = 0.25;

/// How a figure changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is better by more than noise.
    Better,
    /// It is worse by more than noise.
    Worse,
    /// The repetitions of both runs overlap, or the medians are close.
    Same,
    /// The saved run has no such figure.
    New,
}

/// One figure of this run and of the saved one.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// [`Figure::title`].
    pub title: String,
    /// How it changed.
    pub change: Change,
    /// Median of the saved run, then of this one.
    pub medians: (Option<f64>, Option<f64>),
}

/// Compares every figure of this run with the saved one of the same title. Compares relations to
/// the baseline, so that a faster machine does not look like better code; without a baseline, the
/// samples.
pub fn compare(now: &[Figure], before: &[Figure]) -> Vec<Row> {
    let row = |figure: &Figure| {
        let title = figure.title();
        let saved = before.iter().find(|saved| saved.title() == title);
        let spreads = (saved.and_then(Figure::related), figure.related());
        let change = match (saved, spreads) {
            (None, _) => Change::New,
            (Some(_), (Some(before), Some(now))) if figure.times => judge_times(&before, &now),
            (Some(_), (Some(before), Some(now))) => judge(&before, &now, figure.more_is_better),
            (Some(_), _) => Change::Same,
        };
        let medians = (
            spreads.0.map(|spread| spread.median),
            spreads.1.map(|spread| spread.median),
        );
        Row {
            title,
            change,
            medians,
        }
    };
    now.iter().map(row).collect()
}

fn judge(before: &Spread, now: &Spread, more_is_better: bool) -> Change {
    let overlap = now.min <= before.max && before.min <= now.max;
    let moved = (now.median - before.median).abs() > THRESHOLD * before.median.abs();
    if overlap || !moved {
        Change::Same
    } else if (now.median > before.median) == more_is_better {
        Change::Better
    } else {
        Change::Worse
    }
}

fn judge_times(before: &Spread, now: &Spread) -> Change {
    let moved = |before: f64, now: f64| (now - before) / before.abs();
    let moves = [moved(before.min, now.min), moved(before.median, now.median)];
    if moves.iter().all(|moved| *moved > TIMES) {
        Change::Worse
    } else if moves.iter().all(|moved| *moved < -TIMES) {
        Change::Better
    } else {
        Change::Same
    }
}

/// Prints what changed and counts what did not, for a terminal.
pub fn text(now: &[Figure], before: &Report) -> String {
    let machine = &before.machine;
    let mut text = format!(
        "Against the run of {} on {} ({}), relative to the baselines of each run:\n",
        machine.date, machine.cpu, machine.kernel
    );
    let rows = compare(now, &before.figures);
    for row in rows.iter().filter(|row| row.change != Change::Same) {
        let word = match row.change {
            Change::Better => "better",
            Change::Worse => "WORSE ",
            Change::New | Change::Same => "new   ",
        };
        let cell = |median: Option<f64>| median.map_or("-".to_owned(), number);
        text.push_str(&format!(
            "  {word}  {}: {} -> {}\n",
            row.title,
            cell(row.medians.0),
            cell(row.medians.1)
        ));
    }
    let same = rows.iter().filter(|row| row.change == Change::Same).count();
    text.push_str(&format!("  {same} did not change by more than noise\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::{Change, Figure, compare};

    fn figure(name: &str, samples: &[f64], baseline: f64) -> Figure {
        Figure::new("g", name, "ns", samples.to_vec()).against("empty", vec![baseline; samples.len()])
    }

    fn change(now: Figure, before: Figure) -> Change {
        compare(&[now], &[before])[0].change
    }

    #[test]
    fn single_times_change_if_middle_and_99th_percentile_do() {
        let times = |middle: f64, slow: f64| {
            let times = [vec![middle; 90], vec![slow; 10]].concat();
            Figure::of_times("g", "t", "ms", times)
        };
        let change = |middle, slow| compare(&[times(middle, slow)], &[times(2.0, 8.0)])[0].change;
        assert_eq!(change(3.0, 12.0), Change::Worse);
        assert_eq!(change(1.0, 4.0), Change::Better);
        assert_eq!(change(2.0, 100.0), Change::Same);
        assert_eq!(change(3.0, 4.0), Change::Same);
    }

    #[test]
    fn a_change_is_more_than_the_repetitions_differ_by() {
        let before = figure("n", &[20.0, 21.0, 22.0], 10.0);
        assert_eq!(
            change(figure("n", &[23.0, 24.0, 25.0], 10.0), before.clone()),
            Change::Worse
        );
        assert_eq!(
            change(figure("n", &[22.0, 24.0, 25.0], 10.0), before.clone()),
            Change::Same
        );
        assert_eq!(
            change(figure("n", &[17.0, 18.0, 19.0], 10.0), before.clone()),
            Change::Better
        );
        assert_eq!(change(figure("other", &[1.0], 10.0), before), Change::New);
        // Apart, but by less than a twentieth.
        let exact = figure("n", &[100.0, 100.0], 10.0);
        assert_eq!(change(figure("n", &[104.0, 104.0], 10.0), exact), Change::Same);
    }

    #[test]
    fn another_machine_is_no_change() {
        let before = figure("n", &[20.0, 21.0], 10.0);
        assert_eq!(change(figure("n", &[40.0, 42.0], 20.0), before), Change::Same);
    }

    #[test]
    fn more_may_be_better() {
        let throughput = |samples: &[f64]| figure("n", samples, 10.0).more_is_better();
        assert_eq!(
            change(throughput(&[12.0, 13.0]), throughput(&[9.0, 10.0])),
            Change::Better
        );
        assert_eq!(
            change(throughput(&[9.0, 10.0]), throughput(&[12.0, 13.0])),
            Change::Worse
        );
    }
}
