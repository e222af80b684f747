use candle_core::{DType, Device, Result, Tensor, Var};

use super::*;
use crate::CuSeqlens;
use crate::testing::{assert_close, assert_gradient, random};

/// The frequencies of the published models, for a small base.
fn rotary(d: usize, positions: usize) -> Result<Rotary> {
    let frequencies: Vec<f64> = (0..d / 2).map(|i| 100f64.powf(-2.0 * i as f64 / d as f64)).collect();
    Rotary::new(&frequencies, positions, 1.0, &Device::Cpu)
}

fn heads(count: usize, kv: usize) -> Heads {
    Heads { kv, ..Heads::new(count, 1.0) }
}

fn plain(d: usize, positions: usize) -> Result<HeadTransform> {
    Ok(HeadTransform { rotary: rotary(d, positions)?, q_norm: None, k_norm: None })
}

/// Norms whose weights are variables.
fn with_norms(d: usize, positions: usize) -> Result<HeadTransform> {
    let norm = |seed| -> Result<Option<HeadNorm>> {
        Ok(Some(HeadNorm { weight: Var::from_tensor(&random(&[d], seed)?)?.into_inner(), epsilon: 1e-3 }))
    };
    Ok(HeadTransform { rotary: rotary(d, positions)?, q_norm: norm(21)?, k_norm: norm(22)? })
}

/// Sums for the norms that there are, begun at 1.
fn ones(transform: &HeadTransform) -> HeadTransformGradients {
    let [q_norm, k_norm] = transform.norms().map(|norm| norm.map(|norm| norm.weight.ones_like().unwrap()));
    HeadTransformGradients { q_norm, k_norm }
}

