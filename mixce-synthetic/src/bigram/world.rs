//! The bigram language model P with known probabilities.

use std::path::Path;

use mixce_base::rng::Stream;

use super::text::read_text;
use super::{Error, Result};

/// The floor under probabilities inside logarithms (the authors' `+ 1e-30`): `ln(1e-30) = -69.08`.
pub const PROBABILITY_FLOOR: f64 = 1e-30;

/// The largest vocabulary: outputs are stored in 16 bits.
pub const MAX_VOCAB: usize = 65_000;

/// A bigram world. Legend: V vocabulary, of which the last token is EOS.
#[derive(Clone, Debug, PartialEq)]
pub struct World {
    vocab: usize,
    first: Vec<f64>,
    transitions: Vec<f64>,
}

impl World {
    /// A world from the probabilities of the first token `[V]` and the transitions `[V, V]`, whose last row is EOS
    /// and zero.
    ///
    /// # Errors
    /// When a length, a sign or a row sum (off by more than 1e-6) is wrong.
    pub fn new(first: Vec<f64>, transitions: Vec<f64>) -> Result<Self> {
        let vocab = first.len();
        check_vocab(vocab)?;
        if transitions.len() != vocab * vocab {
            return Err(Error::range("transitions", format!("{vocab} x {vocab} numbers"), transitions.len()));
        }
        check_row("first token", &first)?;
        for row in transitions.chunks_exact(vocab).take(vocab - 1) {
            check_row("transitions", row)?;
        }
        if transitions[(vocab - 1) * vocab..].iter().any(|&p| p != 0.0) {
            return Err(Error::range("transitions", "zeros in the row of EOS", "something else"));
        }
        Ok(Self { vocab, first, transitions })
    }

    /// A random world: rows from a Dirichlet(1/2), each transition between two ordinary tokens zeroed with probability
    /// `zeros`, rows renormalised, the row of EOS zero, the first token uniform over V (EOS included).
    ///
    /// # Errors
    /// When `vocab` is outside `2..=65000` or `zeros` outside `[0, 1]`.
    pub fn random(vocab: usize, zeros: f64, seed: u64) -> Result<Self> {
        check_vocab(vocab)?;
        if !(0.0..=1.0).contains(&zeros) {
            return Err(Error::range("zeros", "a share in [0, 1]", zeros));
        }
        let stream = Stream::new(seed).fold(mixce_base::rng::purpose::BIGRAM).fold(1);
        let (gammas, holes) = (stream.fold(0), stream.fold(1));
        let mut transitions = vec![0.0; vocab * vocab];
        for (i, row) in transitions.chunks_exact_mut(vocab).take(vocab - 1).enumerate() {
            for (j, p) in row.iter_mut().enumerate() {
                let index = (i * vocab + j) as u64;
                // Gamma(1/2) is half of a squared normal; a Dirichlet is a normalised vector of gammas.
                let normal = gammas.normal(index);
                let zeroed = j + 1 < vocab && holes.uniform(index) < zeros;
                // The last column (EOS) keeps a positive number whatever the draw was, so no row is empty.
                *p = if zeroed { 0.0 } else { (0.5 * normal * normal).max(f64::MIN_POSITIVE) };
            }
            let total: f64 = row.iter().sum();
            row.iter_mut().for_each(|p| *p /= total);
        }
        Ok(Self { vocab, first: vec![1.0 / vocab as f64; vocab], transitions })
    }

