//! The choice between objectives by a development metric.

/// Which values of a metric are best.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Direction {
    /// The highest.
    Highest,
    /// The lowest.
    Lowest,
    /// The nearest to that of human texts, given here.
    AsHuman(f64),
}

impl Direction {
    /// How bad a mean is: the smallest is best.
    fn loss(self, mean: f64) -> f64 {
        match self {
            Self::Highest => -mean,
            Self::Lowest => mean,
            Self::AsHuman(human) => (mean - human).abs(),
        }
    }
}

/// An objective (or another setting) and its values of the metric: for each seed, of each sampling run.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate<T> {
    /// What is chosen.
    pub what: T,
    /// The values. Seeds without values are left out.
    pub values: Vec<Vec<f64>>,
}

/// Mean and spread of a candidate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Mean over seeds of the mean over sampling runs.
    pub mean: f64,
    /// Standard deviation (divisor n - 1) over seeds, or with one seed over its sampling runs; none with one value.
    pub std: Option<f64>,
    /// Number of values that `std` is over.
    pub n: usize,
}

impl Summary {
    /// Of a candidate's values; none without any.
    #[must_use]
    pub fn of(values: &[Vec<f64>]) -> Option<Self> {
        let mut of_seeds: Vec<f64> = values.iter().filter_map(|runs| mean(runs)).collect();
        let overall = mean(&of_seeds)?;
        if let [_] = of_seeds.as_slice() {
            of_seeds = values.iter().flatten().copied().collect();
        }
        let n = of_seeds.len();
        let squares: f64 = of_seeds.iter().map(|value| (value - overall).powi(2)).sum();
        Some(Self { mean: overall, std: (n > 1).then(|| (squares / (n - 1) as f64).sqrt()), n })
    }

    /// Squared standard error of the mean; none with one value.
    fn squared_error(&self) -> Option<f64> {
        self.std.map(|std| std * std / self.n as f64)
    }
}

/// The result of [`choose`]; indices are those of the candidates.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The best candidate.
    pub best: usize,
    /// Those that cannot be told from it, in order.
    pub ties: Vec<usize>,
    /// Mean and spread of each; none for a candidate without values.
    pub summaries: Vec<Option<Summary>>,
}

/// The candidate with the best mean, the first of equal ones; none if no candidate has values.
///
/// Another one ties with it if their means differ by no more than the standard error of the difference,
/// `sqrt(s1^2 / n1 + s2^2 / n2)`, with the standard deviations `s` and the numbers `n` of [`Summary`]. (For [`Direction::AsHuman`] it is the
/// distances to the human value that differ.) Where one of the two has only one value, there is no spread, and only equal means tie.
#[must_use]
pub fn choose<T>(candidates: &[Candidate<T>], direction: Direction) -> Option<Choice> {
    let summaries: Vec<Option<Summary>> = candidates.iter().map(|c| Summary::of(&c.values)).collect();
    let known = || summaries.iter().enumerate().filter_map(|(index, summary)| Some((index, (*summary)?)));
    let loss = |summary: &Summary| direction.loss(summary.mean);
    let (best, of_best) = known().min_by(|a, b| loss(&a.1).total_cmp(&loss(&b.1)))?;
    let ties = known().filter(|(index, other)| {
        let squared = of_best.squared_error().zip(other.squared_error()).map_or(0.0, |(a, b)| a + b);
        *index != best && loss(other) - loss(&of_best) <= squared.sqrt()
    });
    let ties = ties.map(|(index, _)| index).collect();
    Some(Choice { best, ties, summaries })
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(values: &[&[&[f64]]]) -> Vec<Candidate<()>> {
        let of = |seeds: &&[&[f64]]| Candidate {
            what: (),
            values: seeds.iter().map(|runs| runs.to_vec()).collect(),
        };
        values.iter().map(of).collect()
    }

    #[test]
    fn the_spread_is_over_seeds_and_over_runs_if_there_is_one_seed() {
        let of =
            |values: &[&[f64]]| Summary::of(&values.iter().map(|runs| runs.to_vec()).collect::<Vec<_>>());
        assert_eq!(of(&[&[1.0, 3.0], &[4.0]]), Some(Summary { mean: 3.0, std: Some(2f64.sqrt()), n: 2 }));
        assert_eq!(of(&[&[1.0, 2.0, 3.0]]), Some(Summary { mean: 2.0, std: Some(1.0), n: 3 }));
        assert_eq!(of(&[&[5.0]]), Some(Summary { mean: 5.0, std: None, n: 1 }));
        assert_eq!(of(&[&[], &[2.0]]), Some(Summary { mean: 2.0, std: None, n: 1 }));
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn ties_are_within_the_standard_error_of_the_difference() {
        // Means 0.9 and 0.8, each with s = 0.1 and n = 2: the standard error is 0.1. Then 0.79 is outside.
        let spread = |mean: f64| vec![vec![mean - 0.1 / 2f64.sqrt()], vec![mean + 0.1 / 2f64.sqrt()]];
        let at = |means: &[f64]| -> Vec<Candidate<()>> {
            means.iter().map(|mean| Candidate { what: (), values: spread(*mean) }).collect()
        };
        let choice = choose(&at(&[0.801, 0.9, 0.79]), Direction::Highest).unwrap();
        assert_eq!((choice.best, choice.ties), (1, vec![0]));
        let choice = choose(&at(&[0.801, 0.9, 0.79]), Direction::Lowest).unwrap();
        assert_eq!((choice.best, choice.ties), (2, vec![0]));
        let choice = choose(&at(&[0.70, 0.9, 0.60]), Direction::AsHuman(0.82)).unwrap();
        assert_eq!((choice.best, choice.ties), (1, vec![0]), "distances 0.12, 0.08, 0.22");
    }

    #[test]
    fn without_a_spread_only_equal_means_tie_and_the_first_is_chosen() {
        let choice =
            choose(&candidates(&[&[&[0.5]], &[&[0.7]], &[&[0.7]], &[&[0.699]], &[]]), Direction::Highest);
        let choice = choice.unwrap();
        assert_eq!((choice.best, choice.ties.as_slice()), (1, [2].as_slice()));
        assert_eq!(choice.summaries[4], None);
        assert_eq!(choose(&candidates(&[&[], &[]]), Direction::Highest), None);
    }
}