#[test]
fn fused_equals_composed_forward_and_backward() -> Result<()> {
    let batches: [&[usize]; 4] = [&[], &[1], &[0, 3, 0, 5], &[40, 33]];
    for lengths in batches {
        for (count, kv, d) in [(1, 1, 2), (4, 2, 6), (3, 1, 64), (2, 2, 34)] {
            for transform in [plain(d, 40)?, with_norms(d, 40)?] {
                let (cu_seqlens, shape) =
                    (CuSeqlens::from_lengths(lengths.iter().copied()), heads(count, kv));
                let (n, positions) = (cu_seqlens.tokens(), cu_seqlens.positions());
                let qkv = Var::from_tensor(&random(&[n, (count + 2 * kv) * d], 5)?)?;
                let composed = transform.forward(&qkv, positions, shape)?;
                let input = qkv.as_detached_tensor();
                let fused = transform.detach().forward(&input, positions, shape)?;
                assert!(!fused.track_op());
                assert_close("rotated", &fused, &composed, 1e-5, 1e-5);
                if n == 0 {
                    continue;
                }
                let dy = random(fused.dims(), 6)?;
                let want = composed.mul(&dy)?.sum_all()?.backward()?;
                let (dx, sums) = (dy.copy()?, ones(&transform));
                let input = transform.backward_needs_input().then_some(&input);
                transform.backward(input, positions, shape, &dx, &sums)?;
                assert_close("gradient", &dx, want.get(&qkv).unwrap(), 2e-5, 2e-5);
                for (norm, sum) in transform.norms().into_iter().zip([sums.q_norm, sums.k_norm]) {
                    assert_eq!(norm.is_some(), sum.is_some());
                    if let (Some(norm), Some(sum)) = (norm, sum) {
                        let want = (want.get(&norm.weight).unwrap() + 1.0)?;
                        assert_close("gradient of a norm", &sum, &want, 2e-4, 2e-5);
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn gradients_are_the_finite_differences() -> Result<()> {
    let (shape, positions, d) = (heads(2, 1), Positions::new([0, 1, 2, 0, 7]), 4);
    let (qkv, transform) = (random(&[5, 16], 1)?, with_norms(d, 8)?.detach());
    assert_gradient("qkv", &qkv, |qkv| transform.forward(qkv, &positions, shape))?;
    assert_gradient("qkv without norms", &qkv, |qkv| plain(d, 8)?.forward(qkv, &positions, shape))?;
    for queries in [true, false] {
        assert_gradient("norm", &random(&[d], 3)?, |weight| {
            let mut transform = transform.clone();
            let norm = if queries { &mut transform.q_norm } else { &mut transform.k_norm };
            *norm = Some(HeadNorm { weight: weight.clone(), epsilon: 1e-3 });
            transform.forward(&qkv, &positions, shape)
        })?;
    }
    Ok(())
}

/// Halves of a head make pairs; angle, factor and layout by hand.
#[test]
fn the_rotation_is_the_documented_one() -> Result<()> {
    let rotary = Rotary::new(&[1.0, 0.01], 4, 1.5, &Device::Cpu)?;
    assert_eq!((rotary.positions(), rotary.head_size()), (4, 4));
    let transform = HeadTransform { rotary, q_norm: None, k_norm: None };
    let row = [1f32, 2.0, 3.0, 4.0, -1.0, 0.5, 2.0, 1.0, 9.0, 8.0, 7.0, 6.0];
    let y = transform.forward(&Tensor::new(&[row], &Device::Cpu)?, &Positions::new([3]), heads(1, 1))?;
    let pair = |x1: f64, x2: f64, angle: f64| {
        let (sin, cos) = angle.sin_cos();
        [1.5 * (x1 * cos - x2 * sin), 1.5 * (x2 * cos + x1 * sin)].map(|y| y as f32)
    };
    let [q0, q2] = pair(1.0, 3.0, 3.0);
    let [q1, q3] = pair(2.0, 4.0, 0.03);
    let [k0, k2] = pair(-1.0, 2.0, 3.0);
    let [k1, k3] = pair(0.5, 1.0, 0.03);
    let want = Tensor::new(&[[q0, q1, q2, q3, k0, k1, k2, k3, 9.0, 8.0, 7.0, 6.0]], &Device::Cpu)?;
    assert_close("rotated", &y, &want, 1e-6, 1e-6);
    Ok(())
}

#[test]
fn a_norm_is_the_documented_one() -> Result<()> {
    let norm = |weight: [f32; 2], epsilon| -> Result<Option<HeadNorm>> {
        Ok(Some(HeadNorm { weight: Tensor::new(&weight, &Device::Cpu)?, epsilon }))
    };
    let transform = HeadTransform {
        rotary: rotary(2, 1)?,
        q_norm: norm([2.0, 10.0], 0.5)?,
        k_norm: norm([1.0, -1.0], 0.0)?,
    };
    let qkv = Tensor::new(&[[3f32, 4.0, 0.0, 0.0, 1.0, 7.0, 5.0, 6.0]], &Device::Cpu)?;
    let y = transform.forward(&qkv, &Positions::new([0]), heads(2, 1))?;
    let (q, k) = (13f32.sqrt(), 5.0);
    let want = Tensor::new(&[[6.0 / q, 40.0 / q, 0.0, 0.0, 1.0 / k, -7.0 / k, 5.0, 6.0]], &Device::Cpu)?;
    assert_close("normalised", &y, &want, 1e-6, 1e-6);
    Ok(())
}

/// Rotations keep norms, the one at position 0 is the identity, and values are not touched.
#[test]
fn a_rotation_is_a_rotation() -> Result<()> {
    let (count, kv, d, n) = (3, 1, 8, 6);
    let qkv = random(&[n, (count + 2 * kv) * d], 1)?;
    let positions = Positions::new((0..n as u32).map(|i| i * 19).collect::<Vec<_>>());
    let y = plain(d, 96)?.forward(&qkv, &positions, heads(count, kv))?;
    let norms = |x: &Tensor| x.reshape((n, count + 2 * kv, d))?.sqr()?.sum(2)?.sqrt();
    assert_close("norms", &norms(&y)?, &norms(&qkv)?, 1e-5, 1e-5);
    assert_close("position 0", &y.narrow(0, 0, 1)?, &qkv.narrow(0, 0, 1)?, 0.0, 0.0);
    let values = |x: &Tensor| x.narrow(1, (count + kv) * d, kv * d);
    assert_close("values", &values(&y)?, &values(&qkv)?, 0.0, 0.0);
    let moved = (y.narrow(0, 1, n - 1)? - qkv.narrow(0, 1, n - 1)?)?.abs()?.sum_all()?.to_scalar::<f32>()?;
    assert!(moved > 10.0, "{moved}");
    Ok(())
}

/// One query and one key at all pairs of positions: their product depends on the distance alone.
#[test]
fn scores_depend_on_the_distance_alone() -> Result<()> {
    let (d, n) = (6, 20);
    let row = random(&[1, 3 * d], 4)?;
    let positions = Positions::new((0..n as u32).collect::<Vec<_>>());
    let y = plain(d, n)?.forward(&row.repeat((n, 1))?, &positions, heads(1, 1))?;
    let scores = y.narrow(1, 0, d)?.matmul(&y.narrow(1, d, d)?.t()?)?.to_vec2::<f32>()?;
    for i in 0..n {
        for j in 0..n {
            let (i0, j0) = if i >= j { (i - j, 0) } else { (0, j - i) };
            assert!((scores[i][j] - scores[i0][j0]).abs() < 1e-4, "{i} {j}");
        }
    }
    // That it does depend on the distance.
    assert!((scores[0][0] - scores[3][0]).abs() > 0.1);
    Ok(())
}

#[test]
fn other_types_give_the_numbers_of_f32() -> Result<()> {
    let (shape, positions) = (heads(4, 2), Positions::new([5, 0, 3]));
    let (qkv, transform) = (random(&[3, 8 * 6], 1)?, with_norms(6, 8)?.detach());
    let want = transform.forward(&qkv, &positions, shape)?;
    for (dtype, tolerance) in [(DType::F64, 1e-5), (DType::BF16, 2e-2)] {
        let y = transform.forward(&qkv.to_dtype(dtype)?, &positions, shape)?;
        assert_eq!(y.dtype(), dtype);
        assert_close("other type", &y.to_dtype(DType::F32)?, &want, tolerance, tolerance);
    }
    Ok(())
}

#[test]
fn the_result_does_not_depend_on_the_number_of_threads() -> Result<()> {
    let (shape, n, transform) = (heads(4, 2), 131, with_norms(6, 131)?.detach());
    let positions = Positions::new((0..n as u32).collect::<Vec<_>>());
    let (qkv, dy) = (random(&[n, 8 * 6], 1)?, random(&[n, 8 * 6], 2)?);
    let run = || -> Result<Vec<Vec<f32>>> {
        let y = transform.forward(&qkv, &positions, shape)?;
        let (dx, sums) = (dy.copy()?, ones(&transform));
        transform.backward(Some(&qkv), &positions, shape, &dx, &sums)?;
        let all = [y, dx, sums.q_norm.unwrap(), sums.k_norm.unwrap()];
        all.iter().map(|t| t.flatten_all()?.to_vec1()).collect()
    };
    let with = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(run);
    assert_eq!(with(1)?, with(3)?);
    Ok(())
}

#[test]
fn what_does_not_fit_is_refused() -> Result<()> {
    let (shape, qkv, transform) = (heads(2, 1), random(&[3, 16], 1)?, with_norms(4, 5)?.detach());
    let forward = |transform: &HeadTransform, positions: &[u32], shape| {
        transform.forward(&qkv, &Positions::new(positions), shape).unwrap_err().to_string()
    };
    let error = forward(&transform, &[0, 5, 1], shape);
    assert!(error.contains("positions below 5, got 5 in row 1"), "{error}");
    let error = forward(&transform, &[0, 1], shape);
    assert!(error.contains("positions of 3 rows, got 2"), "{error}");
    let error = forward(&transform, &[0; 3], heads(6, 1));
    assert!(error.contains("heads of 4 channels, got 2"), "{error}");
    assert!(forward(&transform, &[0; 3], heads(3, 1)).contains("5 D channels"));
    let wide = HeadNorm { weight: random(&[5], 1)?, epsilon: 0.0 };
    let error = forward(&HeadTransform { k_norm: Some(wide), ..transform.clone() }, &[0; 3], shape);
    assert!(error.contains("shape [4], got [5]"), "{error}");

    let backward = |qkv: Option<&Tensor>, sums: &HeadTransformGradients| {
        let dx = random(&[3, 16], 2)?;
        transform.backward(qkv, &Positions::new([0; 3]), shape, &dx, sums)
    };
    let sums = ones(&transform);
    assert!(backward(Some(&qkv), &sums).is_ok());
    assert!(backward(None, &sums).unwrap_err().to_string().contains("need the input"));
    let other = random(&[2, 16], 1)?;
    assert!(backward(Some(&other), &sums).unwrap_err().to_string().contains("of an input [2, 16]"));
    let missing = HeadTransformGradients { k_norm: None, ..sums.clone() };
    assert!(
        backward(Some(&qkv), &missing).unwrap_err().to_string().contains("no sum for the norm of the keys")
    );
    let short = HeadTransformGradients { q_norm: Some(random(&[3], 1)?), ..sums };
    assert!(backward(Some(&qkv), &short).unwrap_err().to_string().contains("norm of the queries, got [3]"));
    assert!(Rotary::new(&[1.0, f64::NAN], 3, 1.0, &Device::Cpu).is_err());
    assert!(Rotary::new(&[1.0], 3, f64::INFINITY, &Device::Cpu).is_err());
    Ok(())
}
