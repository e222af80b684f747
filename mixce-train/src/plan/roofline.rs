//! Where the time of a training step on a GPU goes, estimated from the shapes: nothing here is measured.
//!
//! Legend: N tokens of a microbatch, C channels, L layers, V vocabulary, P parameters.
//!
//! Each part of a step executes a number of floating-point operations and moves a number of bytes. At best the step takes the larger
//! of the two times (the roofline, Williams, Waterman, Patterson 2009); the present kernels reach an estimated share of it.

use mixce_kernels::Precision;
use mixce_kernels::lm_head::{Slice, vocabulary_parts};
use mixce_lm::params::{ParameterKind, ParameterSpec};
use mixce_lm::{ModelConfig, ModelSpec, flops};
use serde::Serialize;

/// The peak rates of a GPU, from NVIDIA's data sheets: dense, without sparsity, at boost clock.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Gpu {
    /// The name on the command line.
    pub name: &'static str,
    /// The product it stands for.
    pub product: &'static str,
    /// Operations per second of tensor cores on bf16 with sums in f32.
    pub bf16: f64,
    /// Operations per second in f32, without tensor cores.
    pub f32: f64,
    /// Bytes per second of the memory.
    pub bandwidth: f64,
}

/// The GPUs that have a roofline.
pub static GPUS: [Gpu; 4] = [
    Gpu { name: "h200", product: "H200 SXM", bf16: 989.4e12, f32: 66.9e12, bandwidth: 4.8e12 },
    Gpu { name: "h100", product: "H100 SXM", bf16: 989.4e12, f32: 66.9e12, bandwidth: 3.35e12 },
    Gpu { name: "a100", product: "A100 SXM 80 GB", bf16: 312e12, f32: 19.5e12, bandwidth: 2.039e12 },
    Gpu { name: "rtx4090", product: "GeForce RTX 4090", bf16: 165.2e12, f32: 82.6e12, bandwidth: 1.008e12 },
];

impl Gpu {
    /// The GPU of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        GPUS.iter().find(|gpu| gpu.name == name)
    }

    fn products(&self, precision: Precision) -> f64 {
        match precision {
            Precision::F32 => self.f32,
            Precision::Bf16 => self.bf16,
        }
    }
}

/// The shares of the peak rates that the kernels reach: in bf16 as measured on an H200 for GPT-2 small at 8 x 512 (docs, "Measured"), but for
/// attention, which reached 7 % there and is taken to reach more in longer documents; in f32 partly estimated. Other GPUs are taken to
/// reach the same shares.
#[derive(Clone, Copy, Debug)]
struct Rates {
    /// Products of the blocks and of the LM head, of the rate of the precision.
    products: f64,
    /// Attention, of the rate of the precision.
    attention: f64,
    /// Products of attention for every one of the forward pass's two: scores are computed again in both halves of the backward pass.
    attention_products: f64,
    /// Elementwise passes, of the bandwidth.
    elementwise: f64,
    /// The passes over the logits, 16 bytes at a time, of the bandwidth.
    logits: f64,
    /// Sums over rows, of the bandwidth.
    column_sums: f64,
    /// The optimizer's passes, of the bandwidth.
    optimizer: f64,
}

impl Rates {
    fn of(precision: Precision) -> Self {
        let (products, attention_products) = match precision {
            // Without tensor cores, and with softmax computed again for the backward pass.
            Precision::F32 => (0.75, 11.0 / 2.0),
            Precision::Bf16 => (0.65, 9.0 / 2.0),
        };
        Self {
            products,
            attention: 0.1,
            attention_products,
            elementwise: 0.55,
            logits: 0.8,
            column_sums: 0.36,
            optimizer: 0.7,
        }
    }
}

