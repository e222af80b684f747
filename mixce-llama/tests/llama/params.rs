//! Names, order and initial values of the parameters.

use crate::common::{CONFIGURATIONS, fixture, random, tiny, tiny_keys, values};
use candle_core::Device;
use mixce_llama::LlamaConfig;
use mixce_lm::{ModelConfig as _, ParameterKind, Parameters, checkpoint};

#[test]
fn counts_agree_with_the_configuration() {
    for name in CONFIGURATIONS {
        let config = LlamaConfig::from_file(&fixture(&format!("llama/{name}/config.json"))).unwrap();
        let listed: usize =
            config.parameter_specs().iter().map(|spec| spec.shape.iter().product::<usize>()).sum();
        assert_eq!(listed as u64, config.parameter_count(), "{name}");
    }
    // Embedding and last norm; two norms, four maps of attention and three of the MLP in each of 30 layers.
    assert_eq!(LlamaConfig::preset("SmolLM2-135M").unwrap().parameter_specs().len(), 2 + 30 * 9);
}

/// The stored tensors of transformers are the parameters, whatever the biases and norms of the type.
#[test]
fn names_and_shapes_are_those_that_transformers_stores() {
    for name in CONFIGURATIONS {
        let folder = fixture("llama").join(name);
        let config = LlamaConfig::from_file(&folder.join("config.json")).unwrap();
        let stored = checkpoint::list(&folder).unwrap();
        let mut want: Vec<(String, Vec<usize>)> =
            stored.into_iter().map(|tensor| (tensor.name, tensor.shape)).collect();
        let specs = config.parameter_specs().into_iter();
        let mut got: Vec<(String, Vec<usize>)> =
            specs.map(|spec| (config.transformers_name(&spec.name), spec.shape)).collect();
        want.sort();
        got.sort();
        assert_eq!(got, want, "{name}");
    }
}

#[test]
fn only_matrices_and_embeddings_decay() {
    for model_type in ["llama", "qwen2", "qwen3"] {
        let mut keys = tiny_keys(model_type);
        keys.insert("attention_bias".to_owned(), true.into());
        let config = LlamaConfig::try_from(keys).unwrap();
        for spec in config.parameter_specs() {
            assert_eq!(spec.kind.decays(), spec.shape.len() == 2, "{}", spec.name);
            assert_eq!(spec.layer.is_some(), spec.name.starts_with("layers."), "{}", spec.name);
        }
    }
}

/// No projection begins smaller than the others: that is GPT-2's rule alone.
#[test]
fn initial_weights_have_the_deviations_of_transformers() {
    let mut keys = tiny_keys("llama");
    keys.extend([("vocab_size".to_owned(), 500.into()), ("hidden_size".to_owned(), 64.into())]);
    keys.extend([("attention_bias".to_owned(), true.into()), ("initializer_range".to_owned(), 0.05.into())]);
    let config = LlamaConfig::try_from(keys).unwrap();
    for (name, kind, tensor) in random(&config).iter_with_kind() {
        let values = values(tensor);
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        let deviation = (values.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / values.len() as f32).sqrt();
        let (centre, want) = match kind {
            ParameterKind::Norm => (1.0, 0.0),
            ParameterKind::Bias => (0.0, 0.0),
            _ => (0.0, 0.05),
        };
        // Relative deviation of an estimate from n samples is about 1 / sqrt(2 n).
        let tolerance = 5.0 * want / (2.0 * values.len() as f32).sqrt();
        assert!((deviation - want).abs() <= tolerance, "{name}: {deviation} against {want}");
        assert!((mean - centre).abs() <= 5.0 * want / (values.len() as f32).sqrt(), "{name}: mean {mean}");
    }
}

#[test]
fn the_seed_decides_and_nothing_else() {
    let (a, b) = (random(&tiny("qwen3")), random(&tiny("qwen3")));
    crate::common::assert_same(&a, &b);
    let other = Parameters::random(&tiny("qwen3"), 8, &Device::Cpu).unwrap();
    let name = "layers.1.mlp.up_proj.weight";
    assert_ne!(values(a.get(name).unwrap()), values(other.get(name).unwrap()));
}
