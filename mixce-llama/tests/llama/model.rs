//! The forward pass, its gradients and sampling against transformers (fixtures of `scripts/fixtures`).
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use crate::common::{
    CONFIGURATIONS, assert_close, fixture, ids, inputs, json, model, random, slices, tiny_keys, values,
};
use candle_core::{DType, Device, Tensor, Var};
use mixce_kernels::Precision;
use mixce_kernels::rng::Stream;
use mixce_llama::{Llama, LlamaConfig};
use mixce_lm::generate::{GenerateOptions, generate};
use mixce_lm::sampling::Sampling;
use mixce_lm::{Gradients, LanguageModel as _, PassOptions, ScoringOptions, TransformerDecoder};

fn decoder(model: &Llama) -> TransformerDecoder<LlamaConfig> {
    model.clone().decoder(Precision::F32).unwrap()
}

/// The same model with variables as parameters, and dropout.
fn tracked(model: &Llama, dropout: f64) -> Llama {
    let parameters = model.parameters().try_map(|_, t| Ok(Var::from_tensor(t)?.into_inner())).unwrap();
    Llama::new(with_dropout(model, dropout), parameters).unwrap()
}

fn with_dropout(model: &Llama, attention_dropout: f64) -> LlamaConfig {
    LlamaConfig { attention_dropout, ..model.architecture().clone() }
}

/// A gradient of hidden states without a pattern. (The last norm fixes the sum of their squares, so the states themselves would do badly.)
fn projection(hidden: &Tensor) -> Tensor {
    let values: Vec<f32> = (0..hidden.elem_count()).map(|i| ((i * 7919) as f32).sin()).collect();
    Tensor::from_vec(values, hidden.dims(), &Device::Cpu).unwrap()
}