/// Seconds between two kernels on a stream that is never empty.
const LAUNCH_GAP: f64 = 1e-6;
/// Bytes of elementwise passes, forward and backward, for each input and output channel of a block's products in bf16: for GPT-2
/// 132 C bytes per token and layer, whose products have 16 C of them. In f32 twice the share that is not f32 already.
const BYTES_PER_CHANNEL: [f64; 2] = [11.5, 8.25];
/// What epilogues of products save of it in bf16 where all maps have biases, as in GPT-2: of 28 C bytes per token and layer 12 C behind queries, keys and
/// values and 16 C before GELU; and launches in a layer.
const EPILOGUE_BYTES_PER_CHANNEL: f64 = 1.75;
const EPILOGUE_LAUNCHES: usize = 2;
/// Passes over the logits beside the products: one for the log-probabilities, and one that reads them and writes their gradient.
const LOGIT_PASSES: f64 = 3.0;
/// Bytes per parameter of AdamW (7 numbers), the gradient norm, and clearing the gradient (1 each).
const OPTIMIZER_BYTES: f64 = 36.0;
/// Bytes per number of a matrix that the update writes to its copy in bf16.
const COPY_BYTES: f64 = 2.0;

/// A part of a step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Part {
    /// What it is.
    pub name: &'static str,
    /// Estimated milliseconds with the present kernels.
    pub ms: f64,
    /// Milliseconds at the GPU's peak rates.
    pub bound_ms: f64,
    /// Bytes that must be moved.
    pub bytes: f64,
    /// Floating-point operations that are executed.
    pub flops: f64,
}

/// The estimate of a step of one microbatch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Roofline {
    /// Input tokens per second.
    pub tokens_per_s: f64,
    /// Model FLOP utilisation: the operations of [`flops::training`] (causal attention counted once) by the time and the peak of the
    /// precision.
    pub mfu: f64,
    /// The sum of the parts in milliseconds.
    pub step_ms: f64,
    /// The sum of the parts at the peak rates.
    pub bound_ms: f64,
    /// The parts, in the order of the step.
    pub parts: Vec<Part>,
}

/// Estimates a step of `documents` texts of `length` input tokens each, without activation checkpointing.
#[must_use]
pub fn roofline(
    config: &dyn ModelConfig,
    gpu: &Gpu,
    precision: Precision,
    documents: usize,
    length: usize,
) -> Roofline {
    let step =
        Step { spec: config.spec(), parameters: config.parameter_specs(), gpu, precision, documents, length };
    let parts = step.parts(config);
    let sum = |of: fn(&Part) -> f64| parts.iter().map(of).sum::<f64>();
    let (step_ms, bound_ms) = (sum(|part| part.ms), sum(|part| part.bound_ms));
    let model_flops = flops::training(config, std::iter::once(length)) as f64 * documents as f64;
    Roofline {
        tokens_per_s: step.tokens() / (step_ms / 1e3),
        mfu: model_flops / (step_ms / 1e3) / gpu.products(precision),
        step_ms,
        bound_ms,
        parts,
    }
}

struct Step<'a> {
    spec: ModelSpec,
    parameters: Vec<ParameterSpec>,
    gpu: &'a Gpu,
    precision: Precision,
    documents: usize,
    length: usize,
}

