// SPDX-License-Identifier: Apache-2.0
//! A measurement: its samples, its baseline's samples, and its target.

mod spread;

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

pub use spread::Spread;

/// Name of the smallest cluster's figure, as a baseline of others.
pub const SMALLEST: &str = "the smallest";

/// A measurement. A sample is one repetition. The baseline's sample with the same index comes from
/// the same repetition, right before or after, so that disturbances affect both.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// The group that measures it.
    pub group: String,
    /// Name within its group.
    pub name: String,
    /// Parameters of the measurement, e.g. `peers: 1000`.
    pub parameters: BTreeMap<String, String>,
    /// Unit of the samples.
    pub unit: String,
    /// True if more is better, as with throughput.
    pub more_is_better: bool,
    /// One number per repetition, or single times.
    pub samples: Vec<f64>,
    /// True if the samples are single times: the 99th percentile counts, not the median.
    #[serde(default)]
    pub times: bool,
    /// What it is compared with.
    pub baseline: Option<Baseline>,
    /// What it should reach.
    pub target: Option<Target>,
    /// A remark that explains the numbers, or why there are none.
    pub note: Option<String>,
}

/// What a figure is compared with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// What it is.
    pub name: String,
    /// One number per repetition, in the figure's unit.
    pub samples: Vec<f64>,
    /// How the figure is compared with it.
    pub relation: Relation,
}

/// The target of a figure, for the median over its repetitions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Upper bound of the samples.
    AtMost(f64),
    /// Upper bound of sample minus baseline, in the figure's unit.
    MoreByAtMost(f64),
    /// Upper bound of sample divided by baseline.
    RatioAtMost(f64),
    /// Lower bound of sample divided by baseline.
    RatioAtLeast(f64),
}

/// How a figure is compared with its baseline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Relation {
    /// Sample minus baseline.
    Difference,
    /// Sample divided by baseline.
    Ratio,
}

impl Figure {
    /// Makes a figure of which less is better, without baseline or target.
    pub fn new(group: &str, name: &str, unit: &str, samples: Vec<f64>) -> Self {
        Self {
            group: group.to_owned(),
            name: name.to_owned(),
            parameters: BTreeMap::new(),
            unit: unit.to_owned(),
            more_is_better: false,
            samples,
            times: false,
            baseline: None,
            target: None,
            note: None,
        }
    }

    /// Makes a figure that could not be measured here, with the reason.
    pub fn missing(group: &str, name: &str, unit: &str, why: &str) -> Self {
        Self::new(group, name, unit, Vec::new()).noted(why)
    }

    /// Makes a figure of single times, of which the 99th percentile counts.
    pub fn of_times(group: &str, name: &str, unit: &str, times: Vec<f64>) -> Self {
        Self {
            times: true,
            ..Self::new(group, name, unit, times)
        }
    }

    /// Marks that more is better.
    #[must_use]
    pub fn more_is_better(mut self) -> Self {
        self.more_is_better = true;
        self
    }

    /// Adds a parameter.
    #[must_use]
    pub fn at(mut self, parameter: &str, value: impl fmt::Display) -> Self {
        self.parameters.insert(parameter.to_owned(), value.to_string());
        self
    }

    /// Sets a ratio to samples of the same repetitions, or to other times.
    ///
    /// # Panics
    /// If the numbers of repetitions differ.
    #[must_use]
    pub fn against(self, name: &str, samples: Vec<f64>) -> Self {
        self.related_to(name, samples, Relation::Ratio)
    }

    /// Sets a difference to samples of the same repetitions, or to other times.
    ///
    /// # Panics
    /// If the numbers of repetitions differ.
    #[must_use]
    pub fn above(self, name: &str, samples: Vec<f64>) -> Self {
        self.related_to(name, samples, Relation::Difference)
    }

    fn related_to(mut self, name: &str, samples: Vec<f64>, relation: Relation) -> Self {
        let counts = (self.samples.len(), samples.len());
        assert!(
            self.times || counts.0 == counts.1,
            "a baseline for each repetition: {counts:?}"
        );
        self.baseline = Some(Baseline {
            name: name.to_owned(),
            samples,
            relation,
        });
        self
    }

    /// Sets the target.
    ///
    /// # Panics
    /// If the target needs a baseline of the other kind: call [`Figure::against`] or
    /// [`Figure::above`] first.
    #[must_use]
    pub fn reaches(mut self, target: Target) -> Self {
        let needed = match target {
            Target::AtMost(_) => self.relation(),
            Target::MoreByAtMost(_) => Some(Relation::Difference),
            Target::RatioAtMost(_) | Target::RatioAtLeast(_) => Some(Relation::Ratio),
        };
        assert_eq!(self.relation(), needed, "the baseline of {target:?}");
        self.target = Some(target);
        self
    }

    /// Sets the remark.
    #[must_use]
    pub fn noted(mut self, note: &str) -> Self {
        self.note = Some(note.to_owned());
        self
    }

    /// Returns what distinguishes it from all other figures of a run.
    pub fn title(&self) -> String {
        let parameters: Vec<String> = self
            .parameters
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        [&[format!("{}/{}", self.group, self.name)], &parameters[..]]
            .concat()
            .join(" ")
    }

    /// Returns the spread of the samples; `None` without samples.
    pub fn spread(&self) -> Option<Spread> {
        self.spread_of(&self.samples)
    }

    /// Returns the spread of the baseline's samples.
    pub fn baseline_spread(&self) -> Option<Spread> {
        self.spread_of(&self.baseline.as_ref()?.samples)
    }

