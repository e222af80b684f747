//! Bad input: one clear error, status 2, nothing overwritten.

use crate::support::{SMALL, World};

/// The commands that load a model.
const LOADERS: [&str; 4] = [
    "evaluate --model bad --data valid.txt",
    "generate --model bad --prompt water",
    "export --model bad --out exported",
    "train --model bad --train train.txt --valid valid.txt --out run --max-length 32",
];

fn all_refuse(world: &World, words: &[&str]) {
    let before = world.snapshot();
    for line in LOADERS {
        world.run(line).refused(words);
    }
    assert!(world.snapshot() == before, "something was written");
}

fn spoil(world: &World, change: impl FnOnce(&mut Vec<u8>)) {
    world.model("bad", &crate::support::small_config());
    let mut bytes = world.read("bad/model.safetensors");
    change(&mut bytes);
    world.write("bad/model.safetensors", bytes);
}

#[test]
fn absurd_counts_and_sizes_are_errors_and_not_allocations() {
    let world = World::new();
    for flags in ["--prompt a --num-samples 18446744073709551615", "--unconditional 1000000000000"] {
        world.run(&format!("generate --model model {flags}")).refused(&["expected at most", "got"]);
    }
    for (key, value) in [("n_positions", "2147483647"), ("n_layer", "4096"), ("vocab_size", "2147483647")] {
        let mut config: serde_json::Value = serde_json::from_str(&world.text("config.json")).unwrap();
        config[key] = value.parse::<u64>().unwrap().into();
        config["n_embd"] = 3072.into();
        world.write("absurd.json", config.to_string());
        world
            .run(
                "train --from-config absurd.json --tokenizer {tokenizer} --train train.txt --out runs/absurd",
            )
            .refused(&["absurd.json", "parameters"]);
    }
    assert!(!world.path("runs").exists());
}

#[cfg(unix)]
#[test]
fn an_output_that_is_not_a_file_is_not_replaced() {
    let world = World::new();
    world.write("real.txt", "precious");
    std::os::unix::fs::symlink(world.path("real.txt"), world.path("link")).unwrap();
    let before = world.snapshot();
    for flags in ["--out link --overwrite", "--out model --overwrite"] {
        world.run(&format!("generate --model model --prompt a {flags}")).refused(&["not a regular file"]);
    }
    world
        .run("evaluate --model model --data valid.txt --per-token link --overwrite")
        .refused(&["not a regular file"]);
    assert_eq!(world.snapshot(), before);
    assert!(world.path("link").is_symlink());
}

#[test]
fn a_truncated_weight_file() {
    let world = World::new();
    spoil(&world, |bytes| bytes.truncate(bytes.len() - 1000));
    all_refuse(&world, &["`bad/model.safetensors`"]);
}

#[test]
fn an_empty_weight_file() {
    let world = World::new();
    spoil(&world, Vec::clear);
    all_refuse(&world, &["`bad/model.safetensors`"]);
}

#[test]
fn a_header_longer_than_the_file() {
    let world = World::new();
    spoil(&world, |bytes| bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes()));
    all_refuse(&world, &["`bad/model.safetensors`"]);
}

#[test]
fn a_tensor_larger_than_the_file() {
    let world = World::new();
    spoil(&world, |bytes| {
        let header = br#"{"transformer.wte.weight":{"dtype":"F32","shape":[4000000000,4000000000],"data_offsets":[0,64000000000000000000]}}"#;
        let mut lying = (header.len() as u64).to_le_bytes().to_vec();
        lying.extend_from_slice(header);
        lying.extend_from_slice(&bytes[bytes.len() - 64..]);
        *bytes = lying;
    });
    all_refuse(&world, &["`bad/model.safetensors`"]);
}

#[test]
fn tensors_of_other_shapes() {
    let world = World::new();
    spoil(&world, |_| ());
    let config = world.text("bad/config.json").replace("\"n_embd\": 16", "\"n_embd\": 32");
    world.write("bad/config.json", config);
    all_refuse(&world, &["`transformer.wte.weight` expected [377, 32] got [377, 16]", "hint: "]);
}

#[test]
fn a_configuration_that_is_no_gpt2() {
    let world = World::new();
    spoil(&world, |_| ());
    let config = world.text("bad/config.json").replace("gelu_new", "swiglu");
    world.write("bad/config.json", config);
    all_refuse(&world, &["`bad/config.json`", "`activation_function`", "swiglu"]);
    world.write("bad/config.json", "");
    all_refuse(&world, &["`bad/config.json`"]);
}

