//! What a handful of measurements say: their median, and how far chance alone could have moved it.

/// Resamples of a bootstrap: enough that the interval's ends stand still.
const RESAMPLES: usize = 2000;
/// Share of the resampled medians that the interval leaves out on each side.
const TAIL: f64 = 0.025;

/// A median with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Estimate {
    /// The median.
    pub median: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

/// The middle value, or the mean of the two in the middle; `None` of nothing.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    quantile(values, 0.5)
}

/// The value that the given share of all values lies below, between the two nearest in proportion.
#[must_use]
pub fn quantile(values: &[f64], share: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let position = share * (sorted.len().checked_sub(1)? as f64);
    let below = position.floor();
    let (low, high) = (sorted[below as usize], sorted[position.ceil() as usize]);
    Some(low + (high - low) * (position - below))
}

/// The median with its interval by the percentile bootstrap. The same values give the same answer.
#[must_use]
pub fn estimate(values: &[f64]) -> Option<Estimate> {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let medians: Option<Vec<f64>> = (0..RESAMPLES).map(|_| median(&resample(values, &mut dice))).collect();
    let medians = medians?;
    Some(Estimate {
        median: median(values)?,
        low: quantile(&medians, TAIL)?,
        high: quantile(&medians, 1.0 - TAIL)?,
    })
}

/// How far two values are apart, as a share of their mean; 0 for twice nothing.
#[must_use]
pub fn spread(a: f64, b: f64) -> f64 {
    let mean = f64::midpoint(a, b);
    if mean == 0.0 { 0.0 } else { (a - b).abs() / mean }
}

/// As many values as there are, each drawn from all of them.
fn resample(values: &[f64], dice: &mut Dice) -> Vec<f64> {
    values.iter().map(|_| values[dice.below(values.len())]).collect()
}

/// Xorshift from a fixed seed: a report can be computed again.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // The upper bits are the better ones; the remainder of so small a bound is as good as fair.
        (self.0 >> 33) as usize % bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle_in_whatever_order_the_values_come() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[7.0]), Some(7.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 9.0]), Some(3.0));
    }

    #[test]
    fn quantiles_lie_between_their_neighbours_in_proportion() {
        let values = [0.0, 10.0, 20.0, 30.0, 40.0];
        assert_eq!(quantile(&values, 0.0), Some(0.0));
        assert_eq!(quantile(&values, 1.0), Some(40.0));
        assert_eq!(quantile(&values, 0.25), Some(10.0));
        assert_eq!(quantile(&values, 0.125), Some(5.0));
    }

    #[test]
    fn equal_values_have_an_interval_without_width() {
        let all = Estimate { median: 3.0, low: 3.0, high: 3.0 };
        assert_eq!(estimate(&[3.0; 5]), Some(all));
        assert_eq!(estimate(&[]), None);
    }

    #[test]
    fn the_interval_holds_the_median_and_grows_with_the_scatter() {
        let narrow = estimate(&[9.8, 9.9, 10.0, 10.1, 10.2]).unwrap();
        let wide = estimate(&[5.0, 8.0, 10.0, 12.0, 15.0]).unwrap();
        for estimate in [narrow, wide] {
            assert_eq!(estimate.median, 10.0);
            assert!(estimate.low < 10.0 && 10.0 < estimate.high, "{estimate:?}");
        }
        assert!(narrow.low > wide.low && narrow.high < wide.high, "{narrow:?} {wide:?}");
    }

    #[test]
    fn one_odd_value_moves_neither_the_median_nor_the_interval_of_many() {
        let with_outlier = [[10.0; 8].as_slice(), &[100.0]].concat();
        assert_eq!(estimate(&with_outlier), Some(Estimate { median: 10.0, low: 10.0, high: 10.0 }));
    }

    #[test]
    fn two_odd_ones_of_five_widen_the_interval() {
        let estimate = estimate(&[10.0, 10.0, 10.0, 100.0, 100.0]).unwrap();
        assert_eq!((estimate.median, estimate.high), (10.0, 100.0));
    }

    #[test]
    fn the_spread_is_relative_and_has_no_direction() {
        assert_eq!(spread(0.0, 0.0), 0.0);
        assert_eq!(spread(95.0, 105.0), 0.1);
        assert_eq!(spread(105.0, 95.0), 0.1);
    }
}
