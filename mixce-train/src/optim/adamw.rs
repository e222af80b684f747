//! AdamW: Adam with decoupled weight decay.
//!
//! Loshchilov & Hutter, *Decoupled weight decay regularization*, ICLR 2019 (algorithm 2); the arithmetic is that of `torch.optim.AdamW`.
use std::collections::HashMap;
use std::ops::Range;

use candle_core::{DType, Tensor};
use indexmap::IndexMap;
use mixce_kernels::{
    AdamWParameter, AdamWUpdate, GradientGuard, Parameter, adamw_step, has_backward_kernels,
};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Hyperparameters of AdamW.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdamWConfig {
    /// Decay rate of the first moment.
    pub beta1: f64,
    /// Decay rate of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay, for parameters to which it applies.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    /// PyTorch's betas and epsilon; no decay, as in the paper.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 }
    }
}

/// One parameter and the moments of its part that the optimizer updates.
#[derive(Debug)]
struct Slot {
    parameter: Parameter,
    part: Range<usize>,
    decays: bool,
    first: Tensor,
    second: Tensor,
}

/// The optimizer state of all parameters, in a fixed order.
///
/// Update number `t` (counted from 1) with gradient `g` and rate `lr`:
///
/// ```text
/// p <- p (1 - lr * weight_decay)            only if weight decay applies m <- m + (1 - beta1) (g - m) v <- beta2 v + (1 - beta2)
/// g^2 p <- p - lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + epsilon)
/// ```
/// Moments are f32 whatever the parameter's type. For f32 on CPU and CUDA the update is a single in-place elementwise pass, whose result
/// does not depend on the number of threads; elsewhere it uses plain candle operations.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    slots: IndexMap<String, Slot>,
    steps: u64,
}

/// The values of one update shared by all parameters.
#[derive(Clone, Copy, Debug)]
struct Update {
    config: AdamWConfig,
    step_size: f64,
    root_correction: f64,
    gradient_scale: f64,
}

impl AdamW {
    /// An optimizer with zero moments. Each parameter has a name and a flag for weight decay.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the moments cannot be allocated.
    pub fn new(
        parameters: impl IntoIterator<Item = (String, Parameter, bool)>,
        config: AdamWConfig,
    ) -> Result<Self> {
        let slot = |(name, parameter, decays): (String, Parameter, bool)| {
            let values = parameter.values();
            let zeros = || Tensor::zeros(values.shape(), DType::F32, values.device());
            let (first, second, part) = (zeros()?, zeros()?, 0..values.elem_count());
            Ok((name, Slot { parameter, part, decays, first, second }))
        };
        let slots = parameters.into_iter().map(slot).collect::<candle_core::Result<_>>();
        Ok(Self { config, slots: slots.map_err(Error::tensor("optimizer moments"))?, steps: 0 })
    }

    /// Restricts the optimizer to a part of each f32 parameter on the CPU, a range of its entries in row-major order: only these are updated and
    /// have moments, which become zero.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the moments cannot be allocated.
    pub fn restrict(&mut self, parts: impl IntoIterator<Item = Range<usize>>) -> Result<()> {
        for (slot, part) in self.slots.values_mut().zip(parts) {
            let zeros = || {
                Tensor::zeros(part.len(), DType::F32, slot.parameter.values().device())
                    .map_err(Error::tensor("optimizer moments"))
            };
            (slot.first, slot.second) = (zeros()?, zeros()?);
            slot.part = part;
        }
        Ok(())
    }

