//! Sampling: the tokens of the CPU, bf16 near f32, and what a token costs.

use candle_core::{Device, Tensor};
use mixce_gpt2::Gpt2Config;
use mixce_kernels::{Precision, allow_recording};
use mixce_lm::generate::{Continuation, GenerateOptions, generate};
use mixce_lm::sampling::Sampling;
use mixce_lm::{Decoder, Parameters};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::common::{Setup, tiny_config, values};
use crate::counts::{WORK, count_in_process, llama, parse, precision};
use crate::on_cuda;

const PROMPTS: [(u64, &[u32]); 3] = [(0, &[1, 2, 3]), (1, &[4]), (2, &[7, 8, 9, 10, 11])];

fn options(sampling: &Sampling) -> GenerateOptions {
    GenerateOptions { sampling: sampling.clone(), max_new_tokens: 6, eos: vec![22], batch_size: 2, seed: 4 }
}

fn methods() -> [Sampling; 4] {
    let draws = Sampling::default();
    [
        Sampling { greedy: true, ..draws.clone() },
        Sampling { temperature: 0.8, top_k: Some(9), ..draws.clone() },
        Sampling { top_p: Some(0.7), ..draws.clone() },
        draws,
    ]
}

fn decoder(setup: &Setup, precision: Precision) -> Box<dyn Decoder> {
    setup.model.build(setup.parameters.detached()).unwrap().into_decoder(precision).unwrap()
}

/// On a GPU in f32.
pub(crate) fn assert_same_samples(make: impl Fn() -> Setup) {
    let on = |setup: &Setup| -> Vec<Vec<Continuation>> {
        let (decoder, methods) = (decoder(setup, Precision::F32), methods());
        let sampled = |method| generate(&*decoder, &PROMPTS, &options(method), &mut |_, _| ()).unwrap();
        methods.iter().map(sampled).collect()
    };
    assert_eq!(on(&on_cuda(make())), on(&make()));
}

/// Final hidden states of the prompts and of two more tokens, in f32 on the CPU.
fn hidden(setup: &Setup, precision: Precision) -> Tensor {
    let decoder = decoder(setup, precision);
    let (first, mut cache) =
        decoder.prefill(&decoder.pack(&PROMPTS.map(|(_, ids)| ids)).unwrap(), 2).unwrap();
    let mut states = vec![first];
    for ids in [[5, 6, 7], [0, 21, 9]] {
        states.push(decoder.decode(&ids, &mut cache).unwrap());
    }
    Tensor::cat(&states, 0).unwrap().to_device(&Device::Cpu).unwrap()
}

/// On a GPU: weights, activations between products and the cache have 8 bits.
pub(crate) fn assert_bf16_is_near_f32(make: impl Fn() -> Setup) {
    let exact = values(&hidden(&make(), Precision::F32));
    let rounded = values(&hidden(&on_cuda(make()), Precision::Bf16));
    let scale = exact.iter().fold(1f32, |most, x| most.max(x.abs()));
    let differences = exact.iter().zip(&rounded).map(|(exact, rounded)| (exact - rounded).abs());
    let worst = differences.fold(0f32, f32::max);
    assert!(worst > 1e-5 * scale && worst < 3e-2 * scale, "{worst} of {scale}");
}

#[test]
fn bf16_is_near_f32_and_gives_the_same_tokens_twice() {
    assert_bf16_is_near_f32(|| Setup::new(&[], None));
    let setup = on_cuda(Setup::new(&[], None));
    for method in methods() {
        let run = || {
            let decoder = decoder(&setup, Precision::Bf16);
            generate(&*decoder, &PROMPTS, &options(&method), &mut |_, _| ()).unwrap()
        };
        let texts = run();
        assert_eq!(run(), texts);
        assert!(texts.iter().any(|text| !text.tokens.is_empty()), "{method:?}");
    }
}

/// Continuations to count.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Work {
    /// The text of `config.json`.
    config: String,
    bf16: bool,
    new_tokens: usize,
}

#[test]
#[ignore = "what another test counts"]
fn counted_work() {
    let Ok(work) = std::env::var(WORK) else { return };
    let Work { config, bf16, new_tokens } = serde_json::from_str(&work).unwrap();
    allow_recording();
    let config = &*parse(&config);
    let parameters = Parameters::random(config, 3, &mixce_kernels::cuda_device(0).unwrap()).unwrap();
    let decoder = config.build(parameters).unwrap().into_decoder(precision(bf16)).unwrap();
    let sampling = Sampling { top_p: Some(0.9), ..Sampling::default() };
    let options =
        GenerateOptions { max_new_tokens: new_tokens, eos: Vec::new(), batch_size: 3, ..options(&sampling) };
    generate(&*decoder, &PROMPTS, &options, &mut |_, _| ()).unwrap();
}