impl Step<'_> {
    fn tokens(&self) -> f64 {
        (self.documents * self.length) as f64
    }

    /// Bytes of a number that a kernel around a product reads or writes.
    fn width(&self) -> f64 {
        match self.precision {
            Precision::F32 => 4.0,
            Precision::Bf16 => 2.0,
        }
    }

    /// The shapes of a kind of parameter in the blocks.
    fn in_blocks(&self, kind: ParameterKind) -> impl Iterator<Item = &[usize]> {
        let blocks = self.parameters.iter().filter(|parameter| parameter.layer.is_some());
        blocks.filter(move |parameter| parameter.kind == kind).map(|parameter| parameter.shape.as_slice())
    }

    /// Whether products add biases and apply GELU themselves: in bf16, and on GPUs that are taken to be of compute capability 9 or 10.
    fn has_epilogues(&self) -> bool {
        let count = |kind| self.in_blocks(kind).count();
        self.precision == Precision::Bf16 && count(ParameterKind::Bias) == count(ParameterKind::Matrix)
    }

    /// Bytes of elementwise passes.
    fn bytes_per_channel(&self) -> f64 {
        let all = BYTES_PER_CHANNEL[usize::from(self.precision == Precision::Bf16)];
        all - if self.has_epilogues() { EPILOGUE_BYTES_PER_CHANNEL } else { 0.0 }
    }

    fn parts(&self, config: &dyn ModelConfig) -> Vec<Part> {
        let rates = Rates::of(self.precision);
        let (n, c, v) = (self.tokens(), self.spec.channels as f64, self.spec.vocabulary as f64);
        let (peak, width) = (self.gpu.products(self.precision), self.width());
        let documents = self.documents as f64;
        let blocks = flops::forward(config, std::iter::once(self.length), 0) as f64 * documents;
        // A token that attends to itself alone: the products, and next to no attention.
        let linear = flops::forward(config, std::iter::once(1), 0) as f64 * n;
        let scores = (blocks - linear).max(0.0);
        let channels: f64 = self.in_blocks(ParameterKind::Matrix).flatten().map(|&size| size as f64).sum();
        let weights: f64 =
            self.in_blocks(ParameterKind::Matrix).map(|shape| shape.iter().product::<usize>() as f64).sum();
        // Those of norms are computed by their backward pass, from the cache.
        let sums: f64 = self.in_blocks(ParameterKind::Bias).flatten().map(|&size| size as f64).sum();
        let logits = 2.0 * n * v * c;
        let half = self.precision == Precision::Bf16;
        let state = OPTIMIZER_BYTES * self.spec.parameters as f64;
        let copies = if half { COPY_BYTES * (weights + v * c) } else { 0.0 };
        let head_bytes = width * (n * c + v * c + n * v);
        let part = |name, flops, bytes, peak, share, bandwidth_share| {
            let bound = f64::max(flops / peak, bytes / self.gpu.bandwidth);
            let time = f64::max(flops / (peak * share), bytes / (self.gpu.bandwidth * bandwidth_share));
            Part { name, ms: 1e3 * time, bound_ms: 1e3 * bound, bytes, flops }
        };
        let moved = |name, bytes, share| part(name, 0.0, bytes, self.gpu.f32, 1.0, share);
        let attention_channels = 8.0 * n * c * self.spec.layers as f64;
        vec![
            part(
                "block products",
                3.0 * linear,
                3.0 * width * (n * channels + weights),
                peak,
                rates.products,
                1.0,
            ),
            part(
                "attention",
                rates.attention_products * scores,
                width * attention_channels,
                peak,
                rates.attention,
                1.0,
            ),
            moved("elementwise passes", self.bytes_per_channel() * n * channels, rates.elementwise),
            moved("column sums", width * n * sums, rates.column_sums),
            part("LM head, forward", logits, head_bytes, peak, rates.products, 1.0),
            part("LM head, backward", 2.0 * logits, 2.0 * head_bytes, peak, rates.products, 1.0),
            moved("passes over the logits", LOGIT_PASSES * width * n * v, rates.logits),
            moved("optimizer", state + copies, rates.optimizer),
            Part {
                name: "gaps between kernels",
                ms: 1e3 * LAUNCH_GAP * self.launches(),
                bound_ms: 0.0,
                bytes: 0.0,
                flops: 0.0,
            },
        ]
    }

    /// Kernels and memsets of a step, as counted by the tests of CUDA (docs, "Counts of a step"), with `outside` the layers beside the
    /// products of the LM head.
    fn launches(&self) -> f64 {
        let (layer, outside) = match self.precision {
            Precision::F32 => (24, 11),
            Precision::Bf16 => (24, 12),
        };
        let layer = layer - if self.has_epilogues() { EPILOGUE_LAUNCHES } else { 0 };
        let tensors = self.parameters.len();
        let tokens = self.documents * self.length;
        let slice = Slice::new(tokens, self.spec.vocabulary, self.precision, true);
        let slices = tokens.div_ceil(slice.tokens.max(1));
        let products = 3 * vocabulary_parts(self.spec.vocabulary).count();
        let further = (4 + products) * slices.saturating_sub(1);
        // Clearing, the norm of the gradients, and the update.
        let optimizer = 1 + 3 * tensors.div_ceil(64);
        (layer * self.spec.layers + outside + products + further + optimizer) as f64
    }
}

