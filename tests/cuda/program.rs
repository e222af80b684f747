//! Compares the program on CUDA with the program on the CPU.

use std::fs;
use std::path::Path;
use std::process::Command;

use mixce_llama::LlamaConfig;
use serde_json::{Value, json};

use crate::support::{Outcome, SMALL, World, number};

/// The program with the libraries of the test's own process.
pub(super) fn command(world: &World, line: &str) -> Command {
    let mut command = world.command(line);
    for variable in ["LD_LIBRARY_PATH", "LD_PRELOAD", "ASAN_OPTIONS"] {
        if let Some(value) = std::env::var_os(variable) {
            command.env(variable, value);
        }
    }
    command
}

/// Runs the program; counts of the emulated driver go to `statistics`.
fn run(world: &World, line: &str, statistics: Option<&Path>) -> Outcome {
    let mut command = command(world, line);
    command.envs(statistics.map(|path| ("EMULATED_CUDA_STATISTICS", path)));
    Outcome::of(command.output().unwrap(), line)
}

/// The rows of steps in `metrics.jsonl` of a run.
fn steps(world: &World, run: &str) -> Vec<Value> {
    let mut rows = world.rows(&format!("{run}/metrics.jsonl"));
    rows.retain(|row| row.get("loss").is_some());
    rows
}

/// Both devices compute the same in another order, so that numbers differ by rounding, more from step to step.
const ROUNDING: f64 = 1e-4;

fn assert_same_steps(cuda: &[Value], cpu: &[Value], tolerance: f64) {
    assert_eq!(cuda.len(), cpu.len());
    for (cuda, cpu) in cuda.iter().zip(cpu) {
        for key in ["loss", "nll", "grad_norm"] {
            let (got, want) = (number(cuda, key), number(cpu, key));
            assert!((got - want).abs() <= tolerance * want.abs(), "`{key}`: CUDA {cuda}, CPU {cpu}");
        }
    }
}

fn train(world: &World, device: &str, out: &str, flags: &str) {
    let line = format!(
        "train --model model --train train.txt --valid valid.txt --out {out} --device {device} --scheduler constant {SMALL} {flags}"
    );
    run(world, &line, None).success();
}

#[test]
fn ten_steps_of_training_give_the_losses_of_the_cpu() {
    let world = World::new();
    for device in ["cpu", "cuda"] {
        train(&world, device, device, "--max-steps 10 --dropout 0.1");
    }
    train(&world, "cuda", "bf16", "--max-steps 10 --dropout 0.1 --precision bf16");
    let [cpu, cuda, bf16] = ["cpu", "cuda", "bf16"].map(|run| steps(&world, run));
    assert_eq!(cuda.len(), 10);
    assert_same_steps(&cuda, &cpu, ROUNDING);
    // Operands with 8 bits.
    assert_same_steps(&bf16, &cpu, 0.03);
    assert_ne!(number(&bf16[9], "loss"), number(&cuda[9], "loss"));
}

/// A tiny model of the Llama family for the fixtures' tokenizer: shared heads of keys and values, heads wider than the channels, a
/// window where its architecture has one.
fn llama(model_type: &str) -> LlamaConfig {
    let window = match model_type {
        "llama" => json!({}),
        "mistral" => json!({"sliding_window": 7}),
        _ => json!({"use_sliding_window": true, "sliding_window": 9, "max_window_layers": 1}),
    };
    let mut keys = json!({"model_type": model_type, "vocab_size": 377, "max_position_embeddings": 64, "hidden_size": 16,
        "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6,
        "tie_word_embeddings": true, "initializer_range": 0.3, "bos_token_id": 376, "eos_token_id": 376});
    keys.as_object_mut().unwrap().extend(window.as_object().unwrap().clone());
    LlamaConfig::from_json(&keys.to_string()).unwrap()
}

#[test]
fn steps_of_the_llama_family_give_the_losses_of_the_cpu_and_what_it_writes() {
    // Ten take minutes on the emulated driver.
    let count = if std::env::var_os("EMULATED_CUDA_SAMPLE").is_some() { 3 } else { 10 };
    let flags = format!("--max-steps {count} --dropout 0.1");
    for model_type in ["llama", "mistral", "qwen2", "qwen3"] {
        let world = World::of(&llama(model_type));
        for device in ["cpu", "cuda"] {
            train(&world, device, device, &flags);
        }
        train(&world, "cuda", "bf16", &format!("{flags} --precision bf16"));
        let [cpu, cuda, bf16] = ["cpu", "cuda", "bf16"].map(|run| steps(&world, run));
        assert_eq!(cuda.len(), count);
        assert_same_steps(&cuda, &cpu, ROUNDING);
        assert_same_steps(&bf16, &cpu, 0.03);
        assert_ne!(number(&bf16[count - 1], "loss"), number(&cuda[count - 1], "loss"));

        world.write("prompts.txt", "the river\nold stone bridge\nwater\n");
        let of = |device: &str| {
            let generate = "generate --model model --prompts prompts.txt --max-new-tokens 12 --seed 3 --num-samples 2 --json";
            let evaluate = "evaluate --model model --data valid.txt --max-length 60 --json";
            let samples = run(&world, &format!("{generate} --device {device}"), None).rows();
            let nll = run(&world, &format!("{evaluate} --device {device}"), None).row();
            (samples, number(&nll, "nll"))
        };
        let ((got, nll), (want, want_nll)) = (of("cuda"), of("cpu"));
        assert_eq!(got, want, "{model_type}");
        assert!((nll - want_nll).abs() <= 1e-5 * want_nll, "{model_type}: CUDA {nll}, CPU {want_nll}");
    }
}

