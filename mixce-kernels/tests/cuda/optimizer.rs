//! AdamW, norms and the guard.

use candle_core::{Device, Result, Tensor};
use mixce_kernels::{AdamWUpdate, GradientGuard, adamw_step, clear, sum_of_squares};

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
fn state(n: usize, device: &Device) -> Result<[Tensor; 4]> {
    let tensor = |seed| on(device, &random(&[n], seed)?);
    Ok([tensor(1)?, tensor(2)?, tensor(3)?.abs()?, tensor(4)?])
}

#[test]
fn updates_equal_those_of_the_cpu() -> Result<()> {
    for n in [0, 1, 33, 257, 70_001] {
        let on = |device: &Device| -> Result<[Tensor; 4]> {
            let all @ [p, m, v, g] = &state(n, device)?;
            adamw_step((p, m, v), g, &UPDATE)?;
            Ok(all.clone())
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
    let [p, m, v, g] = state(257, &device)?;
    let h = on(&device, &random(&[33], 5)?)?;
    let guard = GradientGuard::new(&p)?.expect("CUDA has a guard");
    let norm = (sum_of_squares(&g)? + sum_of_squares(&h)?).sqrt();

    guard.judge(&[g.clone(), h.clone()], 2.0, 7)?;
    guard.adamw_step((&p, &m, &v), &g, &UPDATE)?;
    let verdict = guard.read()?;
    assert!((verdict.norm - norm).abs() < 1e-9 * norm, "{verdict:?}, {norm}");
    assert_eq!(verdict.failure, None);
    let want = state(257, &Device::Cpu)?;
    let update = AdamWUpdate { gradient_scale: (2.0 / (norm + 1e-6)) as f32, ..UPDATE };
    adamw_step((&want[0], &want[1], &want[2]), &want[3], &update)?;
    assert_close("clipped", &p, &want[0], 1e-6)?;

    // A bad gradient stops its own update and the next one, and the first failure is what is reported.
    let before = values(&p)?;
    for (step, bad) in [(8, f32::INFINITY), (9, 1.0)] {
        let broken = Tensor::new(&[bad, 2.0], &device)?;
        guard.judge(&[g.clone(), broken.clone(), broken], 0.0, step)?;
        guard.adamw_step((&p, &m, &v), &g, &UPDATE)?;
        assert_eq!(values(&p)?, before);
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
