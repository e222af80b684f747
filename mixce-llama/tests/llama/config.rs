//! Reading, checking and writing `config.json`.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use crate::common::{CONFIGURATIONS, fixture, json, tiny, tiny_keys};
use mixce_base::Hint as _;
use mixce_llama::{LlamaConfig, ModelType};
use mixce_lm::{Error, ModelConfig as _};
use serde_json::{Value, json};

fn parse(config: Value) -> Result<LlamaConfig, Error> {
    LlamaConfig::from_json(&config.to_string())
}

/// The tiny model with some keys changed.
fn with(model_type: &str, changes: &Value) -> Result<LlamaConfig, Error> {
    let mut keys = tiny_keys(model_type);
    keys.extend(changes.as_object().unwrap().clone());
    LlamaConfig::try_from(keys)
}

fn error_of(model_type: &str, changes: Value) -> String {
    match with(model_type, &changes) {
        Ok(config) => format!("accepted: {config:?}"),
        Err(error) => error.to_string(),
    }
}

/// What is written for a file that names its type alone is what transformers has for it.
#[test]
fn defaults_are_those_of_transformers() {
    let defaults = json(&fixture("llama/defaults.json"));
    for model_type in ModelType::ALL {
        let config = parse(json!({"model_type": model_type.key()})).unwrap();
        let ours: Value = serde_json::from_str(&config.to_json()).unwrap();
        let theirs = &defaults[model_type.key()];
        for (key, value) in ours.as_object().unwrap() {
            // Ours counts the layers that have no window where no window is used.
            if key != "max_window_layers" {
                assert_eq!(value, &theirs[key], "{} `{key}`", model_type.key());
            }
        }
        // Their further keys are those of transformers' common part.
        let read = LlamaConfig::from_json(&theirs.to_string()).unwrap();
        assert!(read.unknown_keys().is_empty(), "{:?}", read.unknown_keys());
        assert_eq!(LlamaConfig { extra: Default::default(), ..read }, config);
    }
}

#[test]
fn presets_have_their_published_sizes() {
    // Parameter counts of the published checkpoints.
    for (name, count) in [
        ("SmolLM2-135M", 134_515_008u64),
        ("HuggingFaceTB/SmolLM2-360M", 361_821_120),
        ("SmolLM2-1.7B", 1_711_376_384),
        ("meta-llama/Llama-3.2-1B", 1_235_814_400),
        ("Qwen/Qwen2.5-0.5B", 494_032_768),
        ("Qwen3-0.6B", 596_049_920),
    ] {
        let config = LlamaConfig::preset(name).unwrap();
        config.validate().unwrap();
        assert_eq!(config.parameter_count(), count, "{name}");
    }
    assert!(LlamaConfig::PRESETS.iter().all(|name| LlamaConfig::preset(name).is_some()));
    assert_eq!(LlamaConfig::preset("gpt2"), None);
}

#[test]
fn frequencies_are_those_of_transformers() {
    let cases = json(&fixture("llama/rope.json"))["cases"].as_array().unwrap().clone();
    assert_eq!(cases.len(), 3);
    for case in cases {
        let config = parse(case["config"].clone()).unwrap();
        let got = config.rope.inverse_frequencies(config.head_dim);
        let want = case["inverse_frequencies"].as_array().unwrap();
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(want) {
            let want = want.as_f64().unwrap();
            assert!((got - want).abs() <= 2e-6 * want, "{}: got {got}, want {want}", case["name"]);
        }
    }
}

#[test]
fn old_names_of_the_rotary_embedding_are_read() {
    let scaling = |changes: Value| {
        let keys = Value::from(serde_json::Map::from(with("llama", &changes).unwrap()));
        keys["rope_parameters"].clone()
    };
    let plain = json!({"rope_type": "default", "rope_theta": 10000.0});
    assert_eq!(scaling(json!({})), plain);
    assert_eq!(scaling(json!({"rope_scaling": null, "rope_parameters": {}})), plain);
    assert_eq!(
        scaling(json!({"rope_theta": 5, "rope_scaling": {"type": "linear", "factor": 2}})),
        json!({"rope_type": "linear", "rope_theta": 5.0, "factor": 2.0})
    );
    // The inner base and the newer name of the type count.
    let both =
        json!({"rope_type": "default", "type": "linear", "rope_theta": 7.0, "partial_rotary_factor": 1.0});
    assert_eq!(
        scaling(json!({"rope_theta": 5.0, "rope_parameters": both})),
        json!({"rope_type": "default", "rope_theta": 7.0})
    );
    // `original_max_position_embeddings` beside the object counts before the one in it, which is the longest text by default.
    let llama3 = json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4});
    assert_eq!(scaling(json!({"rope_scaling": llama3}))["original_max_position_embeddings"], 16);
    let outer = json!({"rope_scaling": llama3, "original_max_position_embeddings": 8});
    assert_eq!(scaling(outer)["original_max_position_embeddings"], 8);
}

