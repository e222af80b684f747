//! `mixce plan`: estimates memory and time of training.

mod roofline;

use anyhow::Result;
use candle_core::Device;
use clap::Args;
use mixce_lm::ModelConfig;
use mixce_lm::memory::PassShape;
use mixce_train::config::Precision;
use mixce_train::distributed::{ReduceDtype, calls_per_step, exchanged_bytes};
use mixce_train::plan::{StepMemory, executed_flops, step_memory};
use serde::Serialize;

use crate::commands::train::words;
use crate::context::{Context, device_name};
use crate::error::{Problem, at_least, positive};
use crate::models;
use crate::output::{bytes, grouped, table};
use crate::positions::{DEFAULT_MAX_LENGTH, fitted};
use crate::speed;

/// Estimate memory and time of training before anything is downloaded or run
#[derive(Debug, Args)]
#[command(
    after_help = "Example: mixce plan --model gpt2-large --batch-size 8 --max-length 512 --device cuda --gflops 15000\n\n\
        Memory is computed from the shapes, for documents of --max-length tokens; shorter documents need less. The program itself,\n\
    the allocator's unused pages, CUDA's context and NCCL's buffers are not included. Time is the operations of the matrix products divided by an\n\
    assumed share of this device's matmul peak, which is measured now (some seconds) unless --gflops is given. It is a rough\n\
    estimate; `mixce bench train` measures. With --ranks N the rate is that of N such devices, without the time to exchange gradients.\n\
    With --device cuda and no such device, time is estimated only with --gflops.\n\n\
    With --roofline and --device h200, h100, a100 or rtx4090 the operations and bytes of every part of a step are listed, with the time at the\n\
    GPU's peak rates and at the rates that the kernels are estimated to reach: on paper, not measured. No GPU is needed."
)]
pub(crate) struct PlanArgs {
    /// A published size (gpt2, gpt2-large, SmolLM2-135M, Llama-3.2-1B, Qwen3-0.6B and others); a config.json; the folder of a model
    /// (its config.json); or a GGUF file
    #[arg(long, value_name = "NAME|FILE|FOLDER")]
    model: String,
    /// Documents per microbatch
    #[arg(long, default_value_t = 8, value_name = "N")]
    batch_size: usize,
    /// Microbatches per optimizer step
    #[arg(long, default_value_t = 8, value_name = "N")]
    grad_accum: usize,
    /// Tokens of the longest document, EOS included [default: 512, or the model's context length if shorter]
    #[arg(long, value_name = "TOKENS")]
    max_length: Option<usize>,
    /// Recompute activations in the backward pass: less memory, more time
    #[arg(long)]
    activation_checkpointing: bool,
    /// Processes that train together, started by mpirun or srun: each takes a part of every microbatch, and they exchange gradients
    /// once per step
    #[arg(long, default_value_t = 1, value_name = "N")]
    ranks: usize,
    /// Divide AdamW's moments between the processes of --ranks (ZeRO stage 1)
    #[arg(long)]
    shard_optimizer: bool,
    /// Number format in which the processes of --ranks exchange gradients
    #[arg(long, default_value = "f32", value_parser = words::<ReduceDtype>(&["f32", "bf16"]))]
    grad_reduce_dtype: ReduceDtype,
    /// Number format of the operands of matrix products; with bf16, CUDA saves less. Time is based on the f32 rate, or --gflops
    #[arg(long, default_value = "f32", value_parser = words::<Precision>(&["f32", "bf16"]))]
    precision: Precision,
    /// Target tokens of the whole training, over all epochs: adds the total time
    #[arg(long, value_name = "N")]
    tokens: Option<u64>,
    /// The device's rate of f32 matrix products in GFLOP/s, instead of measuring it
    #[arg(long, value_name = "GFLOP/S", allow_negative_numbers = true)]
    gflops: Option<f64>,
    /// Assumed share of that rate in training, above 0 and up to 1; measured on CPUs: 0.56 to 0.78
    #[arg(long, default_value_t = 0.65, value_name = "SHARE", allow_negative_numbers = true)]
    share: f64,
    /// Estimate where the time of a microbatch's step goes on the GPU that --device names: h200, h100, a100 or rtx4090
    #[arg(long, conflicts_with_all = ["gflops", "share", "tokens", "activation_checkpointing", "ranks", "shard_optimizer", "grad_reduce_dtype"])]
    roofline: bool,
}

impl PlanArgs {
    fn check(&self) -> Result<()> {
        at_least("--batch-size", self.batch_size as u64, 1)?;
        at_least("--grad-accum", self.grad_accum as u64, 1)?;
        at_least("--ranks", self.ranks as u64, 1)?;
        at_least("--max-length", self.max_length.unwrap_or(2) as u64, 2)?;
        positive("--gflops", self.gflops)?;
        if !(self.share > 0.0 && self.share <= 1.0) {
            let problem = format!("`--share`: expected a number above 0 and up to 1, got `{}`", self.share);
            return Err(Problem::new(problem).into());
        }
        Ok(())
    }
}