/// Launches of a token, in a layer and outside, after making sure that of a token only the ids of three sequences come to the host, and ids,
/// positions and lengths go to the device. `None` on a GPU.
fn launches(of_layers: impl Fn(usize) -> String, bf16: bool, recorded: bool) -> Option<(u64, u64)> {
    // Few tokens are not worth recording a step.
    let new_tokens = if recorded { 6 } else { 2 };
    let of_a_token = |layers| -> Option<u64> {
        let work = Work { config: of_layers(layers), bf16, new_tokens };
        let count = |work: &Work| count_in_process("sampling::counted_work", work);
        let (less, more) = (count(&work)?, count(&Work { new_tokens: new_tokens + 1, ..work })?);
        let number = |counts: &Value, path: &str| counts.pointer(path).unwrap().as_u64().unwrap();
        let of = |path: &str| number(&more, path) - number(&less, path);
        for (path, want) in [
            ("/device_to_host/calls", 1),
            ("/device_to_host/bytes", 3 * 4),
            ("/host_to_device/calls", 1),
            ("/host_to_device/bytes", 3 * 3 * 4),
            ("/device_to_device/calls", 0),
            // The copy to the host waits.
            ("/synchronisations", 0),
            ("/graphs", u64::from(recorded)),
        ] {
            assert_eq!(of(path), want, "{path} of {layers} layers, recorded: {recorded}");
        }
        if recorded {
            assert_eq!((of("/allocations/calls"), of("/frees"), of("/memsets/calls")), (0, 0, 0));
        }
        Some(of("/launches"))
    };
    let (two, six) = (of_a_token(2)?, of_a_token(6)?);
    let layer = (six - two) / 4;
    Some((layer, two - 2 * layer))
}

/// The table of docs/src/cuda.md: outside the layers the embedding, the first norm, the last one, the logits and the choice, and in bf16 the rounding of
/// the hidden states, but no biases and no GELU behind products that have them in their epilogues. A recorded token launches the same in one graph.
#[test]
fn a_token_launches_little_and_brings_ids_alone_to_the_host() {
    let gpt2 = |n_layer| Gpt2Config { n_layer, ..tiny_config() }.to_json();
    let Some(exact) = launches(gpt2, false, false) else { return };
    assert_eq!(exact, (9, 5));
    assert_eq!(launches(gpt2, true, false), Some((7, 6)));
    assert_eq!(launches(gpt2, true, true), Some((7, 6)));
    for (model_type, layer, epilogues) in [("llama", 12, 0), ("qwen2", 15, 3), ("qwen3", 12, 0)] {
        let config = |layers| llama(model_type, (211, 16, layers, 2)).to_json();
        assert_eq!(launches(config, false, true), Some((layer, 5)), "{model_type}");
        assert_eq!(launches(config, true, false), Some((layer - epilogues, 6)), "{model_type} in bf16");
    }
}

/// In a process of its own, where no other test launches anything.
#[test]
fn sequences_end_without_changing_the_others() {
    let counts = count_in_process("sampling::sequences_that_end", &());
    assert!(counts.is_none_or(|counts| counts["graphs"].as_u64().unwrap() > 20));
}

/// Sequences that end one after another, in steps that are recorded: each is what it is alone.
#[test]
#[ignore = "what another test runs"]
fn sequences_that_end() {
    if std::env::var(WORK).is_err() {
        return;
    }
    allow_recording();
    let setup = on_cuda(Setup::new(&[], None));
    let decoder = decoder(&setup, Precision::F32);
    let prompts: Vec<Vec<u32>> = (0..9u32).map(|i| vec![i; 1 + i as usize % 2]).collect();
    let numbered: Vec<(u64, &[u32])> = (0..).zip(prompts.iter().map(Vec::as_slice)).collect();
    let sampling = Sampling { temperature: 1.2, ..Sampling::default() };
    // Of 23 tokens a fifth end a text.
    let options =
        GenerateOptions { eos: (0..5).collect(), max_new_tokens: 10, batch_size: 9, ..options(&sampling) };
    let run = |prompts: &[(u64, &[u32])]| generate(&*decoder, prompts, &options, &mut |_, _| ()).unwrap();
    let together = run(&numbered);
    let lengths: Vec<usize> = together.iter().map(|text| text.tokens.len()).collect();
    let (few, many) = (lengths.iter().any(|length| *length < 3), lengths.iter().any(|length| *length > 5));
    assert!(few && many, "{lengths:?}");
    for (prompt, text) in numbered.iter().zip(&together) {
        assert_eq!(&run(&[*prompt])[0], text);
    }
}