#[test]
fn windows_belong_to_layers() {
    let windows = |model_type: &str, changes: Value| {
        let config = with(model_type, &changes).unwrap();
        (0..2).map(|layer| config.window(layer)).collect::<Vec<_>>()
    };
    assert_eq!(windows("mistral", json!({})), [Some(4096); 2]);
    assert_eq!(windows("mistral", json!({"sliding_window": 3})), [Some(3); 2]);
    assert_eq!(windows("mistral", json!({"sliding_window": null})), [None; 2]);
    let qwen = json!({"use_sliding_window": true, "sliding_window": 3, "max_window_layers": 1});
    for model_type in ["qwen2", "qwen3"] {
        assert_eq!(windows(model_type, qwen.clone()), [None, Some(3)]);
        assert_eq!(windows(model_type, json!({"sliding_window": 3, "max_window_layers": 0})), [None; 2]);
        let types = json!({"use_sliding_window": true, "sliding_window": 3,
            "layer_types": ["sliding_attention", "full_attention"]});
        assert_eq!(windows(model_type, types), [Some(3), None]);
    }
    // transformers' Llama has no windows: the key has no effect there, and none here.
    let llama = with("llama", &json!({"sliding_window": 3})).unwrap();
    assert_eq!((llama.window(0), llama.unknown_keys()), (None, vec!["sliding_window"]));
    // What is written means the same.
    let again = LlamaConfig::from_json(&with("qwen2", &qwen).unwrap().to_json()).unwrap();
    assert_eq!((again.window(0), again.window(1)), (None, Some(3)));
}

#[test]
fn biases_and_norms_belong_to_types() {
    let of = |model_type: &str, changes: Value| with(model_type, &changes).unwrap();
    let biased = json!({"attention_bias": true, "mlp_bias": true});
    let llama = of("llama", biased.clone());
    assert!(llama.has_qkv_bias() && llama.attention_bias && llama.mlp_bias && !llama.has_head_norms());
    let qwen2 = of("qwen2", json!({}));
    assert!(qwen2.has_qkv_bias() && !qwen2.attention_bias);
    let qwen3 = of("qwen3", biased.clone());
    assert!(qwen3.has_head_norms() && qwen3.attention_bias && !qwen3.mlp_bias);
    assert_eq!(qwen3.unknown_keys(), ["mlp_bias"]);
    let mistral = of("mistral", biased);
    assert!(!mistral.has_qkv_bias() && !mistral.mlp_bias);
    assert_eq!(mistral.unknown_keys(), ["attention_bias", "mlp_bias"]);
}

#[test]
fn head_sizes_follow_from_the_channels_where_none_is_given() {
    let of = |model_type: &str, changes: Value| {
        let mut keys = tiny_keys(model_type);
        keys.remove("head_dim");
        keys.extend(changes.as_object().unwrap().clone());
        LlamaConfig::try_from(keys)
    };
    assert_eq!(of("llama", json!({})).unwrap().head_dim, 4);
    assert_eq!(of("llama", json!({"head_dim": null})).unwrap().head_dim, 4);
    assert_eq!(of("qwen3", json!({})).unwrap().head_dim, 128);
    assert_eq!(of("llama", json!({"num_key_value_heads": null})).unwrap().num_key_value_heads, 2);
    let error = of("llama", json!({"hidden_size": 9})).unwrap_err().to_string();
    assert!(error.contains("`hidden_size` must be a multiple of `num_attention_heads` (2)"), "{error}");
}

