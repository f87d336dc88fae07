// SPDX-License-Identifier: Apache-2.0
//! Makes figures from the measurements at a cluster size, each compared with the smallest size.

use std::collections::BTreeMap;

use crate::{
    Figure, Run, Target,
    changes::{Crowd, Sample, Timed},
    figure::SMALLEST,
};

/// The group's name.
pub const GROUP: &str = "agent";

/// The samples at the smallest size, by name.
struct Smallest {
    crowd: Crowd,
    samples: BTreeMap<String, Vec<f64>>,
}

/// Adds figures, and remembers those of the smallest size.
pub struct Figures<'a> {
    run: &'a mut Run,
    crowd: Crowd,
    smallest: Option<Smallest>,
}

impl<'a> Figures<'a> {
    /// Adds to a run.
    pub fn new(run: &'a mut Run) -> Self {
        Self {
            run,
            crowd: Crowd::default(),
            smallest: None,
        }
    }

    /// Sets the size of all later figures. The first size is the baseline.
    pub fn at(&mut self, crowd: Crowd) {
        self.crowd = crowd;
        self.smallest.get_or_insert_with(|| Smallest {
            crowd,
            samples: BTreeMap::new(),
        });
    }

    /// Returns the size.
    pub fn crowd(&self) -> Crowd {
        self.crowd
    }

    /// The run.
    pub fn run(&mut self) -> &mut Run {
        self.run
    }

    /// Returns the size as parameters of a figure.
    pub fn parameters(&self) -> Vec<(&'static str, String)> {
        let mut parameters = vec![
            ("pods", self.crowd.pods.to_string()),
            ("policies", self.crowd.policies.to_string()),
        ];
        if self.crowd.elsewhere > 0 {
            parameters.push(("elsewhere", self.crowd.elsewhere.to_string()));
        }
        parameters
    }

    /// Adds a number, compared with the smallest size.
    pub fn add(&mut self, name: &str, unit: &str, value: f64, target: Option<Target>, note: &str) {
        self.samples(name, unit, vec![value], target, note);
    }

    /// Adds repetitions, compared with the smallest size.
    pub fn samples(&mut self, name: &str, unit: &str, samples: Vec<f64>, target: Option<Target>, note: &str) {
        self.keep(Figure::new(GROUP, name, unit, samples), target, note);
    }

    /// Adds single times in ms, compared with the smallest size.
    pub fn times(&mut self, name: &str, times: Vec<f64>, target: Option<Target>, note: &str) {
        self.keep(Figure::of_times(GROUP, name, "ms", times), target, note);
    }

    /// Adds times from the request on, compared with a bare watch.
    pub fn requests(&mut self, name: &str, timed: &Timed, target: Option<Target>, note: &str) {
        let of = |time: fn(&Sample) -> f64| timed.samples.iter().map(time).collect();
        let figure = Figure::of_times(GROUP, name, "ms", of(|sample| sample.request))
            .above("a bare watch", of(|sample| sample.watch));
        self.finish(figure, target, note);
    }

    fn keep(&mut self, mut figure: Figure, target: Option<Target>, note: &str) {
        if let Some(smallest) = &mut self.smallest {
            if smallest.crowd == self.crowd {
                smallest
                    .samples
                    .insert(figure.name.clone(), figure.samples.clone());
            } else if let Some(of_smallest) = smallest.samples.get(&figure.name) {
                figure = figure.against(SMALLEST, of_smallest.clone());
            }
        }
        self.finish(figure, target, note);
    }

    /// Adds a figure that already has its baseline.
    pub fn finish(&mut self, mut figure: Figure, target: Option<Target>, note: &str) {
        figure = figure.noted(note);
        if let Some(target) = target {
            figure = figure.reaches(target);
        }
        for (parameter, value) in self.parameters() {
            figure = figure.at(parameter, value);
        }
        if self.run.wants(GROUP, &figure.name) {
            self.run.add(figure);
        }
    }
}
