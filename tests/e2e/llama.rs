//! A model of the Llama family in the place of GPT-2: every command that takes one.

use mixce_llama::LlamaConfig;
use serde_json::json;

use crate::server::HubServer;
use crate::support::{SMALL, World, number, without_times};

/// A tiny Qwen3 for the fixtures' tokenizer: shared heads, norms of heads, a window in the second layer.
fn config() -> LlamaConfig {
    let keys = json!({"model_type": "qwen3", "vocab_size": 377, "max_position_embeddings": 64, "hidden_size": 16,
        "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4,
        "tie_word_embeddings": true, "use_sliding_window": true, "sliding_window": 9, "max_window_layers": 1,
        "initializer_range": 0.3, "bos_token_id": 376, "eos_token_id": 376});
    LlamaConfig::from_json(&keys.to_string()).unwrap()
}

#[test]
fn it_trains_resumes_and_is_evaluated() {
    let world = World::of(&config());
    let train = |flags: &str| {
        let line = format!(
            "train --model model --train train.txt --valid valid.txt {SMALL} --dropout 0.1 --json {flags}"
        );
        world.run(&line).rows()
    };
    let rows = train("--out run --epochs 3");
    let steps: Vec<f64> =
        rows.iter().filter(|row| row.get("loss").is_some()).map(|row| number(row, "nll")).collect();
    assert_eq!(steps.len(), 24);
    let mean = |steps: &[f64]| steps.iter().sum::<f64>() / steps.len() as f64;
    assert!(mean(&steps[16..]) < mean(&steps[..8]) - 0.3, "the loss falls: {steps:?}");
    let kept = world.run("evaluate --model run --data valid.txt --max-length 60 --json").row();
    let reported = number(&rows[rows.len() - 1]["best"], "valid_nll");
    assert!((number(&kept, "nll") - reported).abs() < 1e-6);

    train("--out whole --max-steps 6 --scheduler constant --activation-checkpointing");
    train("--out parts --max-steps 3 --scheduler constant --activation-checkpointing");
    train("--out parts --max-steps 6 --scheduler constant --activation-checkpointing --resume auto");
    let metrics = |name: &str| without_times(world.rows(&format!("{name}/metrics.jsonl")));
    assert_eq!(metrics("parts").last(), metrics("whole").last());
    assert!(world.read("parts/final/model.safetensors") == world.read("whole/final/model.safetensors"));
}

#[test]
fn it_writes_scores_and_is_exported() {
    let world = World::of(&config());
    let line = "generate --model model --prompts valid.txt --prompt-length 3 --max-new-tokens 20 --out samples.jsonl";
    world.run(line).success();
    let samples = world.rows("samples.jsonl");
    assert_eq!(samples.len(), 12);
    assert!(samples.iter().all(|row| !row["tokens"].as_array().unwrap().is_empty()));
    let line = "score --human valid.txt --model-text samples.jsonl --featurizer model --metrics mauve,diversity --json --mauve-seeds 2";
    let score = world.run(line).success().stdout;
    assert!(score.contains("mauve"), "{score}");
    world.run("generate --model model --documents valid.txt --prompt-length 3 --max-length 40 --num-samples 1 --out s").success();
    let line = "nll-histogram --model model --human s/valid.human.jsonl --generated s/valid.sample.jsonl --max-length 60 --bins 5 --json";
    world.run(line).row();

    world.run("export --model model --out hf --dtype bf16").success();
    let bytes = world.read("hf/model.safetensors");
    let stored = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert!(stored.names().contains(&"model.layers.1.self_attn.k_norm.weight"), "{:?}", stored.names());
    let config: serde_json::Value = serde_json::from_str(&world.text("hf/config.json")).unwrap();
    assert_eq!(
        (&config["architectures"], &config["model_type"], &config["dtype"]),
        (&json!(["Qwen3ForCausalLM"]), &json!("qwen3"), &json!("bfloat16"))
    );
    assert!(world.text("hf/README.md").contains("# A Qwen3 language model"));
    let nll = |model: &str| {
        number(&world.run(&format!("evaluate --model {model} --data valid.txt --json")).row(), "nll")
    };
    assert!((nll("hf") - nll("model")).abs() < 0.05);
}

