//! Estimates of memory and time.

use crate::support::{World, number};

#[test]
fn memory_and_time_are_planned_without_a_download_or_a_device() {
    let world = World::new();
    let before = world.snapshot();
    let line = "plan --model gpt2 --batch-size 8 --max-length 512 --device cuda --gflops 15000 --share 0.5 --tokens 1000000";
    let row = world.run(&format!("{line} --json")).row();
    assert_eq!((&row["parameters"], &row["device"]), (&124_439_808.into(), &"cuda".into()));
    assert_eq!((&row["tokens_per_microbatch"], &row["tokens_per_step"]), (&4088.into(), &32_704.into()));
    let memory = &row["memory"];
    assert_eq!((&memory["parameters"], &memory["moments"]), (&497_759_232.into(), &995_518_464.into()));
    // 12 layers that save 10 C numbers of 4 bytes per token.
    assert_eq!(memory["activations"], 4 * 4088 * 12 * 10 * 768);
    let state = 4.0 * number(memory, "parameters");
    let largest = number(memory, "lm_head").max(number(memory, "block"));
    assert_eq!(number(memory, "peak"), state + number(memory, "activations") + largest);
    let time = &row["time"];
    assert_eq!((&time["matmul_peak_gflops"], &time["measured"]), (&15000.0.into(), &false.into()));
    let rate = number(&row, "tokens_per_step") / number(&row, "gflop_per_step") * 15000.0;
    assert!((number(time, "tokens_per_s_at_most") / rate - 1.0).abs() < 1e-9, "{row}");
    assert!((number(time, "tokens_per_s") / rate - 0.5).abs() < 1e-9, "{row}");
    assert!((number(time, "hours") * 3600.0 * number(time, "tokens_per_s") - 1e6).abs() < 1.0, "{row}");

    // Activation checkpointing: less memory, more arithmetic.
    let less = world.run(&format!("{line} --activation-checkpointing --json")).row();
    assert!(number(&less["memory"], "peak") < 0.7 * number(memory, "peak"), "{less}");
    assert!(number(&less, "gflop_per_step") > 1.2 * number(&row, "gflop_per_step"), "{less}");
    // In bf16 CUDA saves 8 of those 10 C numbers in 2 bytes, and the dropout of attention: of 12 heads, for two queries 17 words of 32 keys.
    let half = world.run(&format!("{line} --precision bf16 --json")).row();
    assert_eq!(
        (&half["precision"], &half["memory"]["activations"]),
        (&"bf16".into(), &(12 * (24 * 4088 * 768 + 12 * 4 * 4088 / 2 * 17)).into())
    );
    let text = world.run(line).success().stdout;
    for words in ["about 4.4 GB on cuda", "an assumption", "as given", "1 000 000 tokens"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(world.snapshot() == before);
}

#[test]
fn a_dry_run_and_the_plan_say_the_same() {
    let world = World::new();
    let flags = "--model model --batch-size 4 --max-length 12";
    let plan = world.run(&format!("plan {flags} --gflops 1 --json")).row();
    let dry = world.run(&format!("train {flags} --train train.txt --out run --dry-run --json")).row();
    assert_eq!(dry["train"]["longest"], 12, "{dry}");
    assert_eq!((&plan["memory"], &plan["parameters"]), (&dry["memory"], &dry["parameters"]));
    assert_eq!(plan["tokens_per_microbatch"], dry["longest_microbatch_tokens"]);
    let file = world.run("plan --model config.json --batch-size 4 --max-length 12 --gflops 1 --json").row();
    assert_eq!(file["memory"], plan["memory"]);
}

#[test]
fn a_roofline_names_the_parts_of_a_step() {
    let world = World::new();
    let line = "plan --model gpt2 --batch-size 8 --max-length 513 --precision bf16 --device h100 --roofline";
    let row = world.run(&format!("{line} --json")).row();
    assert_eq!(row["device"]["name"], "h100");
    let parts = row["parts"].as_array().unwrap();
    let sum: f64 = parts.iter().map(|part| number(part, "ms")).sum();
    assert!((sum / number(&row, "step_ms") - 1.0).abs() < 1e-9, "{row}");
    assert!((number(&row, "tokens_per_s") * sum / 1e3 / 4096.0 - 1.0).abs() < 1e-9, "{row}");
    // The LM head's forward product: 2 N V C.
    let head = parts.iter().find(|part| part["name"] == "LM head, forward").unwrap();
    assert_eq!(number(head, "flops"), 2.0 * 4096.0 * 50_257.0 * 768.0);
    assert!(number(head, "bytes") > 0.0 && number(&row, "mfu") < 1.0);
    let text = world.run(line).success().stdout;
    for words in ["H100 SXM", "not measured", "attention", "tokens/s"] {
        assert!(text.contains(words), "{words}: {text}");
    }

    world.run("plan --model gpt2 --roofline").refused(&["`--roofline`", "`h100`", "`rtx4090`", "got `auto`"]);
    world.run(&format!("{line} --gflops 1")).refused(&["--roofline", "--gflops"]);
    world.run("plan --model gpt2 --device h100").refused(&["`--device h100`", "hint: "]);
}

#[test]
fn the_peak_of_this_machine_is_measured() {
    let world = World::new();
    let row = world.run("plan --model config.json --max-length 16 --threads 1 --device cpu --json").row();
    assert_eq!((&row["device"], &row["time"]["measured"]), (&"cpu".into(), &true.into()));
    assert!(number(&row["time"], "matmul_peak_gflops") > 0.0 && number(&row["time"], "tokens_per_s") > 0.0);
    assert!(row["time"]["hours"].is_null());
}

#[test]
fn what_cannot_be_planned_is_refused() {
    let world = World::new();
    let refused = |flags: &str, words: &[&str]| {
        world.run(&format!("plan --gflops 1 {flags}")).refused(words);
    };
    refused("--model gpt3", &["`--model`", "`gpt3`", "`gpt2-xl`", "hint: "]);
    refused("--model config.json --max-length 100000", &["`--max-length 100000`", "positions", "hint: "]);
    refused("--model config.json --max-length 1", &["`--max-length`", "at least 2"]);
    refused("--model config.json --max-length 16 --batch-size 0", &["`--batch-size`", "at least 1"]);
    refused("--model config.json --max-length 16 --grad-accum 0", &["`--grad-accum`", "at least 1"]);
    refused("--model config.json --max-length 16 --share 1.5", &["`--share`", "1.5"]);
    for rate in ["0", "-3", "NaN"] {
        let line = format!("plan --model config.json --max-length 16 --gflops {rate}");
        world.run(&line).refused(&["`--gflops`", "positive"]);
    }
    // A batch that no machine holds is a large number, not a crash.
    let line = "plan --model gpt2-xl --batch-size 18446744073709551615 --gflops 1 --json";
    assert!(number(&world.run(line).row()["memory"], "peak") > 1e18);
}
