//! Sampling.

use serde_json::Value;

use crate::support::World;

fn prompts(world: &World) {
    world.write("prompts.txt", "the river\nold stone bridge\nwater\n");
}

#[test]
fn a_sample_depends_on_seed_and_index_but_not_on_the_batch() {
    let world = World::new();
    prompts(&world);
    let line = "generate --model model --prompts prompts.txt --num-samples 3 --max-new-tokens 12 --json";
    let samples = world.run(&format!("{line} --seed 3")).rows();
    assert_eq!(samples.len(), 9);
    for (index, sample) in samples.iter().enumerate() {
        assert_eq!(sample["index"], index);
        assert_eq!(sample["prompt"], ["the river", "old stone bridge", "water"][index / 3]);
        assert_eq!(sample["seed"], 3);
        let tokens = sample["tokens"].as_array().unwrap().len();
        match sample["finish"].as_str() {
            Some("length") => assert_eq!(tokens, 12),
            Some("eos") => assert!(tokens < 12),
            other => panic!("finish {other:?}"),
        }
    }
    assert_ne!(samples[0]["tokens"], samples[1]["tokens"], "samples of one prompt differ");
    assert_eq!(samples, world.run(&format!("{line} --seed 3 --batch-size 2")).rows());
    assert_ne!(samples, world.run(&format!("{line} --seed 4")).rows());
}

#[test]
fn greedy_takes_the_most_likely_token_as_top_1_does() {
    let world = World::new();
    prompts(&world);
    let tokens = |flags: &str| -> Vec<Value> {
        let line = format!("generate --model model --prompts prompts.txt --max-new-tokens 9 --json {flags}");
        world.run(&line).rows().into_iter().map(|row| row["tokens"].clone()).collect()
    };
    let greedy = tokens("--greedy");
    assert_eq!(greedy, tokens("--greedy --seed 9"));
    assert_eq!(greedy, tokens("--top-k 1"));
    assert_eq!(greedy, tokens("--top-p 1e-9"));
    assert_eq!(greedy, tokens("--temperature 1e-4"));
    assert_ne!(greedy, tokens("--temperature 1"));
}

#[test]
fn prompts_are_cut_to_tokens_and_read_from_json() {
    let world = World::new();
    prompts(&world);
    world.write(
        "prompts.jsonl",
        "{\"prompt\":\"the river\"}\n{\"prompt\":\"old stone bridge\"}\n{\"prompt\":\"water\"}\n",
    );
    let of = |source: &str| {
        world.run(&format!("generate --model model {source} --max-new-tokens 5 --json")).rows()
    };
    assert_eq!(of("--prompts prompts.txt"), of("--prompts prompts.jsonl"));
    let cut = of("--prompts prompts.txt --prompt_length 1");
    assert_eq!(cut[0]["prompt"], "the");
    assert_eq!(cut[1]["prompt"], "o");
    let one = of("--prompt water");
    assert_eq!((one.len(), &one[0]["prompt"]), (1, &Value::from("water")));
    let free = of("--unconditional 4");
    assert!(free.len() == 4 && free.iter().all(|row| row["prompt"] == ""));
}

#[test]
fn text_is_a_line_a_sample_and_files_are_not_overwritten_unasked() {
    let world = World::new();
    prompts(&world);
    let line = "generate --model model --prompts prompts.txt --max-new-tokens 20 --num-samples 4";
    let text = world.run(line).success().stdout;
    assert_eq!(text.lines().count(), 12);
    assert!(text.lines().take(4).all(|sample| sample.starts_with("the river")), "{text}");
    world.run(&format!("{line} --out new/samples.txt")).success();
    assert_eq!(world.text("new/samples.txt"), text);
    world.run(&format!("{line} --out samples.jsonl")).success();
    assert_eq!(world.rows("samples.jsonl").len(), 12);
    let before = world.snapshot();
    world.run(&format!("{line} --out samples.jsonl")).refused(&["`samples.jsonl` exists", "--overwrite"]);
    assert!(world.snapshot() == before);
}

#[test]
fn settings_out_of_range_are_refused() {
    let world = World::new();
    prompts(&world);
    world.write("empty.txt", "");
    world.write("bad.txt", b"the river\nwat\xe9r\n");
    world.write("bad.jsonl", "{\"text\":\"the river\"}\n");
    world.write("long.txt", "water wheel ".repeat(60));
    for (flags, words) in [
        ("--prompt water --temperature 0", ["temperature", "above 0"]),
        ("--prompt water --top-p 1.5", ["top_p", "(0, 1]"]),
        ("--prompt water --top-k 0", ["top_k", "at least 1"]),
        ("--prompt water --num-samples 0", ["`--num-samples`", "at least 1"]),
        ("--prompts empty.txt", ["`empty.txt`", "empty"]),
        ("--prompts bad.txt", ["`bad.txt` line 2, byte 4", "UTF-8"]),
        ("--prompts bad.jsonl", ["`bad.jsonl` line 1", "`prompt`"]),
        ("--prompts long.txt", ["`long.txt` line 1", "--prompt-length"]),
    ] {
        world.run(&format!("generate --model model {flags}")).refused(&words);
    }
    world.run("generate --model model").refused(&["--prompts", "--prompt", "--unconditional"]);
}

#[test]
fn blank_prompts_are_left_out_and_counted() {
    let world = World::new();
    world.write("prompts.txt", "the river\n\n \t\nold stone bridge\n");
    world.write("same.txt", "the river\nold stone bridge\n");
    let of =
        |file: &str| world.run(&format!("generate --model model --prompts {file} --max-new-tokens 5 --json"));
    let outcome = of("prompts.txt").success();
    assert!(
        outcome.stderr.contains("`prompts.txt`: 2 blank prompts are skipped, the first at line 2"),
        "{}",
        outcome.stderr
    );
    assert_eq!(outcome.stdout, of("same.txt").success().stdout);
    world.write("blank.txt", "\n \n");
    of("blank.txt").refused(&["`blank.txt` contains no prompt: all 2 are blank", "--unconditional"]);
}
