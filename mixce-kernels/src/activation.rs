//! Elementwise activation functions.

use candle_core::{CpuStorage, CudaStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::cuda;
use crate::device::has_backward_kernels;
use crate::simd::{self, vectorised};
use crate::{cpu, math};

/// The activation functions that checkpoints name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))` (`gelu_new`; Hendrycks and Gimpel, 2016).
    GeluNew,
    /// `0.5 x (1 + erf(x / sqrt 2))` (`gelu`).
    Gelu,
    /// `max(x, 0)`.
    Relu,
    /// `x / (1 + exp(-x))` (`silu`, `swish`).
    Silu,
}

const SQRT_2_OVER_PI: f32 = 0.797_884_6;
const CUBIC: f32 = 0.044_715;

impl Activation {
    /// Applies the function to every element. Any shape; fused for f32, with a real backward pass; other dtypes
    /// and devices take [`Activation::forward_slow`].
    ///
    /// # Errors
    /// When candle cannot allocate the result.
    pub fn forward(self, x: &Tensor) -> Result<Tensor> {
        if has_backward_kernels(x) { x.contiguous()?.apply_op1(Forward(self)) } else { self.forward_slow(x) }
    }

    /// [`Activation::forward`] in plain candle operations.
    ///
    /// # Errors
    /// When candle cannot allocate the result.
    pub fn forward_slow(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::GeluNew => x.gelu(),
            Self::Gelu => x.gelu_erf(),
            Self::Relu => x.relu(),
            Self::Silu => x.silu(),
        }
    }

    #[inline(always)]
    fn value(self, x: f32) -> f32 {
        match self {
            Self::GeluNew => 0.5 * x * (1.0 + math::tanh(SQRT_2_OVER_PI * (x + CUBIC * x * x * x))),
            Self::Gelu => 0.5 * x * (1.0 + math::erf(x * std::f32::consts::FRAC_1_SQRT_2)),
            // Unlike `max`, the comparison lets NaN through.
            Self::Relu => {
                if x < 0.0 {
                    0.0
                } else {
                    x
                }
            }
            Self::Silu => x / (1.0 + math::exp(-x)),
        }
    }

    #[inline(always)]
    fn derivative(self, x: f32) -> f32 {
        self.value_and_derivative(x).1
    }

    #[inline(always)]
    fn value_and_derivative(self, x: f32) -> (f32, f32) {
        match self {
            Self::GeluNew => {
                let t = math::tanh(SQRT_2_OVER_PI * (x + CUBIC * x * x * x));
                let inner = SQRT_2_OVER_PI * (1.0 + 3.0 * CUBIC * x * x);
                (0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner)
            }
            Self::Gelu => {
                let cumulative = 0.5 * (1.0 + math::erf(x * std::f32::consts::FRAC_1_SQRT_2));
                (x * cumulative, cumulative + x * math::exp(-0.5 * x * x) * 0.398_942_3)
            }
            Self::Relu => (self.value(x), f32::from(x > 0.0)),
            Self::Silu => {
                let s = 1.0 / (1.0 + math::exp(-x));
                (x * s, s * (1.0 + x * (1.0 - s)))
            }
        }
    }
}

const CHUNK: usize = 4096;

/// Runs `f` over a slice in parallel; `f` is monomorphised per activation so that its loop vectorises.
fn map(x: &[f32], f: impl Fn(f32) -> f32 + Sync) -> Vec<f32> {
    let mut y = vec![0f32; x.len()];
    y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| {
        vectorised(|| y.iter_mut().zip(x).for_each(|(y, x)| *y = f(*x)));
    });
    y
}

fn map2(x: &[f32], dy: &[f32], f: impl Fn(f32) -> f32 + Sync) -> Vec<f32> {
    let mut dx = vec![0f32; x.len()];
    dx.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK).zip(dy.par_chunks(CHUNK))).for_each(|(dx, (x, dy))| {
        vectorised(|| dx.iter_mut().zip(x.iter().zip(dy)).for_each(|(dx, (x, dy))| *dx = dy * f(*x)));
    });
    dx
}

/// Calls `$function(args.., closure)` with a closure in which the activation is a constant.
macro_rules! monomorphise {
    ($activation:expr, $method:ident, $function:ident($($arg:expr),*)) => {
        match $activation {
            Activation::GeluNew => $function($($arg,)* |x| Activation::GeluNew.$method(x)),
            Activation::Gelu => $function($($arg,)* |x| Activation::Gelu.$method(x)),
            Activation::Relu => $function($($arg,)* |x| Activation::Relu.$method(x)),
            Activation::Silu => $function($($arg,)* |x| Activation::Silu.$method(x)),
        }
    };
}

/// `x = f(x + bias)` in place, rows of `c` elements on all threads; `x + bias` goes to `pre_activation` unless that is empty.
pub(crate) fn forward_into(
    activation: Activation,
    x: &mut [f32],
    (c, bias): (usize, Option<&[f32]>),
    pre_activation: &mut [f32],
) {
    monomorphise!(activation, value, bias_map(x, (c, bias), pre_activation));
}

