//! The exported folder: names, metadata, files, and what is refused.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::path::Path;

use crate::common::{assert_same, fixture, random, tiny, values};
use candle_core::{DType, Device};
use mixce_gpt2::{FAMILY, Gpt2Config};
use mixce_lm::export::{DataFacts, ExportRequest, NameStyle, TrainingFacts, export};
use mixce_lm::params::Parameters;
use mixce_lm::{Error, ModelConfig, Tokenizer, checkpoint};
use safetensors::SafeTensors;
use serde_json::Value;

fn facts() -> TrainingFacts {
    TrainingFacts {
        base_model: Some("openai-community/gpt2@main".to_owned()),
        objective: Some("mixce".to_owned()),
        eta: Some(0.1),
        data: vec![DataFacts {
            role: "train".to_owned(),
            name: "we|ird.txt".to_owned(),
            documents: Some(10),
            tokens: Some(1234),
        }],
        steps: Some(99),
        dev_nll_nats: Some(2.0),
        seed: Some(42),
    }
}

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

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn a_tied_model_has_the_names_of_transformers() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("runs/model");
    let (config, facts) = (tiny(), facts());
    let parameters = random(&config);
    export(&out, &request(&config, &parameters, &facts)).unwrap();
    let bytes = fs::read(out.join("model.safetensors")).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
    let stored = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(stored.len(), parameters.len());
    assert!(stored.names().iter().all(|name| name.starts_with("transformer.")));
    for (name, tensor) in parameters.iter() {
        let view = stored.tensor(&format!("transformer.{name}")).unwrap();
        assert_eq!((view.shape(), view.dtype()), (tensor.dims(), safetensors::Dtype::F32));
        let want: Vec<u8> = values(tensor).iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(view.data(), want, "{name}");
    }
    let loaded = checkpoint::load(&out, &[&FAMILY], &Device::Cpu).unwrap();
    assert_same(&loaded.parameters, &parameters);
    let written = json(&out.join("config.json"));
    assert_eq!(written["architectures"], serde_json::json!(["GPT2LMHeadModel"]));
    assert_eq!((&written["model_type"], &written["dtype"]), (&Value::from("gpt2"), &Value::from("float32")));
    let generation = json(&out.join("generation_config.json"));
    assert_eq!(generation["eos_token_id"], 12);
    assert_eq!(fs::read_dir(out.parent().unwrap()).unwrap().count(), 1, "temporary folders are gone");
}

/// The keys that `save_pretrained` of transformers wrote for the fixtures are the keys written here.
#[test]
fn keys_equal_those_that_transformers_wrote() {
    for name in ["plain", "untied_relu"] {
        let source = fixture(&format!("gpt2/{name}"));
        let loaded = checkpoint::load(&source, &[&FAMILY], &Device::Cpu).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let facts = TrainingFacts::default();
        export(&dir.path().join("out"), &request(&*loaded.config, &loaded.parameters, &facts)).unwrap();
        let keys = |path: &Path| -> Vec<(String, Vec<usize>)> {
            checkpoint::list(path).unwrap().into_iter().map(|tensor| (tensor.name, tensor.shape)).collect()
        };
        assert_eq!(keys(&dir.path().join("out")), keys(&source), "{name}");
    }
}

#[test]
fn an_untied_head_is_written_without_prefix() {
    let config = Gpt2Config { tie_word_embeddings: false, ..tiny() };
    let (parameters, facts) = (random(&config), facts());
    for names in [NameStyle::HuggingFace, NameStyle::Published] {
        let dir = tempfile::tempdir().unwrap();
        // An empty folder may be taken over.
        export(dir.path(), &ExportRequest { names, ..request(&config, &parameters, &facts) }).unwrap();
        let stored: Vec<String> =
            checkpoint::list(dir.path()).unwrap().into_iter().map(|tensor| tensor.name).collect();
        assert!(stored.contains(&"lm_head.weight".to_owned()));
        assert_eq!(stored.contains(&"transformer.wte.weight".to_owned()), names == NameStyle::HuggingFace);
        assert_eq!(stored.contains(&"wte.weight".to_owned()), names == NameStyle::Published);
        assert_same(&checkpoint::load(dir.path(), &[&FAMILY], &Device::Cpu).unwrap().parameters, &parameters);
    }
}

