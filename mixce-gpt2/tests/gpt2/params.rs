//! Names, order and initial values of the parameters.

use crate::common::{random, tiny, values};
use candle_core::Device;
use mixce_gpt2::Gpt2Config;
use mixce_lm::{ModelConfig as _, ParameterKind, Parameters};

#[test]
fn counts_agree_with_the_configuration() {
    let mut untied = tiny();
    (untied.tie_word_embeddings, untied.n_inner) = (false, Some(5));
    for config in [tiny(), untied] {
        let listed: usize =
            config.parameter_specs().iter().map(|spec| spec.shape.iter().product::<usize>()).sum();
        assert_eq!(listed as u64, config.parameter_count());
        assert_eq!(random(&config).element_count(), listed);
    }
    assert_eq!(Gpt2Config::default().parameter_specs().len(), 148);
}

#[test]
fn only_matrices_and_embeddings_decay() {
    let decaying: Vec<String> =
        tiny().parameter_specs().into_iter().filter(|s| s.kind.decays()).map(|s| s.name).collect();
    assert_eq!(decaying.len(), 2 + 2 * 4);
    assert!(decaying.iter().all(|name| name.ends_with(".weight") && !name.contains("ln_")));
}

#[test]
fn initial_weights_have_the_deviations_of_transformers() {
    let config = Gpt2Config { n_embd: 64, n_layer: 8, vocab_size: 500, ..tiny() };
    let parameters = random(&config);
    for (name, kind, tensor) in parameters.iter_with_kind() {
        let values = values(tensor);
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        let deviation = (values.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / values.len() as f32).sqrt();
        let want = match kind {
            ParameterKind::Bias | ParameterKind::Norm => 0.0,
            _ if name.ends_with("c_proj.weight") => 0.02 / 4.0,
            _ => 0.02,
        };
        // Relative deviation of an estimate from n samples is about 1 / sqrt(2 n).
        let tolerance = 5.0 * want / (2.0 * values.len() as f32).sqrt();
        assert!((deviation - want).abs() <= tolerance, "{name}: {deviation} against {want}");
        let centre = if kind == ParameterKind::Norm && name.ends_with(".weight") { 1.0 } else { 0.0 };
        assert!((mean - centre).abs() <= 5.0 * want / (values.len() as f32).sqrt(), "{name}: mean {mean}");
    }
}

#[test]
fn the_seed_decides_and_nothing_else() {
    let (a, b) = (random(&tiny()), random(&tiny()));
    crate::common::assert_same(&a, &b);
    let other = Parameters::random(&tiny(), 8, &Device::Cpu).unwrap();
    assert_ne!(values(a.get("wte.weight").unwrap()), values(other.get("wte.weight").unwrap()));
    let (first, second) = (a.get("h.0.mlp.c_fc.weight").unwrap(), a.get("h.1.mlp.c_fc.weight").unwrap());
    assert_ne!(values(first), values(second));
}

#[test]
fn foreign_tensors_are_listed() {
    let mut tensors = crate::common::named(&random(&tiny()));
    let wte = tensors.remove("wte.weight").unwrap();
    tensors.insert("extra".to_owned(), wte);
    tensors.insert(
        "ln_f.bias".to_owned(),
        candle_core::Tensor::zeros(3, candle_core::DType::F32, &Device::Cpu).unwrap(),
    );
    let error = Parameters::new(&tiny(), tensors).unwrap_err().to_string();
    assert!(error.contains("1 missing: `wte.weight` [13, 8]"), "{error}");
    assert!(error.contains("1 unexpected: `extra` [13, 8]"), "{error}");
    assert!(error.contains("1 misshapen: `ln_f.bias` expected [8] got [3]"), "{error}");
}

#[test]
fn weights_are_numbers_of_their_stream() {
    use mixce_kernels::rng::{Stream, purpose};
    // Odd size: the last pair is cut.
    let config = Gpt2Config { vocab_size: 13, n_embd: 7, n_head: 1, ..tiny() };
    let wte = values(random(&config).get("wte.weight").unwrap());
    let stream = Stream::new(7).fold(purpose::INIT).fold(0);
    let want: Vec<f32> = (0..13 * 7).map(|i| (0.02 * stream.normal(i)) as f32).collect();
    assert_eq!(wte, want);
}
