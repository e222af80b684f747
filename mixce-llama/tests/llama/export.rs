//! The exported folder.

use crate::common::{CONFIGURATIONS, assert_same, fixture, json, random, tiny};
use candle_core::{DType, Device};
use mixce_llama::{FAMILY, LlamaConfig};
use mixce_lm::export::{ExportRequest, NameStyle, TrainingFacts, export, model_card};
use mixce_lm::{ModelConfig, Parameters, Tokenizer, checkpoint};
use serde_json::json;

fn request<'a>(
    config: &'a dyn ModelConfig,
    parameters: &'a Parameters,
    facts: &'a TrainingFacts,
) -> ExportRequest<'a> {
    ExportRequest {
        config,
        parameters,
        tokenizer: None,
        facts,
        names: NameStyle::HuggingFace,
        dtype: DType::F32,
    }
}

/// Tensor names and configuration keys of an export are those that `save_pretrained` wrote.
#[test]
fn an_export_is_what_transformers_wrote() {
    let facts = TrainingFacts::default();
    for name in CONFIGURATIONS {
        let source = fixture("llama").join(name);
        let loaded = checkpoint::load(&source, &[&FAMILY], &Device::Cpu).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        export(&out, &request(&*loaded.config, &loaded.parameters, &facts)).unwrap();
        let names = |path| -> Vec<_> {
            checkpoint::list(path).unwrap().into_iter().map(|tensor| (tensor.name, tensor.shape)).collect()
        };
        assert_eq!(names(&out), names(&source), "{name}");
        let again = checkpoint::load(&out, &[&FAMILY], &Device::Cpu).unwrap();
        assert_same(&again.parameters, &loaded.parameters);
        let (ours, theirs) = (json(&out.join("config.json")), json(&source.join("config.json")));
        let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&ours), keys(&theirs), "{name}");
        assert_eq!(ours["architectures"], theirs["architectures"], "{name}");
        assert_eq!(json(&out.join("generation_config.json"))["eos_token_id"], 60);
    }
}

#[test]
fn old_keys_are_written_by_their_new_names() {
    let keys = json!({"model_type": "llama", "vocab_size": 13, "hidden_size": 8, "intermediate_size": 12,
        "num_hidden_layers": 1, "num_attention_heads": 2, "rope_theta": 5.0, "torch_dtype": "bfloat16",
        "rope_scaling": {"type": "linear", "factor": 2.0}, "_name_or_path": "somewhere"});
    let config = LlamaConfig::from_json(&keys.to_string()).unwrap();
    let (parameters, facts, dir) = (random(&config), TrainingFacts::default(), tempfile::tempdir().unwrap());
    let out = dir.path().join("out");
    export(&out, &request(&config, &parameters, &facts)).unwrap();
    let written = json(&out.join("config.json"));
    assert_eq!(written["rope_parameters"], json!({"rope_type": "linear", "rope_theta": 5.0, "factor": 2.0}));
    assert_eq!((&written["dtype"], &written["head_dim"]), (&json!("float32"), &json!(4)));
    for old in ["rope_theta", "rope_scaling", "torch_dtype", "_name_or_path"] {
        assert!(written.get(old).is_none(), "{old}");
    }
}

#[test]
fn the_tokenizers_end_comes_first() {
    let tokenizer = Tokenizer::from_dir(&fixture("tokenizer")).unwrap();
    let config = LlamaConfig {
        vocab_size: tokenizer.vocab_size(),
        eos_token_id: Some(3),
        more_eos_token_ids: vec![4],
        bos_token_id: Some(5000),
        ..tiny("llama")
    };
    let (parameters, facts, dir) = (random(&config), TrainingFacts::default(), tempfile::tempdir().unwrap());
    let out = dir.path().join("out");
    let request = ExportRequest { tokenizer: Some(&tokenizer), ..request(&config, &parameters, &facts) };
    export(&out, &request).unwrap();
    let written = json(&out.join("config.json"));
    assert_eq!((&written["eos_token_id"], &written["bos_token_id"]), (&json!([376, 3, 4]), &json!(376)));
}

/// The card's tag is what the hub calls the architecture, not its family.
#[test]
fn the_card_names_the_architecture() {
    for (model_type, name) in [("llama", "Llama"), ("qwen3", "Qwen3")] {
        let card = model_card(&tiny(model_type), &TrainingFacts::default());
        assert!(card.contains(&format!("tags:\n- {model_type}\n- mixce\n")), "{card}");
        assert!(card.contains(&format!("# A {name} language model")), "{card}");
    }
}
