//! Configuration files of version 0.1.0, from before the registry of objectives, are read, and their keys are still written.

use super::TrainConfig;
use crate::checkpoint::TrainState;

const RUN_TOML: &str = r#"model = "openai-community/gpt2@607a30d783dfa663caf39e06633721c8d4cfcd7e"
train = "train.txt"
valid = "valid.txt"
skip_bad_rows = 0
out = "runs/first"
objective = "tailr"
gamma = 0.0000001
min_weight = 0.2
epochs = 5
max_steps = 11
batch_size = 4
grad_accum = 2
max_length = 60
block_size = 0
confine_attention = false
add_bos = false
no_shuffle = false
lr = 0.003
scheduler = "constant"
warmup_steps = 0
weight_decay = 0.0
clip_grad_norm = 0.0
betas = [0.9, 0.999]
adam_epsilon = 0.00000001
dropout = 0.1
precision = "f32"
activation_checkpointing = false
eval_every = "epoch"
save_every = 3
keep_last = 2
select = "nll"
log_every = 1
seed = 42
device = "auto"
"#;

const PROVENANCE: &str = r#"
[provenance]
version = "0.1.0"
git_commit = "913081d"
device = "cpu"
threads = 2
platform = "linux x86_64"
"#;

const STATE_JSON: &str = r#"{
  "version": 1,
  "step": 6,
  "position": {
    "epoch": 0,
    "step_in_epoch": 6
  },
  "best": null,
  "evaluations_without_improvement": 0,
  "evaluation_due": false,
  "train_fingerprint": "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef",
  "valid_fingerprint": null,
  "total_steps": 6,
  "config": {
    "model": "model",
    "train": "train.txt",
    "skip_bad_rows": 0,
    "out": "run",
    "objective": "mixce",
    "eta": 0.1,
    "epochs": 5,
    "max_steps": 6,
    "batch_size": 4,
    "grad_accum": 2,
    "max_length": 60,
    "block_size": 0,
    "confine_attention": false,
    "add_bos": false,
    "no_shuffle": false,
    "lr": 0.003,
    "scheduler": "constant",
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "clip_grad_norm": 0.0,
    "betas": [
      0.9,
      0.999
    ],
    "adam_epsilon": 1e-8,
    "dropout": 0.1,
    "precision": "f32",
    "activation_checkpointing": false,
    "eval_every": "epoch",
    "save_every": 3,
    "keep_last": 2,
    "select": "nll",
    "log_every": 1,
    "seed": 42,
    "device": "auto"
  }
}"#;

#[test]
fn run_toml_is_read_and_written_as_before() {
    let text = format!("{RUN_TOML}{PROVENANCE}");
    let config = TrainConfig::from_toml_str(&text, "run.toml".as_ref()).unwrap();
    assert_eq!(config.objective_config(), "tailr:gamma=1e-7,min_weight=0.2".parse().unwrap());
    assert_eq!(config.resolved(), config);
    let written = config.to_toml().unwrap();
    for line in RUN_TOML.lines() {
        assert!(written.lines().any(|now| now == line), "`{line}` is not in\n{written}");
    }
}

#[test]
fn state_json_is_read_and_written_as_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.json");
    std::fs::write(&path, STATE_JSON).unwrap();
    let state = TrainState::read(&path).unwrap();
    assert_eq!(state.config.objective_config(), "mixce:eta=0.1".parse().unwrap());
    let written = serde_json::to_string_pretty(&state).unwrap();
    for line in STATE_JSON.lines() {
        assert!(written.lines().any(|now| now == line), "`{line}` is not in\n{written}");
    }

    let same =
        |config: &TrainConfig| state.require_same_run(&path, &config.resolved(), &state.train_fingerprint);
    same(&state.config).unwrap();
    let mut other = state.config.clone();
    other.set_objective("mixce:eta=0.1".parse().unwrap());
    same(&other).unwrap();
    other.set_objective("mixce:eta=0.2".parse().unwrap());
    assert!(same(&other).unwrap_err().to_string().contains("`eta` was 0.1 and is 0.2 now"));
}