/// The output of `--json`.
#[derive(Debug, Serialize)]
struct Plan {
    model: String,
    parameters: u64,
    device: String,
    precision: Precision,
    batch_size: usize,
    grad_accum: usize,
    max_length: usize,
    activation_checkpointing: bool,
    ranks: usize,
    shard_optimizer: bool,
    grad_reduce_dtype: ReduceDtype,
    tokens_per_microbatch: u64,
    tokens_per_step: u64,
    /// Bytes of gradients, and with a sharded optimizer of weights, that each rank sends, and receives, in an optimizer step.
    exchanged_bytes_per_step: u64,
    /// Calls by which they are exchanged.
    exchanges_per_step: usize,
    /// Of each rank.
    memory: StepMemory,
    /// Floating-point operations of an optimizer step, in 10^9.
    gflop_per_step: f64,
    /// Null if there is no device to measure and no `--gflops`.
    time: Option<Time>,
}

/// Time estimated from operations.
#[derive(Debug, Serialize)]
struct Time {
    matmul_peak_gflops: f64,
    /// False if it was given.
    measured: bool,
    assumed_share: f64,
    tokens_per_s: f64,
    /// At a share of 1.
    tokens_per_s_at_most: f64,
    step_s: f64,
    tokens: Option<u64>,
    hours: Option<f64>,
}

pub(crate) fn run(args: &PlanArgs, context: &Context) -> Result<()> {
    let config = models::known_config("--model", &args.model)?;
    args.check()?;
    if args.shard_optimizer && args.ranks == 1 {
        tracing::warn!("`--shard-optimizer` has no effect without `--ranks`");
    }
    if args.grad_reduce_dtype != ReduceDtype::F32 && args.ranks == 1 {
        tracing::warn!("`--grad-reduce-dtype` has no effect without `--ranks`");
    }
    let positions = config.spec().positions;
    let max_length = fitted("--max-length", args.max_length, DEFAULT_MAX_LENGTH, positions)?;
    if args.roofline {
        return roofline::run(args, max_length, &*config, context);
    }
    let device = open(context)?;
    let plan = plan(args, max_length, &*config, device.as_ref())?;
    context.output.either(&plan, || plan.text())
}

/// The device to plan for; `None` for a CUDA device that is not present.
fn open(context: &Context) -> Result<Option<Device>> {
    match context.start() {
        Err(error) if context.device.as_deref().is_some_and(|name| name.starts_with("cuda")) => {
            tracing::info!("planning for a CUDA device without one: {error}");
            Ok(None)
        }
        other => other.map(Some),
    }
}

fn plan(
    args: &PlanArgs,
    max_length: usize,
    config: &dyn ModelConfig,
    device: Option<&Device>,
) -> Result<Plan> {
    // The last token of a document is only a target.
    let inputs = max_length.saturating_sub(1);
    let (batch_size, recompute) = (args.batch_size, args.activation_checkpointing);
    let tokens = batch_size.saturating_mul(inputs);
    // Microbatches are divided between documents.
    let documents_per_rank = batch_size.div_ceil(args.ranks);
    let shape = PassShape {
        tokens: documents_per_rank.saturating_mul(inputs),
        longest: inputs,
        recompute,
        on_cuda: device.is_none_or(Device::is_cuda),
        precision: args.precision.into(),
    };
    // The operations of one document: a batch may be too large to list.
    let of_document = executed_flops(config, std::iter::once(inputs), recompute) as f64;
    let gflop_per_step = of_document * batch_size as f64 * args.grad_accum as f64 / 1e9;
    let tokens_per_step = (tokens as u64).saturating_mul(args.grad_accum as u64);
    let peak = match (args.gflops, device) {
        (Some(given), _) => Some((given, false)),
        (None, Some(device)) => Some((speed::peak(device)?.gflops, true)),
        (None, None) => None,
    };
    let time = peak.map(|(peak, measured)| {
        // The rank with the most documents takes the longest.
        let of_ranks = batch_size as f64 / documents_per_rank as f64;
        let at_most = of_ranks * tokens_per_step as f64 / (gflop_per_step / peak);
        let tokens_per_s = at_most * args.share;
        Time {
            matmul_peak_gflops: peak,
            measured,
            assumed_share: args.share,
            tokens_per_s,
            tokens_per_s_at_most: at_most,
            step_s: tokens_per_step as f64 / tokens_per_s,
            tokens: args.tokens,
            hours: args.tokens.map(|tokens| tokens as f64 / tokens_per_s / 3600.0),
        }
    });
    let lengths = config.parameter_specs().into_iter().map(|spec| spec.shape.iter().product());
    let (ranks, dtype) = (args.ranks, args.grad_reduce_dtype);
    let memory = step_memory(config, shape).exchanging(ranks, dtype, shape.on_cuda);
    let parameters = config.spec().parameters;
    Ok(Plan {
        model: args.model.clone(),
        parameters,
        device: device.map_or_else(|| "cuda".to_owned(), device_name),
        precision: args.precision,
        batch_size,
        grad_accum: args.grad_accum,
        max_length,
        activation_checkpointing: recompute,
        ranks,
        shard_optimizer: args.shard_optimizer,
        grad_reduce_dtype: dtype,
        tokens_per_microbatch: tokens as u64,
        tokens_per_step,
        exchanged_bytes_per_step: exchanged_bytes(parameters, ranks as u64, dtype, args.shard_optimizer),
        exchanges_per_step: calls_per_step(lengths, ranks, args.shard_optimizer),
        memory: if args.shard_optimizer { memory.sharded(ranks) } else { memory },
        gflop_per_step,
        time,
    })
}