    /// Updates done so far.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Names of the parameters, in the order in which gradients are expected.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.slots.keys().map(String::as_str)
    }

    /// Names of the parameters with weight decay.
    pub fn decaying(&self) -> impl Iterator<Item = &str> {
        self.slots.iter().filter(|(_, slot)| slot.decays).map(|(name, _)| name.as_str())
    }

    /// One update. `gradients` are in the order of [`Self::names`]; each is first multiplied by `gradient_scale` (clipping).
    ///
    /// # Errors
    /// [`Error::OptimizerState`] if a gradient is missing or misshapen, before anything is changed; [`Error::Tensor`] if an
    /// operation fails.
    pub fn step(&mut self, learning_rate: f64, gradients: &[Tensor], gradient_scale: f64) -> Result<()> {
        self.update(learning_rate, gradients, gradient_scale, None)
    }

    /// Counts an update without doing it: the bias corrections are a function of the run's step.
    pub fn skip(&mut self) {
        self.steps += 1;
    }

    /// [`Self::step`] with the clipping factor of a guard that has checked these gradients. Has no effect if the guard found a failure (the
    /// update is still counted, so the run must stop).
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn guarded_step(
        &mut self,
        learning_rate: f64,
        gradients: &[Tensor],
        guard: &GradientGuard,
    ) -> Result<()> {
        self.update(learning_rate, gradients, 1.0, Some(guard))
    }

    fn update(
        &mut self,
        learning_rate: f64,
        gradients: &[Tensor],
        gradient_scale: f64,
        guard: Option<&GradientGuard>,
    ) -> Result<()> {
        for (index, (name, slot)) in self.slots.iter().enumerate() {
            let got = gradients.get(index).map(|g| g.dims().to_vec()).unwrap_or_default();
            if got != slot.parameter.values().dims() {
                let expected = slot.parameter.values().dims().to_vec();
                return Err(Error::OptimizerState { name: name.clone(), expected, got });
            }
        }
        let t = (self.steps + 1).min(i32::MAX as u64) as i32;
        let config = self.config;
        let update = Update {
            config,
            step_size: learning_rate / (1.0 - config.beta1.powi(t)),
            root_correction: (1.0 - config.beta2.powi(t)).sqrt(),
            gradient_scale,
        };
        self.apply(gradients, &update, learning_rate, guard).map_err(Error::tensor("AdamW update"))?;
        self.steps += 1;
        Ok(())
    }

    /// Applies the update to all parameters: at once where there are kernels, one by one elsewhere.
    fn apply(
        &mut self,
        gradients: &[Tensor],
        update: &Update,
        learning_rate: f64,
        guard: Option<&GradientGuard>,
    ) -> candle_core::Result<()> {
        let decay_factor = |slot: &Slot| match slot.decays {
            true => 1.0 - learning_rate * update.config.weight_decay,
            false => 1.0,
        };
        let gradients = gradients.iter().map(|gradient| gradient.to_dtype(DType::F32));
        let gradients = gradients.collect::<candle_core::Result<Vec<_>>>()?;
        for (slot, gradient) in self.slots.values_mut().zip(&gradients) {
            if !has_backward_kernels(slot.parameter.values()) {
                slot.apply_plain(gradient, update, decay_factor(slot))?;
            }
        }
        let with_kernels = self
            .slots
            .values()
            .zip(&gradients)
            .filter(|(slot, _)| has_backward_kernels(slot.parameter.values()));
        let views = with_kernels
            .map(|(slot, gradient)| Ok((slot, slot.parameter.part(&slot.part)?, view(gradient, &slot.part)?)))
            .collect::<candle_core::Result<Vec<_>>>()?;
        let parameters: Vec<AdamWParameter<'_>> = views
            .iter()
            .map(|(slot, (parameter, rounded), gradient)| AdamWParameter {
                parameter,
                rounded: Some(*rounded),
                first_moment: &slot.first,
                second_moment: &slot.second,
                gradient,
                decay_factor: decay_factor(slot) as f32,
            })
            .collect();
        match guard {
            Some(guard) => guard.adamw_step(&parameters, &update.of_kernels()),
            None => adamw_step(&parameters, &update.of_kernels()),
        }
    }

    /// The moments by name: `NAME.exp_avg` of all parameters, then `NAME.exp_avg_sq`. Of a parameter that is updated in part the moments of the
    /// part.
    #[must_use]
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let first = self.slots.iter().map(|(name, slot)| (format!("{name}.exp_avg"), slot.first.clone()));
        let second =
            self.slots.iter().map(|(name, slot)| (format!("{name}.exp_avg_sq"), slot.second.clone()));
        first.chain(second).collect()
    }

    /// Restores the moments, of whole parameters, and the number of updates done.
    ///
    /// # Errors
    /// [`Error::OptimizerState`] if one is missing or misshapen.
    pub fn load_state(&mut self, mut state: HashMap<String, Tensor>, steps: u64) -> Result<()> {
        for (name, slot) in &mut self.slots {
            let Slot { parameter, part, first, second, .. } = slot;
            for (suffix, moment) in [("exp_avg", first), ("exp_avg_sq", second)] {
                let key = format!("{name}.{suffix}");
                let loaded = state.remove(&key);
                let got = loaded.as_ref().map(|t| t.dims().to_vec()).unwrap_or_default();
                match loaded {
                    // A copy: the moments are updated in place and must not share memory.
                    Some(t) if t.dims() == parameter.values().dims() => {
                        *moment = view(&t, part)
                            .and_then(|t| {
                                t.to_device(moment.device())?.to_dtype(DType::F32)?.force_contiguous()
                            })
                            .map_err(Error::tensor("optimizer state"))?;
                    }
                    _ => {
                        return Err(Error::OptimizerState {
                            name: key,
                            expected: parameter.values().dims().to_vec(),
                            got,
                        });
                    }
                }
            }
        }
        self.steps = steps;
        Ok(())
    }
}

