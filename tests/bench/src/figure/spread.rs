// SPDX-License-Identifier: Apache-2.0
//! Summarizes many numbers by three.

/// Minimum, median and maximum of repetitions. For single times: median, 99th percentile and
/// maximum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// Minimum; of single times, the 50th percentile.
    pub min: f64,
    /// Median, the mean of the middle two for an even number; of single times, the 99th percentile.
    pub median: f64,
    /// Maximum.
    pub max: f64,
}

impl Spread {
    /// Summarizes numbers; `None` if there are none, or if one is NaN.
    pub fn of(numbers: &[f64]) -> Option<Self> {
        if numbers.is_empty() || numbers.iter().any(|number| !number.is_finite()) {
            return None;
        }
        let mut sorted = numbers.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            (sorted[middle - 1] + sorted[middle]) / 2.0
        } else {
            sorted[middle]
        };
        Some(Self {
            min: sorted[0],
            median,
            max: sorted[sorted.len() - 1],
        })
    }

    /// Summarizes single times by nearest rank, so each is one of them; `None` if there are none,
    /// or if one is NaN.
    pub fn of_times(times: &[f64]) -> Option<Self> {
        if times.iter().any(|time| !time.is_finite()) {
            return None;
        }
        let mut sorted = times.to_vec();
        sorted.sort_by(f64::total_cmp);
        let rank = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100);
            sorted.get(rank.checked_sub(1)?).copied()
        };
        Some(Self {
            min: rank(50)?,
            median: rank(99)?,
            max: rank(100)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Spread;

    #[test]
    fn the_middle_of_an_odd_and_of_an_even_number() {
        let spread = Spread::of(&[3.0, 1.0, 2.0]).unwrap();
        assert_eq!((spread.min, spread.median, spread.max), (1.0, 2.0, 3.0));
        assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[1.0, f64::NAN]), None);
        assert_eq!(Spread::of(&[1.0, f64::INFINITY]), None);
    }

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let of =
            |times: &[f64]| Spread::of_times(times).map(|spread| (spread.min, spread.median, spread.max));
        let times: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(of(&times), Some((100.0, 198.0, 200.0)));
        assert_eq!(of(&[3.0]), Some((3.0, 3.0, 3.0)));
        assert_eq!(of(&[2.0, 1.0, 9.0]), Some((2.0, 9.0, 9.0)));
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[1.0, f64::NAN]), None);
    }
}