#[test]
fn a_tokenizer_of_another_model() {
    let world = World::new();
    // 61 rows for 377 tokens: some ids are out of range.
    world.model("bad", &crate::support::small_config());
    for name in ["config.json", "model.safetensors"] {
        let bytes = std::fs::read(crate::support::fixtures().join("gpt2/plain").join(name)).unwrap();
        world.write(&format!("bad/{name}"), bytes);
    }
    let beyond = "316 of the tokenizer's tokens have no embedding in the model, which has 61";
    for line in [LOADERS[0], LOADERS[1], LOADERS[3]] {
        world.run(line).refused(&[beyond, "is outside the", "vocabulary of 61 tokens"]);
    }
    assert!(!world.path("run").exists());
}

#[test]
fn a_token_beyond_the_model_is_refused_where_it_occurs() {
    let world = World::new();
    world.model("padded", &crate::support::small_config());
    let config = r#"{"tokenizer_class": "GPT2Tokenizer", "pad_token": "[PAD]"}"#;
    world.write("padded/tokenizer_config.json", config);
    let beyond = "1 of the tokenizer's tokens have no embedding in the model, which has 377 (config key `vocab_size`); the first is `[PAD]`";
    let line = "evaluate --model padded --data DATA --json";
    let run = world.run(&line.replace("DATA", "valid.txt"));
    let plain = world.run("evaluate --model model --data valid.txt --json").row();
    assert!(run.stderr.contains(beyond), "{}", run.stderr);
    assert_eq!(run.row()["nll"], plain["nll"]);
    world.write("pads.txt", "the water\nthe [PAD] water\n");
    let refused = world.run(&line.replace("DATA", "pads.txt"));
    refused
        .refused(&["token id `377` in document 1 is outside the model's vocabulary of 377 tokens", "hint: "]);
    world.run("export --model padded --out exported").success();
    let row = world.run("inspect exported --json").row();
    assert_eq!((&row["vocabulary"], &row["config"]["vocab_size"]), (&378.into(), &377.into()));
}

#[test]
fn a_token_id_out_of_range() {
    let world = World::new();
    spoil(&world, |_| ());
    let tokenizer = world.text("bad/tokenizer.json").replace("\"id\": 376", "\"id\": 5000");
    let tokenizer = tokenizer.replace("\"<|endoftext|>\": 376", "\"<|endoftext|>\": 5000");
    assert!(tokenizer.contains("5000"));
    world.write("bad/tokenizer.json", tokenizer);
    // EOS ends every document.
    for line in [LOADERS[0], LOADERS[3]] {
        world
            .run(line)
            .refused(&["token id `5000` in document 0 is outside the model's vocabulary of 377 tokens"]);
    }
}

#[test]
fn a_model_without_a_tokenizer() {
    let world = World::new();
    spoil(&world, |_| ());
    for name in ["tokenizer.json", "vocab.json", "merges.txt"] {
        std::fs::remove_file(world.path("bad").join(name)).unwrap();
    }
    all_refuse(&world, &["no tokenizer in `bad`", "hint: "]);
}

#[test]
fn a_model_that_is_not_there() {
    let world = World::new();
    let before = world.snapshot();
    world.run("evaluate --model ./nowhere --data valid.txt").refused(&["`./nowhere`", "hint: "]);
    world.run("evaluate --model train.txt --data valid.txt").refused(&["`train.txt`", "it is a file"]);
    world.run("evaluate --model home --data valid.txt").refused(&["home"]);
    assert!(world.snapshot() == before);
}

/// Every way to read documents, with `bad.txt` in its place.
fn readers() -> [String; 3] {
    [
        "evaluate --model model --data bad.txt".to_owned(),
        format!("train --model model --train bad.txt --out run --max-steps 2 {SMALL}"),
        format!("train --model model --train train.txt --valid bad.txt --out run --max-steps 2 {SMALL}"),
    ]
}

fn data_refused(world: &World, words: &[&str]) {
    let before = world.snapshot();
    for line in readers() {
        world.run(&line).refused(words);
    }
    assert!(world.snapshot() == before, "something was written");
}

#[test]
fn an_empty_data_file() {
    let world = World::new();
    world.write("bad.txt", "");
    data_refused(&world, &["`bad.txt`", "no usable document"]);
    world.write("bad.txt", "\n\n  \n");
    data_refused(&world, &["`bad.txt`", "no usable document"]);
    std::fs::remove_file(world.path("bad.txt")).unwrap();
    data_refused(&world, &["cannot read `bad.txt`"]);
}