#[test]
fn a_run_goes_from_the_cpu_to_cuda_and_back() {
    let world = World::new();
    train(&world, "cpu", "whole", "--max-steps 6 --save-every 2");
    for (device, end) in [("cpu", 2), ("cuda", 4), ("cpu", 6)] {
        train(&world, device, "parts", &format!("--max-steps {end} --save-every 2 --resume auto"));
    }
    assert_same_steps(&steps(&world, "parts"), &steps(&world, "whole"), ROUNDING);
}

#[test]
fn sampling_gives_the_tokens_of_the_cpu() {
    let world = World::new();
    world.write("prompts.txt", "the river\nold stone bridge\nwater\n");
    for flags in [
        "--greedy",
        "--seed 3 --num-samples 4",
        "--seed 5 --top-p 0.8 --batch-size 2",
        "--seed 6 --top-k 30 --temperature 1.3",
    ] {
        let of = |device: &str| {
            let line = format!(
                "generate --model model --prompts prompts.txt --max-new-tokens 12 --device {device} --json {flags}"
            );
            run(&world, &line, None).rows()
        };
        assert_eq!(of("cuda"), of("cpu"), "{flags}");
    }
    let bf16 = |threads: usize| {
        let line = format!(
            "generate --model model --prompts prompts.txt --max-new-tokens 12 --device cuda --precision bf16 --json --threads {threads}"
        );
        run(&world, &line, None).rows()
    };
    let rows = bf16(1);
    assert!(rows.len() == 3 && rows.iter().all(|row| row["tokens"].is_array()), "{rows:?}");
    assert_eq!(bf16(4), rows);
}

#[test]
fn evaluating_gives_the_likelihood_of_the_cpu() {
    let world = World::new();
    let of = |device: &str| {
        let line =
            format!("evaluate --model model --data valid.txt --max-length 60 --device {device} --json");
        number(&run(&world, &line, None).row(), "nll")
    };
    let (cuda, cpu) = (of("cuda"), of("cpu"));
    assert!((cuda - cpu).abs() <= 1e-5 * cpu, "CUDA {cuda}, CPU {cpu}");
    let rounded = of("cuda --precision bf16");
    assert!(rounded != cuda && (rounded - cpu).abs() <= 3e-3 * cpu, "in bf16 {rounded}, CPU {cpu}");
}

/// Features in bf16 are not taken from the cache of those in f32.
#[test]
fn features_are_computed_in_the_precision_asked_for() {
    let world = World::new();
    let of = |precision: &str| {
        let line = format!(
            "score --human valid.txt --model-text train.txt --metrics mauve --featurizer model --max-length 20 \
             --resamples 0 --mauve-buckets 4 --device cuda --precision {precision} --json"
        );
        let row = run(&world, &line, None).row();
        assert_eq!(row["settings"]["featurizer"]["precision"], precision);
    };
    of("f32");
    let folder = world.path("home/.cache/mixce/features");
    let cached = || fs::read_dir(&folder).unwrap().count();
    let of_f32 = cached();
    of("bf16");
    assert_eq!(cached(), 2 * of_f32);
}

/// The quickstart's corpus, tokenizer and base model, finetuned with its settings: by MLE and by MixCE.
#[test]
fn the_quickstarts_training_gives_the_losses_of_the_cpu() {
    let world = World::new();
    let quickstart = "quickstart --texts 100 --base-steps 3 --steps 1 --samples 4 --device cpu --out first";
    run(&world, quickstart, None).success();
    let few: String =
        world.text("first/corpus/valid.txt").lines().take(10).map(|line| format!("{line}\n")).collect();
    world.write("few.txt", few);
    for (objective, flags) in [("mle", ""), ("mixce", "--eta 0.3")] {
        let out = |device: &str| format!("{objective}-{device}");
        for device in ["cpu", "cuda"] {
            let line = format!(
                "train --model first/base/final --train first/corpus/train.txt --valid few.txt --objective {objective} {flags} \
                 --max-steps 3 --batch-size 16 --grad-accum 1 --max-length 64 --add-bos --dropout 0 --clip-grad-norm 1 \
                 --lr 1e-3 --log-every 1 --device {device} --out {}",
                out(device)
            );
            run(&world, &line, None).success();
        }
        assert_eq!(steps(&world, &out("cuda")).len(), 3);
        assert_same_steps(&steps(&world, &out("cuda")), &steps(&world, &out("cpu")), ROUNDING);
    }
}