    fn spread_of(&self, samples: &[f64]) -> Option<Spread> {
        if self.times {
            Spread::of_times(samples)
        } else {
            Spread::of(samples)
        }
    }

    /// Returns how it is compared with its baseline, if it has one.
    pub fn relation(&self) -> Option<Relation> {
        self.baseline.as_ref().map(|baseline| baseline.relation)
    }

    /// Returns sample against baseline for each repetition; for single times, percentile against
    /// percentile; without a baseline, the samples.
    pub fn related(&self) -> Option<Spread> {
        let Some(baseline) = &self.baseline else {
            return self.spread();
        };
        let relate = |sample: f64, base: f64| match baseline.relation {
            Relation::Difference => sample - base,
            Relation::Ratio => sample / base,
        };
        if self.times {
            let (own, base) = (self.spread()?, self.baseline_spread()?);
            return Some(Spread {
                min: relate(own.min, base.min),
                median: relate(own.median, base.median),
                max: relate(own.max, base.max),
            });
        }
        let pairs = self.samples.iter().zip(&baseline.samples);
        let related: Vec<f64> = pairs.map(|(sample, base)| relate(*sample, *base)).collect();
        Spread::of(&related)
    }

    /// Returns true if it reaches its target; `None` without a target or a measurement.
    pub fn is_reached(&self) -> Option<bool> {
        let target = self.target?;
        let median = match target {
            Target::AtMost(_) => self.spread()?.median,
            _ => self.related()?.median,
        };
        Some(match target {
            Target::AtMost(limit) | Target::MoreByAtMost(limit) | Target::RatioAtMost(limit) => {
                median <= limit
            }
            Target::RatioAtLeast(limit) => median >= limit,
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(limit) => write!(f, "<= {limit}"),
            Self::MoreByAtMost(limit) => write!(f, "<= +{limit}"),
            Self::RatioAtMost(limit) => write!(f, "<= {limit}x"),
            Self::RatioAtLeast(limit) => write!(f, ">= {limit}x"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Figure, Target};

    fn figure(samples: &[f64]) -> Figure {
        Figure::new("g", "n", "ns", samples.to_vec())
    }

    #[test]
    fn of_times_the_99th_percentile_counts_and_is_held_against_that_of_the_baseline() {
        let times: Vec<f64> = (1..=200).map(f64::from).collect();
        let reached = |limit| {
            let figure = Figure::of_times("g", "n", "ms", times.clone());
            figure.reaches(Target::AtMost(limit)).is_reached()
        };
        assert_eq!((reached(198.0), reached(197.9)), (Some(true), Some(false)));
        let figure = Figure::of_times("g", "n", "ms", times.clone()).above("watch", vec![10.0, 8.0]);
        let related = figure.related().unwrap();
        assert_eq!((related.min, related.median, related.max), (92.0, 188.0, 190.0));
    }

    #[test]
    fn a_baseline_is_taken_repetition_by_repetition() {
        // The machine is twice as slow in the second repetition. Both are, so the ratio stays.
        let ratio = figure(&[10.0, 20.0]).against("empty", vec![5.0, 10.0]);
        let related = ratio.related().unwrap();
        assert_eq!((related.min, related.max), (2.0, 2.0));
        let difference = figure(&[10.0, 20.0]).above("empty", vec![5.0, 10.0]);
        let related = difference.related().unwrap();
        assert_eq!((related.min, related.median, related.max), (5.0, 7.5, 10.0));
    }

    #[test]
    fn a_target_is_reached_by_the_median() {
        let more = |samples: &[f64], limit| {
            let figure = figure(samples).above("empty", vec![10.0; 3]);
            figure.reaches(Target::MoreByAtMost(limit)).is_reached()
        };
        assert_eq!(more(&[69.0, 70.0, 99.0], 60.0), Some(true));
        assert_eq!(more(&[10.0, 70.1, 99.0], 60.0), Some(false));
        let times = |samples: &[f64], target| {
            let figure = figure(samples).against("empty", vec![10.0; 3]);
            figure.reaches(target).is_reached()
        };
        assert_eq!(times(&[13.0; 3], Target::RatioAtMost(1.3)), Some(true));
        assert_eq!(times(&[13.1; 3], Target::RatioAtMost(1.3)), Some(false));
        assert_eq!(times(&[9.7; 3], Target::RatioAtLeast(0.97)), Some(true));
        assert_eq!(times(&[9.6; 3], Target::RatioAtLeast(0.97)), Some(false));
        assert_eq!(times(&[9.6; 3], Target::AtMost(9.6)), Some(true));
        assert_eq!(times(&[9.7; 3], Target::AtMost(9.6)), Some(false));
    }

    #[test]
    #[should_panic(expected = "the baseline of RatioAtMost")]
    fn a_target_fits_its_baseline() {
        let figure = figure(&[1.0]).above("empty", vec![1.0]);
        let _ = figure.reaches(Target::RatioAtMost(1.3));
    }

    #[test]
    fn what_was_not_measured_reaches_nothing() {
        let missing = Figure::missing("g", "n", "ns", "no such kernel").reaches(Target::AtMost(1.0));
        assert_eq!(missing.is_reached(), None);
        assert_eq!(Figure::new("g", "n", "ns", vec![1.0]).is_reached(), None);
    }

    #[test]
    fn a_title_names_every_parameter_in_order() {
        let figure = Figure::new("g", "n", "ns", Vec::new())
            .at("ports", 10)
            .at("peers", "all");
        assert_eq!(figure.title(), "g/n peers=all ports=10");
    }
}