#[test]
fn text_that_is_not_utf_8() {
    let world = World::new();
    world.write("bad.txt", b"the river\nthe old m\xfchle\n");
    data_refused(&world, &["`bad.txt` line 2, byte 10", "UTF-8", "hint: "]);
}

#[test]
fn a_document_longer_than_the_context() {
    let world = World::new();
    world.write("bad.txt", format!("the river\n{}\n", "water wheel ".repeat(60)));
    let before = world.snapshot();
    world.run("evaluate --model model --data bad.txt --max-length 70").refused(&[
        "document 2 of `bad.txt`",
        "64 positions",
        "--max-length 65",
    ]);
    let line = "train --model model --train bad.txt --valid valid.txt --out run";
    world.run(&format!("{line} --max-length 65")).refused(&[
        "`--max-length 65`",
        "64 positions",
        "hint: use `--max-length 64`",
    ]);
    world.write("long.toml", "max_length = 65\n");
    world.run(&format!("{line} --config long.toml")).refused(&["`--max-length 65`", "64 positions"]);
    world.run(&format!("{line} --block-size 99")).refused(&["`--block-size 99`", "64 positions"]);
    std::fs::remove_file(world.path("long.toml")).unwrap();
    assert!(world.snapshot() == before);
    let cut = world.run("evaluate --model model --data bad.txt --max-length 65").success();
    assert!(cut.stderr.contains("1 documents were cut to 65 tokens"), "{}", cut.stderr);
}

#[test]
fn rows_that_are_no_documents() {
    let world = World::new();
    for (row, word) in
        [("{\"content\": \"x\"}", "`content`"), ("[1]", "array"), ("{", "JSON"), ("{\"text\": 3}", "number")]
    {
        world.write("bad.jsonl", format!("{{\"text\": \"the river\"}}\n{row}\n"));
        world.run("evaluate --model model --data bad.jsonl").refused(&["`bad.jsonl` line 2", word]);
    }
}

#[test]
fn an_eta_outside_its_range() {
    let world = World::new();
    let before = world.snapshot();
    for eta in ["-0.01", "1.01", "inf", "nan"] {
        let line = format!("train --model model --train train.txt --out run --eta {eta} {SMALL}");
        world.run(&line).refused(&["eta", "[0, 1]"]);
    }
    world.run("train --model model --train train.txt --out run --eta much").refused(&["--eta", "much"]);
    assert!(world.snapshot() == before);
}

#[test]
fn an_output_folder_that_holds_something() {
    let world = World::new();
    world.write("mine/thesis.tex", "dear");
    let before = world.snapshot();
    for (resume, problem) in [("", "is not empty"), ("--resume auto", "is not a run folder")] {
        let line = format!("train --model model --train train.txt --out mine {resume} {SMALL}");
        world.run(&line).refused(&[&format!("`mine` {problem}"), "`thesis.tex`", "hint: "]);
    }
    world.run("export --model model --out mine").refused(&["`mine`", "not empty"]);
    world.run("export --model model --out train.txt").refused(&["`train.txt`"]);
    assert!(world.snapshot() == before);
}

#[test]
fn a_device_that_this_build_does_not_have() {
    let world = World::new();
    if world.run("--version").stdout.contains("cuda") {
        return;
    }
    world
        .run("evaluate --model model --data valid.txt --device cuda")
        .refused(&["no CUDA support", "--features cuda"]);
    world.run("evaluate --model model --data valid.txt --device cuda:1").refused(&["no CUDA support"]);
}

