//! Agreement of judges.

use std::collections::BTreeMap;

/// How far apart two values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Equal or not.
    Nominal,
    /// By the number of values between them.
    Ordinal,
}

/// Krippendorff's alpha for any number of judges and missing values; each unit holds the values that it got.
///
/// `alpha = 1 - (n - 1) sum_{c<k} o_ck d_ck / sum_{c<k} n_c n_k d_ck`, where a unit of `m` values adds `1 / (m - 1)` to `o_ck` for each
/// of its ordered pairs, `n_c = sum_k o_ck` and `n = sum_c n_c`; `d_ck` is 1 for nominal values and
/// `(sum_{g=c}^{k} n_g - (n_c + n_k) / 2)^2` for ordinal ones (Krippendorff, *Computing Krippendorff's Alpha-Reliability*, 2011).
/// Units of fewer than two values do not count.
///
/// `None` where it is not defined: without two values on some unit, or when all values are equal.
#[must_use]
pub fn alpha(units: &[Vec<i8>], level: Level) -> Option<f64> {
    let mut coincidences: BTreeMap<(i8, i8), f64> = BTreeMap::new();
    for unit in units.iter().filter(|unit| unit.len() >= 2) {
        let weight = 1.0 / (unit.len() - 1) as f64;
        for (i, c) in unit.iter().enumerate() {
            for (_, k) in unit.iter().enumerate().filter(|(j, _)| *j != i) {
                *coincidences.entry((*c, *k)).or_default() += weight;
            }
        }
    }
    let mut totals: BTreeMap<i8, f64> = BTreeMap::new();
    for (&(c, _), count) in &coincidences {
        *totals.entry(c).or_default() += count;
    }
    let distance = |c: i8, k: i8| match level {
        Level::Nominal => 1.0,
        Level::Ordinal => {
            (totals.range(c..=k).map(|(_, n)| n).sum::<f64>() - (totals[&c] + totals[&k]) / 2.0).powi(2)
        }
    };
    let n: f64 = totals.values().sum();
    let (mut observed, mut expected) = (0.0, 0.0);
    for (&c, n_c) in &totals {
        for (&k, n_k) in totals.range(c + 1..) {
            observed += coincidences.get(&(c, k)).unwrap_or(&0.0) * distance(c, k);
            expected += n_c * n_k * distance(c, k);
        }
    }
    (expected > 0.0).then(|| 1.0 - (n - 1.0) * observed / expected)
}

/// The share of equal values among all pairs of values of one unit; `None` without a pair.
#[must_use]
pub fn pairwise_agreement(units: &[Vec<i8>]) -> Option<f64> {
    let (mut equal, mut pairs) = (0usize, 0usize);
    for unit in units {
        for (i, a) in unit.iter().enumerate() {
            pairs += i;
            equal += unit[..i].iter().filter(|b| *b == a).count();
        }
    }
    (pairs > 0).then(|| equal as f64 / pairs as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The data of section C of Krippendorff (2011), four observers and twelve units, 0 for a missing value; the paper gives
    /// 0.743 for nominal and 0.815 for ordinal data, the package `krippendorff` 0.8 the further digits.
    #[test]
    fn equals_the_published_example() {
        let observers = [
            [1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0],
            [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3],
            [0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0],
            [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0],
        ];
        let unit = |u: usize| observers.iter().map(|o| o[u]).filter(|v| *v != 0).collect();
        let units: Vec<Vec<i8>> = (0..12).map(unit).collect();
        let close = |level, want: f64| (alpha(&units, level).unwrap() - want).abs() < 1e-12;
        assert!(close(Level::Nominal, 0.743421052631579), "{:?}", alpha(&units, Level::Nominal));
        assert!(close(Level::Ordinal, 0.8153875037548814), "{:?}", alpha(&units, Level::Ordinal));
    }

    #[test]
    fn edges() {
        assert_eq!(alpha(&[], Level::Nominal), None);
        assert_eq!(alpha(&[vec![1], vec![0]], Level::Nominal), None);
        assert_eq!(alpha(&[vec![1, 1], vec![1, 1]], Level::Ordinal), None);
        assert_eq!(alpha(&[vec![1, 1], vec![0, 0]], Level::Nominal), Some(1.0));
        // Two judges who always differ: 1 - 3 * 2 / (2 * 2).
        assert_eq!(alpha(&[vec![1, 0], vec![0, 1]], Level::Nominal), Some(-0.5));
        assert_eq!(pairwise_agreement(&[vec![1], vec![]]), None);
        assert_eq!(pairwise_agreement(&[vec![1, 1, 0], vec![0, 0]]), Some(0.5));
    }
}
