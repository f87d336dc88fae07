// SPDX-License-Identifier: Apache-2.0
//! From what was measured at a size of the cluster to figures, each held against the same at the smallest size.

use std::collections::BTreeMap;

use crate::bench::{
    Figure, Run, Target,
    changes::{Crowd, Sample, Timed},
    figure::SMALLEST,
};

/// The group's name.
pub const GROUP: &str = "agent";

/// The samples of the smallest size, by name.
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

    /// What is added from now on was measured at this size. The first size is the one that others are held against.
    pub fn at(&mut self, crowd: Crowd) {
        self.crowd = crowd;
        self.smallest.get_or_insert_with(|| Smallest {
            crowd,
            samples: BTreeMap::new(),
        });
    }

    /// The size that is measured at.
    pub fn crowd(&self) -> Crowd {
        self.crowd
    }

    /// The run.
    pub fn run(&mut self) -> &mut Run {
        self.run
    }

    /// Size as parameters of a figure.
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

    /// One number, held against that of the smallest size.
    pub fn add(&mut self, name: &str, unit: &str, value: f64, target: Option<Target>, note: &str) {
        self.samples(name, unit, vec![value], target, note);
    }

    /// Repetitions, held against those of the smallest size.
    pub fn samples(&mut self, name: &str, unit: &str, samples: Vec<f64>, target: Option<Target>, note: &str) {
        self.keep(Figure::new(GROUP, name, unit, samples), target, note);
    }

    /// Single times in ms, held against those of the smallest size.
    pub fn times(&mut self, name: &str, times: Vec<f64>, target: Option<Target>, note: &str) {
        self.keep(Figure::of_times(GROUP, name, "ms", times), target, note);
    }

    /// Times from the request on, held against those of a bare watch.
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

    /// A figure that has what it is held against.
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