#[test]
fn unsupported_keys_are_named() {
    let rope = |kind: &str| json!({"rope_type": kind, "factor": 2.0, "rope_theta": 1e4});
    for (key, changes) in [
        ("model_type", json!({"model_type": "gpt2"})),
        ("model_type", json!({"model_type": null})),
        ("hidden_act", json!({"hidden_act": "quick_gelu"})),
        ("pretraining_tp", json!({"pretraining_tp": 2})),
        ("rope_interleaved", json!({"rope_interleaved": true})),
        ("partial_rotary_factor", json!({"partial_rotary_factor": 0.5})),
        ("quantization_config", json!({"quantization_config": {"bits": 4}})),
        ("per_layer_config", json!({"per_layer_config": {"0": {"head_dim": 2}}})),
        ("is_encoder_decoder", json!({"is_encoder_decoder": true})),
        ("pruned_heads", json!({"pruned_heads": {"0": [1]}})),
        ("rope_scaling.rope_type", json!({"rope_scaling": rope("dynamic")})),
        ("rope_parameters.rope_type", json!({"rope_parameters": rope("yarn")})),
        ("rope_parameters.rope_type", json!({"rope_parameters": rope("longrope")})),
        ("rope_parameters.factor", json!({"rope_parameters": rope("default")})),
        (
            "rope_parameters.partial_rotary_factor",
            json!({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25}}),
        ),
        ("rope_parameters.full_attention", json!({"rope_parameters": {"full_attention": rope("default")}})),
    ] {
        let error = with("llama", &changes).unwrap_err();
        assert!(matches!(&error, Error::ConfigUnsupported { key: named, .. } if named == key), "{error}");
        assert!(error.to_string().contains(&format!("`{key}`")), "{error}");
    }
    assert!(with("llama", &json!({"hidden_act": "mish"})).unwrap_err().hint().unwrap().contains("silu"));
    let layers = error_of("qwen2", json!({"layer_types": ["full_attention", "chunked_attention"]}));
    assert!(layers.contains("`layer_types`") && layers.contains("chunked_attention"), "{layers}");
    let neutral = json!({"pretraining_tp": 1, "rope_interleaved": false, "is_llama_config": true, "quantization_config": null,
        "partial_rotary_factor": 1.0, "torch_dtype": "bfloat16"});
    assert!(with("llama", &neutral).unwrap().unknown_keys().is_empty());
}

#[test]
fn impossible_values_are_named() {
    let llama3 = |low: f64, high: f64| json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": low, "high_freq_factor": high});
    for (changes, key) in [
        (json!({"vocab_size": 0}), "vocab_size"),
        (json!({"hidden_size": 1.5}), "hidden_size"),
        (json!({"num_hidden_layers": 1_000_000_000}), "num_hidden_layers"),
        (json!({"num_attention_heads": 0}), "num_attention_heads"),
        (json!({"num_key_value_heads": 0}), "num_key_value_heads"),
        (json!({"num_attention_heads": 3, "num_key_value_heads": 2}), "num_key_value_heads"),
        (json!({"head_dim": 5}), "head_dim"),
        (json!({"head_dim": 0}), "head_dim"),
        (json!({"attention_dropout": 1.0}), "attention_dropout"),
        (json!({"rms_norm_eps": -1.0}), "rms_norm_eps"),
        (json!({"rope_theta": 0}), "rope_theta"),
        (json!({"rope_theta": "big"}), "rope_theta"),
        (json!({"rope_scaling": [1]}), "rope_scaling"),
        (json!({"rope_scaling": {"type": "linear"}}), "rope_scaling.factor"),
        (json!({"rope_parameters": {"rope_type": "linear", "factor": -2}}), "rope_parameters.factor"),
        (json!({"rope_parameters": llama3(4.0, 4.0)}), "rope_parameters.high_freq_factor"),
        (json!({"rope_parameters": llama3(0.0, 4.0)}), "rope_parameters.low_freq_factor"),
        (json!({"tie_word_embeddings": "yes"}), "tie_word_embeddings"),
        (json!({"eos_token_id": [1, "2"]}), "eos_token_id"),
    ] {
        let message = error_of("llama", changes);
        assert!(message.starts_with(&format!("config key `{key}` must be ")), "{message}");
    }
    let huge =
        json!({"hidden_size": 2_000_000_000, "intermediate_size": 2_000_000_000, "num_hidden_layers": 4000});
    assert!(error_of("llama", huge).contains("at most 17179869184 parameters"));
    for (changes, key) in [
        (json!({"sliding_window": 0}), "sliding_window"),
        (json!({"sliding_window": "wide"}), "sliding_window"),
    ] {
        let message = error_of("mistral", changes);
        assert!(message.starts_with(&format!("config key `{key}` must be ")), "{message}");
    }
    let few = error_of("qwen3", json!({"layer_types": ["full_attention"]}));
    assert!(few.starts_with("config key `layer_types` must be a list of `num_hidden_layers` (2)"), "{few}");
    let none = error_of("qwen3", json!({"layer_types": ["full_attention", "sliding_attention"]}));
    assert!(none.starts_with("config key `sliding_window` must be a window"), "{none}");
}