    /// Reads a comma-separated matrix `V x V` (last row and column EOS); the first token is uniform over V.
    ///
    /// # Errors
    /// When the file cannot be read or a line is not a row of V probabilities that sum to 1 (the last: zeros).
    pub fn from_csv(path: &Path) -> Result<Self> {
        let text = read_text(path)?;
        let bad = |line: usize, expected: String, got: String| Error::Matrix {
            path: path.to_owned(),
            line,
            expected,
            got,
        };
        let lines = text.lines().enumerate().map(|(i, l)| (i + 1, l.trim())).filter(|(_, l)| !l.is_empty());
        let lines: Vec<(usize, &str)> = lines.take(MAX_VOCAB + 1).collect();
        let vocab = lines.len();
        if !(2..=MAX_VOCAB).contains(&vocab) {
            return Err(bad(1, format!("2 to {MAX_VOCAB} rows"), format!("{vocab} rows")));
        }
        // Grows with what is read: short rows are found before the matrix is.
        let mut transitions = Vec::new();
        for &(number, line) in &lines {
            let before = transitions.len();
            for field in line.split(',') {
                let p: f64 = field
                    .trim()
                    .parse()
                    .map_err(|_| bad(number, "a number".into(), format!("`{}`", field.trim())))?;
                if !(0.0..=1.0 + 1e-9).contains(&p) {
                    return Err(bad(number, "probabilities in [0, 1]".into(), p.to_string()));
                }
                transitions.push(p);
            }
            let row = &transitions[before..];
            if row.len() != vocab {
                return Err(bad(number, format!("{vocab} columns"), format!("{} columns", row.len())));
            }
            let (sum, want) =
                (row.iter().sum::<f64>(), if before == vocab * (vocab - 1) { 0.0 } else { 1.0 });
            if (sum - want).abs() > 1e-6 {
                return Err(bad(number, format!("a row that sums to {want}"), format!("the sum {sum}")));
            }
        }
        Ok(Self { vocab, first: vec![1.0 / vocab as f64; vocab], transitions })
    }

    /// Vocabulary with EOS.
    #[must_use]
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// Probabilities of the first token `[V]`.
    #[must_use]
    pub fn first(&self) -> &[f64] {
        &self.first
    }

    /// Transition probabilities `[V, V]`, the row of EOS zero.
    #[must_use]
    pub fn transitions(&self) -> &[f64] {
        &self.transitions
    }

    /// The matrix the metrics compare with, `[V, V]`: the first-token row, then the transitions without the row of EOS.
    #[must_use]
    pub fn gold(&self) -> Vec<f64> {
        let rest = &self.transitions[..self.vocab * (self.vocab - 1)];
        [self.first.as_slice(), rest].concat()
    }

    /// The share of zeros among the transitions between ordinary tokens.
    #[must_use]
    pub fn zero_share(&self) -> f64 {
        let ordinary = self.vocab - 1;
        let rows = self.transitions.chunks_exact(self.vocab).take(ordinary);
        let zeros: usize = rows.map(|row| row[..ordinary].iter().filter(|p| **p == 0.0).count()).sum();
        zeros as f64 / (ordinary * ordinary) as f64
    }

    /// P in the coordinates of a model, `[V, V + 1]`: contexts by outputs, with the column of PAD (0) in front.
    #[must_use]
    pub fn contexts(&self) -> Vec<f64> {
        self.gold()
            .chunks_exact(self.vocab)
            .flat_map(|row| std::iter::once(0.0).chain(row.iter().copied()))
            .collect()
    }

    /// Floored log probabilities by *state*, `[V + 1, V + 1]`: states `1..V` follow that token, state V begins a
    /// sequence, state 0 follows PAD, after which P is undefined (the floor everywhere), as in the authors' code.
    #[must_use]
    pub fn log_by_state(&self) -> Vec<f64> {
        let outputs = self.vocab + 1;
        let contexts = self.contexts();
        let mut log_p = vec![PROBABILITY_FLOOR.ln(); outputs * outputs];
        for (context, row) in contexts.chunks_exact(outputs).enumerate() {
            let state = if context == 0 { self.vocab } else { context };
            for (out, &p) in log_p[state * outputs..][..outputs].iter_mut().zip(row) {
                *out = (p + PROBABILITY_FLOOR).ln();
            }
        }
        log_p
    }
}

fn check_vocab(vocab: usize) -> Result<()> {
    if (2..=MAX_VOCAB).contains(&vocab) {
        return Ok(());
    }
    Err(Error::range("vocab", format!("2 to {MAX_VOCAB} tokens, EOS included"), vocab))
}

