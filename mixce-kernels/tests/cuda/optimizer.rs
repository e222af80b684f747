//! AdamW, norms and the guard.

use candle_core::{DType, Device, Result, Tensor};
use mixce_kernels::sublayer::LinearResidual;
use mixce_kernels::{
    AdamWParameter, AdamWUpdate, Affine, GradientGuard, Parameter, Precision, StoredTensor, adamw_step,
    clear, sum_of_squares, sums_of_squares,
};

use crate::{Placed, assert_close, cuda, on, place, random, values};

const UPDATE: AdamWUpdate = AdamWUpdate {
    first_rate: 0.1,
    second_keep: 0.999,
    second_rate: 0.001,
    gradient_scale: 0.5,
    step_size: 0.01,
    root_correction: 0.03,
    epsilon: 1e-8,
};

/// Parameter, moments and gradient.
fn tensors(n: usize, device: &Device) -> Result<[Tensor; 4]> {
    let tensor = |seed| on(device, &random(&[n], seed)?);
    Ok([tensor(1)?, tensor(2)?, tensor(3)?.abs()?, tensor(4)?])
}

/// With a decay of its own.
fn parameter([parameter, first_moment, second_moment, gradient]: &[Tensor; 4]) -> AdamWParameter<'_> {
    let decay_factor = 1.0 - 1e-3 * (parameter.elem_count() % 7) as f32;
    AdamWParameter { parameter, rounded: None, first_moment, second_moment, gradient, decay_factor }
}

/// Sizes of more tensors than a launch takes: none, one, odd ones, several blocks, and small ones around them.
fn sizes() -> Vec<usize> {
    let mut sizes = vec![0, 1, 33, 70_001, 257, 8192, 8193, 0, 24_580];
    sizes.extend(5..130);
    sizes.extend([16_385, 0]);
    sizes
}

#[test]
fn updates_equal_those_of_the_cpu() -> Result<()> {
    let updated = |device: &Device, placed| -> Result<Vec<Tensor>> {
        let tensor = |n, seed| place(&random(&[n], seed)?.to_device(device)?, placed);
        let of_size = |n| -> Result<[Tensor; 4]> {
            Ok([tensor(n, 1)?, tensor(n, 2)?, tensor(n, 3)?.abs()?, tensor(n, 4)?])
        };
        let all = sizes().into_iter().map(of_size).collect::<Result<Vec<_>>>()?;
        let parameters: Vec<_> = all.iter().map(parameter).collect();
        adamw_step(&parameters, &UPDATE)?;
        Ok(all.into_flattened())
    };
    let cpu = updated(&Device::Cpu, Placed::Plain)?;
    let (aligned, unaligned) = (updated(&cuda()?, Placed::Plain)?, updated(&cuda()?, Placed::Unaligned)?);
    for ((aligned, unaligned), want) in aligned.iter().zip(&unaligned).zip(&cpu) {
        assert_close("adamw", aligned, want, 1e-6)?;
        assert_eq!(values(aligned)?, values(unaligned)?);
    }
    adamw_step(&[], &UPDATE)
}