fn bias_map(
    x: &mut [f32],
    (c, bias): (usize, Option<&[f32]>),
    pre_activation: &mut [f32],
    f: impl Fn(f32) -> f32 + Sync,
) {
    let row = |x: &mut [f32], pre_activation: Option<&mut [f32]>| {
        if let Some(bias) = bias {
            simd::add_to(x, bias);
        }
        if let Some(pre_activation) = pre_activation {
            pre_activation.copy_from_slice(x);
        }
        x.iter_mut().for_each(|x| *x = f(*x));
    };
    if pre_activation.is_empty() {
        x.par_chunks_mut(c.max(1)).for_each(|x| vectorised(|| row(x, None)));
    } else {
        let rows = x.par_chunks_mut(c.max(1)).zip(pre_activation.par_chunks_mut(c.max(1)));
        rows.for_each(|(x, pre_activation)| vectorised(|| row(x, Some(pre_activation))));
    }
}

/// Given the input `x` of the activation and the gradient `dy` of its output: `dy = dy f'(x)`, `x = f(x)`, both in place.
pub(crate) fn backward_in_place(activation: Activation, x: &mut [f32], dy: &mut [f32]) {
    monomorphise!(activation, value_and_derivative, map_with_derivative(x, dy));
}

fn map_with_derivative(x: &mut [f32], dy: &mut [f32], f: impl Fn(f32) -> (f32, f32) + Sync) {
    x.par_chunks_mut(CHUNK).zip(dy.par_chunks_mut(CHUNK)).for_each(|(x, dy)| {
        vectorised(|| {
            for (x, dy) in x.iter_mut().zip(dy) {
                let (value, derivative) = f(*x);
                (*x, *dy) = (value, *dy * derivative);
            }
        });
    });
}

/// `hidden = f(gate) * up` on all threads, for rows `[gate | up]` of `2 c` elements.
pub(crate) fn gated_forward(activation: Activation, gate_up: &[f32], c: usize, hidden: &mut [f32]) {
    monomorphise!(activation, value, gate(gate_up, c, hidden));
}

fn gate(gate_up: &[f32], c: usize, hidden: &mut [f32], f: impl Fn(f32) -> f32 + Sync) {
    let rows = hidden.par_chunks_mut(c.max(1)).zip(gate_up.par_chunks((2 * c).max(1)));
    rows.for_each(|(hidden, gate_up)| {
        vectorised(|| {
            let (gate, up) = gate_up.split_at(c);
            hidden.iter_mut().zip(gate.iter().zip(up)).for_each(|(h, (gate, up))| *h = f(*gate) * up);
        });
    });
}

/// Given rows `[gate | up]` of `2 c` elements and the gradient `dh` of `f(gate) * up` in `hidden`:
/// `dgate_up = [dh * up * f'(gate) | dh * f(gate)]`, and `hidden = f(gate) * up` in place.
pub(crate) fn gated_backward(
    activation: Activation,
    gate_up: &[f32],
    c: usize,
    hidden: &mut [f32],
    dgate_up: &mut [f32],
) {
    monomorphise!(activation, value_and_derivative, gate_with_derivative(gate_up, c, hidden, dgate_up));
}

fn gate_with_derivative(
    gate_up: &[f32],
    c: usize,
    hidden: &mut [f32],
    dgate_up: &mut [f32],
    f: impl Fn(f32) -> (f32, f32) + Sync,
) {
    let width = (2 * c).max(1);
    let rows = gate_up.par_chunks(width).zip(dgate_up.par_chunks_mut(width));
    hidden.par_chunks_mut(c.max(1)).zip(rows).for_each(|(hidden, (gate_up, dgate_up))| {
        vectorised(|| {
            let ((gate, up), (dgate, dup)) = (gate_up.split_at(c), dgate_up.split_at_mut(c));
            let gradients = dgate.iter_mut().zip(dup);
            for ((h, (gate, up)), (dgate, dup)) in hidden.iter_mut().zip(gate.iter().zip(up)).zip(gradients) {
                let (value, derivative) = f(*gate);
                (*dgate, *dup, *h) = (*h * up * derivative, *h * value, value * up);
            }
        });
    });
}

struct Forward(Activation);

impl CustomOp1 for Forward {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = cpu::slice(self.name(), x, layout)?;
        let y = monomorphise!(self.0, value, map(x));
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let shape = layout.shape().clone();
        cuda::operation(self.name(), [(x, layout)], shape, |gpu, [x], y| gpu.activation(self.0, x, y))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(x.apply_op2_no_bwd(&dy.contiguous()?, &Backward(self.0))?))
    }
}

struct Backward(Activation);

