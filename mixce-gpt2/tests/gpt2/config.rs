//! Reading, checking and writing `config.json`.

use mixce_gpt2::Gpt2Config;

use mixce_kernels::Activation;
use mixce_lm::Error;
use serde_json::{Value, json};

fn error_of(config: Value) -> String {
    match Gpt2Config::from_json(&config.to_string()) {
        Ok(config) => format!("accepted: {config:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn an_empty_object_is_gpt2_small() {
    let config = Gpt2Config::from_json("{}").unwrap();
    assert_eq!(config, Gpt2Config::gpt2_small());
    assert_eq!(config.parameter_count(), 124_439_808);
    assert_eq!(config.head_size(), 64);
    assert_eq!(config.inner_size(), 3072);
    assert_eq!(config.attention_scale(5), 0.125);
}

#[test]
fn presets_have_their_published_sizes() {
    // Parameter counts of the published checkpoints.
    for (name, count) in [
        ("gpt2", 124_439_808u64),
        ("openai-community/gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
        ("distilgpt2", 81_912_576),
    ] {
        let config = Gpt2Config::preset(name).unwrap();
        config.validate().unwrap();
        assert_eq!(config.parameter_count(), count, "{name}");
    }
    assert!(Gpt2Config::PRESETS.iter().all(|name| Gpt2Config::preset(name).is_some()));
    assert_eq!(Gpt2Config::preset("gpt3"), None);
}

#[test]
fn other_names_of_a_setting_are_read() {
    let config = json!({"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 99,
        "n_inner": 17, "activation_function": "swish", "scale_attn_by_inverse_layer_idx": true, "scale_attn_weights": false});
    let config = Gpt2Config::from_json(&config.to_string()).unwrap();
    assert_eq!((config.n_embd, config.n_layer, config.n_head, config.n_positions), (64, 3, 4, 99));
    assert_eq!((config.inner_size(), config.activation_function), (17, Activation::Silu));
    assert_eq!(config.attention_scale(1), 0.5);
    assert_eq!(Gpt2Config::from_json(r#"{"n_ctx": 5}"#).unwrap().n_positions, 5);
    assert_eq!(Gpt2Config::from_json(r#"{"n_ctx": 5, "n_positions": 6}"#).unwrap().n_positions, 6);
    let both = error_of(json!({"n_embd": 64, "hidden_size": 128}));
    assert_eq!(both, "config key `hidden_size` must be equal to its other name `n_embd` (64), got `128`");
}

#[test]
fn activations_go_by_every_name_of_transformers() {
    for (name, activation) in [
        ("gelu_new", Activation::GeluNew),
        ("gelu_pytorch_tanh", Activation::GeluNew),
        ("gelu", Activation::Gelu),
        ("relu", Activation::Relu),
        ("silu", Activation::Silu),
    ] {
        let config = Gpt2Config::from_json(&json!({"activation_function": name}).to_string()).unwrap();
        assert_eq!(config.activation_function, activation);
    }
}

#[test]
fn unsupported_keys_are_named() {
    for (key, value) in [
        ("model_type", json!("llama")),
        ("activation_function", json!("quick_gelu")),
        ("add_cross_attention", json!(true)),
        ("is_encoder_decoder", json!(true)),
        ("is_causal", json!(false)),
        ("pruned_heads", json!({"0": [1]})),
        ("quantization_config", json!({"bits": 4})),
    ] {
        let error = Gpt2Config::from_json(&json!({ key: value }).to_string()).unwrap_err();
        assert!(matches!(&error, Error::ConfigUnsupported { key: named, .. } if named == key), "{error}");
        assert!(error.to_string().contains(&format!("`{key}`")), "{error}");
    }
    let neutral = json!({"model_type": "gpt2", "add_cross_attention": false, "pruned_heads": {}, "quantization_config": null,
        "is_decoder": false, "is_encoder_decoder": false});
    Gpt2Config::from_json(&neutral.to_string()).unwrap();
}

#[test]
fn impossible_values_are_named() {
    const ALL: &str = "vocab_size, n_positions, n_embd, n_inner, n_layer";
    for (config, key) in [
        (json!({"vocab_size": 0}), "vocab_size"),
        (json!({"vocab_size": -5}), "vocab_size"),
        (json!({"vocab_size": 1.5}), "vocab_size"),
        (json!({"n_layer": 1_000_000_000}), "n_layer"),
        (json!({"n_embd": u64::MAX}), "n_embd"),
        (json!({"n_embd": 770}), "n_embd"),
        (json!({"n_head": 0}), "n_head"),
        (json!({"n_embd": 2_147_483_640, "n_head": 1, "n_layer": 4000}), "n_inner"),
        (json!({"n_embd": 2_147_483_640, "n_head": 1, "n_layer": 4000, "n_inner": 2_147_483_640}), ALL),
        (json!({"n_positions": 2_147_483_647, "n_embd": 3072}), ALL),
        (json!({"n_inner": 0}), "n_inner"),
        (json!({"attn_pdrop": 1.0}), "attn_pdrop"),
        (json!({"resid_pdrop": -0.1}), "resid_pdrop"),
        (json!({"embd_pdrop": "none"}), "embd_pdrop"),
        (json!({"layer_norm_epsilon": -1e-5}), "layer_norm_epsilon"),
        (json!({"tie_word_embeddings": "yes"}), "tie_word_embeddings"),
        (json!({"eos_token_id": [1, "2"]}), "eos_token_id"),
        (json!({"bos_token_id": [1, 2]}), "bos_token_id"),
        (json!({"bos_token_id": "a"}), "bos_token_id"),
    ] {
        let message = error_of(config);
        assert!(message.starts_with(&format!("config key `{key}` must be ")), "{message}");
    }
    assert!(error_of(json!([1])).contains("JSON object"));
}

#[test]
fn special_ids_outside_the_vocabulary_are_not_used() {
    let config = Gpt2Config::from_json(r#"{"vocab_size": 100, "eos_token_id": [7]}"#).unwrap();
    assert_eq!((config.bos_token_id, config.bos_id()), (Some(50256), None));
    assert_eq!((config.eos_token_id, config.eos_id()), (Some(7), Some(7)));
}

#[test]
fn a_list_of_eos_ids_is_kept() {
    let config = Gpt2Config::from_json(r#"{"vocab_size": 100, "eos_token_id": [300, 7, 5, 7]}"#).unwrap();
    assert_eq!((config.eos_token_id, &config.more_eos_token_ids), (Some(300), &vec![7, 5]));
    assert_eq!((config.eos_id(), config.eos_ids().collect::<Vec<_>>()), (Some(7), vec![7, 5]));
    let written: serde_json::Value = serde_json::from_str(&config.to_json()).unwrap();
    assert_eq!(written["eos_token_id"], json!([300, 7, 5]));
    let none = Gpt2Config::from_json(r#"{"eos_token_id": []}"#).unwrap();
    assert_eq!(none.eos_id(), None);
}

#[test]
fn writing_and_reading_keeps_every_key() {
    let text = std::fs::read_to_string(crate::common::fixture("gpt2/plain/config.json")).unwrap();
    let config = Gpt2Config::from_json(&text).unwrap();
    assert_eq!(Gpt2Config::from_json(&config.to_json()).unwrap(), config);
    let (before, after): (Value, Value) =
        (serde_json::from_str(&text).unwrap(), serde_json::from_str(&config.to_json()).unwrap());
    assert_eq!(after, before);
    let odd = json!({"task_specific_params": {"a": [1, 2]}, "my_key": "kept"});
    let config = Gpt2Config::from_json(&odd.to_string()).unwrap();
    assert_eq!(config.unknown_keys(), ["my_key"]);
    assert_eq!(config.extra["my_key"], "kept");
    assert!(config.to_json().contains("task_specific_params"));
}

#[test]
fn every_fixture_is_understood() {
    for name in ["plain", "gelu_exact", "inverse_layer_inner", "untied_relu", "silu"] {
        let config =
            Gpt2Config::from_file(&crate::common::fixture(&format!("gpt2/{name}/config.json"))).unwrap();
        assert!(config.unknown_keys().is_empty(), "{name}: {:?}", config.unknown_keys());
    }
}

#[test]
fn a_damaged_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    let error = Gpt2Config::from_file(&path).unwrap_err().to_string();
    assert!(error.starts_with("cannot read `") && error.contains("config.json"), "{error}");
    std::fs::write(&path, "{\"n_embd\": 768,").unwrap();
    let error = Gpt2Config::from_file(&path).unwrap_err().to_string();
    assert!(error.contains("config.json") && error.contains("line 1"), "{error}");
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(Gpt2Config::from_file(&path).unwrap_err().to_string().contains("utf-8"));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    /// Any value under any key is understood or refused.
    #[test]
    fn no_value_makes_it_panic(
        changes in proptest::collection::vec((proptest::prelude::any::<proptest::sample::Index>(), 0usize..12), 1..4),
    ) {
        let mut config: Value = serde_json::from_str(&Gpt2Config::gpt2_small().to_json()).unwrap();
        let values = [
            Value::Null, json!(0), json!(-1), json!(1), json!(u64::MAX), json!(1u64 << 33), json!(1e300), json!(-0.5), json!(""), json!([]),
            json!({"type": "linear", "rope_type": "llama3", "factor": 0}), json!(true),
        ];
        let keys: Vec<String> = config.as_object().unwrap().keys().cloned().collect();
        for (key, value) in changes {
            config[key.get(&keys).as_str()] = values[value].clone();
        }
        if let Ok(config) = Gpt2Config::from_json(&config.to_string()) {
            let _ = (config.to_json(), config.parameter_count());
        }
    }
}
