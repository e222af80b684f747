//! Products in bf16 that add their bias, or apply GELU, before they store their result, against the CPU and against the kernels that follow a
//! product where cublasLt has no algorithm.

use candle_core::{DType, Device, Result, Tensor};
use mixce_kernels::rng::Stream;
use mixce_kernels::sublayer::{Mlp, MlpGradients, NormLinear};
use mixce_kernels::{Activation, Affine, AffineGradients, Dropout, Norm, Parameter, Precision, Weight};

use crate::{assert_close, cuda, on, random, values};

/// Tokens, channels, and channels inside the MLP: one token, few, more than a block; and sizes that are no multiples of 16 bytes, which have no
/// epilogue.
const SHAPES: [(usize, usize, usize); 7] =
    [(0, 8, 8), (1, 8, 8), (2, 16, 40), (33, 24, 64), (257, 64, 256), (7, 12, 24), (5, 16, 20)];

const BF16: Precision = Precision::Bf16;

fn map(device: &Device, transposed: bool, (n_in, n_out): (usize, usize), seed: u64) -> Result<Affine> {
    let scale = 1.0 / (n_in as f64).sqrt();
    let shape = if transposed { [n_out, n_in] } else { [n_in, n_out] };
    let weight = on(device, &(random(&shape, seed)? * scale)?)?;
    let weight = if transposed { Weight::Transposed(weight.into()) } else { weight.into() };
    Ok(Affine::new(weight, Some(on(device, &random(&[n_out], seed + 1)?)?)))
}

fn sums(map: &Affine) -> Result<AffineGradients> {
    let bias = map.bias.as_deref().map(Tensor::zeros_like).transpose()?;
    Ok(AffineGradients { weight: map.weight.stored()?.zeros_like()?, bias })
}

/// Maps side by side, and an MLP forward and backward.
fn results(
    device: &Device,
    transposed: bool,
    (n, c, inner): (usize, usize, usize),
) -> Result<Vec<(String, Tensor)>> {
    let norm = Norm::layer(on(device, &random(&[c], 1)?)?, Some(on(device, &random(&[c], 2)?)?), 1e-5);
    let x = on(device, &random(&[n, c], 3)?)?;
    let widths = [(c, 4), (8, 6), (c + 8, 8)];
    let maps = widths.into_iter().map(|(n_out, seed)| map(device, transposed, (c, n_out), seed));
    let side_by_side = NormLinear { norm: norm.clone(), maps: maps.collect::<Result<_>>()? };
    let mlp = Mlp {
        norm,
        up: map(device, transposed, (c, inner), 10)?,
        activation: Activation::GeluNew,
        down: map(device, transposed, (inner, c), 12)?,
    };
    let drop = Some(Dropout::new(0.2, Stream::new(6)));
    let norm_sums =
        AffineGradients { weight: mlp.norm.weight.zeros_like()?, bias: Some(mlp.norm.weight.zeros_like()?) };
    let gradients = MlpGradients { norm: norm_sums, up: sums(&mlp.up)?, down: sums(&mlp.down)? };
    let (y, pre_activation) = mlp.forward_saving(&x, drop, BF16)?;
    let (again, dx) = (mlp.forward(&x, drop, BF16)?, on(device, &random(&[n, c], 14)?)?);
    mlp.backward(&x, &pre_activation, drop, &dx, &gradients, BF16)?;
    let MlpGradients { up, down, .. } = gradients;
    let case = format!("[{n}, {c}] with {inner}, transposed {transposed}");
    let all = [
        ("maps", Some(side_by_side.forward(&x, BF16)?)),
        ("mlp", Some(y)),
        ("pre-activation", Some(pre_activation)),
        ("mlp without saving", Some(again)),
        ("dx", Some(dx)),
        ("gradient of the map up", Some(up.weight)),
        ("gradient of its bias", up.bias),
        ("gradient of the map down", Some(down.weight)),
    ];
    Ok(all.into_iter().filter_map(|(name, tensor)| Some((format!("{name}, {case}"), tensor?))).collect())
}

/// [`results`] of all shapes in both layouts.
fn all_results(device: &Device) -> Result<Vec<(String, Tensor)>> {
    let cases = SHAPES.into_iter().flat_map(|shape| [false, true].map(|transposed| (transposed, shape)));
    let all = cases.map(|(transposed, shape)| results(device, transposed, shape));
    Ok(all.collect::<Result<Vec<_>>>()?.concat())
}

/// Rounding is wrong by at most 2^-9 of a number.
const TOLERANCE: f32 = 8.0 / 512.0;

