//! The optimum of an objective with unlimited data and capacity, and figure 3 of the paper.

use mixce_core::Objective;

use super::{Distance, Result, World, compare};

/// The population optimum of a token-weighted objective in a world, `[V, V + 1]`: its fixed point in every context.
///
/// `None` if the objective has no closed form.
#[must_use]
pub fn population_optimum(objective: &dyn Objective, world: &World) -> Option<Vec<f64>> {
    let mut out = Vec::new();
    for row in world.contexts().chunks_exact(world.vocab() + 1) {
        out.extend(objective.fixed_point(row)?);
    }
    Some(out)
}

/// How far the population optimum is from P: the bias of the objective alone.
///
/// # Errors
/// When the optimum has another size than P.
pub fn population_distance(objective: &dyn Objective, world: &World) -> Result<Option<Distance>> {
    population_optimum(objective, world).map(|learned| compare(&learned, world)).transpose()
}

/// A point of figure 3: mass `leak` that Q puts where P is (almost) zero, and the resulting cross-entropies, nats.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct ChargePoint {
    /// Probability mass of Q outside P's support.
    pub leak: f64,
    /// `CE(P, Q) = -E_P[log Q]`.
    pub forward: f64,
    /// `CE(Q, P) = -E_Q[log P]`, P floored at 1e-30.
    pub reverse: f64,
}

/// Figure 3 of the paper: P is uniform over half of `outcomes`, Q moves a share `leak` of its mass to the other half,
/// uniformly.
///
/// Forward cross-entropy is `-ln((1 - leak) / k)`, which hardly changes for a small leak; reverse cross-entropy is
/// `(1 - leak) ln k + leak * 69.08`, with `k = outcomes / 2`: 69 nats for all of it.
#[must_use]
pub fn charges(outcomes: usize, steps: usize) -> Vec<ChargePoint> {
    let support = (outcomes / 2).max(1) as f64;
    let floor = -super::PROBABILITY_FLOOR.ln();
    (0..steps)
        .map(|i| {
            let leak = i as f64 / steps as f64;
            ChargePoint {
                leak,
                forward: -((1.0 - leak) / support).ln(),
                reverse: (1.0 - leak) * support.ln() + leak * floor,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use mixce_core::objective::{MixCe, Mle};

    use super::*;

    #[test]
    fn mixce_is_a_sharpening_with_the_golden_distance() {
        let p = [0.5, 0.3, 0.15, 0.05];
        let world = World::new(p.to_vec(), [p, p, p, [0.0; 4]].concat()).unwrap();
        for (eta, js) in [(0.99, 2.84e-7), (0.9, 3.39e-5), (0.5, 2.43e-3), (0.1, 6.26e-2), (0.01, 1.78e-1)] {
            let distance = population_distance(&MixCe::new(eta).unwrap(), &world).unwrap().unwrap();
            assert!((distance.avg_js / js - 1.0).abs() < 0.01, "{eta}: {distance:?}");
        }
        let world = World::random(15, 0.5, 3).unwrap();
        let mle = population_distance(&Mle, &world).unwrap().unwrap();
        assert!(mle.avg_js < 1e-12 && mle.avg_0s == 0.0);
        let mixce = population_distance(&MixCe::new(0.1).unwrap(), &world).unwrap().unwrap();
        assert!(mixce.avg_js > 1e-3 && mixce.avg_0s == 0.0, "zeros of P stay zeros");
    }

    #[test]
    fn reverse_cross_entropy_charges_leaks_and_forward_does_not() {
        let points = charges(20, 100);
        assert_eq!(points.len(), 100);
        assert!(
            (points[0].forward - 10f64.ln()).abs() < 1e-12 && (points[0].reverse - 10f64.ln()).abs() < 1e-12
        );
        let (forward, reverse) =
            (points[10].forward - points[0].forward, points[10].reverse - points[0].reverse);
        assert!(forward < 0.11 && reverse > 6.0, "{forward} {reverse}");
    }
}