impl CustomOp2 for Backward {
    fn name(&self) -> &'static str {
        "activation backward"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        dy: &CpuStorage,
        dy_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = cpu::slice(self.name(), x, x_layout)?;
        let dy = cpu::slice(self.name(), dy, dy_layout)?;
        let dx = monomorphise!(self.0, derivative, map2(x, dy));
        Ok((CpuStorage::F32(dx), x_layout.shape().clone()))
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        dy: &CudaStorage,
        dy_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (inputs, shape) = ([(x, x_layout), (dy, dy_layout)], x_layout.shape().clone());
        cuda::operation::<f32, 2>(self.name(), inputs, shape, |gpu, [x, dy], dx| {
            gpu.activation_backward(self.0, (x, dy), None, dx)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, assert_gradient, random};
    use candle_core::{Device, Var};

    const ALL: [Activation; 4] = [Activation::GeluNew, Activation::Gelu, Activation::Relu, Activation::Silu];

    #[test]
    fn fused_equals_slow_forward_and_backward() -> Result<()> {
        for activation in ALL {
            for n in [0usize, 1, 17, 4099] {
                let x = Var::from_tensor(&(random(&[n], 1)? * 4.0)?)?;
                let (fused, slow) = (activation.forward(&x)?, activation.forward_slow(&x)?);
                assert_close("y", &fused, &slow, 2e-6, 1e-5);
                if n > 0 {
                    let grad = |y: &Tensor| {
                        y.sqr()?.sum_all()?.backward()?.get(&x).cloned().ok_or_else(|| unreachable!())
                    };
                    let (fused, slow): (Result<Tensor>, Result<Tensor>) = (grad(&fused), grad(&slow));
                    assert_close("dx", &fused?, &slow?, 2e-5, 2e-5);
                }
            }
        }
        Ok(())
    }

    #[test]
    fn derivative_is_the_finite_difference() {
        for activation in ALL {
            for i in -60..60 {
                let x = i as f32 / 10.0 + 0.05;
                let h = 0.01;
                let numeric =
                    f64::from(activation.value(x + h) - activation.value(x - h)) / (2.0 * f64::from(h));
                assert!(
                    (numeric - f64::from(activation.derivative(x))).abs() < 2e-4,
                    "{activation:?} at {x}"
                );
            }
        }
    }

    #[test]
    fn backward_is_the_finite_difference() -> Result<()> {
        for activation in ALL {
            // Away from 0, where ReLU has no derivative.
            let x = random(&[41], 3)?.to_vec1::<f32>()?;
            let x: Vec<f32> = x.into_iter().map(|x| x + 0.05 * x.signum()).collect();
            assert_gradient("activation", &Tensor::new(x.as_slice(), &Device::Cpu)?, |x| {
                activation.forward(x)
            })?;
        }
        Ok(())
    }

    /// `f(gate) * up`, and its gradients by the derivative that is tested above.
    #[test]
    fn gates_multiply_and_differentiate() -> Result<()> {
        for (activation, c) in ALL.into_iter().flat_map(|activation| [0, 1, 19].map(|c| (activation, c))) {
            let rows = 3;
            let gate_up = random(&[rows * 2 * c], 1)?.to_vec1::<f32>()?;
            let dh = random(&[rows * c], 2)?.to_vec1::<f32>()?;
            let mut hidden = vec![f32::NAN; rows * c];
            gated_forward(activation, &gate_up, c, &mut hidden);
            let (mut again, mut gradient) = (dh.clone(), vec![f32::NAN; rows * 2 * c]);
            gated_backward(activation, &gate_up, c, &mut again, &mut gradient);
            for (i, dh) in dh.iter().enumerate() {
                let gate = i / c * 2 * c + i % c;
                let (g, u) = (gate_up[gate], gate_up[gate + c]);
                let want = activation.value(g) * u;
                assert_eq!(hidden[i], want, "{activation:?}");
                assert!((again[i] - want).abs() <= 1e-6 * (1.0 + want.abs()), "{activation:?}");
                let want = dh * u * activation.derivative(g);
                assert!((gradient[gate] - want).abs() < 1e-6 * (1.0 + want.abs()), "{activation:?} of {g}");
                assert!((gradient[gate + c] - dh * activation.value(g)).abs() < 1e-6, "{activation:?}");
            }
        }
        Ok(())
    }

    #[test]
    fn nan_stays_nan() -> Result<()> {
        for activation in ALL {
            let y = activation.forward(&Tensor::new(&[f32::NAN, 1.0], &Device::Cpu)?)?.to_vec1::<f32>()?;
            assert!(y[0].is_nan() && y[1] > 0.7, "{activation:?}: {y:?}");
        }
        Ok(())
    }

    #[test]
    fn extreme_inputs() -> Result<()> {
        for activation in ALL {
            let y = activation
                .forward(&Tensor::new(&[-1e30f32, -200.0, 0.0, 200.0], &Device::Cpu)?)?
                .to_vec1::<f32>()?;
            assert_eq!(y, [0.0, 0.0, 0.0, 200.0], "{activation:?}");
        }
        Ok(())
    }
}
