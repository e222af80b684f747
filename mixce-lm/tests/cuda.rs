//! Tokens chosen on CUDA against those of the CPU for the same logits. With the feature `cuda`, on a GPU or on an emulated driver.

#![cfg(feature = "cuda")]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use candle_core::{DType, Device, Tensor};
use mixce_kernels::rng::Stream;
use mixce_kernels::{Draws, Positions, read_tokens, sample_on_gpu};
use mixce_lm::sampling::Sampling;

/// Rows of logits of one vocabulary.
type Rows = Vec<Vec<f32>>;

/// Number `n` of row `row`, whose sequence began with `row` tokens.
fn draws(rows: usize) -> Draws {
    Draws::new((0..rows as u32).map(|row| (Stream::new(9).fold(row.into()), row)))
}

fn lengths(rows: usize, number: u32) -> Positions {
    Positions::new((0..rows as u32).map(|row| row + number).collect::<Vec<_>>())
}

fn on_cuda(rows: &Rows, sampling: &Sampling, draws: &Draws, lengths: &Positions) -> Vec<Option<u32>> {
    let device = mixce_kernels::cuda_device(0).unwrap();
    // What lies behind the logits of a row is not read.
    let (v, behind) = (rows[0].len(), vec![f32::NAN; 3]);
    let padded: Vec<Vec<f32>> = rows.iter().map(|row| [row.as_slice(), &behind].concat()).collect();
    let logits = Tensor::from_vec(padded.concat(), (rows.len(), v + 3), &device).unwrap();
    let tokens = Tensor::zeros(rows.len(), DType::U32, &device).unwrap();
    sample_on_gpu((&logits, v), sampling.choice(), draws, lengths, &tokens).unwrap();
    read_tokens(&tokens).unwrap()
}

/// Rows with ties, both zeros, one token that takes all, far from zero, near each other, and of every size.
fn rows(v: usize) -> Rows {
    let normal = |seed: u64, i: usize| Stream::new(seed).normal(i as u64) as f32;
    let row = |f: &dyn Fn(usize) -> f32| (0..v).map(f).collect::<Vec<f32>>();
    vec![
        row(&|i| 3.0 * normal(1, i)),
        row(&|i| 4.0 * normal(2, i) - 100.0),
        row(&|i| normal(3, i).round()),
        row(&|_| 0.5),
        row(&|i| if i % 3 == 0 { -0.0 } else { 0.0 }),
        row(&|i| if i == v / 2 { 1000.0 } else { -1000.0 }),
        row(&|i| if i % 2 == 0 { 3e38 } else { -3e38 }),
        row(&|i| 1e-3 * normal(4, i)),
    ]
}

fn methods() -> Vec<Sampling> {
    let of = |temperature, top_k, top_p| Sampling { temperature, top_k, top_p, greedy: false };
    vec![
        Sampling { greedy: true, ..Sampling::default() },
        of(1.0, None, None),
        of(0.7, None, Some(1.0)),
        of(1e-60, None, None),
        of(1e30, None, None),
        of(1.0, Some(1), None),
        of(1.3, Some(5), None),
        of(1.0, Some(100_000), Some(0.9)),
        of(0.9, None, Some(0.5)),
        of(1.0, None, Some(1e-12)),
        of(1.0, None, Some(0.9999)),
        of(2.0, Some(40), Some(0.7)),
    ]
}

/// Whether rounding decides between the tokens: a quantile or a top-p that differs by 1e-6 makes the CPU choose this one.
fn is_at_a_border(sampling: &Sampling, logits: &[f32], number: f64, token: u32) -> bool {
    let top_ps = [-1e-6, 0.0, 1e-6].map(|by| sampling.top_p.map(|p| (p + by).clamp(f64::MIN_POSITIVE, 1.0)));
    top_ps.into_iter().any(|top_p| {
        let near = Sampling { top_p, ..sampling.clone() };
        [-1e-6, 0.0, 1e-6]
            .into_iter()
            .any(|by| near.choose(logits, (number + by).clamp(0.0, 1.0 - 1e-9)) == token)
    })
}

#[test]
fn tokens_are_those_of_the_cpu() {
    let (mut compared, mut at_borders) = (0, 0);
    for v in [1, 2, 33, 256, 257, 5003] {
        let rows = rows(v);
        let draws = draws(rows.len());
        for (sampling, number) in methods().iter().zip(0u32..) {
            let lengths = lengths(rows.len(), number);
            let numbers = draws.numbers(lengths.as_slice()).unwrap();
            let tokens = on_cuda(&rows, sampling, &draws, &lengths);
            for ((logits, number), token) in rows.iter().zip(numbers).zip(tokens) {
                let (token, want) = (token.unwrap(), sampling.choose(logits, number));
                compared += 1;
                if token != want {
                    at_borders += 1;
                    let style = &logits[..v.min(8)];
                    assert!(
                        is_at_a_border(sampling, logits, number, token),
                        "{sampling:?} of {v} tokens, {style:?}, at {number}: {token} instead of {want}"
                    );
                }
            }
        }
    }
    println!("{at_borders} of {compared} tokens lie at a border that rounding decides");
    assert!(at_borders * 50 < compared, "{at_borders} of {compared}");
}

