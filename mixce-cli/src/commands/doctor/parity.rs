//! Compares the GPU with the CPU: operations forward and backward, training, sampling; and measures the GPU's training speed.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::Result;
use candle_core::{Device, Tensor, Var};
use mixce::llama::LlamaConfig;
use mixce_core::lm_head_loss;
use mixce_core::objective::{MixCe, Objective};
use mixce_gpt2::Gpt2Config;
use mixce_kernels::rng::Stream;
use mixce_kernels::{
    Activation, CuSeqlens, Dropout, Embedded, Heads, Norm, Precision, causal_attention, dropout,
    embedding_sum, linear, residual_dropout,
};
use mixce_lm::generate::{GenerateOptions, generate};
use mixce_lm::sampling::Sampling;
use mixce_lm::{ModelConfig, Parameters, PassOptions, flops};
use mixce_train::config::TrainConfig;
use mixce_train::data::Microbatch;
use mixce_train::trainer::{StepResult, TrainStep};

use super::checks::{Check, Speed, normal};
use super::{llama, passes};
use crate::speed::{Peak, peak};

/// The checks skipped without a GPU.
pub(super) const NOT_CHECKED: [&str; 4] = [
    "operations on the GPU against the CPU, forward and backward",
    "ten steps of training on the GPU against the CPU, in f32 and in bf16",
    "sampling on the GPU against the CPU, in f32 and in bf16",
    "speed of training on the GPU, in f32 and in bf16",
];

/// Tolerance relative to the largest number: sums are in different orders.
const TOLERANCE: f64 = 1e-4;
/// Tolerance for the losses of a training run, in which differences accumulate; in bf16, with 8 bits of significand, against f32.
const TRAINING_TOLERANCE: f64 = 1e-3;
const BF16_TOLERANCE: f64 = 3e-2;

/// Prompts with their numbers.
const PROMPTS: [(u64, &[u32]); 3] = [(0, &[1, 2, 3]), (1, &[4]), (2, &[7, 8, 9, 10])];

