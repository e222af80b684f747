//! Differences of means over few independent runs: Welch's interval and test.

use std::f64::consts::FRAC_PI_2;

use serde::Serialize;

use crate::resample::Interval;

/// The difference of the means of two sets of runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Welch {
    /// Mean of the first minus mean of the second.
    pub difference: f64,
    /// Welch's degrees of freedom; infinite if neither set varies.
    pub degrees_of_freedom: f64,
    /// Interval of the difference.
    pub interval: Interval,
    /// Two-sided p-value of equal means.
    pub p_value: f64,
}

/// Welch's t interval and test (Welch, 1947), which do not assume equal variances.
///
/// ```text
/// s_i^2 = sample variance (divisor n_i - 1)      e = s_1^2/n_1 + s_2^2/n_2      difference +- t sqrt(e)
/// degrees of freedom = e^2 / ((s_1^2/n_1)^2 / (n_1 - 1) + (s_2^2/n_2)^2 / (n_2 - 1))
/// ```
///
/// The values are assumed to be normal, which a handful of seeds cannot show. `None` with fewer than two values in a set, or when `level` is not
/// between 0 and 1. Without any variation the interval is the difference itself, and the p-value 0 or 1.
///
/// ```
/// use mixce_eval::welch::welch;
/// let found = welch(&[3.0, 4.0, 5.0], &[1.0, 2.0, 3.0], 0.95).unwrap();
/// // s^2 = 1 twice: e = 2/3, 4 degrees of freedom, t = 2.776445.
/// assert!((found.degrees_of_freedom - 4.0).abs() < 1e-9);
/// assert!((found.interval.high - (2.0 + 2.776445 * (2.0f64 / 3.0).sqrt())).abs() < 1e-5);
/// ```
#[must_use]
pub fn welch(first: &[f64], second: &[f64], level: f64) -> Option<Welch> {
    if first.len() < 2 || second.len() < 2 || !(level > 0.0 && level < 1.0) {
        return None;
    }
    let [(mean_1, error_1), (mean_2, error_2)] = [first, second].map(mean_and_squared_error);
    let difference = mean_1 - mean_2;
    let error = error_1 + error_2;
    if error == 0.0 {
        let p_value = if difference == 0.0 { 1.0 } else { 0.0 };
        let interval = Interval { low: difference, high: difference };
        return Some(Welch { difference, degrees_of_freedom: f64::INFINITY, interval, p_value });
    }
    let part = |error: f64, n: usize| error * error / (n as f64 - 1.0);
    let degrees_of_freedom = error * error / (part(error_1, first.len()) + part(error_2, second.len()));
    let half = student_t_quantile(level, degrees_of_freedom) * error.sqrt();
    Some(Welch {
        difference,
        degrees_of_freedom,
        interval: Interval { low: difference - half, high: difference + half },
        p_value: 1.0 - student_t_within(difference.abs() / error.sqrt(), degrees_of_freedom),
    })
}

/// The mean, and the square of its standard error.
fn mean_and_squared_error(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    (mean, values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0) / n)
}

/// `P(|T| <= t)` of Student's distribution. With `t = sqrt(v) tan(a)` its density is proportional to `cos(a)^(v - 1)`.
fn student_t_within(t: f64, freedom: f64) -> f64 {
    let angle = (t / freedom.sqrt()).atan();
    let inside = integral_of_cosine_power(0.0, angle, freedom - 1.0);
    inside / (inside + integral_of_cosine_power(angle, FRAC_PI_2, freedom - 1.0))
}

/// The `t` for which `P(|T| <= t)` is `level`, by bisection over its angle.
fn student_t_quantile(level: f64, freedom: f64) -> f64 {
    let (mut low, mut high) = (0.0, FRAC_PI_2);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        let is_below = student_t_within(freedom.sqrt() * middle.tan(), freedom) < level;
        *(if is_below { &mut low } else { &mut high }) = middle;
    }
    freedom.sqrt() * ((low + high) / 2.0).tan()
}

/// The integral of `cos(a)^power` by the tanh-sinh rule (Takahasi and Mori, 1974), which does not mind a derivative that is infinite at an end.
fn integral_of_cosine_power(from: f64, to: f64, power: f64) -> f64 {
    const STEP: f64 = 1.0 / 32.0;
    const LAST: i32 = 112;
    let half = (to - from) / 2.0;
    let sum: f64 = (-LAST..=LAST)
        .map(|k| {
            let u = f64::from(k) * STEP;
            let inner = FRAC_PI_2 * u.sinh();
            let weight = FRAC_PI_2 * u.cosh() / inner.cosh().powi(2);
            // At the upper end the cosine vanishes: its distance to it keeps the digits.
            let to_end = 2.0 * half / (1.0 + (2.0 * inner).exp());
            weight * (FRAC_PI_2 - to + to_end).sin().max(0.0).powf(power)
        })
        .sum();
    half * STEP * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_tables() {
        // Student's table: two-sided 95 %.
        for (freedom, t) in
            [(1.0, 12.706_204_736), (2.0, 4.302_652_730), (4.0, 2.776_445_105), (30.0, 2.042_272_456)]
        {
            let found = student_t_quantile(0.95, freedom);
            assert!((found - t).abs() < 1e-7 * t, "{freedom}: {found} {t}");
        }
        // One degree of freedom is Cauchy's distribution.
        assert!((student_t_within(1.0, 1.0) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn edges() {
        assert_eq!(welch(&[1.0], &[1.0, 2.0], 0.95), None);
        assert_eq!(welch(&[1.0, 2.0], &[1.0, 2.0], 1.0), None);
        let equal = welch(&[1.0, 1.0], &[1.0, 1.0], 0.95).unwrap();
        assert_eq!((equal.p_value, equal.interval), (1.0, Interval { low: 0.0, high: 0.0 }));
        assert_eq!(welch(&[2.0, 2.0], &[1.0, 1.0], 0.95).unwrap().p_value, 0.0);
    }
}
