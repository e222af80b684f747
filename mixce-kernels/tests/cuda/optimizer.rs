//! AdamW, norms and the guard.

use candle_core::{Device, Result, Tensor};
use mixce_kernels::{AdamWState, AdamWUpdate, GradientGuard, adamw_step, clear, sum_of_squares};

use crate::{assert_close, cuda, on, random, values};

const UPDATE: AdamWUpdate = AdamWUpdate {
    first_rate: 0.1,
    second_keep: 0.999,
    second_rate: 0.001,
    gradient_scale: 0.5,
    decay_factor: 0.99,
    step_size: 0.01,
    root_correction: 0.03,
    epsilon: 1e-8,
};

/// Parameter, moments and gradient.
fn tensors(n: usize, device: &Device) -> Result<[Tensor; 4]> {
    let tensor = |seed| on(device, &random(&[n], seed)?);
    Ok([tensor(1)?, tensor(2)?, tensor(3)?.abs()?, tensor(4)?])
}

fn state([parameter, first_moment, second_moment, _]: &[Tensor; 4]) -> AdamWState<'_> {
    AdamWState { parameter, first_moment, second_moment }
}

#[test]
fn updates_equal_those_of_the_cpu() -> Result<()> {
    for n in [0, 1, 33, 257, 70_001] {
        let on = |device: &Device| -> Result<[Tensor; 4]> {
            let all = tensors(n, device)?;
            adamw_step(state(&all), &all[3], &UPDATE)?;
            Ok(all)
        };
        for (got, want) in on(&cuda()?)?.iter().zip(&on(&Device::Cpu)?) {
            assert_close("adamw", got, want, 1e-6)?;
        }
    }
    Ok(())
}

#[test]
fn norms_and_zeros() -> Result<()> {
    for n in [0, 1, 33, 257, 70_001] {
        let x = random(&[n], 1)?;
        let (got, want) = (sum_of_squares(&on(&cuda()?, &x)?)?, sum_of_squares(&x)?);
        assert!((got - want).abs() <= 1e-6 * want.abs(), "{n}: {got} {want}");
        let x = on(&cuda()?, &x)?;
        clear(&x)?;
        assert!(values(&x)?.iter().all(|x| *x == 0.0));
    }
    Ok(())
}

#[test]
fn the_guard_clips_and_stops_for_good() -> Result<()> {
    let device = cuda()?;
    let all = tensors(257, &device)?;
    let [p, _, _, g] = &all;
    let h = on(&device, &random(&[33], 5)?)?;
    let guard = GradientGuard::new(p)?.expect("CUDA has a guard");
    let norm = (sum_of_squares(g)? + sum_of_squares(&h)?).sqrt();

    guard.judge(&[g.clone(), h.clone()], 2.0, 7)?;
    guard.adamw_step(state(&all), g, &UPDATE)?;
    let verdict = guard.read()?;
    assert!((verdict.norm - norm).abs() < 1e-9 * norm, "{verdict:?}, {norm}");
    assert_eq!(verdict.failure, None);
    let want = tensors(257, &Device::Cpu)?;
    let update = AdamWUpdate { gradient_scale: (2.0 / (norm + 1e-6)) as f32, ..UPDATE };
    adamw_step(state(&want), &want[3], &update)?;
    assert_close("clipped", p, &want[0], 1e-6)?;

    // A bad gradient stops its own update and the next one, and the first failure is what is reported.
    let before = values(p)?;
    for (step, bad) in [(8, f32::INFINITY), (9, 1.0)] {
        let broken = Tensor::new(&[bad, 2.0], &device)?;
        guard.judge(&[g.clone(), broken.clone(), broken], 0.0, step)?;
        guard.adamw_step(state(&all), g, &UPDATE)?;
        assert_eq!(values(p)?, before);
        let failure = guard.read()?.failure.expect("a failure");
        assert_eq!((failure.tensor, failure.step), (1, 8));
        assert!(failure.squared_norm.is_infinite());
    }
    Ok(())
}

#[test]
fn only_cuda_has_a_guard() -> Result<()> {
    assert!(GradientGuard::new(&random(&[3], 1)?)?.is_none());
    Ok(())
}