/// All checks; `full` with the shapes of GPT-2 small.
pub(super) fn parity(gpu: &Device, full: bool) -> Result<Vec<Check>> {
    let (mut checks, peak) = (operations(gpu, full)?, full.then(|| peak(gpu)).transpose()?);
    let (gpt2, llama) = (small_config()?, small_llama()?);
    let models: [(&dyn ModelConfig, [&'static str; 4]); 2] = [
        (&gpt2, ["training", "training in bf16", "sampling", "decoding in bf16"]),
        (
            &llama,
            [
                "training of a Qwen3",
                "training of a Qwen3 in bf16",
                "sampling from a Qwen3",
                "decoding of a Qwen3 in bf16",
            ],
        ),
    ];
    for (config, [exact, rounded, samples, decoded]) in models {
        checks.push(training(gpu, config, (exact, Precision::F32), TRAINING_TOLERANCE)?);
        checks.push(training(gpu, config, (rounded, Precision::Bf16), BF16_TOLERANCE)?);
        checks.push(sampling(gpu, config, samples)?);
        checks.push(decoding(gpu, config, decoded)?);
    }
    checks.push(speed(gpu, ("speed of training", Precision::F32), full, peak)?);
    checks.push(speed(gpu, ("speed of training in bf16", Precision::Bf16), full, peak)?);
    Ok(checks.into_iter().map(|check| check.against("the CPU")).collect())
}

/// An operation of some tensors.
type Operation<'a> = &'a dyn Fn(&[Tensor]) -> Result<Tensor>;

/// Result and gradients of an operation on both devices.
pub(super) fn compare(
    gpu: &Device,
    name: &'static str,
    inputs: &[Tensor],
    f: Operation<'_>,
) -> Result<Check> {
    let on = |device: &Device| -> Result<Vec<Tensor>> {
        let inputs = inputs.iter().map(|x| Ok(Var::from_tensor(&x.to_device(device)?)?));
        let inputs = inputs.collect::<Result<Vec<Var>>>()?;
        let tensors: Vec<Tensor> = inputs.iter().map(|x| x.as_tensor().clone()).collect();
        let y = f(&tensors)?;
        let store = y.sqr()?.sum_all()?.backward()?;
        let gradients = inputs.iter().map(|x| match store.get(x) {
            Some(gradient) => Ok(gradient.clone()),
            None => anyhow::bail!("{name}: an operation has no gradient"),
        });
        let gradients = gradients.collect::<Result<Vec<_>>>()?;
        Ok(std::iter::once(y).chain(gradients).collect())
    };
    same_on_both(gpu, name, &on)
}

/// The same tensors from both devices.
pub(super) fn same_on_both(
    gpu: &Device,
    name: &'static str,
    f: &dyn Fn(&Device) -> Result<Vec<Tensor>>,
) -> Result<Check> {
    let mut worst = 0f64;
    for (got, want) in f(gpu)?.iter().zip(&f(&Device::Cpu)?) {
        let got = got.to_device(&Device::Cpu)?;
        let difference = got.sub(want)?.abs()?.max_all()?.to_scalar::<f32>()?;
        let scale = want.abs()?.max_all()?.to_scalar::<f32>()?.max(1.0);
        let relative = f64::from(difference / scale);
        // Not `max`, which ignores NaN.
        worst = if relative <= worst { worst } else { relative };
    }
    Ok(Check::new(name, worst <= TOLERANCE, format!("largest relative difference {worst:.1e}")))
}

fn operations(gpu: &Device, full: bool) -> Result<Vec<Check>> {
    let (n, c, heads, vocabulary) = if full { (512, 768, 12, 50_257) } else { (37, 96, 3, 101) };
    let cpu = |seed, shape: &[usize]| normal(seed, shape, &Device::Cpu);
    let rows = cpu(0, &[n, c])?;
    let vectors = [cpu(1, &[c])?, cpu(2, &[c])?];
    let drop = Some(Dropout::new(0.1, Stream::new(7)));
    let mut checks = Vec::new();

    let inputs = [rows.clone(), vectors[0].clone(), vectors[1].clone()];
    checks.push(compare(gpu, "layer norm", &inputs, &|t| {
        Ok(Norm::layer(t[1].clone(), Some(t[2].clone()), 1e-5).forward(&t[0])?)
    })?);
    let activations = [
        ("GELU (tanh)", Activation::GeluNew),
        ("GELU", Activation::Gelu),
        ("ReLU", Activation::Relu),
        ("SiLU", Activation::Silu),
    ];
    for (name, f) in activations {
        checks.push(compare(gpu, name, std::slice::from_ref(&rows), &|t| Ok(f.forward(&t[0])?))?);
    }
    let inputs = [rows.clone(), (cpu(3, &[c, c])? * 0.1)?, vectors[0].clone()];
    checks.push(compare(gpu, "linear", &inputs, &|t| Ok(linear(&t[0], &t[1], Some(&t[2]))?))?);
    checks.push(compare(gpu, "dropout", std::slice::from_ref(&rows), &|t| {
        Ok(dropout(&t[0], 0.1, Stream::new(7))?)
    })?);
    let inputs = [rows.clone(), cpu(4, &[n, c])?];
    checks.push(compare(gpu, "residual dropout", &inputs, &|t| Ok(residual_dropout(&t[0], &t[1], drop)?))?);

    let ids: Vec<u32> = (0..n as u32).map(|i| i * 7 % vocabulary as u32 / 3).collect();
    let positions: Vec<u32> = (0..n as u32).map(|i| i % 16).collect();
    let inputs = [cpu(5, &[vocabulary, c])?, cpu(6, &[16, c])?];
    checks.push(compare(gpu, "embedding", &inputs, &|t| {
        Ok(embedding_sum(&t[0], &t[1], &Embedded::new(&ids, &positions, t[0].device())?, drop)?)
    })?);
    let offsets = CuSeqlens::from_lengths([1, n / 2, n - n / 2 - 1]);
    checks.push(compare(gpu, "attention", &[cpu(7, &[n, 3 * c])?], &|t| {
        Ok(causal_attention(&t[0], &offsets, Heads::new(heads, 0.2), drop)?)
    })?);
    let objective = MixCe::new(0.1)?;
    let inputs = [(rows * 0.2)?, cpu(8, &[vocabulary, c])?];
    checks.push(compare(gpu, "LM head and MixCE", &inputs, &|t| {
        let targets = Tensor::new(ids.as_slice(), t[0].device())?;
        Ok(lm_head_loss(&t[0], &t[1], &targets, &objective, n as f64)?.loss)
    })?);
    checks.extend(passes::passes(gpu, (n, c, heads))?);
    checks.extend(llama::checks(gpu, (n, c, heads))?);
    Ok(checks)
}

/// Two layers with all dropouts.
fn small_config() -> Result<Gpt2Config> {
    Ok(Gpt2Config::from_json(
        r#"{"model_type":"gpt2","vocab_size":101,"n_positions":32,"n_embd":64,"n_layer":2,"n_head":2,
        "resid_pdrop":0.1,"embd_pdrop":0.1,"attn_pdrop":0.1,"bos_token_id":100,"eos_token_id":100}"#,
    )?)
}

/// Shared keys and values, norms of heads, a window in the second layer, and dropout of attention.
fn small_llama() -> Result<LlamaConfig> {
    Ok(LlamaConfig::from_json(
        r#"{"model_type":"qwen3","vocab_size":101,"max_position_embeddings":32,"hidden_size":64,"intermediate_size":96,
        "num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"head_dim":32,"attention_dropout":0.1,
        "use_sliding_window":true,"sliding_window":9,"max_window_layers":1,"tie_word_embeddings":true,
        "bos_token_id":100,"eos_token_id":100}"#,
    )?)
}

