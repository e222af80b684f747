//! Systems compared on the same prompts when each has several sets of samples: of several seeds, or several samples of a prompt.
//!
//! The unit that is resampled is the prompt. A system's value for a prompt is its mean over the system's sets, so the interval says how much
//! the result depends on the choice of prompts, given these models. It does not say what another training run would give: that is
//! [`welch`](crate::welch::welch) over seeds.

use mixce_base::rng::{Stream, purpose};
use rayon::prelude::*;
use serde::Serialize;

use crate::resample::{Interval, percentile_interval};

/// Each prompt's mean over the sets that have a value for it; `None` for a prompt without any.
///
/// `None` without sets, or when their lengths differ: they are not of the same prompts.
///
/// ```
/// use mixce_eval::paired::prompt_means;
/// let sets = [vec![Some(1.0), None, None], vec![Some(2.0), Some(3.0), None]];
/// assert_eq!(prompt_means(&sets), Some(vec![Some(1.5), Some(3.0), None]));
/// assert_eq!(prompt_means(&[vec![Some(1.0)], vec![]]), None);
/// ```
#[must_use]
pub fn prompt_means<S: AsRef<[Option<f64>]>>(sets: &[S]) -> Option<Vec<Option<f64>>> {
    let length = sets.first()?.as_ref().len();
    if sets.iter().any(|set| set.as_ref().len() != length) {
        return None;
    }
    let mean = |prompt: usize| {
        let present: Vec<f64> = sets.iter().filter_map(|set| set.as_ref()[prompt]).collect();
        (!present.is_empty()).then(|| present.iter().sum::<f64>() / present.len() as f64)
    };
    Some((0..length).map(mean).collect())
}

/// Which of two systems is closer to the human texts in the mean of a score.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Closeness {
    /// Prompts for which all three have a value.
    pub prompts: usize,
    /// `|mean of the first - mean of the human texts|`.
    pub first: f64,
    /// `|mean of the second - mean of the human texts|`.
    pub second: f64,
    /// The first distance minus the second: negative if the first system is closer.
    pub difference: f64,
    /// Its paired percentile bootstrap interval.
    pub interval: Interval,
}

/// Compares the distances of two systems to the human texts, resampling prompts: every resample draws the same prompts for all three.
///
/// The statistic is `|mean(first) - mean(human)| - |mean(second) - mean(human)|`. Prompts for which a value is missing are left out.
/// `None` if none remains, without resamples, when `level` is not between 0 and 1, or when the numbers of prompts differ.
#[must_use]
pub fn closeness(
    human: &[Option<f64>],
    first: &[Option<f64>],
    second: &[Option<f64>],
    resamples: usize,
    level: f64,
    seed: u64,
) -> Option<Closeness> {
    if human.len() != first.len() || human.len() != second.len() {
        return None;
    }
    let all = human.iter().zip(first).zip(second);
    let rows: Vec<[f64; 2]> = all
        .filter_map(|((human, first), second)| Some([(*first)? - (*human)?, (*second)? - (*human)?]))
        .collect();
    let n = rows.len() as u64;
    let distances = |draw: &dyn Fn(u64) -> u64| {
        let sum = (0..n).fold([0.0, 0.0], |sum, i| {
            let row = rows[draw(i) as usize];
            [sum[0] + row[0], sum[1] + row[1]]
        });
        sum.map(|sum| (sum / n as f64).abs())
    };
    if n == 0 {
        return None;
    }
    let stream = Stream::new(seed).fold(purpose::METRIC).fold(3);
    let of_resample = |resample: u64| {
        let stream = stream.fold(resample);
        let [first, second] = distances(&|i| stream.below(i, n));
        first - second
    };
    let differences: Vec<f64> = (0..resamples as u64).into_par_iter().map(of_resample).collect();
    let interval = percentile_interval(differences, level)?;
    let [first, second] = distances(&|i| i);
    Some(Closeness { prompts: rows.len(), first, second, difference: first - second, interval })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closer_system_is_found_whatever_side_it_is_on() {
        let human: Vec<_> = (0..200).map(|i| Some(f64::from(i % 10))).collect();
        let shifted = |by: f64| -> Vec<_> { human.iter().map(|h: &Option<f64>| h.map(|h| h + by)).collect() };
        let found = closeness(&human, &shifted(-1.0), &shifted(3.0), 200, 0.95, 1).unwrap();
        assert_eq!((found.prompts, found.first, found.second, found.difference), (200, 1.0, 3.0, -2.0));
        // Constant shifts: every resample has the same differences.
        assert_eq!(found.interval, Interval { low: -2.0, high: -2.0 });
    }

    #[test]
    fn equal_systems_are_equally_close() {
        let stream = Stream::new(5);
        let [human, first, second] =
            [0, 1, 2].map(|part| (0..300).map(|i| Some(stream.fold(part).normal(i))).collect::<Vec<_>>());
        let found = closeness(&human, &first, &second, 500, 0.95, 2).unwrap();
        assert!(found.interval.low < 0.0 && 0.0 < found.interval.high, "{found:?}");
    }

    #[test]
    fn edges() {
        let one = [Some(1.0)];
        assert_eq!(closeness(&one, &[None], &one, 10, 0.95, 1), None);
        assert_eq!(closeness(&one, &[], &one, 10, 0.95, 1), None);
        assert_eq!(closeness(&one, &one, &one, 0, 0.95, 1), None);
        assert_eq!(closeness(&one, &one, &one, 10, 0.0, 1), None);
        assert_eq!(prompt_means::<Vec<Option<f64>>>(&[]), None);
    }
}
