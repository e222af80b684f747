//! The exact sign test.

/// The two-sided p-value of `wins` against `losses` under equal chances; ties do not count.
///
/// With `n = wins + losses` and `k` the smaller of the two, `p = min(1, 2 sum_{i<=k} C(n, i) / 2^n)` (Dixon and Mood, *The statistical
/// sign test*, 1946), which is the binomial test with probability 1/2. 1 without any win or loss. Terms are summed from their
/// logarithms; the relative error is about `1e-12 n / 1000`.
///
/// ```
/// use mixce_judge::stats::sign_test;
/// assert_eq!(sign_test(9, 1), 0.021484375);
/// ```
#[must_use]
pub fn sign_test(wins: usize, losses: usize) -> f64 {
    let n = wins + losses;
    let mut log_choose = 0.0;
    let mut terms = Vec::new();
    for i in 0..=wins.min(losses) {
        if i > 0 {
            log_choose += ((n - i + 1) as f64 / i as f64).ln();
        }
        terms.push(log_choose);
    }
    // Relative to the largest term, which is the last, and exact where the powers of two are.
    let total: f64 = if n <= 50 {
        terms.iter().map(|log| log.exp().round()).sum::<f64>() * (-(n as f64)).exp2()
    } else {
        terms.iter().map(|log| (log - n as f64 * std::f64::consts::LN_2).exp()).sum()
    };
    (2.0 * total).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `scipy.stats.binomtest(wins, wins + losses, 0.5).pvalue`, scipy 1.17.1.
    #[test]
    fn equals_scipy() {
        for (wins, losses, p) in [
            (0, 1, 1.0),
            (3, 7, 0.34375),
            (5, 5, 1.0),
            (9, 1, 0.021484375),
            (0, 40, 1.8189894035458565e-12),
            (60, 40, 0.05688793364098089),
            (430, 570, 1.0709737664959605e-05),
            (5050, 4950, 0.32217419979531087),
        ] {
            let got = sign_test(wins, losses);
            assert!((got - p).abs() <= 1e-10 * p, "{wins}:{losses}: {got}, expected {p}");
            assert_eq!(sign_test(losses, wins), got);
        }
        assert_eq!(sign_test(0, 0), 1.0);
    }
}
