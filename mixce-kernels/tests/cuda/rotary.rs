//! The rotary position embedding and the norms of heads.

use candle_core::{DType, Device, Result, Tensor};
use mixce_kernels::{CuSeqlens, HeadNorm, HeadTransform, HeadTransformGradients, Heads, Rotary};

use crate::{assert_close, assert_same_on_cuda, cuda, on, random, rounded, values};

const POSITIONS: usize = 600;

fn rotary(d: usize, device: &Device) -> Result<Rotary> {
    let frequencies: Vec<f64> = (0..d / 2).map(|i| 100f64.powf(-2.0 * i as f64 / d as f64)).collect();
    Rotary::new(&frequencies, POSITIONS, 1.2, device)
}

/// With a norm of the queries, of the keys, of both or of neither.
fn transform(d: usize, norms: [bool; 2], device: &Device) -> Result<HeadTransform> {
    let norm = |there: bool, seed| {
        let norm = || -> Result<HeadNorm> {
            Ok(HeadNorm { weight: on(device, &random(&[d], seed)?)?, epsilon: 1e-3 })
        };
        there.then(norm).transpose()
    };
    let [q_norm, k_norm] = norms;
    Ok(HeadTransform { rotary: rotary(d, device)?, q_norm: norm(q_norm, 21)?, k_norm: norm(k_norm, 22)? })
}

/// The result, the gradient of the input, and the sums for the norms, which hold something already.
fn results(
    (documents, heads, d): (&CuSeqlens, Heads, usize),
    norms: [bool; 2],
    dtype: DType,
    device: &Device,
) -> Result<Vec<Tensor>> {
    let (transform, positions) = (transform(d, norms, device)?, documents.positions());
    let shape = [documents.tokens(), (heads.count + 2 * heads.kv) * d];
    let rows = |seed| {
        let rows = if dtype == DType::BF16 { rounded(&shape, seed)? } else { random(&shape, seed)? };
        // The CPU computes in f32.
        on(device, &rows.to_dtype(if device.is_cuda() { dtype } else { DType::F32 })?)
    };
    let (qkv, dqkv) = (rows(5)?, rows(6)?);
    let sum = |there: bool, seed| there.then(|| on(device, &random(&[d], seed)?)).transpose();
    let sums = HeadTransformGradients { q_norm: sum(norms[0], 31)?, k_norm: sum(norms[1], 32)? };
    let y = transform.forward(&qkv, positions, heads)?;
    transform.backward(transform.backward_needs_input().then_some(&qkv), positions, heads, &dqkv, &sums)?;
    assert_eq!(y.dtype(), qkv.dtype());
    Ok([y, dqkv].into_iter().chain(sums.q_norm).chain(sums.k_norm).collect())
}

#[test]
fn rotations_and_norms_of_heads() -> Result<()> {
    let batches = [&[][..], &[1], &[0, 3, 0, 5], &[70, 33]];
    let shapes = [(1, 1, 2), (4, 2, 6), (3, 1, 64), (2, 2, 34), (6, 2, 128)];
    let mut problems: Vec<_> =
        batches.into_iter().flat_map(|lengths| shapes.map(|shape| (lengths, shape))).collect();
    // More rows and heads than the blocks have warps.
    problems.push((&[600], (8, 8, 2)));
    for (lengths, (count, kv, d)) in problems {
        let documents = CuSeqlens::from_lengths(lengths.iter().copied());
        let heads = Heads { kv, ..Heads::new(count, 1.0) };
        for norms in [[false, false], [true, true], [true, false], [false, true]] {
            // What is stored in bf16 is wrong by 2^-9 of it at most; sums for the norms are f32.
            for (dtype, tolerance) in [(DType::F32, 2e-5), (DType::BF16, 2.0 / 512.0)] {
                let on = |device: &Device| results((&documents, heads, d), norms, dtype, device);
                let (cpu, gpu, again) = (on(&Device::Cpu)?, on(&cuda()?)?, on(&cuda()?)?);
                assert_eq!(gpu.len(), cpu.len());
                for (i, ((got, again), want)) in gpu.iter().zip(&again).zip(&cpu).enumerate() {
                    let name =
                        format!("{lengths:?}, {heads:?} of {d}, norms {norms:?}, {dtype:?}, result {i}");
                    assert_close(&name, got, want, tolerance)?;
                    assert_eq!(values(got)?, values(again)?, "{name}: two runs differ");
                }
            }
        }
    }
    Ok(())
}

/// In candle's graph it is composed of candle's operations.
#[test]
fn rotations_in_a_graph() -> Result<()> {
    let (documents, heads) = (CuSeqlens::from_lengths([5, 4]), Heads { kv: 2, ..Heads::new(4, 1.0) });
    let inputs = [random(&[9, 8 * 6], 1)?, random(&[6], 2)?, random(&[6], 3)?];
    assert_same_on_cuda("rotation", &inputs, 1e-5, |t| {
        let norm = |weight: &Tensor| Some(HeadNorm { weight: weight.clone(), epsilon: 1e-3 });
        let rotary = rotary(6, t[0].device())?;
        let transform = HeadTransform { rotary, q_norm: norm(&t[1]), k_norm: norm(&t[2]) };
        transform.forward(&t[0], documents.positions(), heads)
    })
}