#[test]
fn defaults_that_the_model_has_no_positions_for_are_fitted_and_told() {
    let world = World::new();
    world.write("long.txt", format!("the river\n{}\n", "water wheel ".repeat(60)));
    let fitted = |line: &str| {
        let outcome = world.run(line).success();
        assert_eq!(outcome.stderr.matches("`--max-length` is 64").count(), 1, "{}", outcome.stderr);
        outcome
    };
    let row = fitted("evaluate --model model --data long.txt --json").row();
    assert_eq!(row["settings"]["max_length"], 64);
    let row = fitted("nll-histogram --model model --human long.txt --generated train.txt --json").row();
    assert_eq!((&row["settings"]["max_length"], &row["human"]["cut"]), (&64.into(), &1.into()));
    let row = fitted("plan --model config.json --gflops 1 --json").row();
    assert_eq!(row["max_length"], 64);
    let line = "train --model model --train long.txt --valid valid.txt --max-steps 1 --out run";
    assert_eq!(fitted(&format!("{line} --dry-run --json")).row()["config"]["max_length"], 64);
    fitted(line);
    assert!(world.text("run/run.toml").contains("max_length = 64\n"));
    // The fitted length is the run's own from now on.
    let again = world.run(&format!("{line} --resume auto --max-steps 2").replacen("--max-steps 1 ", "", 1));
    again.success();
    let row = fitted(
        "generate --model model --documents long.txt --prompt-length 3 --num-samples 1 --out s --json",
    )
    .row();
    assert_eq!(row["settings"]["max_length"], 64);
    // A prompt of 50 tokens has no room in 40: both defaults give way to what was typed.
    let outcome = world
        .run("generate --model model --documents long.txt --max-length 40 --num-samples 1 --out t --json");
    assert!(outcome.stderr.contains("`--prompt-length` is 20"), "{}", outcome.stderr);
    assert_eq!(outcome.row()["settings"]["prompt_length"], 20);
    let bench = "--model-config config.json --batch-size 2 --steps 1 --warmup 0 --gflops 1 --json";
    for kind in ["train", "forward"] {
        let row = world.run(&format!("bench {kind} {bench}")).row();
        assert_eq!((&row["settings"]["seq_len"], &row["tokens"][0]), (&64.into(), &128.into()), "{row}");
    }
    let row = world.run(&format!("bench generate {bench}")).row();
    assert_eq!((&row["settings"]["prompt_len"], &row["settings"]["new_tokens"]), (&32.into(), &32.into()));
}

#[test]
fn flags_that_exclude_each_other_say_what_to_use_instead() {
    let world = World::new();
    world.run("generate --model model --documents valid.txt --out o --max-new-tokens 9").refused(&[
        "cannot be used with",
        "hint: with `--documents` the length of a sample is `--max-length`",
    ]);
    world
        .run("generate --model model --prompt water --max-length 9")
        .refused(&["--documents", "hint: the length of a prompt's continuation is `--max-new-tokens`"]);
}

/// Where the numbers of a tensor begin in a safetensors file.
fn data_of(bytes: &[u8], name: &str) -> usize {
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    8 + length + header[name]["data_offsets"][0].as_u64().unwrap() as usize
}

#[test]
fn weights_that_are_no_numbers_are_named_when_they_are_loaded() {
    const NAME: &str = "transformer.h.1.mlp.c_fc.weight";
    let world = World::new();
    for dtype in ["f32", "f16", "bf16"] {
        let folder = format!("sound-{dtype}");
        world.run(&format!("export --model model --out {folder} --dtype {dtype}")).success();
        let mut bytes = world.read(&format!("{folder}/model.safetensors"));
        // A file of another program, without a digest.
        let key = bytes.windows(12).position(|window| window == b"mixce_sha256").unwrap();
        bytes[key..key + 12].copy_from_slice(b"not_a_digest");
        let start = data_of(&bytes, NAME);
        let (size, hint) = match dtype {
            "f32" => (4, "diverged"),
            "f16" => (2, "65504"),
            _ => (2, "diverged"),
        };
        // The matrix is [16, 64]; its elements 70 and 1000 become infinite and NaN.
        for (place, number) in [(70, f32::INFINITY), (1000, f32::NAN)] {
            let at = start + place * size;
            match (dtype, number.is_nan()) {
                ("f32", _) => bytes[at..at + 4].copy_from_slice(&number.to_le_bytes()),
                ("f16", false) => bytes[at..at + 2].copy_from_slice(&0x7c00u16.to_le_bytes()),
                ("f16", true) => bytes[at..at + 2].copy_from_slice(&0x7e00u16.to_le_bytes()),
                (_, false) => bytes[at..at + 2].copy_from_slice(&0x7f80u16.to_le_bytes()),
                (_, true) => bytes[at..at + 2].copy_from_slice(&0x7fc0u16.to_le_bytes()),
            }
        }
        world.model("bad", &crate::support::small_config());
        world.write("bad/model.safetensors", bytes);
        all_refuse(
            &world,
            &[
                format!(
                    "`{NAME}` in `bad/model.safetensors` ({dtype}): 2 of 1024 values are NaN or infinite"
                )
                .as_str(),
                "the first is inf at [1, 6]",
                hint,
            ],
        );
        std::fs::remove_dir_all(world.path("bad")).unwrap();
    }
}
