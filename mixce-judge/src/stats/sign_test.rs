//! The exact sign test.

/// The two-sided p-value of `wins` against `losses` under equal chances; ties do not count.
///
/// With `n = wins + losses` and `k` the smaller of the two, `p = min(1, 2 sum_{i<=k} C(n, i) / 2^n)` (Dixon and Mood, *The statistical
/// sign test*, 1946), which is the binomial test with probability 1/2. 1 without any win or loss. Terms are summed from their
/// logarithms; for ten thousand items the relative error is below `1e-10`.
///
/// ```
/// use mixce_judge::stats::sign_test;
/// assert!((sign_test(9, 1) - 0.021484375).abs() < 1e-12);
/// ```
#[must_use]
pub fn sign_test(wins: usize, losses: usize) -> f64 {
    let n = wins + losses;
    let mut log_choose = 0.0;
    let mut tail = 0.0;
    for i in 0..=wins.min(losses) {
        if i > 0 {
            log_choose += ((n - i + 1) as f64 / i as f64).ln();
        }
        tail += (log_choose - n as f64 * std::f64::consts::LN_2).exp();
    }
    (2.0 * tail).min(1.0)
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
