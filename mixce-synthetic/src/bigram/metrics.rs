//! Distance of a learned matrix from P: avg. js and avg. 0s of the paper.

use serde::{Deserialize, Serialize};

use super::{Error, Result, World};

/// The two numbers of the paper's synthetic tables.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Distance {
    /// Mean over contexts of the Jensen-Shannon divergence between learned and true row, nats, in `[0, ln 2]`.
    pub avg_js: f64,
    /// Mean learned probability of transitions that P forbids.
    pub avg_0s: f64,
}

/// Jensen-Shannon divergence of two weight vectors, nats; each is normalised first, as scipy's `jensenshannon(p, q)
/// ** 2`.
///
/// `JS = (KL(p || m) + KL(q || m)) / 2`, `m = (p + q) / 2`, `0 ln 0 = 0`; the result is clamped at 0 against
/// rounding. A vector without mass gives NaN.
///
/// ```
/// let js = mixce_synthetic::bigram::jensen_shannon(&[0.5, 0.5, 0.0], &[1.0, 0.0, 0.0]);
/// assert!((js - 0.215_761_554_338_835_65).abs() < 1e-15);
/// ```
#[must_use]
pub fn jensen_shannon(p: &[f64], q: &[f64]) -> f64 {
    let (p_total, q_total) = (p.iter().sum::<f64>(), q.iter().sum::<f64>());
    let term = |x: f64, m: f64| if x > 0.0 { x * (x / m).ln() } else { 0.0 };
    let sum: f64 = p
        .iter()
        .zip(q)
        .map(|(&p, &q)| {
            let (p, q) = (p / p_total, q / q_total);
            let m = 0.5 * (p + q);
            term(p, m) + term(q, m)
        })
        .sum();
    if sum.is_nan() { sum } else { (0.5 * sum).max(0.0) }
}

/// Compares a learned matrix `[V, V + 1]` (contexts by outputs, PAD in column 0) with P.
///
/// The column of PAD is dropped. avg. 0s sums the raw learned probabilities where P is exactly 0 and divides by the
/// number of such cells (0 when there is none); avg. js renormalises each row, the first-token row included.
///
/// # Errors
/// When `learned` has the wrong length.
pub fn compare(learned: &[f64], world: &World) -> Result<Distance> {
    let vocab = world.vocab();
    if learned.len() != vocab * (vocab + 1) {
        return Err(Error::range("learned", format!("{vocab} x {} probabilities", vocab + 1), learned.len()));
    }
    let gold = world.gold();
    let (mut js, mut mass, mut cells) = (0.0, 0.0, 0u64);
    for (q, p) in learned.chunks_exact(vocab + 1).map(|row| &row[1..]).zip(gold.chunks_exact(vocab)) {
        js += jensen_shannon(q, p);
        for (q, _) in q.iter().zip(p).filter(|(_, p)| **p == 0.0) {
            mass += q;
            cells += 1;
        }
    }
    Ok(Distance { avg_js: js / vocab as f64, avg_0s: if cells == 0 { 0.0 } else { mass / cells as f64 } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_values_of_the_fixed_points() {
        let p = [0.5, 0.3, 0.15, 0.05];
        let cases: [(&[f64], f64, f64); 5] = [
            (&[0.500682, 0.299802, 0.149675, 0.049841], 2.84e-7, 2e-9),
            (&[0.507474, 0.297768, 0.146461, 0.048296], 3.39e-5, 1e-7),
            (&[0.564734, 0.276403, 0.121421, 0.037443], 2.43e-3, 1e-5),
            (&[0.824657, 0.124672, 0.039933, 0.010738], 6.26e-2, 1e-4),
            (&[0.979853, 0.014771, 0.004266, 0.001110], 1.78e-1, 1e-3),
        ];
        for (q, js, tolerance) in cases {
            assert!((jensen_shannon(&p, q) - js).abs() < tolerance, "{q:?}");
        }
    }

    #[test]
    fn ends_of_the_range() {
        assert_eq!(jensen_shannon(&[0.25, 0.75], &[0.25, 0.75]), 0.0);
        assert!((jensen_shannon(&[2.0, 0.0], &[0.0, 5.0]) - 2f64.ln()).abs() < 1e-15);
        assert!(jensen_shannon(&[0.0, 0.0], &[0.5, 0.5]).is_nan());
    }

    #[test]
    fn p_against_itself_is_zero_and_a_leak_is_measured() {
        let world = World::random(8, 0.5, 2).unwrap();
        let mut learned = world.contexts();
        let exact = compare(&learned, &world).unwrap();
        assert!(exact.avg_js < 1e-15 && exact.avg_0s == 0.0);
        let zeros: Vec<usize> = (0..learned.len()).filter(|i| i % 9 != 0 && learned[*i] == 0.0).collect();
        learned[zeros[0]] = 0.1;
        // Mass on PAD is not counted and not renormalised away.
        learned[9] = 0.5;
        let leaky = compare(&learned, &world).unwrap();
        assert!((leaky.avg_0s - 0.1 / zeros.len() as f64).abs() < 1e-15);
        assert!(leaky.avg_js > 0.0);
        assert!(compare(&learned[1..], &world).is_err());
    }

    #[derive(Deserialize)]
    struct Case {
        vocab: usize,
        transitions: Vec<f64>,
        learned: Vec<f64>,
        rows: Vec<f64>,
        avg_js: f64,
        avg_0s: f64,
    }

    #[derive(Deserialize)]
    struct Fixture {
        cases: Vec<Case>,
    }

    /// Numbers of scipy, written by `scripts/fixtures/make_bigram_fixtures.py`. Twelve digits: both sum in f64.
    #[test]
    fn metrics_equal_scipy() {
        let path =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/bigram/metrics.json");
        let fixture: Fixture = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert_eq!(fixture.cases.len(), 4);
        for case in fixture.cases {
            let v = case.vocab;
            let world = World::new(vec![1.0 / v as f64; v], case.transitions).unwrap();
            let gold = world.gold();
            for ((q, p), want) in case.learned.chunks(v + 1).zip(gold.chunks(v)).zip(&case.rows) {
                assert!((jensen_shannon(&q[1..], p) - want).abs() < 1e-12, "{v}");
            }
            let got = compare(&case.learned, &world).unwrap();
            assert!(
                (got.avg_js - case.avg_js).abs() < 1e-12 && (got.avg_0s - case.avg_0s).abs() < 1e-12,
                "{got:?}"
            );
        }
    }
}
