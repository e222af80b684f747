//! Correction of p-values for the number of tests.

/// Holm's adjusted p-values (Holm, 1979), in the order of the input: rejecting those below `alpha` makes a false rejection among all tests
/// at most that likely, whatever their dependence.
///
/// With the p-values sorted, the `i`-th smallest of `m` becomes `max_{j <= i} min(1, (m - j + 1) p_j)`.
///
/// ```
/// use mixce_eval::holm::holm;
/// let adjusted = holm(&[0.01, 0.04, 0.03, 0.005]);
/// for (got, want) in adjusted.iter().zip([0.03, 0.06, 0.06, 0.02]) {
///     assert!((got - want).abs() < 1e-12);
/// }
/// ```
#[must_use]
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|a, b| p_values[*a].total_cmp(&p_values[*b]));
    let mut adjusted = vec![0.0; p_values.len()];
    let mut largest = 0.0f64;
    for (rank, index) in order.into_iter().enumerate() {
        largest = largest.max((p_values.len() - rank) as f64 * p_values[index]).min(1.0);
        adjusted[index] = largest;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adjusted_values_keep_the_order_and_stay_below_one() {
        assert_eq!(holm(&[]), [0.0; 0]);
        assert_eq!(holm(&[0.2]), [0.2]);
        assert_eq!(holm(&[0.9, 0.6, 0.125]), [1.0, 1.0, 0.375]);
    }
}
