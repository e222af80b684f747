//! Times each operation with GPT-2 small's shapes: 4 documents of 256 tokens, 768 channels, 12 heads, 50 257 tokens.
//!
//! `cargo bench -p mixce-kernels`, or with a filter: `cargo bench -p mixce-kernels -- attention`.
#![expect(clippy::unwrap_used, reason = "a benchmark stops at the first error")]

use candle_core::{DType, Device, Tensor, Var};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use mixce_kernels::lm_head::{TokenWeights, Weighting, target_log_probs, weighted_cross_entropy};
use mixce_kernels::rng::Stream;
use mixce_kernels::sublayer::{Mlp, MlpGradients, NormLinear};
use mixce_kernels::{
    Activation, AdamWParameter, AdamWUpdate, Affine, AffineGradients, CuSeqlens, Dropout, Embedded, Heads,
    KeyValues, Matrix, Norm, Positions, Precision, Weight, adamw_step, causal_attention,
    causal_attention_backward, causal_attention_saving, decode_attention, dropout, embedding_backward,
    embedding_sum, matmul, residual_dropout, softmax_quantile,
};

const TOKENS: usize = 1024;
const DOCUMENTS: usize = 4;
const CHANNELS: usize = 768;
const HEADS: usize = 12;
const SEQUENCES: usize = 32;
const VOCABULARY: usize = 50_257;
/// On a CPU without bf16 instructions the latter times the reference implementation.
const PRECISIONS: [(&str, Precision); 2] = [("f32", Precision::F32), ("bf16", Precision::Bf16)];