#[test]
fn half_precision_is_rounded_once() {
    let (config, facts) = (tiny(), facts());
    let parameters = random(&config);
    for (dtype, name) in [(DType::BF16, "bfloat16"), (DType::F16, "float16")] {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        export(&out, &ExportRequest { dtype, ..request(&config, &parameters, &facts) }).unwrap();
        let rounded =
            parameters.try_map(|_, tensor| Ok(tensor.to_dtype(dtype)?.to_dtype(DType::F32)?)).unwrap();
        assert_same(&checkpoint::load(&out, &[&FAMILY], &Device::Cpu).unwrap().parameters, &rounded);
        assert_eq!(json(&out.join("config.json"))["dtype"], name);
    }
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    assert!(
        export(&out, &ExportRequest { dtype: DType::U8, ..request(&config, &parameters, &facts) }).is_err()
    );
    assert!(!out.exists() && fs::read_dir(dir.path()).unwrap().next().is_none(), "nothing is left behind");
}

#[test]
fn an_occupied_folder_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("precious"), "1").unwrap();
    let (config, facts) = (tiny(), facts());
    let parameters = random(&config);
    let error = export(dir.path(), &request(&config, &parameters, &facts)).unwrap_err();
    assert!(matches!(error, Error::NotEmpty { .. }), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    let file = dir.path().join("precious");
    let error = export(&file, &request(&config, &parameters, &facts)).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "1");
}

#[test]
fn parameters_of_another_model_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (config, facts) = (tiny(), facts());
    let parameters = random(&Gpt2Config { n_layer: 1, ..tiny() });
    let error = export(&dir.path().join("out"), &request(&config, &parameters, &facts)).unwrap_err();
    assert!(matches!(error, Error::TensorMismatch { .. }), "{error}");
    assert!(fs::read_dir(dir.path()).unwrap().next().is_none());
}

#[test]
fn the_tokenizer_travels_with_the_model() {
    let tokenizer = Tokenizer::from_dir(&fixture("tokenizer")).unwrap();
    // The default special ids, 50256, lie outside of this vocabulary.
    let config = Gpt2Config {
        vocab_size: tokenizer.vocab_size(),
        bos_token_id: Some(50256),
        eos_token_id: Some(50256),
        ..tiny()
    };
    let (parameters, facts) = (random(&config), facts());
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    export(&out, &ExportRequest { tokenizer: Some(&tokenizer), ..request(&config, &parameters, &facts) })
        .unwrap();
    for name in ["tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json"] {
        let (copy, source) =
            (fs::read(out.join(name)).unwrap(), fs::read(fixture("tokenizer").join(name)).unwrap());
        assert_eq!(copy, source, "{name}");
    }
    assert_eq!(json(&out.join("special_tokens_map.json"))["eos_token"], "<|endoftext|>");
    assert_eq!(json(&out.join("config.json"))["eos_token_id"], tokenizer.eos_id().unwrap());
    assert_eq!(Tokenizer::from_dir(&out).unwrap().fingerprint().unwrap(), tokenizer.fingerprint().unwrap());
    // The configuration's own ends stay, behind the one that training appends.
    let config = Gpt2Config { eos_token_id: Some(3), more_eos_token_ids: vec![4], ..config };
    let out = dir.path().join("ends");
    export(&out, &ExportRequest { tokenizer: Some(&tokenizer), ..request(&config, &parameters, &facts) })
        .unwrap();
    for name in ["config.json", "generation_config.json"] {
        assert_eq!(json(&out.join(name))["eos_token_id"], serde_json::json!([376, 3, 4]), "{name}");
    }
    assert_eq!(mixce_lm::stop_ids(&out, &tokenizer, 377).unwrap(), [376, 3, 4]);
}

#[test]
fn the_card_tells_the_facts() {
    let dir = tempfile::tempdir().unwrap();
    let (config, mut facts) = (tiny(), facts());
    let parameters = random(&config);
    export(&dir.path().join("hub"), &request(&config, &parameters, &facts)).unwrap();
    let card = fs::read_to_string(dir.path().join("hub/README.md")).unwrap();
    assert!(card.starts_with("---\nlibrary_name: transformers\n"));
    assert!(card.contains("\nbase_model: openai-community/gpt2\n"));
    for row in [
        "| objective | mixce |",
        "| eta | 0.1 |",
        "| seed | 42 |",
        "perplexity | 7.389 |",
        "| train | we\\|ird.txt | 10 | 1234 |",
    ] {
        assert!(card.contains(row), "{row} in {card}");
    }
    facts.base_model = Some("./local folder".to_owned());
    export(&dir.path().join("local"), &request(&config, &parameters, &facts)).unwrap();
    let card = fs::read_to_string(dir.path().join("local/README.md")).unwrap();
    assert!(!card.contains("base_model:") && card.contains("| base model | ./local folder |"));
}
