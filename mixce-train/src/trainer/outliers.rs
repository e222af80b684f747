//! Steps whose gradient norm is far beyond the usual.
use std::collections::VecDeque;

/// Norms that the median is taken over.
const WINDOW: usize = 64;
/// Norms that must be known before a step is judged.
const LEAST: usize = 8;

/// A step is an outlier if its gradient norm exceeds `factor` times the median of the last norms.
///
/// The median is over the last 64 steps, outliers included, so that a lasting change of the norm becomes the usual. The first 8 steps are never
/// outliers.
#[derive(Debug)]
pub(super) struct OutlierRule {
    factor: f64,
    norms: VecDeque<f64>,
}

impl OutlierRule {
    pub(super) fn new(factor: f64) -> Self {
        Self { factor, norms: VecDeque::new() }
    }

    /// Judges a step by its finite gradient norm, which is then one of the last norms.
    pub(super) fn is_outlier(&mut self, step: u64, norm: f64) -> bool {
        let limit = (self.norms.len() >= LEAST).then(|| self.factor * self.median());
        if self.norms.len() == WINDOW {
            self.norms.pop_front();
        }
        self.norms.push_back(norm);
        match limit.filter(|limit| norm > *limit) {
            Some(limit) => {
                tracing::warn!(
                    "step {step} is skipped: its gradient norm {norm:.4} is beyond {} times the running median ({limit:.4})",
                    self.factor
                );
                true
            }
            None => false,
        }
    }

    /// The last norms, the oldest first.
    pub(super) fn recent(&self) -> Vec<f64> {
        self.norms.iter().copied().collect()
    }

    pub(super) fn restore(&mut self, norms: &[f64]) {
        self.norms = norms.iter().copied().skip(norms.len().saturating_sub(WINDOW)).collect();
    }

    fn median(&self) -> f64 {
        let mut sorted = self.recent();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        if sorted.len().is_multiple_of(2) {
            (sorted[middle - 1] + sorted[middle]) / 2.0
        } else {
            sorted[middle]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_norm_beyond_the_factor_is_an_outlier_once_the_median_is_known() {
        let mut rule = OutlierRule::new(3.0);
        assert!(!rule.is_outlier(1, 100.0), "nothing to compare with");
        for (step, norm) in (2..).zip([1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0]) {
            assert!(!rule.is_outlier(step, norm));
        }
        // The median of 100 and 1, 2, 1, 2, 1, 2, 1 is 1.5.
        assert!(!rule.is_outlier(9, 4.5) && rule.is_outlier(10, 6.1));
        let restored = |rule: &OutlierRule| {
            let mut other = OutlierRule::new(3.0);
            other.restore(&rule.recent());
            other
        };
        assert_eq!(restored(&rule).recent(), rule.recent());
        // A lasting change is the usual after half a window.
        let skipped = (0..WINDOW as u64).filter(|step| rule.is_outlier(11 + step, 50.0)).count();
        assert!((5..=WINDOW / 2).contains(&skipped), "{skipped}");
        assert_eq!(rule.recent(), [50.0; WINDOW]);
    }
}