#[test]
fn the_doctor_compares_every_operation_with_the_cpu() {
    let world = World::new();
    let report = run(&world, "doctor --device cuda --parity --json", None).row();
    assert_eq!(report["device"], "cuda:0");
    let gpu = &report["gpu"];
    assert!(
        number(gpu, "memory_bytes") > 1e6 && gpu["compute_capability"].as_str().unwrap().contains('.'),
        "{gpu}"
    );
    assert!(gpu["name"].is_string() && gpu["cuda_version"].is_string(), "{gpu}");
    assert!(
        gpu["epilogues"].as_array().unwrap().iter().all(|name| name == "bias" || name == "gelu"),
        "{gpu}"
    );
    assert_eq!(report["not_checked"], serde_json::json!([]));
    let checks = report["checks"].as_array().unwrap();
    assert!(checks.iter().all(|check| check["holds"] == true), "{report}");
    let compared = |check: &&Value| check["against"] == "the CPU" || check.get("speed").is_some();
    let names: Vec<&str> =
        checks.iter().filter(compared).map(|check| check["name"].as_str().unwrap()).collect();
    let wanted = [
        "layer norm",
        "GELU (tanh)",
        "GELU",
        "ReLU",
        "SiLU",
        "linear",
        "dropout",
        "residual dropout",
        "embedding",
        "attention",
        "LM head and MixCE",
        "norm and linear",
        "linear and residual",
        "MLP",
        "RMS norm",
        "token embedding",
        "attention with shared keys and a window",
        "norm and linear maps without biases",
        "gated MLP",
        "rotary embedding",
        "rotary embedding with norms of heads",
        "shared attention over a cache",
        "attention over a cache",
        "gradient norm",
        "AdamW",
        "training",
        "training in bf16",
        "training of a Qwen3",
        "training of a Qwen3 in bf16",
        "sampling",
        "sampling from a Qwen3",
        "decoding in bf16",
        "decoding of a Qwen3 in bf16",
        "speed of training",
    ];
    assert!(wanted.iter().all(|name| names.contains(name)), "{names:?}");
    let speed = &checks.iter().find(|check| check["name"] == "speed of training").unwrap()["speed"];
    assert!(number(speed, "tokens_per_s") > 0.0 && speed["matmul_peak_share"].is_null(), "{speed}");

    // On the CPU the same command says what it cannot check.
    let report = run(&world, "doctor --device cpu --parity --json", None).row();
    assert_eq!(report["not_checked"].as_array().unwrap().len(), 4, "{report}");
}

#[test]
fn training_scoring_and_sampling_are_measured() {
    let world = World::new();
    let tiny =
        "--model-config config.json --batch-size 2 --steps 2 --warmup 1 --gflops 9 --device cuda --json";
    let lines = [
        format!("bench train {tiny} --seq-len 16"),
        format!("bench forward {tiny} --seq-len 16"),
        format!("bench forward {tiny} --seq-len 16 --precision bf16"),
        format!("bench generate {tiny} --prompt-len 5 --new-tokens 6"),
        format!("bench generate {tiny} --prompt-len 5 --new-tokens 6 --precision bf16"),
    ];
    for (line, tokens) in lines.iter().zip([32, 32, 32, 12, 12]) {
        let row = run(&world, line, None).row();
        assert_eq!(
            (&row["device"], &row["tokens"]),
            (&"cuda:0".into(), &serde_json::json!([tokens, tokens]))
        );
        let share = number(&row, "gflops") / number(&row, "matmul_peak_gflops");
        assert!(share > 0.0 && (number(&row, "matmul_peak_share") - share).abs() < 1e-9, "{row}");
        // Memory of the device, not of the process: the parameters are there, and little else.
        let (peak, parameters) = (number(&row, "peak_device_bytes"), 4.0 * number(&row, "parameters"));
        assert!(peak > parameters && peak < 10.0 * parameters + 1e6, "{row}");
    }
}

/// The cost of one more step: the difference between two runs. `None` on a GPU, which has no counters.
#[test]
fn a_step_leaks_no_device_memory_and_is_counted() {
    let world = World::new();
    let count = |steps: u32| -> Option<Value> {
        let file = world.path(&format!("statistics-{steps}.json"));
        let line = format!(
            "train --model model --train train.txt --out run-{steps} --device cuda --max-steps {steps} --scheduler constant {SMALL}"
        );
        run(&world, &line, Some(&file)).success();
        file.exists().then(|| world.rows(&format!("statistics-{steps}.json")).remove(0))
    };
    let (Some(two), Some(three)) = (count(2), count(3)) else { return };
    let more = |key: &str| number(&three, key) - number(&two, key);
    let more_calls = |key: &str| number(&three[key], "calls") - number(&two[key], "calls");
    println!(
        "one step: {} launches, {} copies to the device, {} back, {} synchronisations",
        more("launches"),
        more_calls("host_to_device"),
        more_calls("device_to_host"),
        more("synchronisations")
    );
    assert!(more("launches") > 0.0 && more_calls("host_to_device") > 0.0);
    assert_eq!(more("memory_bytes"), 0.0, "{three}");
    assert_eq!(more_calls("allocations"), more("frees"), "{three}");
}
