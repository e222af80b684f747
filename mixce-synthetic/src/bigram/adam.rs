//! Adam with coupled L2 regularisation, as `torch.optim.Adam(weight_decay=...)`.

use pulp::Arch;

/// Adam (Kingma and Ba, 2015, algorithm 1) on a flat vector; `g <- g + lambda theta` comes before the moments.
///
/// `m <- b1 m + (1 - b1) g`, `v <- b2 v + (1 - b2) g^2`,
/// `theta <- theta - lr * (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)` with b1 0.9, b2 0.999, eps 1e-8.
#[derive(Clone, Debug)]
pub struct Adam {
    lr: f64,
    weight_decay: f64,
    steps: i32,
    first: Vec<f32>,
    second: Vec<f32>,
}

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPS: f32 = 1e-8;

impl Adam {
    /// The state for `len` parameters.
    #[must_use]
    pub fn new(len: usize, lr: f64, weight_decay: f64) -> Self {
        Self { lr, weight_decay, steps: 0, first: vec![0.0; len], second: vec![0.0; len] }
    }

    /// One update of `params` along `grads`; both have the length given to [`Adam::new`], further elements are ignored.
    pub fn step(&mut self, params: &mut [f32], grads: &[f32]) {
        self.steps += 1;
        let step_size = (self.lr / (1.0 - BETA1.powi(self.steps))) as f32;
        let root = (1.0 / (1.0 - BETA2.powi(self.steps)).sqrt()) as f32;
        let (b1, b2, decay) = (BETA1 as f32, BETA2 as f32, self.weight_decay as f32);
        let (first, second) = (&mut self.first, &mut self.second);
        Arch::new().dispatch(|| {
            for (((p, &g), m), v) in params.iter_mut().zip(grads).zip(first.iter_mut()).zip(second.iter_mut())
            {
                let g = g + decay * *p;
                *m = b1 * *m + (1.0 - b1) * g;
                *v = b2 * *v + (1.0 - b2) * g * g;
                *p -= step_size * *m / (v.sqrt() * root + EPS);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three steps computed by hand in f64 from the formula.
    #[test]
    fn follows_the_formula() {
        let grads = [[0.5f32, -1.0], [0.1, 0.3], [-0.2, 0.0]];
        let mut params = [1.0f32, -2.0];
        let mut adam = Adam::new(2, 0.01, 0.1);
        let mut want = [1.0f64, -2.0];
        let (mut m, mut v) = ([0f64; 2], [0f64; 2]);
        for (t, g) in grads.iter().enumerate() {
            adam.step(&mut params, g);
            for i in 0..2 {
                let g = f64::from(g[i]) + 0.1 * want[i];
                m[i] = 0.9 * m[i] + 0.1 * g;
                v[i] = 0.999 * v[i] + 0.001 * g * g;
                let t = t as i32 + 1;
                want[i] -= 0.01 * (m[i] / (1.0 - 0.9f64.powi(t)))
                    / ((v[i] / (1.0 - 0.999f64.powi(t))).sqrt() + 1e-8);
                assert!((f64::from(params[i]) - want[i]).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn zero_gradient_and_no_decay_leave_parameters_alone() {
        let mut params = [3.0f32; 40];
        Adam::new(40, 0.1, 0.0).step(&mut params, &[0.0; 40]);
        assert_eq!(params, [3.0; 40]);
    }
}