#[test]
fn hidden_states_and_logits_equal_transformers() {
    for name in CONFIGURATIONS {
        let (model, texts) = (model(name), inputs(name));
        let path = fixture("llama").join(name).join("expected.safetensors");
        let want = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
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

/// Dropout masks must be the same in forward, backward and recomputation, at boundaries of documents too.
#[test]
fn the_explicit_backward_pass_equals_candles_graph_with_dropout() {
    for name in CONFIGURATIONS {
        let model = tracked(&model(name), 0.2);
        let texts: Vec<Vec<u32>> =
            [0usize, 1, 33, 2, 0, 64].iter().map(|n| (0..*n as u32).map(|i| i % 61).collect()).collect();
        let batch = model.pack(&slices(&texts)).unwrap();
        let dropout = Some(Stream::new(4));
        let hidden = model.hidden_states(&batch, dropout).unwrap();
        let projection = projection(&hidden);
        let graph = (&hidden * &projection).unwrap().sum_all().unwrap().backward().unwrap();
        let mut bits = Vec::new();
        for recompute in [false, true] {
            let gradients = Gradients::zeros(model.parameters()).unwrap();
            let pass = PassOptions { dropout, recompute, ..PassOptions::default() };
            let forward = model.forward(&batch, pass).unwrap();
            assert_close("hidden", &forward.hidden(), &hidden, 1e-5);
            forward.backward(projection.clone(), &gradients).unwrap();
            for (parameter, tensor) in model.parameters().iter() {
                let got = gradients.sums().get(parameter).unwrap();
                // The head's own gradient does not come through the hidden states.
                let zeros = tensor.zeros_like().unwrap();
                let want = graph.get(tensor).unwrap_or(&zeros);
                assert_close(&format!("{name} {parameter}"), got, want, 5e-5);
                let is_head = parameter == "lm_head.weight";
                assert_eq!(values(want).iter().all(|g| *g == 0.0), is_head, "{name} {parameter}");
            }
            bits.push(gradients.sums().iter().flat_map(|(_, sum)| values(sum)).collect::<Vec<f32>>());
        }
        assert_eq!(bits[0], bits[1], "{name}: computing a block again changes nothing");
    }
}

/// What was said to be complete does not change: the blocks from the last to the first, each with all that is behind it.
#[test]
fn gradients_are_complete_block_by_block() {
    for name in CONFIGURATIONS {
        let model = model(name);
        let names: Vec<&str> = model.parameters().iter().map(|(name, _)| name).collect();
        let place = |name: &str| names.iter().position(|other| *other == name).unwrap();
        let blocks = (0..model.spec().layers)
            .rev()
            .map(|layer| place(&format!("layers.{layer}.input_layernorm.weight")));
        let want: Vec<usize> = std::iter::once(place("norm.weight")).chain(blocks).collect();
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

/// Double precision has no fused kernel: it takes the path of candle operations, forward, backward and in decoding.
#[test]
fn the_path_of_other_types_gives_the_same_numbers() {
    for name in ["llama_bias_linear", "mistral_window", "qwen3"] {
        let base = model(name);
        let fused = Llama::new(with_dropout(&base, 0.2), base.parameters().clone()).unwrap();
        let wide = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
        let narrow = |t: &Tensor| t.to_dtype(DType::F32).unwrap();
        let parameters = base.parameters().try_map(|_, t| Ok(Var::from_tensor(&wide(t))?.into_inner()));
        let plain = Llama::new(with_dropout(&base, 0.2), parameters.unwrap()).unwrap();
        let texts: Vec<Vec<u32>> = [1u32, 19, 4].iter().map(|n| (0..*n).collect()).collect();
        let batch = fused.pack(&slices(&texts)).unwrap();
        let pass = PassOptions { dropout: Some(Stream::new(4)), ..PassOptions::default() };
        let passes = [&fused, &plain].map(|model| {
            let gradients = Gradients::zeros(model.parameters()).unwrap();
            let forward = model.forward(&batch, pass).unwrap();
            let hidden = forward.hidden();
            let dhidden = projection(&hidden).to_dtype(hidden.dtype()).unwrap();
            forward.backward(dhidden, &gradients).unwrap();
            (narrow(&hidden), gradients)
        });
        let [(hidden, sums), (plain_hidden, plain_sums)] = passes;
        assert_close("hidden", &hidden, &plain_hidden, 1e-5);
        for (parameter, sum) in sums.sums().iter() {
            let want = narrow(plain_sums.sums().get(parameter).unwrap());
            assert_close(&format!("{name} {parameter}"), sum, &want, 1e-4);
        }
        let decoded = [&fused, &plain].map(|model| {
            let model = decoder(model);
            let (_, mut cache) = mixce_lm::Decoder::prefill(&model, &batch, 2).unwrap();
            let step = |ids: [u32; 3]| mixce_lm::Decoder::decode(&model, &ids, &mut cache);
            let steps = [[3, 1, 4], [1, 5, 9]].map(step).map(|hidden| narrow(&hidden.unwrap()));
            Tensor::cat(&steps, 0).unwrap()
        });
        assert_close("decoded", &decoded[0], &decoded[1], 1e-5);
    }
}

/// The gradients of all parameters are the differences of the loss, in double precision but for the softmax: by candle's graph, with
/// which the fused pass is compared above.
#[test]
fn gradients_are_the_finite_differences() {
    for model_type in ["llama", "mistral", "qwen2", "qwen3"] {
        let mut keys = tiny_keys(model_type);
        keys.extend([("sliding_window".to_owned(), 3.into()), ("initializer_range".to_owned(), 0.4.into())]);
        keys.extend([
            ("use_sliding_window".to_owned(), true.into()),
            ("max_window_layers".to_owned(), 1.into()),
        ]);
        keys.extend([("attention_bias".to_owned(), true.into()), ("mlp_bias".to_owned(), true.into())]);
        let config = LlamaConfig::try_from(keys).unwrap();
        let wide = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
        let parameters =
            random(&config).try_map(|_, t| Ok(Var::from_tensor(&wide(t))?.into_inner())).unwrap();
        let model = Llama::new(config.clone(), parameters).unwrap();
        let batch = model.pack(&[&[1, 5, 2, 7, 7, 3], &[4, 0]]).unwrap();
        let loss = |model: &Llama| {
            let hidden = model.hidden_states(&batch, None).unwrap();
            let projection = wide(&projection(&hidden));
            (hidden * projection).unwrap().sum_all().unwrap()
        };
        let graph = loss(&model).backward().unwrap();
        for (name, tensor) in model.parameters().iter().filter(|(name, _)| *name != "lm_head.weight") {
            let gradient: Vec<f64> = graph.get(tensor).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            // Along one direction in which every element moves.
            let direction: Vec<f64> = (0..tensor.elem_count()).map(|i| ((3 * i + 1) as f64).cos()).collect();
            let want: f64 = gradient.iter().zip(&direction).map(|(g, d)| g * d).sum();
            let direction = Tensor::from_vec(direction, tensor.dims(), &Device::Cpu).unwrap();
            let moved = |h: f64| {
                let change = (&direction * h).unwrap();
                let parameters = model.parameters().detached();
                let parameters =
                    parameters.try_map(|n, t| if n == name { Ok((t + &change)?) } else { Ok(t.clone()) });
                let moved = Llama::new(config.clone(), parameters.unwrap()).unwrap();
                loss(&moved).to_scalar::<f64>().unwrap()
            };
            // Softmax is computed in f32, whose rounding must stay small against the step.
            let h = 2e-4;
            let got = (moved(h) - moved(-h)) / (2.0 * h);
            assert!((got - want).abs() <= 5e-3 * want.abs().max(1.0), "{model_type} {name}: {got} {want}");
        }
    }
}

/// bf16 keeps 8 bits of an operand's significand: hidden states and gradients are those of f32 up to a few hundredths of their norm.
#[test]
fn bf16_gives_the_gradients_of_f32_up_to_rounding() {
    let model = model("qwen3");
    let texts: Vec<Vec<u32>> = [1u32, 33, 2, 64].iter().map(|n| (0..*n).map(|i| i % 61).collect()).collect();
    let batch = model.pack(&slices(&texts)).unwrap();
    let of = |precision| {
        let gradients = Gradients::zeros(model.parameters()).unwrap();
        let forward = model.forward(&batch, PassOptions { precision, ..PassOptions::default() }).unwrap();
        let hidden = forward.hidden();
        forward.backward(projection(&hidden), &gradients).unwrap();
        let mut all = vec![("hidden".to_owned(), values(&hidden))];
        all.extend(gradients.sums().iter().map(|(name, sum)| (name.to_owned(), values(sum))));
        all
    };
    let square = |x: &[f32]| x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
    let (mut error, mut all) = (0.0, 0.0);
    for ((name, exact), (_, rounded)) in of(Precision::F32).into_iter().zip(of(Precision::Bf16)) {
        let difference: Vec<f32> = exact.iter().zip(&rounded).map(|(a, b)| a - b).collect();
        let relative = (square(&difference) / square(&exact)).sqrt();
        // A norm's weight adds up what it was rounded in every row and head.
        assert!(relative > 1e-5 && relative < 0.15, "{name}: {relative}");
        (error, all) = (error + square(&difference), all + square(&exact));
    }
    assert!((error / all).sqrt() < 0.05, "of all together: {}", (error / all).sqrt());
}

/// Several texts that are longer than the windows, one token after another.
#[test]
fn cached_decoding_equals_the_full_forward_pass() {
    for name in CONFIGURATIONS {
        let model = model(name);
        let texts: Vec<Vec<u32>> = [(23, 3), (14, 1), (12, 9)]
            .iter()
            .map(|&(n, k)| (0..n).map(|i| (k * i + 5) % 61).collect())
            .collect();
        let prompts: Vec<&[u32]> = vec![&texts[0][..12], &texts[1][..3], &texts[2][..1]];
        let full = |ids: &[u32]| {
            let hidden = model.hidden_states(&model.pack(&[ids]).unwrap(), None).unwrap();
            hidden.narrow(0, ids.len() - 1, 1).unwrap()
        };
        let decoder = decoder(&model);
        let (mut last, mut cache) =
            mixce_lm::Decoder::prefill(&decoder, &model.pack(&prompts).unwrap(), 11).unwrap();
        for step in 0..=11 {
            for (row, (text, prompt)) in texts.iter().zip(&prompts).enumerate() {
                let want = full(&text[..prompt.len() + step]);
                assert_close(
                    &format!("{name} step {step} row {row}"),
                    &last.narrow(0, row, 1).unwrap(),
                    &want,
                    2e-5,
                );
            }
            if step < 11 {
                let next = [texts[0][12 + step], texts[1][3 + step], texts[2][1 + step]];
                last = mixce_lm::Decoder::decode(&decoder, &next, &mut cache).unwrap();
            }
        }
    }
}

#[test]
fn greedy_continuations_equal_transformers() {
    for name in CONFIGURATIONS {
        let batch = json(&fixture("llama").join(name).join("batch.json"));
        let model = decoder(&model(name));
        let options = GenerateOptions {
            sampling: Sampling { greedy: true, ..Sampling::default() },
            max_new_tokens: 12,
            eos: Vec::new(),
            batch_size: 2,
            seed: 7,
        };
        let cases = batch["greedy"].as_array().unwrap();
        let prompts: Vec<Vec<u32>> = cases.iter().map(|case| ids(&case["prompt"])).collect();
        let prompts: Vec<(u64, &[u32])> = (0..).zip(prompts.iter().map(Vec::as_slice)).collect();
        let samples = generate(&model, &prompts, &options, &mut |_, _| ()).unwrap();
        for (sample, case) in samples.iter().zip(cases) {
            assert_eq!(sample.tokens, ids(&case["new_tokens"]), "{name}");
        }
    }
}

#[test]
fn what_the_model_cannot_read_is_refused() {
    let model = model("llama3");
    let message = |texts: &[&[u32]]| model.pack(texts).unwrap_err().to_string();
    assert!(message(&[&[1, 2], &[3, 61]]).contains("token id 61 at position 1 of text 1"));
    assert!(message(&[&[0; 129]]).contains("129 tokens, but the model has 128 positions"));
}

#[test]
fn features_are_the_states_at_the_last_tokens() {
    let (model, texts) = (model("mistral_window"), inputs("mistral_window"));
    let want = model.hidden_states(&model.pack(&slices(&texts)).unwrap(), None).unwrap();
    let ends: Vec<u32> = texts
        .iter()
        .scan(0, |end, text| {
            *end += text.len() as u32;
            Some(*end - 1)
        })
        .collect();
    let want = want.index_select(&Tensor::new(ends, &Device::Cpu).unwrap(), 0).unwrap();
    for batch_tokens in [1, 20, 4096] {
        let options = ScoringOptions { batch_tokens, ..ScoringOptions::default() };
        let got = model.last_hidden_states(&slices(&texts), options).unwrap();
        assert_close("features", &got, &want, 1e-5);
    }
}
