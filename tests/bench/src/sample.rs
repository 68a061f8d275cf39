//! Several measurements of one thing.

use std::time::Duration;

/// Measurements of one figure, in the figure's unit. Never empty where it is read.
#[derive(Debug, Clone, Default)]
pub struct Sample(Vec<f64>);

impl Sample {
    /// Adds a measurement.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// Adds a time, in milliseconds.
    pub fn push_time(&mut self, time: Duration) {
        self.push(milliseconds(time));
    }

    /// The measurements in the order in which they were made.
    pub fn values(&self) -> &[f64] {
        &self.0
    }

    /// The value in the middle, or the mean of the two there; NaN of nothing.
    pub fn median(&self) -> f64 {
        let sorted = self.sorted();
        match sorted.len() {
            0 => f64::NAN,
            length if length % 2 == 1 => sorted[length / 2],
            length => f64::midpoint(sorted[length / 2 - 1], sorted[length / 2]),
        }
    }

    /// The smallest; NaN of nothing.
    pub fn min(&self) -> f64 {
        self.sorted().first().copied().unwrap_or(f64::NAN)
    }

    /// The largest; NaN of nothing.
    pub fn max(&self) -> f64 {
        self.sorted().last().copied().unwrap_or(f64::NAN)
    }

    /// The smallest value that at least `percent` of the measurements do not exceed (nearest rank); NaN of nothing.
    pub fn percentile(&self, percent: usize) -> f64 {
        let sorted = self.sorted();
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

impl FromIterator<f64> for Sample {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

/// A time as the figures give it.
pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "these values are exact")]
mod tests {
    use super::Sample;

    fn of(values: &[f64]) -> Sample {
        values.iter().copied().collect()
    }

    #[test]
    fn the_median_is_in_the_middle_whatever_the_order() {
        assert_eq!(of(&[9.0, 1.0, 5.0]).median(), 5.0);
        assert_eq!(of(&[9.0, 1.0, 5.0, 6.0]).median(), 5.5);
        assert!(of(&[]).median().is_nan());
    }

    #[test]
    fn the_range_is_the_extremes() {
        let sample = of(&[9.0, 1.0, 5.0]);
        assert_eq!((sample.min(), sample.max()), (1.0, 9.0));
    }

    #[test]
    fn the_percentile_is_a_value_that_was_measured() {
        let hundred: Sample = (1..=100).rev().map(f64::from).collect();
        assert_eq!(hundred.percentile(99), 99.0);
        assert_eq!(hundred.percentile(100), 100.0);
        assert_eq!(of(&[3.0]).percentile(99), 3.0);
        assert_eq!(of(&[3.0, 4.0]).percentile(50), 3.0);
    }
}