#[test]
fn agree_with_the_cpu() -> Result<()> {
    let (cpu, gpu, again) = (all_results(&Device::Cpu)?, all_results(&cuda()?)?, all_results(&cuda()?)?);
    for (((name, got), (_, again)), (_, want)) in gpu.iter().zip(&again).zip(&cpu) {
        assert_close(name, got, want, TOLERANCE)?;
        assert_eq!(values(got)?, values(again)?, "{name}: two runs differ");
    }
    Ok(())
}

/// The variable that names the file for the results.
const FILE: &str = "MIXCE_EPILOGUES_FILE";

#[test]
#[ignore = "what another test compares"]
fn written_results() -> Result<()> {
    let Ok(file) = std::env::var(FILE) else { return Ok(()) };
    let line = |(_, tensor): &(String, Tensor)| -> Result<String> {
        Ok(values(tensor)?.iter().map(|value| format!("{value} ")).collect())
    };
    let lines = all_results(&cuda()?)?.iter().map(line).collect::<Result<Vec<_>>>()?;
    Ok(std::fs::write(file, lines.join("\n"))?)
}

/// The results of a process of its own, and what the emulated driver has counted in it: nothing on a GPU.
fn results_of_process(variables: &[(&str, &str)]) -> Result<(Vec<Vec<f32>>, Option<String>)> {
    let name = format!("{}-epilogues-{}", std::process::id(), variables.len());
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let statistics = file.with_extension("json");
    let status = std::process::Command::new(std::env::current_exe()?)
        .args(["--ignored", "--exact", "epilogues::written_results"])
        .env(FILE, &file)
        .env("EMULATED_CUDA_STATISTICS", &statistics)
        .envs(variables.iter().copied())
        .stdout(std::process::Stdio::null())
        .status()?;
    assert!(status.success());
    let text = std::fs::read_to_string(&file)?;
    let number = |text: &str| text.parse().map_err(candle_core::Error::wrap);
    let numbers = |line: &str| line.split_whitespace().map(number).collect::<Result<Vec<f32>>>();
    let counts = std::fs::read_to_string(&statistics).ok();
    let _ = (std::fs::remove_file(&file), std::fs::remove_file(&statistics));
    Ok((text.split('\n').map(numbers).collect::<Result<_>>()?, counts))
}

/// The heuristic of the emulated cublasLt can be told to find nothing. A GPU's cannot, and compares the same twice.
#[test]
fn without_an_algorithm_results_differ_by_rounding() -> Result<()> {
    let (with, counts) = results_of_process(&[])?;
    let (without, counts_without) = results_of_process(&[("EMULATED_CUDA_NO_EPILOGUES", "1")])?;
    let has_epilogues = |counts: &str| counts.contains(r#""cublasLtMatmul":"#);
    assert!(counts.is_none_or(|counts| has_epilogues(&counts)));
    assert!(counts_without.is_none_or(|counts| !has_epilogues(&counts)));
    assert_eq!((with.len(), with.len()), (without.len(), SHAPES.len() * 2 * 8));
    for (i, (with, without)) in with.iter().zip(&without).enumerate() {
        let tensor = |values: &[f32]| Tensor::new(values, &Device::Cpu);
        assert_close(&format!("result {i}"), &tensor(with)?, &tensor(without)?, TOLERANCE)?;
    }
    Ok(())
}

/// A bias has a copy in bf16, which must not be outdated.
#[test]
fn a_bias_that_changes_is_read_anew() -> Result<()> {
    let device = cuda()?;
    let (c, n_out) = (16, 24);
    let (x, plain) = (random(&[3, c], 1)?.to_device(&device)?, map(&device, false, (c, n_out), 2)?);
    let norm = Norm::layer(random(&[c], 4)?.to_device(&device)?, None, 1e-5);
    let bias = Parameter::new(&random(&[n_out], 5)?.to_device(&device)?)?;
    let forward = |map: Affine| -> Result<Vec<f32>> {
        values(&NormLinear { norm: norm.clone(), maps: vec![map] }.forward(&x, BF16)?)
    };
    let kept = || forward(Affine { bias: Some(bias.stored().detach()), ..plain.clone() });
    let now = || forward(Affine { bias: Some(bias.values().detach().into()), ..plain.clone() });
    let first = kept()?;
    assert_eq!(first, now()?);
    bias.set(&random(&[n_out], 6)?.to_device(&device)?)?;
    assert_eq!(kept()?, now()?);
    assert_ne!(kept()?, first);
    // Packed for inference on the GPU, where the copy is made once.
    let packed = Affine { bias: Some(bias.values().detach().into()), ..plain.clone() }.pack(BF16)?;
    assert_eq!(packed.weight.stored()?.dtype(), DType::BF16);
    assert_eq!([forward(packed.clone())?, forward(packed)?], [kept()?, kept()?]);
    Ok(())
}