/// An update writes the copy of a parameter in the same pass; whatever else changes the values outdates the copy.
#[test]
fn a_copy_in_bf16_follows_its_parameter() -> Result<()> {
    let device = cuda()?;
    for (n_in, n_out) in [(1, 1), (3, 7), (65, 129), (64, 256)] {
        let (n, numbers) = (n_in * n_out, |seed| random(&[n_in, n_out], seed)?.to_device(&device));
        let parameter = Parameter::new(&numbers(1)?)?;
        let [m, v, g] = [numbers(2)?, numbers(3)?.abs()?, numbers(4)?];
        let x = random(&[5, n_in], 5)?.to_device(&device)?.to_dtype(DType::BF16)?;
        let residual = Tensor::zeros((5, n_out), DType::F32, &device)?;
        let product = |weight: StoredTensor| -> Result<Vec<f32>> {
            let map = Affine::new(weight, None);
            values(&LinearResidual { map }.forward(&x, &residual, None, Precision::Bf16)?)
        };
        let current = || -> Result<Option<Vec<f32>>> {
            parameter.part(&(0..n))?.1.current().map(|copy| values(&copy)).transpose()
        };
        let check = |what: &str| -> Result<()> {
            let plain = parameter.values().detach();
            assert_eq!(product(parameter.stored().detach())?, product(plain.clone().into())?, "{what}");
            assert_eq!(current()?, Some(values(&plain.to_dtype(DType::BF16)?)?), "{what}");
            Ok(())
        };
        let step = |entries: std::ops::Range<usize>| -> Result<()> {
            let (parameter, rounded) = parameter.part(&entries)?;
            let part = |x: &Tensor| x.flatten_all()?.narrow(0, entries.start, entries.len());
            let [m, v, g] = [part(&m)?, part(&v)?, part(&g)?];
            let step = AdamWParameter {
                parameter: &parameter,
                rounded: Some(rounded),
                first_moment: &m,
                second_moment: &v,
                gradient: &g,
                decay_factor: 0.9,
            };
            adamw_step(&[step], &UPDATE)
        };
        step(0..n)?;
        assert_eq!(current()?, None, "no product has read it");
        check("at first")?;
        step(0..n)?;
        let updated = values(&parameter.values().detach().to_dtype(DType::BF16)?)?;
        assert_eq!(current()?, Some(updated), "written by the update");
        check("after an update")?;
        step(0..n / 2)?;
        assert_eq!(current()?, None, "after the update of a part");
        check("after the update of a part")?;
        parameter.set(&numbers(6)?)?;
        assert_eq!(current()?, None, "after other values were set");
        check("after other values were set")?;
        Parameter::edit([&parameter], |values| clear(values.iter().copied()))?;
        assert_eq!(current()?, None, "after a change in place");
        check("after a change in place")?;
    }
    Ok(())
}

#[test]
fn tensors_of_different_sizes_are_refused() -> Result<()> {
    let (good, small) = (tensors(33, &cuda()?)?, tensors(32, &cuda()?)?);
    let bad = AdamWParameter { gradient: &small[3], ..parameter(&good) };
    let before = values(&good[0])?;
    let error = adamw_step(&[parameter(&good), bad], &UPDATE).unwrap_err().to_string();
    assert!(error.contains("expected 32 entries in parameter and moments, got 33"), "{error}");
    assert_eq!(values(&good[0])?, before);
    Ok(())
}

#[test]
fn norms_and_zeros() -> Result<()> {
    let on_cpu = sizes().into_iter().map(|n| random(&[n], 1)).collect::<Result<Vec<_>>>()?;
    let placed = |placed| -> Result<Vec<Tensor>> {
        on_cpu.iter().map(|x| place(&x.to_device(&cuda()?)?, placed)).collect()
    };
    let (aligned, unaligned) = (placed(Placed::Plain)?, placed(Placed::Unaligned)?);
    let sums = |tensors: &[Tensor]| sums_of_squares(&tensors.iter().collect::<Vec<_>>());
    let got = sums(&aligned)?;
    assert_eq!(got, sums(&unaligned)?);
    for ((got, x), cpu) in got.iter().zip(&aligned).zip(&on_cpu) {
        assert_eq!(*got, sum_of_squares(x)?);
        let want = sum_of_squares(cpu)?;
        assert!((got - want).abs() <= 1e-6 * want.abs(), "{:?}: {got} {want}", x.dims());
    }
    // Mixed devices: each where it is.
    clear(aligned.iter().chain(&unaligned).chain(&on_cpu))?;
    for x in aligned.iter().chain(&unaligned).chain(&on_cpu) {
        assert!(values(x)?.iter().all(|x| *x == 0.0));
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
    guard.adamw_step(&[parameter(&all)], &UPDATE)?;
    let verdict = guard.read()?;
    assert!((verdict.norm - norm).abs() < 1e-9 * norm, "{verdict:?}, {norm}");
    assert_eq!(verdict.failure, None);
    let want = tensors(257, &Device::Cpu)?;
    let update = AdamWUpdate { gradient_scale: (2.0 / (norm + 1e-6)) as f32, ..UPDATE };
    adamw_step(&[parameter(&want)], &update)?;
    assert_close("clipped", p, &want[0], 1e-6)?;

    // A bad gradient stops its own update and the next one, and the first failure is what is reported.
    let before = values(p)?;
    for (step, bad) in [(8, f32::INFINITY), (9, 1.0)] {
        let broken = Tensor::new(&[bad, 2.0], &device)?;
        guard.judge(&[g.clone(), broken.clone(), broken], 0.0, step)?;
        guard.adamw_step(&[parameter(&all)], &UPDATE)?;
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