/// Draws have the shares of the filtered distribution: a chi-squared statistic of 6 degrees of freedom below its 0.9999 quantile.
#[test]
fn draws_are_unbiased() {
    let logits: Vec<f32> = (0..12).map(|i| (i as f32 * 1.7).sin() * 2.0).collect();
    let sampling = Sampling { temperature: 1.5, top_k: Some(9), top_p: Some(0.9), greedy: false };
    let probabilities = sampling.probabilities(&logits);
    // A sample of the tests, on the emulated driver, draws less: 2000 take minutes there.
    let count = if std::env::var_os("EMULATED_CUDA_SAMPLE").is_some() { 600 } else { 2000 };
    let (rows, number, all) = (vec![logits; count], 3, count as f64);
    let mut counts = vec![0f64; 12];
    for token in on_cuda(&rows, &sampling, &draws(rows.len()), &lengths(rows.len(), number)) {
        counts[token.unwrap() as usize] += 1.0;
    }
    let kept = probabilities.iter().zip(&counts).filter(|(p, _)| **p > 0.0);
    let statistic: f64 = kept.clone().map(|(p, count)| (count - all * p).powi(2) / (all * p)).sum();
    assert!(kept.count() >= 5 && statistic < 27.9, "{statistic}: {counts:?} of {probabilities:?}");
    let dropped = probabilities.iter().zip(&counts).filter(|(p, _)| **p == 0.0);
    assert!(dropped.clone().count() >= 3 && dropped.clone().all(|(_, count)| *count == 0.0));
}

/// A batch is its sequences one by one, and the same twice.
#[test]
fn tokens_do_not_depend_on_the_batch() {
    let rows = rows(1000);
    for sampling in methods() {
        let (all, at) = (draws(rows.len()), lengths(rows.len(), 7));
        let together = on_cuda(&rows, &sampling, &all, &at);
        assert_eq!(on_cuda(&rows, &sampling, &all, &at), together);
        for ((row, draw), (length, want)) in
            rows.iter().zip(all.iter()).zip(at.as_slice().iter().zip(&together))
        {
            let alone =
                on_cuda(&vec![row.clone()], &sampling, &Draws::new([draw]), &Positions::new([*length]));
            assert_eq!(alone, [*want], "{sampling:?}");
        }
    }
}

#[test]
fn broken_logits_are_seen_and_what_does_not_fit_is_refused() {
    for sampling in methods() {
        let mut rows = vec![vec![1.0; 300]; 5];
        (rows[1][299], rows[2][0], rows[4][7]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
        let tokens = on_cuda(&rows, &sampling, &draws(5), &lengths(5, 0));
        let broken: Vec<bool> = tokens.iter().map(Option::is_none).collect();
        assert_eq!(broken, [false, true, true, false, true], "{sampling:?}");
    }
    let device = mixce_kernels::cuda_device(0).unwrap();
    let logits = Tensor::zeros((2, 3), DType::F32, &device).unwrap();
    let (choice, tokens) = (Sampling::default().choice(), Tensor::zeros(2, DType::U32, &device).unwrap());
    let error = |draws: &Draws, lengths: &Positions| {
        sample_on_gpu((&logits, 3), choice, draws, lengths, &tokens).unwrap_err().to_string()
    };
    assert!(error(&draws(3), &lengths(3, 0)).contains("logits of 3 sequences"));
    assert!(error(&draws(2), &lengths(3, 0)).contains("expected at least"));
    assert!(
        error(&draws(2), &Positions::new([0, 0])).contains("expected at least [0, 1] tokens, got [0, 0]")
    );
    let seeds = Draws::new([(Stream::new(1), 0), (Stream::new(2), 0)]);
    assert!(error(&seeds, &lengths(2, 0)).contains("streams of one seed"));
    let on_cpu = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
    assert!(sample_on_gpu((&on_cpu, 3), choice, &draws(2), &lengths(2, 0), &tokens).is_err());
    assert!(sample_on_gpu((&logits, 4), choice, &draws(2), &lengths(2, 0), &tokens).is_err());
    let few = tokens.narrow(0, 0, 1).unwrap();
    assert!(sample_on_gpu((&logits, 3), choice, &draws(2), &lengths(2, 0), &few).is_err());
}