fn random(shape: &[usize]) -> Tensor {
    let stream = Stream::new(shape.len() as u64);
    let n: usize = shape.iter().product();
    let values: Vec<f32> = (0..n as u64).map(|i| stream.uniform(i) as f32 - 0.5).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn norm() -> Norm {
    Norm::layer(random(&[CHANNELS]), Some(random(&[CHANNELS])), 1e-5)
}

fn map(n_in: usize, n_out: usize) -> Affine {
    Affine::new(random(&[n_in, n_out]), Some(random(&[n_out])))
}

fn zeros(shape: &[usize]) -> AffineGradients {
    let tensor = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    AffineGradients { weight: tensor(shape), bias: Some(tensor(&shape[shape.len() - 1..])) }
}

fn drops() -> Option<Dropout> {
    Some(Dropout::new(0.1, Stream::new(1)))
}

/// Forward and backward pass of `f` by candle's graph.
fn with_graph(c: &mut Criterion, name: &str, x: &Tensor, f: impl Fn(&Tensor) -> Tensor) {
    c.bench_function(&format!("{name} forward"), |b| b.iter(|| f(x)));
    let variable = Var::from_tensor(x).unwrap();
    c.bench_function(&format!("{name} forward and backward"), |b| {
        b.iter(|| f(variable.as_tensor()).sum_all().unwrap().backward().unwrap());
    });
}

fn operations(c: &mut Criterion) {
    let x = random(&[TOKENS, CHANNELS]);
    let (norm, wide) = (norm(), map(CHANNELS, 4 * CHANNELS));
    with_graph(c, "layer_norm", &x, |x| norm.forward(x).unwrap());
    with_graph(c, "linear", &x, |x| wide.forward(x).unwrap());
    with_graph(c, "dropout", &x, |x| dropout(x, 0.1, Stream::new(1)).unwrap());
    with_graph(c, "residual_dropout", &x, |x| residual_dropout(x, x, drops()).unwrap());
    let pre_activation = random(&[TOKENS, 4 * CHANNELS]);
    with_graph(c, "gelu_new", &pre_activation, |x| Activation::GeluNew.forward(x).unwrap());
    with_graph(c, "gelu", &pre_activation, |x| Activation::Gelu.forward(x).unwrap());
}

fn attention(c: &mut Criterion) {
    let (qkv, dout) = (random(&[TOKENS, 3 * CHANNELS]), random(&[TOKENS, CHANNELS]));
    let (cu_seqlens, heads) =
        (CuSeqlens::from_lengths([TOKENS / DOCUMENTS; DOCUMENTS]), Heads::new(HEADS, 0.125));
    for (name, drop) in [("attention", None), ("attention with dropout", drops())] {
        c.bench_function(&format!("{name} forward"), |b| {
            b.iter(|| causal_attention(&qkv, &cu_seqlens, heads, drop).unwrap());
        });
        let (out, drawn) = causal_attention_saving(&qkv, &cu_seqlens, heads, drop).unwrap();
        c.bench_function(&format!("{name} backward"), |b| {
            b.iter(|| {
                causal_attention_backward(&qkv, &cu_seqlens, heads, drawn.as_ref(), &out, &dout).unwrap()
            });
        });
    }
    let shape = [SEQUENCES, HEADS, 128, CHANNELS / HEADS];
    let cache = KeyValues::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let qkv = random(&[SEQUENCES, 3 * CHANNELS]);
    let positions = Positions::new([127; SEQUENCES]);
    c.bench_function("decode attention, 32 sequences, 128 columns", |b| {
        b.iter(|| decode_attention(&qkv, &cache, &positions, heads).unwrap());
    });
}

fn sublayers(c: &mut Criterion) {
    let (x, pre_activation) = (random(&[TOKENS, CHANNELS]), random(&[TOKENS, 4 * CHANNELS]));
    let mlp = Mlp {
        norm: norm(),
        up: map(CHANNELS, 4 * CHANNELS),
        activation: Activation::GeluNew,
        down: map(4 * CHANNELS, CHANNELS),
    };
    let sums = MlpGradients {
        norm: zeros(&[CHANNELS]),
        up: zeros(&[CHANNELS, 4 * CHANNELS]),
        down: zeros(&[4 * CHANNELS, CHANNELS]),
    };
    let attention_in = NormLinear { norm: norm(), maps: vec![map(CHANNELS, 3 * CHANNELS)] };
    for (name, precision) in PRECISIONS {
        c.bench_function(&format!("MLP sublayer forward, {name}"), |b| {
            b.iter(|| mlp.forward_saving(&x, drops(), precision).unwrap());
        });
        c.bench_function(&format!("MLP sublayer backward, {name}"), |b| {
            let backward =
                |dx: Tensor| mlp.backward(&x, &pre_activation, drops(), &dx, &sums, precision).unwrap();
            b.iter_batched(|| x.copy().unwrap(), backward, BatchSize::LargeInput);
        });
        c.bench_function(&format!("layer norm and projection forward, {name}"), |b| {
            b.iter(|| attention_in.forward(&x, precision).unwrap());
        });
    }
}

/// The weights of MixCE at eta 0.1.
struct MixCe;

impl TokenWeights for MixCe {
    fn weight(&self, log_q: f64) -> f64 {
        0.1 + 0.9 * log_q.exp()
    }

    fn weights(&self, log_q: &Tensor) -> candle_core::Result<Tensor> {
        log_q.exp()?.affine(0.9, 0.1)
    }
}

fn ends(c: &mut Criterion) {
    let (hidden, head) = (random(&[TOKENS, CHANNELS]), random(&[VOCABULARY, CHANNELS]));
    let ids: Vec<u32> = (0..TOKENS as u32).map(|i| i * 31 % VOCABULARY as u32).collect();
    let ids = Tensor::from_vec(ids, TOKENS, &Device::Cpu).unwrap();
    c.bench_function("LM head, log q", |b| {
        b.iter(|| target_log_probs(&hidden, &head.clone().into(), &ids, Precision::F32).unwrap());
    });
    let dhead = head.zeros_like().unwrap();
    let weighting = Weighting { weights: &MixCe, denominator: 1.0 };
    for (name, precision) in PRECISIONS {
        c.bench_function(&format!("LM head and MixCE, forward and backward, {name}"), |b| {
            b.iter(|| {
                weighted_cross_entropy(&hidden, &head.clone().into(), &ids, weighting, &dhead, precision)
                    .unwrap()
            });
        });
    }
    let positions: Vec<u32> = (0..TOKENS as u32).collect();
    let at = Embedded::new(&ids.to_vec1().unwrap(), &positions, &Device::Cpu).unwrap();
    let wpe = random(&[TOKENS, CHANNELS]);
    c.bench_function("embedding forward", |b| b.iter(|| embedding_sum(&head, &wpe, &at, None).unwrap()));
    let dpositions = wpe.zeros_like().unwrap();
    c.bench_function("embedding backward", |b| {
        b.iter(|| embedding_backward(&at, &hidden, None, &dhead, &dpositions).unwrap());
    });
}

/// The products of a linear layer in training, and the same through candle, which uses `gemm`.
fn products(c: &mut Criterion) {
    for (n_in, n_out) in [(CHANNELS, 4 * CHANNELS), (4 * CHANNELS, CHANNELS)] {
        let (x, w, dy) = (random(&[TOKENS, n_in]), random(&[n_in, n_out]), random(&[TOKENS, n_out]));
        let values = |t: &Tensor| t.flatten_all().and_then(|t| t.to_vec1::<f32>()).unwrap();
        let (x_values, w_values, dy_values) = (values(&x), values(&w), values(&dy));
        let [x_matrix, w_matrix, dy_matrix] = [(&x_values, n_in), (&w_values, n_out), (&dy_values, n_out)]
            .map(|(data, n)| Matrix::new(data, n));
        let cases = [
            ("x W", (&x, &w), (x_matrix, w_matrix)),
            ("dy W^T", (&dy, &w.t().unwrap()), (dy_matrix, w_matrix.t())),
            ("x^T dy", (&x.t().unwrap(), &dy), (x_matrix.t(), dy_matrix)),
        ];
        for (name, (a, b), (left, right)) in cases {
            let (m, n) = (a.dims()[0], b.dims()[1]);
            let mut y = vec![0f32; m * n];
            let name = format!("product {name}, W {n_in} x {n_out}");
            c.bench_function(&name, |bench| {
                bench.iter(|| matmul(Precision::F32, &mut y, n, false, left, right));
            });
            c.bench_function(&format!("{name}, candle"), |bench| bench.iter(|| a.matmul(b).unwrap()));
        }
    }
}

/// What a step of sampling does with 32 sequences.
fn sampling(c: &mut Criterion) {
    let x = random(&[SEQUENCES, 4 * CHANNELS]);
    for (name, precision) in
        PRECISIONS.into_iter().filter(|(_, precision)| precision.check(x.device()).is_ok())
    {
        for (n_in, n_out) in [(CHANNELS, 4 * CHANNELS), (4 * CHANNELS, CHANNELS), (CHANNELS, VOCABULARY)] {
            let x = x.narrow(1, 0, n_in).unwrap().contiguous().unwrap();
            let weight = Weight::from(random(&[n_in, n_out])).pack(precision).unwrap();
            let mut y = Vec::new();
            c.bench_function(&format!("packed product {SEQUENCES} x {n_in} x {n_out}, {name}"), |b| {
                b.iter(|| weight.product(&x, &mut y).unwrap());
            });
        }
    }
    let logits = random(&[VOCABULARY]).to_vec1::<f32>().unwrap();
    c.bench_function("a token from the logits", |b| b.iter(|| softmax_quantile(&logits, 1.0, 0.5).unwrap()));
}

fn optimizer(c: &mut Criterion) {
    let shape = [VOCABULARY, CHANNELS];
    let (p, m, v, g) = (random(&shape), random(&shape), random(&shape).abs().unwrap(), random(&shape));
    let update = AdamWUpdate {
        first_rate: 0.1,
        second_keep: 0.999,
        second_rate: 0.001,
        gradient_scale: 1.0,
        step_size: 1e-4,
        root_correction: 0.5,
        epsilon: 1e-8,
    };
    c.bench_function("AdamW of the token embedding", |b| {
        let (parameter, first_moment, second_moment, gradient) = (&p, &m, &v, &g);
        let p = AdamWParameter {
            parameter,
            rounded: None,
            first_moment,
            second_moment,
            gradient,
            decay_factor: 1.0,
        };
        b.iter(|| adamw_step(&[p], &update).unwrap());
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = operations, attention, sublayers, ends, products, sampling, optimizer
}
criterion_main!(benches);