fn check_row(name: &'static str, row: &[f64]) -> Result<()> {
    let sum: f64 = row.iter().sum();
    if row.iter().all(|p| *p >= 0.0) && (sum - 1.0).abs() <= 1e-6 {
        return Ok(());
    }
    Err(Error::range(name, "probabilities that sum to 1", format!("the sum {sum}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_worlds_have_the_asked_share_of_zeros() {
        for zeros in [0.1, 0.5, 0.9] {
            let world = World::random(100, zeros, 7).unwrap();
            World::new(world.first().to_vec(), world.transitions().to_vec()).unwrap();
            let gold = world.gold();
            assert_eq!(gold.len(), 100 * 100);
            let holes = gold.iter().filter(|p| **p == 0.0).count() as f64 / (99.0 * 99.0);
            assert!((holes - zeros).abs() < 0.015, "{holes}");
            assert!(world.transitions().chunks(100).take(99).all(|row| row[99] > 0.0), "EOS is never zeroed");
            assert!(gold[..100].iter().all(|p| *p == 0.01));
        }
        assert_ne!(World::random(9, 0.5, 1).unwrap(), World::random(9, 0.5, 2).unwrap());
    }

    /// E[p^2] of a Dirichlet(1/2) row with V entries is (3/4) / ((V/2)(V/2 + 1)).
    #[test]
    fn rows_are_dirichlet_one_half() {
        let v = 60f64;
        let world = World::random(60, 0.0, 3).unwrap();
        let rows = &world.transitions()[..59 * 60];
        let second = rows.iter().map(|p| p * p).sum::<f64>() / rows.len() as f64;
        let want = 0.75 / (v / 2.0 * (v / 2.0 + 1.0));
        assert!((second / want - 1.0).abs() < 0.1, "{second} {want}");
    }

    #[test]
    fn csv_round_trip_and_messages() {
        let world = World::random(5, 0.5, 11).unwrap();
        let path = std::env::temp_dir().join(format!("mixce-world-{}.csv", std::process::id()));
        let lines: Vec<String> = world
            .transitions()
            .chunks(5)
            .map(|row| row.iter().map(f64::to_string).collect::<Vec<_>>().join(","))
            .collect();
        std::fs::write(&path, lines.join("\n")).unwrap();
        let back = World::from_csv(&path).unwrap();
        for (a, b) in back.transitions().iter().zip(world.transitions()) {
            assert!((a - b).abs() < 1e-15);
        }
        for (text, want) in [
            ("0,1\n0,x", "line 2: expected a number, got `x`"),
            ("0,1\n0", "line 2: expected 2 columns, got 1 columns"),
            ("0,0.5\n0,0", "line 1: expected a row that sums to 1, got the sum 0.5"),
            ("0,1\n0,1", "line 2: expected a row that sums to 0"),
            ("-1,2\n0,0", "line 1: expected probabilities in [0, 1], got -1"),
            ("", "expected 2 to 65000 rows, got 0 rows"),
        ] {
            std::fs::write(&path, text).unwrap();
            let message = World::from_csv(&path).unwrap_err().to_string();
            assert!(message.contains(want), "{message}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(World::from_csv(&path).is_err());
    }

    /// A matrix takes the memory of what is in its file: 65 000 short rows are refused at the first.
    #[test]
    fn many_rows_claim_no_memory() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "0\n".repeat(MAX_VOCAB)).unwrap();
        let message = World::from_csv(file.path()).unwrap_err().to_string();
        assert!(message.contains("line 1: expected 65000 columns, got 1 columns"), "{message}");
        std::fs::write(file.path(), "0\n".repeat(MAX_VOCAB + 9)).unwrap();
        assert!(World::from_csv(file.path()).unwrap_err().to_string().contains("got 65001 rows"));
    }

    proptest::proptest! {
        #[test]
        fn any_matrix_is_read_or_refused(text in "[0-9.,eE+\\- naif\n]{0,60}") {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), text).unwrap();
            if let Ok(world) = World::from_csv(file.path()) {
                proptest::prop_assert!(world.transitions().iter().all(|p| p.is_finite()));
            }
        }
    }

    #[test]
    fn states_and_contexts() {
        let world =
            World::new(vec![0.5, 0.5, 0.0], vec![0.0, 0.25, 0.75, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]).unwrap();
        assert_eq!(world.contexts(), [0.0, 0.5, 0.5, 0.0, 0.0, 0.0, 0.25, 0.75, 0.0, 1.0, 0.0, 0.0]);
        let log_p = world.log_by_state();
        let floor = 1e-30f64.ln();
        assert!(log_p[..4].iter().all(|l| *l == floor), "after PAD");
        assert_eq!(log_p[3 * 4 + 1], 0.5f64.ln(), "the begin is the last state");
        assert_eq!(log_p[4 + 3], 0.75f64.ln());
        assert!(World::new(vec![1.0], vec![0.0]).is_err());
        assert!(World::new(vec![0.5, 0.6], vec![0.0; 4]).is_err());
        assert!(World::random(1, 0.5, 0).is_err() && World::random(5, 1.5, 0).is_err());
    }
}
