//! The forward pass, its gradients and sampling against transformers (fixtures of `scripts/fixtures`).
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor, Var};
use mixce_gpt2::{FAMILY, Gpt2, Gpt2Config};
use mixce_kernels::Precision;
use mixce_kernels::rng::Stream;
use mixce_lm::generate::{Finish, GenerateOptions, generate};
use mixce_lm::sampling::Sampling;
use mixce_lm::{Decoder, Gradients, LanguageModel as _, PassOptions, TransformerDecoder, checkpoint};
use proptest::prelude::*;
use serde_json::Value;

use crate::common::{fixture, values};

const CONFIGURATIONS: [&str; 5] = ["plain", "inverse_layer_inner", "untied_relu", "gelu_exact", "silu"];

fn json(path: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(fixture(path)).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn model(name: &str) -> Gpt2 {
    let folder = fixture("gpt2").join(name);
    let checkpoint = checkpoint::load(&folder, &[&FAMILY], &Device::Cpu).unwrap();
    let config = Gpt2Config::from_file(&folder.join("config.json")).unwrap();
    Gpt2::new(config, checkpoint.parameters).unwrap()
}

/// A model with dropout, whose other numbers do not matter.
fn small(dropout: f64) -> Gpt2 {
    let plain = model("plain");
    let mut config = plain.architecture().clone();
    (config.resid_pdrop, config.embd_pdrop, config.attn_pdrop) = (dropout, dropout, dropout);
    Gpt2::new(config, plain.parameters().clone()).unwrap()
}

fn decoder(model: &Gpt2) -> TransformerDecoder<Gpt2Config> {
    model.clone().decoder(Precision::F32).unwrap()
}

fn inputs(name: &str) -> Vec<Vec<u32>> {
    let documents = json(&format!("gpt2/{name}/batch.json"))["documents"].as_array().unwrap().clone();
    documents.iter().map(ids).map(|d| d[..d.len() - 1].to_vec()).collect()
}

fn slices(texts: &[Vec<u32>]) -> Vec<&[u32]> {
    texts.iter().map(Vec::as_slice).collect()
}

fn expected(name: &str) -> HashMap<String, Tensor> {
    let path = fixture("gpt2").join(name).join("expected.safetensors");
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

/// Fails unless every element is within `tolerance` of the reference's largest entry.
fn assert_close(name: &str, got: &Tensor, want: &Tensor, tolerance: f32) {
    assert_eq!(got.dims(), want.dims(), "{name}");
    let (got, want) = (values(got), values(want));
    let scale = want.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        assert!(
            (got - want).abs() <= tolerance * scale,
            "{name}[{i}]: got {got}, want {want} (scale {scale})"
        );
    }
}

#[test]
fn hidden_states_and_logits_equal_transformers() {
    for name in CONFIGURATIONS {
        let (model, want, texts) = (model(name), expected(name), inputs(name));
        let hidden = model.hidden_states(&model.pack(&slices(&texts)).unwrap(), None).unwrap();
        assert_close(name, &hidden, &want["hidden"], 1e-5);
        let logits = hidden.matmul(&model.lm_head().t().unwrap()).unwrap();
        assert_close(name, &logits, &want["logits"], 1e-5);
    }
}

#[test]
fn a_packed_batch_equals_one_text_at_a_time() {
    for name in CONFIGURATIONS {
        let (model, texts) = (model(name), inputs(name));
        let batch = model.pack(&slices(&texts)).unwrap();
        let packed = model.hidden_states(&batch, None).unwrap();
        for (text, (start, t)) in texts.iter().zip(batch.cu_seqlens.spans()) {
            let alone = model.hidden_states(&model.pack(&[text]).unwrap(), None).unwrap();
            assert_close(name, &packed.narrow(0, start, t).unwrap(), &alone, 1e-5);
        }
    }
}

#[test]
fn every_parameter_gets_a_gradient_with_dropout_too() {
    let plain = small(0.1);
    let parameters = plain.parameters().try_map(|_, t| Ok(Var::from_tensor(t)?.into_inner())).unwrap();
    let model = Gpt2::new(plain.architecture().clone(), parameters).unwrap();
    let texts = inputs("plain");
    let batch = model.pack(&slices(&texts)).unwrap();
    let hidden = model.hidden_states(&batch, Some(Stream::new(4))).unwrap();
    let again = model.hidden_states(&batch, Some(Stream::new(4))).unwrap();
    assert_eq!(values(&hidden), values(&again), "the same stream drops the same elements");
    let other = model.hidden_states(&batch, Some(Stream::new(5))).unwrap();
    assert_ne!(values(&hidden), values(&other));
    let gradients = hidden.sqr().unwrap().sum_all().unwrap().backward().unwrap();
    for (name, tensor) in model.parameters().iter() {
        let gradient = gradients.get(tensor).unwrap_or_else(|| panic!("`{name}` has no gradient"));
        assert!(values(gradient).iter().any(|g| *g != 0.0), "the gradient of `{name}` is zero");
    }
    assert!(model.detached().unwrap().parameters().iter().all(|(_, t)| !t.track_op()));
}

/// Dropout masks must be the same in forward, backward and recomputation, at boundaries of documents too.
#[test]
fn the_explicit_backward_pass_equals_candles_graph_with_dropout() {
    let plain = small(0.2);
    let parameters = plain.parameters().try_map(|_, t| Ok(Var::from_tensor(t)?.into_inner())).unwrap();
    let model = Gpt2::new(plain.architecture().clone(), parameters).unwrap();
    let texts: Vec<Vec<u32>> =
        [0usize, 1, 33, 2, 0, 64].iter().map(|n| (0..*n as u32).map(|i| i % 61).collect()).collect();
    let batch = model.pack(&slices(&texts)).unwrap();
    let dropout = Some(Stream::new(4));
    let hidden = model.hidden_states(&batch, dropout).unwrap();
    let projection = Tensor::from_vec(
        (0..hidden.elem_count()).map(|i| ((i * 7919) as f32).sin()).collect::<Vec<_>>(),
        hidden.dims(),
        &Device::Cpu,
    )
    .unwrap();
    let graph = (&hidden * &projection).unwrap().sum_all().unwrap().backward().unwrap();
    let mut bits = Vec::new();
    for recompute in [false, true] {
        let gradients = Gradients::zeros(model.parameters()).unwrap();
        let forward =
            model.forward(&batch, PassOptions { dropout, recompute, ..PassOptions::default() }).unwrap();
        assert_close("hidden", &forward.hidden(), &hidden, 1e-5);
        forward.backward(projection.clone(), &gradients).unwrap();
        for (name, tensor) in model.parameters().iter() {
            assert_close(name, gradients.sums().get(name).unwrap(), graph.get(tensor).unwrap(), 2e-5);
        }
        bits.push(gradients.sums().iter().flat_map(|(_, sum)| values(sum)).collect::<Vec<f32>>());
        gradients.clear().unwrap();
        assert!(gradients.sums().iter().all(|(_, sum)| values(sum).iter().all(|g| *g == 0.0)));
    }
    assert_eq!(bits[0], bits[1], "computing a block again changes nothing");
}

/// What was said to be complete does not change: the blocks from the last to the first, each with all that is behind it.
#[test]
fn gradients_are_complete_block_by_block() {
    for name in CONFIGURATIONS {
        let model = model(name);
        let names: Vec<&str> = model.parameters().iter().map(|(name, _)| name).collect();
        let place = |name: &str| names.iter().position(|other| *other == name).unwrap();
        let blocks = (0..model.spec().layers).rev().map(|layer| place(&format!("h.{layer}.ln_1.weight")));
        let want: Vec<usize> = std::iter::once(place("ln_f.weight")).chain(blocks).collect();
        let batch = model.pack(&[&[1, 5, 2, 7, 3], &[4, 0]]).unwrap();
        for recompute in [false, true] {
            let gradients = Gradients::zeros(model.parameters()).unwrap();
            let sums = || gradients.sums().iter().map(|(_, sum)| values(sum)).collect::<Vec<_>>();
            let forward = model.forward(&batch, PassOptions { recompute, ..PassOptions::default() }).unwrap();
            let (hidden, mut told) = (forward.hidden(), Vec::new());
            forward.backward_with(hidden, &gradients, &mut |first| told.push((first, sums()))).unwrap();
            let last = sums();
            for (first, then) in &told {
                assert!(then[*first..] == last[*first..], "{name}: from {}", names[*first]);
            }
            assert_eq!(told.into_iter().map(|(first, _)| first).collect::<Vec<_>>(), want, "{name}");
        }
    }
}

/// bf16 keeps 8 bits of an operand's significand: the hidden states and every gradient are those of f32 up to a few hundredths of
/// their norm, and not the same.
#[test]
fn bf16_gives_the_gradients_of_f32_up_to_rounding() {
    let model = small(0.2);
    let texts: Vec<Vec<u32>> = [1u32, 33, 2, 64].iter().map(|n| (0..*n).map(|i| i % 61).collect()).collect();
    let batch = model.pack(&slices(&texts)).unwrap();
    let of = |precision| {
        let pass = PassOptions { dropout: Some(Stream::new(4)), precision, ..PassOptions::default() };
        let gradients = Gradients::zeros(model.parameters()).unwrap();
        let forward = model.forward(&batch, pass).unwrap();
        let hidden = forward.hidden();
        forward.backward(hidden.clone(), &gradients).unwrap();
        let mut all = vec![("hidden".to_owned(), values(&hidden))];
        all.extend(gradients.sums().iter().map(|(name, sum)| (name.to_owned(), values(sum))));
        all
    };
    let norm = |x: &[f32]| x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    for ((name, exact), (_, rounded)) in of(Precision::F32).into_iter().zip(of(Precision::Bf16)) {
        let difference: Vec<f32> = exact.iter().zip(&rounded).map(|(a, b)| a - b).collect();
        let relative = norm(&difference) / norm(&exact);
        assert!(relative > 1e-5 && relative < 0.03, "{name}: {relative}");
    }
}

/// Double precision has no fused kernel: it takes the path of candle operations that other devices take, forward, backward and in
/// decoding, with the same dropout masks.
#[test]
fn the_path_of_other_devices_gives_the_same_numbers() {
    let fused = small(0.2);
    let wide = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
    let parameters = fused.parameters().try_map(|_, t| Ok(Var::from_tensor(&wide(t))?.into_inner())).unwrap();
    let plain = Gpt2::new(fused.architecture().clone(), parameters).unwrap();
    let narrow = |t: &Tensor| t.to_dtype(DType::F32).unwrap();
    let texts: Vec<Vec<u32>> = [1u32, 9, 4].iter().map(|n| (0..*n).collect()).collect();
    let batch = fused.pack(&slices(&texts)).unwrap();
    let pass = PassOptions { dropout: Some(Stream::new(4)), ..PassOptions::default() };

    let passes = [&fused, &plain].map(|model| {
        let gradients = Gradients::zeros(model.parameters()).unwrap();
        // Twice: gradients add up.
        for _ in 0..2 {
            let forward = model.forward(&batch, pass).unwrap();
            let hidden = forward.hidden();
            forward.backward(hidden.clone(), &gradients).unwrap();
        }
        (narrow(&model.forward(&batch, pass).unwrap().hidden()), gradients)
    });
    let [(hidden, sums), (plain_hidden, plain_sums)] = passes;
    assert_close("hidden", &hidden, &plain_hidden, 1e-5);
    for (name, sum) in sums.sums().iter() {
        assert_close(name, sum, &narrow(plain_sums.sums().get(name).unwrap()), 1e-4);
    }
    plain_sums.clear().unwrap();
    assert!(plain_sums.sums().iter().all(|(_, sum)| values(&narrow(sum)).iter().all(|g| *g == 0.0)));
    for pass in [PassOptions { recompute: true, ..pass }, PassOptions { precision: Precision::Bf16, ..pass }]
    {
        assert!(plain.forward(&batch, pass).err().unwrap().to_string().contains("needs kernels"));
    }
    assert!(plain.clone().decoder(Precision::Bf16).is_err(), "not in f64 without a word");
    assert!(plain.scoring_states(&batch, Precision::Bf16).is_err(), "nor in scoring");

    let decoded = [&fused, &plain].map(|model| {
        let model = decoder(model);
        let (_, mut cache) = model.prefill(&model.pack(&slices(&texts)).unwrap(), 2).unwrap();
        let steps = [[3, 1, 4], [1, 5, 9]].map(|ids| narrow(&model.decode(&ids, &mut cache).unwrap()));
        Tensor::cat(&steps, 0).unwrap()
    });
    assert_close("decoded", &decoded[0], &decoded[1], 1e-5);
}

#[test]
fn what_the_model_cannot_read_is_refused() {
    let model = model("plain");
    let message = |texts: &[&[u32]]| model.pack(texts).unwrap_err().to_string();
    assert!(message(&[&[1, 2], &[3, 61]]).contains("token id 61 at position 1 of text 1"));
    assert!(message(&[&[0; 65]]).contains("65 tokens, but the model has 64 positions"));
}

fn options(sampling: Sampling, max_new_tokens: usize, batch_size: usize) -> GenerateOptions {
    GenerateOptions { sampling, max_new_tokens, eos: Vec::new(), batch_size, seed: 7 }
}

#[test]
fn greedy_continuations_equal_transformers() {
    let greedy = json("generate/greedy.json");
    let model = model(greedy["model"].as_str().unwrap().rsplit('/').next().unwrap());
    let cases = greedy["cases"].as_array().unwrap();
    assert!(cases.len() >= 6);
    for case in cases {
        let eos = case["eos"].as_u64().map(|id| id as u32);
        let (prompt, want) = (ids(&case["prompt"]), ids(&case["new_tokens"]));
        let sampling = Sampling { greedy: true, ..Sampling::default() };
        let options = GenerateOptions { eos: eos.into_iter().collect(), ..options(sampling, 12, 1) };
        let got = generate(&decoder(&model), &[(0, &prompt)], &options, &mut |_, _| ()).unwrap().remove(0);
        match eos {
            Some(eos) => {
                assert_eq!(got.finish, Finish::Eos);
                assert_eq!([got.tokens, vec![eos]].concat(), want);
            }
            None => assert_eq!(got.tokens, want),
        }
    }
}

#[test]
fn filtered_probabilities_equal_transformers() {
    let filters = json("generate/filters.json");
    let number = |v: &Value| v.as_f64();
    let logits: Vec<f32> =
        filters["logits"].as_array().unwrap().iter().map(|z| number(z).unwrap() as f32).collect();
    for case in filters["cases"].as_array().unwrap() {
        let sampling = Sampling {
            temperature: number(&case["temperature"]).unwrap_or(1.0),
            top_k: case["top_k"].as_u64().map(|k| k as usize),
            top_p: number(&case["top_p"]),
            greedy: false,
        };
        let got = sampling.probabilities(&logits);
        for (token, (got, want)) in got.iter().zip(case["probabilities"].as_array().unwrap()).enumerate() {
            let want = number(want).unwrap();
            assert!((got - want).abs() < 1e-6, "{case}: token {token}: got {got}, want {want}");
        }
    }
}

#[test]
fn samples_follow_the_distribution() {
    let model = model("plain");
    let prompt = [3u32, 9, 4];
    let prompts: Vec<(u64, &[u32])> = (0..4000).map(|i| (i, prompt.as_slice())).collect();
    let options = options(Sampling { temperature: 1.5, ..Sampling::default() }, 1, 1000);
    let samples = generate(&decoder(&model), &prompts, &options, &mut |_, _| ()).unwrap();
    let hidden = model.hidden_states(&model.pack(&[&prompt]).unwrap(), None).unwrap();
    let logits = values(&hidden.narrow(0, 2, 1).unwrap().matmul(&model.lm_head().t().unwrap()).unwrap());
    let probabilities = options.sampling.probabilities(&logits);
    let mut chi_square = 0.0;
    for (token, p) in probabilities.iter().enumerate() {
        let count = samples.iter().filter(|s| s.tokens[0] == token as u32).count() as f64;
        chi_square += (count - 4000.0 * p).powi(2) / (4000.0 * p);
    }
    // 60 degrees of freedom: mean 60, standard deviation 11.
    assert!((20.0..110.0).contains(&chi_square), "{chi_square}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn a_batch_of_samples_equals_single_runs(
        prompts in prop::collection::vec(prop::collection::vec(0u32..61, 1..30), 1..7),
        temperature in 0.5f64..2.0,
        new_tokens in 1usize..60,
        seed: u64,
    ) {
        let model = model("plain");
        let sampling = Sampling { temperature, ..Sampling::default() };
        let together = GenerateOptions { eos: vec![5], seed, ..options(sampling, new_tokens, 4) };
        let prompts: Vec<(u64, &[u32])> = (10u64..).zip(prompts.iter().map(Vec::as_slice)).collect();
        let (mut ended, mut tokens) = (0, 0);
        let batch = generate(&decoder(&model), &prompts, &together, &mut |e, t| { ended += e; tokens += t; }).unwrap();
        prop_assert_eq!(ended, prompts.len());
        prop_assert!(tokens >= batch.iter().map(|c| c.tokens.len()).sum::<usize>());
        for (prompt, want) in prompts.iter().zip(&batch) {
            let single = generate(&decoder(&model), &[*prompt], &together, &mut |_, _| ()).unwrap();
            prop_assert_eq!(&single[0], want);
            // Cached decoding agrees with a full forward pass over prompt and continuation.
            prop_assert!(prompt.1.len() + want.tokens.len() <= 64);
        }
    }
}

#[test]
fn cached_decoding_equals_the_full_forward_pass() {
    for name in ["plain", "inverse_layer_inner"] {
        let model = model(name);
        let texts = [vec![1u32, 2, 3, 4, 5, 6, 7], vec![9, 8], vec![30]];
        let prompts: Vec<&[u32]> = vec![&texts[0][..5], &texts[1][..1], &texts[2]];
        let decoder = decoder(&model);
        let (last, mut cache) = decoder.prefill(&model.pack(&prompts).unwrap(), 3).unwrap();
        let first = decoder.decode(&[6, 8, 31], &mut cache).unwrap();
        let full = |ids: &[u32]| {
            let hidden = model.hidden_states(&model.pack(&[ids]).unwrap(), None).unwrap();
            hidden.narrow(0, ids.len() - 1, 1).unwrap()
        };
        for (row, prompt) in prompts.iter().enumerate() {
            assert_close(name, &last.narrow(0, row, 1).unwrap(), &full(prompt), 1e-5);
        }
        let mut logits = Vec::new();
        decoder.logits(&last, &mut logits).unwrap();
        let logits = Tensor::from_vec(logits, (3, 61), &Device::Cpu).unwrap();
        assert_close(name, &logits, &last.matmul(&model.lm_head().t().unwrap()).unwrap(), 1e-5);
        assert_close(name, &first.narrow(0, 0, 1).unwrap(), &full(&[1, 2, 3, 4, 5, 6]), 1e-5);
        assert_close(name, &first.narrow(0, 1, 1).unwrap(), &full(&[9, 8]), 1e-5);
        assert_close(name, &first.narrow(0, 2, 1).unwrap(), &full(&[30, 31]), 1e-5);
        cache.keep(&[2, 0]).unwrap();
        let second = decoder.decode(&[32, 7], &mut cache).unwrap();
        assert_close(name, &second.narrow(0, 0, 1).unwrap(), &full(&[30, 31, 32]), 1e-5);
        assert_close(name, &second.narrow(0, 1, 1).unwrap(), &full(&[1, 2, 3, 4, 5, 6, 7]), 1e-5);
    }
}

#[test]
fn bf16_decoding_is_near_f32_and_does_not_depend_on_the_batch() {
    let model = model("plain");
    let Ok(rounded) = model.clone().decoder(Precision::Bf16) else {
        assert!(Precision::Bf16.check(&Device::Cpu).is_err());
        return;
    };
    let texts: Vec<Vec<u32>> = (0..11).map(|i| (0..=i).map(|j| (7 * i + j) % 61).collect()).collect();
    let pass = |decoder: &dyn Decoder, texts: &[Vec<u32>]| {
        let (_, mut cache) = decoder.prefill(&decoder.pack(&slices(texts)).unwrap(), 1).unwrap();
        decoder.decode(&vec![5; texts.len()], &mut cache).unwrap()
    };
    let (all, exact) = (pass(&rounded, &texts), pass(&decoder(&model), &texts));
    assert_close("bf16", &all, &exact, 3e-2);
    assert_ne!(values(&all), values(&exact));
    for row in [0, 4, 10] {
        assert_close("alone", &pass(&rounded, &texts[row..=row]), &all.narrow(0, row, 1).unwrap(), 1e-2);
    }
}

#[test]
fn a_broken_model_does_not_write() {
    let broken = model("plain");
    let nan = |_: &str, t: &Tensor| Ok(t.affine(f64::NAN, 0.0)?);
    let parameters = broken.parameters().try_map(nan).unwrap();
    let broken = Gpt2::new(broken.architecture().clone(), parameters).unwrap();
    for greedy in [false, true] {
        let options = options(Sampling { greedy, ..Sampling::default() }, 3, 1);
        let error = generate(&decoder(&broken), &[(4, &[1, 2])], &options, &mut |_, _| ()).unwrap_err();
        assert!(error.to_string().contains("sample 4 contain NaN"), "{error}");
    }
}

#[test]
fn decoding_stops_at_the_models_limits() {
    let model = decoder(&model("plain"));
    let full = vec![1u32; 64];
    let (_, mut cache) = model.prefill(&model.pack(&[&full]).unwrap(), 2).unwrap();
    assert!(model.decode(&[1], &mut cache).unwrap_err().to_string().contains("64 positions"));
    let empty = model.pack(&[&full[..3], &[]]).unwrap();
    assert!(model.prefill(&empty, 1).unwrap_err().to_string().contains("text 1"));
    let (_, mut cache) = model.prefill(&model.pack(&[&full[..3]]).unwrap(), 1).unwrap();
    assert!(model.decode(&[61], &mut cache).unwrap_err().to_string().contains("token id 61"));
    model.decode(&[1], &mut cache).unwrap();
    assert!(model.decode(&[1], &mut cache).unwrap_err().to_string().contains("cache is full"));
}

#[test]
fn impossible_requests_are_refused() {
    let model = model("plain");
    let run = |prompt: &[u32], sampling: Sampling| {
        generate(&decoder(&model), &[(3, prompt)], &options(sampling, 5, 1), &mut |_, _| ())
            .map(|mut c| c.remove(0))
    };
    assert!(run(&[], Sampling::default()).unwrap_err().to_string().contains("prompt 3 is empty"));
    assert!(run(&[99], Sampling::default()).is_err());
    for (sampling, parameter) in [
        (Sampling { temperature: 0.0, ..Sampling::default() }, "temperature"),
        (Sampling { temperature: f64::NAN, ..Sampling::default() }, "temperature"),
        (Sampling { top_k: Some(0), ..Sampling::default() }, "top_k"),
        (Sampling { top_p: Some(1.5), ..Sampling::default() }, "top_p"),
    ] {
        assert!(run(&[1], sampling).unwrap_err().to_string().contains(parameter));
    }
    let full = vec![1u32; 64];
    let nothing = run(&full, Sampling::default()).unwrap();
    assert_eq!((nothing.tokens.len(), nothing.finish), (0, Finish::Length));
}