/// Random documents of at most `length` tokens.
fn documents(number: usize, length: usize, vocabulary: usize) -> Microbatch {
    let document = |i: usize| (0..length - i % 4).map(|t| ((i * 31 + t * 7) % vocabulary) as u32).collect();
    Microbatch { examples: (0..number).map(document).collect() }
}

/// A model in training by MixCE.
fn train_step(config: &dyn ModelConfig, device: &Device, precision: Precision) -> Result<TrainStep> {
    let parameters = Parameters::random(config, 3, device)?;
    let objective: Arc<dyn Objective> = Arc::new(MixCe::new(0.1)?);
    let step = TrainStep::new(config, parameters, objective, TrainConfig::default().adamw(), 1.0)?;
    Ok(step.with_options(PassOptions { precision, ..PassOptions::default() }))
}

/// Trains on the GPU in the given precision and on the CPU in f32.
fn training(
    gpu: &Device,
    config: &dyn ModelConfig,
    (name, precision): (&'static str, Precision),
    tolerance: f64,
) -> Result<Check> {
    let run = |device: &Device, precision| -> Result<Vec<StepResult>> {
        let mut step = train_step(config, device, precision)?;
        let batch = [documents(5, 32, config.spec().vocabulary)];
        let stop = AtomicBool::new(false);
        (0..10).map(|i| Ok(step.run(&batch, Stream::new(i), 1e-3, &stop)?)).collect()
    };
    let (got, want) = (run(gpu, precision)?, run(&Device::Cpu, Precision::F32)?);
    let relative = |got: f64, want: f64| (got - want).abs() / want.abs();
    let pairs = got.iter().zip(&want);
    let differences = pairs
        .flat_map(|(got, want)| [relative(got.loss, want.loss), relative(got.grad_norm, want.grad_norm)]);
    let holds = differences.clone().all(|d| d <= tolerance);
    let worst = differences.fold(0.0, f64::max);
    Ok(Check::new(name, holds, format!("losses and gradient norms of ten steps differ by {worst:.1e}")))
}

fn sampling(gpu: &Device, config: &dyn ModelConfig, name: &'static str) -> Result<Check> {
    let run = |device: &Device| -> Result<Vec<Vec<u32>>> {
        // The same weights: random numbers do not depend on the device.
        let model = config.build(Parameters::random(config, 3, device)?.detached())?;
        let model = model.into_decoder(Precision::F32)?;
        let draws = Sampling::default();
        let methods = [
            Sampling { greedy: true, ..draws.clone() },
            Sampling { temperature: 0.9, top_k: Some(20), top_p: Some(0.9), ..draws.clone() },
            draws,
        ];
        let mut texts = Vec::new();
        for sampling in methods {
            let options =
                GenerateOptions { sampling, max_new_tokens: 20, eos: Vec::new(), batch_size: 3, seed: 4 };
            texts.extend(generate(&*model, &PROMPTS, &options, &mut |_, _| ())?);
        }
        Ok(texts.into_iter().map(|text| text.tokens).collect())
    };
    let (got, want) = (run(gpu)?, run(&Device::Cpu)?);
    let same = got.iter().zip(&want).filter(|(got, want)| got == want).count();
    let detail = format!("{same} of {} texts of 20 tokens agree with the CPU", want.len());
    Ok(Check::new(name, got == want, detail))
}

/// The logits behind prompts and one more token each, in bf16 against the CPU's f32.
fn decoding(gpu: &Device, config: &dyn ModelConfig, name: &'static str) -> Result<Check> {
    let run = |device: &Device, precision| -> Result<Vec<f32>> {
        let model = config.build(Parameters::random(config, 3, device)?.detached())?;
        let model = model.into_decoder(precision)?;
        let (_, mut cache) = model.prefill(&model.pack(&PROMPTS.map(|(_, ids)| ids))?, 1)?;
        let mut logits = Vec::new();
        model.logits(&model.decode(&[5, 6, 7], &mut cache)?, &mut logits)?;
        Ok(logits)
    };
    let (got, want) = (run(gpu, Precision::Bf16)?, run(&Device::Cpu, Precision::F32)?);
    let largest = want.iter().fold(f64::MIN_POSITIVE, |most, z| most.max(f64::from(z.abs())));
    let differences = got.iter().zip(&want).map(|(got, want)| f64::from((got - want).abs()) / largest);
    let holds = got.len() == want.len() && differences.clone().all(|d| d <= BF16_TOLERANCE);
    let worst = differences.fold(0.0, f64::max);
    Ok(Check::new(name, holds, format!("logits differ by {worst:.1e} of the largest")))
}

/// A measurement without comparison, with `full` also as a share of the peak.
fn speed(
    gpu: &Device,
    (name, precision): (&'static str, Precision),
    full: bool,
    peak: Option<Peak>,
) -> Result<Check> {
    let mut config = small_config()?;
    let (number, length, steps) = if full { (8, 512, 10) } else { (5, 32, 3) };
    if full {
        let small = (50_257, 1024, 768, 12, 12);
        (config.vocab_size, config.n_positions, config.n_embd, config.n_layer, config.n_head) = small;
    }
    let (mut step, stop) = (train_step(&config, gpu, precision)?, AtomicBool::new(false));
    let batch = [documents(number, length, config.vocab_size)];
    step.run(&batch, Stream::new(0), 1e-3, &stop)?;
    let started = Instant::now();
    let mut tokens = 0;
    for i in 1..=steps {
        let work = step.start(&batch, Stream::new(i), 1e-3, &stop)?;
        tokens += work.targets();
        if i == steps {
            step.finish(work)?;
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    let inputs: Vec<usize> = batch[0].examples.iter().map(|e| e.len() - 1).collect();
    let gflops = steps as f64 * flops::training(&config, inputs) as f64 / seconds / 1e9;
    let speed = Speed::new(tokens as f64 / seconds, gflops, peak);
    Ok(Check { speed: Some(speed), ..Check::new(name, true, speed.in_words("f32")) })
}
