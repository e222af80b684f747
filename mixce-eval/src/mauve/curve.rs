//! MAUVE's divergence curve, its area, and the frontier integral of two histograms.
//!
//! Pillutla et al., *MAUVE*, NeurIPS 2021 and JMLR 2023; Liu et al., *Divergence Frontiers for Generative Models*, NeurIPS 2021.

/// The share of each bucket; `None` without any count.
#[must_use]
pub fn shares(counts: &[usize]) -> Option<Vec<f64>> {
    let total: usize = counts.iter().sum();
    (total > 0).then(|| counts.iter().map(|count| *count as f64 / total as f64).collect())
}

/// Shares after half a count was added to every bucket (Krichevsky and Trofimov): the smoothing of MAUVE*.
#[must_use]
pub fn smoothed_shares(counts: &[usize]) -> Option<Vec<f64>> {
    let total = counts.iter().sum::<usize>() as f64 + 0.5 * counts.len() as f64;
    (total > 0.0).then(|| counts.iter().map(|count| (*count as f64 + 0.5) / total).collect())
}

/// `KL(a || b) = sum a ln(a / b)` in nats over the buckets where `a > 0`; infinite where `b` is 0 there.
#[must_use]
pub fn kl_divergence(a: &[f64], b: &[f64]) -> f64 {
    a.iter()
        .zip(b)
        .filter(|(a, _)| **a > 0.0)
        .map(|(a, b)| if *b > 0.0 { a * (a / b).ln() } else { f64::INFINITY })
        .sum()
}

/// The divergence curve between histograms `p` and `q`: `points + 2` pairs from `(1, 0)` to `(0, 1)`.
///
/// For weights `w` evenly spaced from `1e-6` to `1 - 1e-6` and `r = w p + (1 - w) q` a point is
/// `(exp(-s KL(q || r)), exp(-s KL(p || r)))`, `s` the scaling. The two ends are the limits where `r` is `q` or `p` alone and the other
/// divergence is infinite.
#[must_use]
pub fn divergence_curve(p: &[f64], q: &[f64], points: usize, scaling: f64) -> Vec<[f64; 2]> {
    let step = (1.0 - 2e-6) / points.saturating_sub(1).max(1) as f64;
    let point = |i: usize| {
        let w = 1e-6 + step * i as f64;
        let r: Vec<f64> = p.iter().zip(q).map(|(p, q)| w * p + (1.0 - w) * q).collect();
        [kl_divergence(q, &r), kl_divergence(p, &r)].map(|kl| (-scaling * kl).exp())
    };
    let inner = (0..points).map(point);
    std::iter::once([1.0, 0.0]).chain(inner).chain([[0.0, 1.0]]).collect()
}

/// The area under a curve: the mean of the trapezoid rule along the first and along the second coordinate.
#[must_use]
pub fn area(curve: &[[f64; 2]]) -> f64 {
    let along = |first: usize, second: usize| {
        let mut points = curve.to_vec();
        // The curve falls: of points that share a coordinate the higher comes first. (Equal histograms are the corner (1, 1).)
        points.sort_by(|a, b| a[first].total_cmp(&b[first]).then(b[second].total_cmp(&a[second])));
        let trapezoid =
            |pair: &[[f64; 2]]| (pair[1][first] - pair[0][first]) * (pair[0][second] + pair[1][second]) / 2.0;
        points.windows(2).map(trapezoid).sum::<f64>()
    };
    (along(0, 1) + along(1, 0)) / 2.0
}

/// The frontier integral of Liu et al.: 0 for equal histograms, 1 for disjoint ones.
///
/// `2 sum_i f(p_i, q_i)` with `f(p, q) = (p + q) / 4 - p q (ln p - ln q) / (2 (p - q))`, its limits `q / 4` and `p / 4` where the other is 0,
/// and 0 where both are equal.
#[must_use]
pub fn frontier_integral(p: &[f64], q: &[f64]) -> f64 {
    let term = |p: f64, q: f64| match (p > 0.0, q > 0.0) {
        (false, false) => 0.0,
        (false, true) => q / 4.0,
        (true, false) => p / 4.0,
        (true, true) if (p - q).abs() <= 1e-8 => 0.0,
        (true, true) => (p + q) / 4.0 - p * q * (p.ln() - q.ln()) / (2.0 * (p - q)),
    };
    2.0 * p.iter().zip(q).map(|(p, q)| term(*p, *q)).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ends() {
        let (p, q) = ([0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.25, 0.75]);
        let equal = area(&divergence_curve(&p, &p, 25, 5.0));
        assert!((equal - 1.0).abs() < 1e-9, "{equal}");
        let disjoint = area(&divergence_curve(&p, &q, 25, 5.0));
        assert!(disjoint > 0.0 && disjoint < 0.05, "{disjoint}");
        assert_eq!(frontier_integral(&p, &p), 0.0);
        assert_eq!(frontier_integral(&p, &q), 1.0);
        assert_eq!(shares(&[0, 0]), None);
        assert_eq!(smoothed_shares(&[1, 0]), Some(vec![0.75, 0.25]));
        assert_eq!(kl_divergence(&[1.0, 0.0], &[0.0, 1.0]), f64::INFINITY);
    }

    proptest! {
        #[test]
        fn symmetric_and_within_bounds(counts in prop::collection::vec((0usize..20, 0usize..20), 1..30)) {
            let (a, b): (Vec<usize>, Vec<usize>) = counts.into_iter().unzip();
            if let (Some(p), Some(q)) = (shares(&a), shares(&b)) {
                let forward = area(&divergence_curve(&p, &q, 25, 5.0));
                let backward = area(&divergence_curve(&q, &p, 25, 5.0));
                prop_assert!((forward - backward).abs() < 1e-12);
                prop_assert!((0.0..=1.0 + 1e-12).contains(&forward));
                let (fi, back) = (frontier_integral(&p, &q), frontier_integral(&q, &p));
                prop_assert!((fi - back).abs() < 1e-12 && (-1e-12..=1.0 + 1e-12).contains(&fi));
            }
        }
    }
}