#[test]
fn it_is_inspected_planned_and_measured() {
    let world = World::of(&config());
    let text = world.run("inspect model").success().stdout;
    assert!(text.contains("Qwen3: 2 layers, 16 channels, 4 heads (2 of keys and values) of 4"), "{text}");
    assert!(!text.contains("names are read without"), "{text}");
    let plan = world.run("plan --model config.json --max-length 60 --gflops 1 --json").row();
    assert_eq!(number(&plan, "parameters"), config().parameter_count() as f64);
    let published = world.run("plan --model SmolLM2-135M --gflops 1 --json").row();
    assert_eq!(published["parameters"], 134_515_008);
    let line = "--model-config config.json --batch-size 2 --steps 1 --warmup 0 --gflops 1 --json";
    world.run(&format!("bench train {line} --seq-len 16")).row();
    world.run(&format!("bench forward {line} --seq-len 16")).row();
    world.run(&format!("bench generate {line} --prompt-len 12 --new-tokens 9")).row();
    world.write(
        "odd.json",
        config().to_json().replace("\"rope_type\": \"default\"", "\"rope_type\": \"yarn\""),
    );
    world.run("plan --model odd.json").refused(&["rope_parameters.rope_type", "yarn", "`llama3`"]);
}

/// A tokenizer that puts BOS before every text: training, evaluation and prompts do so, and say it.
#[test]
fn the_convention_of_its_tokenizer_is_honoured_and_said() {
    let world = World::of(&config());
    world.write(
        "model/tokenizer_config.json",
        r#"{"tokenizer_class": "GPT2Tokenizer", "add_bos_token": true}"#,
    );
    let evaluate = |flags: &str| {
        let outcome =
            world.run(&format!("evaluate --model model --data valid.txt --max-length 60 --json {flags}"));
        assert!(outcome.stderr.contains("texts begin with BOS, `<|endoftext|>`"), "{}", outcome.stderr);
        outcome.row()
    };
    let [asked, on, off] = ["", "--add-bos", "--add-bos=false"].map(evaluate);
    assert_eq!((&asked["settings"]["add_bos"], &off["settings"]["add_bos"]), (&json!(true), &json!(false)));
    assert_eq!(asked["nll"], on["nll"]);
    // With BOS the first token of each of the 12 documents is a target too.
    assert_eq!(number(&asked, "tokens"), number(&off, "tokens") + 12.0);
    let line = format!("train --model model --train train.txt --out run --max-steps 1 {SMALL}");
    world.run(&line).success();
    assert!(world.text("run/run.toml").contains("add_bos = true"));
    let tokens = |tokenizer: &str| {
        let line =
            format!("generate --model model {tokenizer} --prompt the --max-new-tokens 8 --greedy --json");
        world.run(&line).row()["tokens"].clone()
    };
    assert_ne!(tokens(""), tokens("--tokenizer {tokenizer}"), "the prompt begins otherwise");
    let counted = |tokenizer: &str| {
        let view = world.run(&format!("inspect valid.txt --tokenizer {tokenizer} --json")).row();
        number(&view["lengths"]["tokens"], "mean")
    };
    assert!(
        (counted("model") - counted("{tokenizer}") - 1.0).abs() < 1e-9,
        "documents are counted as training reads them"
    );
}

#[test]
fn it_is_pushed_and_loads_from_the_hub() {
    let (world, server) = (World::of(&config()), HubServer::start());
    let token = [("HF_TOKEN", "hf_right")];
    world.run_at(&server, "push model me/qwen --json", &token).row();
    let files = server.branch("me/qwen", "main");
    let card = String::from_utf8(files["README.md"].1.clone()).unwrap();
    assert!(
        card.contains("# A Qwen3 language model") && card.contains("pipeline_tag: text-generation"),
        "{card}"
    );
    let nll = |model: &str| {
        let line = format!("evaluate --model {model} --data valid.txt --json");
        number(&world.run_at(&server, &line, &token).row(), "nll")
    };
    assert_eq!(nll("me/qwen").to_bits(), nll("model").to_bits());
}