impl Update {
    /// In the precision of the kernels.
    fn of_kernels(&self) -> AdamWUpdate {
        let (b1, b2) = (self.config.beta1, self.config.beta2);
        AdamWUpdate {
            first_rate: (1.0 - b1) as f32,
            second_keep: b2 as f32,
            second_rate: (1.0 - b2) as f32,
            gradient_scale: self.gradient_scale as f32,
            step_size: self.step_size as f32,
            root_correction: self.root_correction as f32,
            epsilon: self.config.epsilon as f32,
        }
    }
}

/// Some entries of a contiguous tensor, which share its memory.
fn view(tensor: &Tensor, part: &Range<usize>) -> candle_core::Result<Tensor> {
    if part.len() == tensor.elem_count() {
        return Ok(tensor.clone());
    }
    tensor.detach().flatten_all()?.narrow(0, part.start, part.len())
}

impl Slot {
    /// The same update in plain candle operations: the reference, and the fallback for other devices.
    fn apply_plain(
        &mut self,
        gradient: &Tensor,
        update: &Update,
        decay_factor: f64,
    ) -> candle_core::Result<()> {
        let (b1, b2) = (update.config.beta1, update.config.beta2);
        let g = (gradient * update.gradient_scale)?;
        self.first = (&self.first + ((&g - &self.first)? * (1.0 - b1))?)?;
        self.second = ((&self.second * b2)? + (g.sqr()? * (1.0 - b2))?)?;
        let denominator = ((self.second.sqrt()? / update.root_correction)? + update.config.epsilon)?;
        let step = ((&self.first / denominator)? * update.step_size)?;
        let parameter = self.parameter.values().detach();
        let decayed = (parameter.to_dtype(DType::F32)? * decay_factor)?;
        self.parameter.set(&(decayed - step)?.to_dtype(parameter.dtype())?)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn var(values: &[f32]) -> Parameter {
        Parameter::new(&Tensor::new(values, &Device::Cpu).unwrap()).unwrap()
    }

    fn values(var: &Parameter) -> Vec<f32> {
        var.values().to_vec1().unwrap()
    }

    /// `torch.optim.AdamW(lr=0.1, weight_decay=0.01)` on p = (1, -2, 3), gradients (0.1, -0.2, 0.3), (0.3, 0, -0.1), by hand in f64.
    #[test]
    fn two_updates_follow_the_formula() {
        let config = AdamWConfig { weight_decay: 0.01, ..AdamWConfig::default() };
        let p = var(&[1.0, -2.0, 3.0]);
        let mut adamw = AdamW::new([("p".into(), p.clone(), true)], config).unwrap();
        let gradients = [[0.1, -0.2, 0.3], [0.3, 0.0, -0.1]];
        let mut want = [1.0f64, -2.0, 3.0];
        let (mut m, mut v) = ([0.0; 3], [0.0; 3]);
        for (t, g) in gradients.iter().enumerate() {
            let g32: Vec<f32> = g.iter().map(|&x| x as f32).collect();
            let gradient = Tensor::new(g32.as_slice(), &Device::Cpu).unwrap();
            adamw.step(0.1, &[gradient], 1.0).unwrap();
            for i in 0..3 {
                m[i] = 0.9 * m[i] + 0.1 * g[i];
                v[i] = 0.999 * v[i] + 0.001 * g[i] * g[i];
                let (c1, c2) = (1.0 - 0.9f64.powi(t as i32 + 1), 1.0 - 0.999f64.powi(t as i32 + 1));
                want[i] = want[i] * (1.0 - 0.1 * 0.01) - 0.1 * (m[i] / c1) / ((v[i] / c2).sqrt() + 1e-8);
            }
        }
        for (got, want) in values(&p).iter().zip(want) {
            assert!((f64::from(*got) - want).abs() < 1e-6, "{got} {want}");
        }
        assert_eq!(adamw.steps(), 2);
    }

    #[test]
    fn the_in_place_update_equals_the_plain_one() {
        let start: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.37).sin()).collect();
        let config = AdamWConfig { weight_decay: 0.1, ..AdamWConfig::default() };
        let make = || AdamW::new([("p".into(), var(&start), true)], config).unwrap();
        let (mut fast, mut plain) = (make(), make());
        for t in 1..=5 {
            let g: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.11 + t as f32).cos()).collect();
            let g = Tensor::new(g.as_slice(), &Device::Cpu).unwrap();
            fast.step(0.01, std::slice::from_ref(&g), 0.5).unwrap();
            let update = Update {
                config,
                step_size: 0.01 / (1.0 - 0.9f64.powi(t)),
                root_correction: (1.0 - 0.999f64.powi(t)).sqrt(),
                gradient_scale: 0.5,
            };
            plain.slots[0].apply_plain(&g, &update, 1.0 - 0.01 * 0.1).unwrap();
        }
        let (a, b) = (values(&fast.slots[0].parameter), values(&plain.slots[0].parameter));
        let worst = a.iter().zip(&b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-6, "{worst}");
    }

    #[test]
    fn only_decaying_parameters_shrink() {
        let config = AdamWConfig { weight_decay: 0.5, ..AdamWConfig::default() };
        let (w, b) = (var(&[2.0]), var(&[2.0]));
        let parameters = [("w".to_owned(), w.clone(), true), ("b".to_owned(), b.clone(), false)];
        let mut adamw = AdamW::new(parameters, config).unwrap();
        let zero = Tensor::new(&[0f32], &Device::Cpu).unwrap();
        adamw.step(0.1, &[zero.clone(), zero], 1.0).unwrap();
        assert!((values(&w)[0] - 1.9).abs() < 1e-6);
        assert_eq!(values(&b)[0], 2.0);
        assert_eq!(adamw.decaying().collect::<Vec<_>>(), ["w"]);
    }

    #[test]
    fn saved_state_continues_bit_for_bit() {
        let gradient = |t: u32| Tensor::new(&[t as f32, -0.3], &Device::Cpu).unwrap();
        let p = var(&[1.0, 2.0]);
        let mut whole = AdamW::new([("p".into(), p.clone(), true)], AdamWConfig::default()).unwrap();
        whole.step(0.1, &[gradient(1)], 1.0).unwrap();
        let state: HashMap<_, _> =
            whole.state().into_iter().map(|(n, t)| (n, t.force_contiguous().unwrap())).collect();
        let q = var(&values(&p));
        let mut resumed = AdamW::new([("p".into(), q.clone(), true)], AdamWConfig::default()).unwrap();
        resumed.load_state(state, whole.steps()).unwrap();
        whole.step(0.1, &[gradient(2)], 1.0).unwrap();
        resumed.step(0.1, &[gradient(2)], 1.0).unwrap();
        assert_eq!(values(&p), values(&q));
    }

    #[test]
    fn parts_together_are_the_whole_bit_for_bit() {
        let start: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.37).sin()).collect();
        let config = AdamWConfig { weight_decay: 0.1, ..AdamWConfig::default() };
        let make = |p: &Parameter, q: &Parameter| {
            AdamW::new([("p".into(), p.clone(), true), ("q".into(), q.clone(), false)], config).unwrap()
        };
        let [p, q, p_parts, q_parts] = [(); 4].map(|()| var(&start));
        let mut whole = make(&p, &q);
        let mut parts = [make(&p_parts, &q_parts), make(&p_parts, &q_parts)];
        parts[0].restrict([0..300, 0..0]).unwrap();
        parts[1].restrict([300..1000, 0..1000]).unwrap();
        let gradients = |t: u32| {
            [0.11, 0.07].map(|rate| {
                let g: Vec<f32> = (0..1000).map(|i| (i as f32 * rate + t as f32).cos()).collect();
                Tensor::new(g.as_slice(), &Device::Cpu).unwrap()
            })
        };
        let step = |adamw: &mut AdamW, t| adamw.step(0.01, &gradients(t), 0.5).unwrap();
        (1..=3).for_each(|t| step(&mut whole, t));
        parts.iter_mut().for_each(|part| (1..=3).for_each(|t| step(part, t)));
        assert_eq!((values(&p_parts), values(&q_parts)), (values(&p), values(&q)));
        let moment = |adamw: &AdamW, index: usize| adamw.state()[index].1.to_vec1::<f32>().unwrap();
        for index in 0..4 {
            assert_eq!([moment(&parts[0], index), moment(&parts[1], index)].concat(), moment(&whole, index));
        }
        // Parts begin anew from whole moments.
        let state: HashMap<_, _> = whole.state().into_iter().collect();
        parts[0].restrict([900..1000, 5..6]).unwrap();
        parts[0].load_state(state, 3).unwrap();
        assert_eq!(moment(&parts[0], 2), moment(&whole, 2)[900..]);
        assert_eq!(moment(&parts[0], 1), moment(&whole, 1)[5..6]);
    }

    #[test]
    fn misfits_are_refused_by_name() {
        let mut adamw = AdamW::new([("p".into(), var(&[1.0, 2.0]), true)], AdamWConfig::default()).unwrap();
        let wrong = Tensor::new(&[1f32], &Device::Cpu).unwrap();
        let error = adamw.step(0.1, &[wrong], 1.0).unwrap_err().to_string();
        assert!(error.contains("`p`: expected shape [2], got [1]"), "{error}");
        assert!(adamw.step(0.1, &[], 1.0).is_err());
        let error = adamw.load_state(HashMap::new(), 3).unwrap_err().to_string();
        assert!(error.contains("p.exp_avg"), "{error}");
        assert_eq!(adamw.steps(), 0);
    }
}