#[cfg(test)]
mod tests {
    use mixce_gpt2::Gpt2Config;

    use super::*;

    fn small(precision: Precision) -> Roofline {
        roofline(&Gpt2Config::gpt2_small(), Gpu::named("h100").unwrap(), precision, 8, 512)
    }

    fn part<'a>(roofline: &'a Roofline, name: &str) -> &'a Part {
        roofline.parts.iter().find(|part| part.name == name).unwrap()
    }

    /// GPT-2 small, 8 texts of 512 tokens on an H100 in bf16, by hand.
    #[test]
    fn gpt2_small_by_hand() {
        let step = small(Precision::Bf16);
        let n = 8.0 * 512.0;
        let near = |got: f64, wanted: f64| assert!((got / wanted - 1.0).abs() < 1e-9, "{got} for {wanted}");
        // Per layer 12 C^2 weights; three products, two operations each. A token's attention to itself is counted with them.
        let linear = 12.0 * n * (2.0 * 12.0 * 768.0 * 768.0 + 4.0 * 768.0);
        near(part(&step, "block products").flops, 3.0 * linear);
        // Causal: 512 * 511 / 2 pairs of different tokens a text, two products of 2 C operations, and 9 products in place of 2.
        let pairs = 8.0 * 12.0 * 512.0 * 511.0 / 2.0;
        near(part(&step, "attention").flops, 4.5 * pairs * 4.0 * 768.0);
        near(part(&step, "attention").ms, 4.5 * pairs * 4.0 * 768.0 / (989.4e9 * 0.1));
        near(part(&step, "elementwise passes").bytes, 12.0 * n * 104.0 * 768.0);
        // Biases.
        near(part(&step, "column sums").bytes, 12.0 * n * 9.0 * 768.0 * 2.0);
        near(part(&step, "LM head, forward").flops, 2.0 * n * 50_257.0 * 768.0);
        near(part(&step, "passes over the logits").bytes, n * 50_257.0 * 6.0);
        near(part(&step, "passes over the logits").ms, n * 50_257.0 * 6.0 / (3.35e9 * 0.8));
        near(part(&step, "passes over the logits").bound_ms, n * 50_257.0 * 6.0 / 3.35e9);
        // 12 layers of 22, 18 outside for an odd vocabulary, one slice, three passes over 148 tensors, and the judge: 3 * 3 + 1.
        near(part(&step, "gaps between kernels").ms, (264.0 + 18.0 + 10.0) * 1e-3);
        near(step.tokens_per_s, n / step.step_ms * 1e3);
        let model_flops = flops::training(&Gpt2Config::gpt2_small(), [512; 8]) as f64;
        near(step.mfu, model_flops / (step.step_ms / 1e3) / 989.4e12);
    }

    #[test]
    fn no_part_is_faster_than_the_hardware() {
        for gpu in &GPUS {
            for precision in [Precision::F32, Precision::Bf16] {
                for (documents, length) in [(1, 2), (8, 512), (32, 1024)] {
                    let config = Gpt2Config::gpt2_small();
                    let step = roofline(&config, gpu, precision, documents, length);
                    assert!(
                        step.parts.iter().all(|part| part.ms >= part.bound_ms && part.bound_ms >= 0.0),
                        "{step:?}"
                    );
                    assert!(step.mfu > 0.0 && step.mfu < 1.0);
                }
            }
        }
        assert!(small(Precision::Bf16).tokens_per_s > small(Precision::F32).tokens_per_s);
    }

    #[test]
    fn gpus_are_found_by_name() {
        assert_eq!(Gpu::named("a100"), Some(&GPUS[2]));
        assert_eq!(Gpu::named("h300"), None);
    }
}