#[test]
fn special_ids_may_be_lists() {
    let config = with("llama", &json!({"eos_token_id": [300, 7, 5, 7], "bos_token_id": 99})).unwrap();
    assert_eq!((config.eos_id(), config.eos_ids().collect::<Vec<_>>()), (Some(7), vec![7, 5]));
    assert_eq!((config.bos_token_id, config.bos_id()), (Some(99), None));
    let written: Value = serde_json::from_str(&config.to_json()).unwrap();
    assert_eq!(written["eos_token_id"], json!([300, 7, 5]));
}

#[test]
fn writing_and_reading_keeps_every_key() {
    for name in CONFIGURATIONS {
        let text = std::fs::read_to_string(fixture(&format!("llama/{name}/config.json"))).unwrap();
        let config = LlamaConfig::from_json(&text).unwrap();
        assert!(config.unknown_keys().is_empty(), "{name}: {:?}", config.unknown_keys());
        assert_eq!(LlamaConfig::from_json(&config.to_json()).unwrap(), config, "{name}");
        let (mut before, mut after): (Value, Value) =
            (serde_json::from_str(&text).unwrap(), serde_json::from_str(&config.to_json()).unwrap());
        // transformers' other name of the same function; where there is no window, the number of layers says so as well.
        for value in [&mut before, &mut after] {
            let keys = value.as_object_mut().unwrap();
            if keys["hidden_act"] == "gelu_pytorch_tanh" {
                keys.insert("hidden_act".to_owned(), json!("gelu_new"));
            }
            if keys.get("use_sliding_window") == Some(&json!(false)) {
                keys.remove("max_window_layers");
            }
        }
        assert_eq!(after, before, "{name}");
    }
    let odd = with("llama", &json!({"my_key": "kept"})).unwrap();
    assert_eq!(odd.unknown_keys(), ["my_key"]);
    assert!(odd.to_json().contains("\"my_key\": \"kept\""));
}

#[test]
fn the_sizes_fit_in_a_line() {
    assert_eq!(
        tiny("llama").describe(),
        "Llama: 2 layers, 8 channels, 2 heads (1 of keys and values) of 4, 16 positions, 13 tokens"
    );
    let windowed =
        with("mistral", &json!({"sliding_window": 3, "rope_scaling": {"type": "linear", "factor": 2}}));
    let text = windowed.unwrap().describe();
    assert!(
        text.starts_with("Mistral: ")
            && text.ends_with(", linear rope scaling by 2, a window of 3 in 2 layers")
    );
}

#[test]
fn a_damaged_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    std::fs::write(&path, "{\"model_type\": \"llama\",").unwrap();
    let error = LlamaConfig::from_file(&path).unwrap_err().to_string();
    assert!(error.contains("config.json") && error.contains("line 1"), "{error}");
    std::fs::write(&path, "{\"hidden_size\": 8}").unwrap();
    let error = LlamaConfig::from_file(&path).unwrap_err().to_string();
    assert!(error.contains("config.json") && error.contains("`model_type`"), "{error}");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    /// Any value under any key is understood or refused.
    #[test]
    fn no_value_makes_it_panic(
        kind in 0usize..3,
        changes in proptest::collection::vec((proptest::prelude::any::<proptest::sample::Index>(), 0usize..12), 1..4),
    ) {
        let mut config: Value = Value::Object(tiny_keys(["llama", "qwen2", "mistral"][kind]).into_iter().collect());
        let values = [
            Value::Null, json!(0), json!(-1), json!(1), json!(u64::MAX), json!(1u64 << 33), json!(1e300), json!(-0.5), json!(""), json!([]),
            json!({"type": "linear", "rope_type": "llama3", "factor": 0}), json!(true),
        ];
        let keys: Vec<String> = config.as_object().unwrap().keys().cloned().collect();
        for (key, value) in changes {
            config[key.get(&keys).as_str()] = values[value].clone();
        }
        if let Ok(config) = parse(config) {
            let _ = (config.to_json(), config.parameter_count());
        }
    }
}