impl Plan {
    fn text(&self) -> String {
        let row = |name: &str, value: String| vec![name.to_owned(), value];
        let mut rows = vec![
            row("model", format!("{}, {} parameters", self.model, grouped(self.parameters))),
            row(
                "microbatch",
                format!(
                    "{} documents of {} tokens: {} input tokens",
                    self.batch_size,
                    self.max_length,
                    grouped(self.tokens_per_microbatch)
                ),
            ),
        ];
        rows.extend(memory_rows(&self.memory, &self.device));
        if self.ranks > 1 {
            let exchanged = bytes(self.exchanged_bytes_per_step);
            let ranks = self.ranks;
            rows.push(row(
                "ranks",
                format!("{ranks}, of which each takes that memory; a step is divided between them"),
            ));
            let dtype = self.grad_reduce_dtype;
            let gradients = format!("gradients in {dtype}");
            let what =
                if self.shard_optimizer { format!("{gradients} and weights in f32") } else { gradients };
            let calls = self.exchanges_per_step;
            if self.device.starts_with("cuda") {
                rows.push(row(
                    "",
                    "NCCL's own buffers, of a size that it chooses, are not included".to_owned(),
                ));
            }
            rows.push(row(
                "",
                format!("{exchanged} of {what} sent, and received, by each rank in a step, in {calls} calls"),
            ));
        }
        rows.push(row(
            "step",
            format!("{} tokens, {} GFLOP", grouped(self.tokens_per_step), rounded(self.gflop_per_step)),
        ));
        match &self.time {
            None => rows.push(row("time", "unknown: no such device, and no --gflops".to_owned())),
            Some(time) => rows.extend(time.rows()),
        }
        table(&rows, &[])
    }
}

impl Time {
    fn rows(&self) -> Vec<Vec<String>> {
        let row = |name: &str, value: String| vec![name.to_owned(), value];
        let from = if self.measured { "measured just now" } else { "as given" };
        let mut rows = vec![
            row("matmul peak", format!("{} GFLOP/s, {from}", rounded(self.matmul_peak_gflops))),
            row(
                "speed",
                format!(
                    "about {} tokens/s, {} s per step, if training reaches {:.0} % of the peak (an assumption; at most {} tokens/s)",
                    rounded(self.tokens_per_s),
                    rounded(self.step_s),
                    100.0 * self.assumed_share,
                    rounded(self.tokens_per_s_at_most)
                ),
            ),
        ];
        if let (Some(tokens), Some(hours)) = (self.tokens, self.hours) {
            rows.push(row(
                "training",
                format!("about {} hours for {} tokens", rounded(hours), grouped(tokens)),
            ));
        }
        rows
    }
}

/// Rounds an estimate to its significant digits.
fn rounded(rate: f64) -> String {
    match rate {
        ..1.0 => format!("{rate:.3}"),
        ..100.0 => format!("{rate:.1}"),
        _ => grouped(rate.round() as u64),
    }
}

/// The rows of the memory breakdown.
pub(super) fn memory_rows(memory: &StepMemory, device: &str) -> Vec<Vec<String>> {
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let copies = if memory.rounded > 0 { ", and matrices in bf16" } else { "" };
    let mut rows = vec![
        row("memory", format!("about {} on {device}, f32", bytes(memory.peak))),
        row("", format!("{} parameters, gradients and moments{copies}", bytes(memory.state()))),
        row("", format!("{} activations saved for the backward pass", bytes(memory.activations))),
        row(
            "",
            format!(
                "{} while the loss is computed, or {} while the gradients of a block are",
                bytes(memory.lm_head),
                bytes(memory.block)
            ),
        ),
    ];
    if memory.exchange > 0 {
        let exchange = bytes(memory.exchange);
        rows.push(row("", format!("at most {exchange} copies of gradients on their way between ranks")));
    }
    if memory.gathered > 0 {
        let gathered = bytes(memory.gathered);
        rows.push(row("", format!("or, on rank 0, {gathered} while the moments of all ranks are written")));
    }
    rows
}
