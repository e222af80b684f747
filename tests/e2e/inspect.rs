//! Inspecting files and folders.

use crate::support::{SMALL, World};

#[test]
fn checkpoints_of_every_format_are_listed() {
    let world = World::new();
    for (format, tensors) in
        [("sharded", 28), ("bin_legacy", 0), ("bin_transformer", 0), ("safetensors_bf16", 28)]
    {
        let row = world.run(&format!("inspect {{fixtures}}/gpt2/formats/{format} --json")).row();
        assert_eq!(row["kind"], "checkpoint");
        assert!(row["tensors"].as_array().unwrap().len() >= tensors.min(1), "{row}");
        assert!(row["config"]["n_layer"].is_u64(), "{row}");
    }
    let row = world.run("inspect model --json").row();
    assert_eq!((&row["parameters"], &row["vocabulary"]), (&13_648.into(), &377.into()));
    assert_eq!(
        row["tensors"][0],
        serde_json::json!({"name": "transformer.h.0.attn.c_attn.bias", "dtype": "f32", "shape": [48]})
    );
    let text = world.run("inspect model/model.safetensors").success().stdout;
    assert!(text.contains("28 tensors, 13 648 numbers, 54.6 kB"), "{text}");
}

#[test]
fn what_is_left_out_and_added_is_named() {
    let world = World::new();
    let row = world.run("inspect {fixtures}/gpt2/formats/pt_nanogpt --json").row();
    assert_eq!(
        (&row["reading"]["dictionary"], &row["reading"]["transposed"]),
        (&"model".into(), &true.into())
    );
    assert_eq!(row["reading"]["left_out"][0], "best_val_loss");
    assert!(row["problem"].is_null(), "{row}");
    let text = world.run("inspect {fixtures}/gpt2/formats/pt_nanogpt").success().stdout;
    for words in [
        "optimizer.state.0.exp_avg",
        "the model is the dictionary `model`",
        "names are read without `_orig_mod.`",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let row = world.run("inspect {fixtures}/gpt2/formats/pt_nanogpt/ckpt.pt --json").row();
    assert!(row["tensors"].as_array().unwrap().iter().any(|tensor| tensor["dictionary"] == "model"), "{row}");
    let row = world.run("inspect {fixtures}/gpt2/formats/pt_two_models --json").row();
    assert!(
        row["problem"].as_str().unwrap().contains("`ema.shadow`, `model`") && row["reading"].is_null(),
        "{row}"
    );

    world.write("model/tokenizer_config.json", r#"{"add_bos_token": true, "pad_token": "[PAD]"}"#);
    let row = world.run("inspect model --json").row();
    let tokenizer = &row["tokenizer"];
    assert_eq!((&tokenizer["class"], &tokenizer["eos"]), (&"GPT2Tokenizer".into(), &376.into()));
    assert_eq!(
        tokenizer["added_tokens"][1],
        serde_json::json!({"id": 377, "content": "[PAD]", "special": true})
    );
    assert!(
        tokenizer["notes"][0].as_str().unwrap().starts_with("texts begin with BOS, `<|endoftext|>`"),
        "{row}"
    );
    let text = world.run("inspect model").success().stdout;
    assert!(
        text.contains("378 tokens, read as a GPT2Tokenizer; added tokens: `<|endoftext|>` 376, `[PAD]` 377"),
        "{text}"
    );
}

#[test]
fn runs_and_datasets_are_told_apart() {
    let world = World::new();
    world
        .run(&format!(
            "train --model model --train train.txt --valid valid.txt --out run --max-steps 3 {SMALL}"
        ))
        .success();
    let row = world.run("inspect run --json").row();
    assert_eq!((&row["kind"], &row["last_step"]["step"]), (&"run".into(), &3.into()));
    assert_eq!(row["models"], serde_json::json!(["run/best", "run/final"]));
    let row = world.run("inspect run/best --json").row();
    assert_eq!(row["provenance"]["version"], env!("CARGO_PKG_VERSION"));
    assert!(row["run"].as_str().unwrap().ends_with("/run"), "{row}");
    let text = world.run("inspect run/best").success().stdout;
    assert!(text.contains("/run, made by mixce "), "{text}");
    assert!(world.run("inspect model --json").row()["run"].is_null());
    let row = world.run("inspect train.txt --tokenizer model --json").row();
    assert_eq!((&row["kind"], &row["documents"], &row["empty"]), (&"dataset".into(), &64.into(), &0.into()));
    assert!(row["tokens"].as_u64() > row["words"].as_u64(), "{row}");
    world.run("inspect nothing").refused(&["there is no `nothing`"]);
}

#[test]
fn a_data_file_shows_how_its_bytes_were_read() {
    let world = World::new();
    let wide = |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };
    world.write("data/wide.txt", wide("\u{feff}the river\r\nthe mill\r\n"));
    world.write("data/plain.txt", "water\rwheel\rstone");
    world.write("data/.hidden.txt", "no");
    let row = world.run("inspect data --json").row();
    assert_eq!(
        (&row["kind"], &row["documents"], &row["format"]),
        (&"dataset".into(), &5.into(), &"text".into())
    );
    assert_eq!(row["unused"][0]["reason"], "hidden");
    let [plain, wide] = [0, 1].map(|at| row["decoding"][at].clone());
    assert_eq!((&plain["encoding"], &plain["line_ends"]["cr"]), (&"UTF-8".into(), &2.into()));
    assert_eq!((&wide["encoding"], &wide["line_ends"]["crlf"]), (&"UTF-16LE".into(), &2.into()));
    assert_eq!(wide["byte_order_mark"], true);
    let shown = world.run("inspect data").success();
    assert!(shown.stdout.contains("UTF-16LE with mark"), "{}", shown.stdout);
    assert!(shown.stdout.contains("not read: `data/.hidden.txt` (hidden)"), "{}", shown.stdout);
    assert!(
        shown.stderr.contains("2 files are read, these are not: `data/.hidden.txt` (hidden)"),
        "{}",
        shown.stderr
    );
    world.write("mail.txt.zip", b"PK\x03\x04\x14\0\0\0\x08\0mail.txt");
    world.run("inspect mail.txt.zip").refused(&["is a zip archive", "hint: ", "`unzip mail.txt.zip"]);
}

#[test]
fn damage_is_found_by_verifying_and_by_loading() {
    let world = World::new();
    world
        .run(&format!(
            "train --model model --train train.txt --valid valid.txt --out run --max-steps 2 {SMALL}"
        ))
        .success();
    let row = world.run("inspect run --verify --json").row();
    let verified = row["verified"].as_array().unwrap();
    assert_eq!(verified.len(), 3, "a checkpoint, the best model and the last: {row}");
    assert!(verified.iter().all(|file| file["checksum"] == "sha256"), "{row}");
    assert!(world.run("inspect run --json").row()["verified"].is_null());
    let text = world.run("inspect {fixtures}/gpt2/formats/bin_transformer --verify").success().stdout;
    assert!(text.contains("weight files verified: 1 by CRC32"), "{text}");
    let text = world.run("inspect {fixtures}/gpt2/formats/sharded --verify").success().stdout;
    assert!(text.contains("3 without a checksum"), "{text}");
    world.run("inspect train.txt --verify").refused(&["`--verify`", "`train.txt`"]);

    for (file, name) in
        [("run/best/model.safetensors", "run/best"), ("run/final/model.safetensors", "run/final")]
    {
        let mut bytes = world.read(file);
        let place = bytes.len() - 1001;
        bytes[place] ^= 1;
        world.write(file, bytes);
        let outcome = world.run(&format!("inspect {name} --verify"));
        assert_eq!(outcome.status, Some(1), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("is damaged: expected the SHA-256"), "{}", outcome.stderr);
        world.run(&format!("evaluate --model {name} --data valid.txt")).refused(&["is damaged", "hint: "]);
    }
    assert_eq!(world.run("inspect run --verify").status, Some(1));
    let optimizer = "run/checkpoints/step-00000002/optimizer.safetensors";
    let mut bytes = world.read(optimizer);
    *bytes.last_mut().unwrap() ^= 1;
    world.write(optimizer, bytes);
    let outcome = world.run("inspect run/checkpoints/step-00000002 --verify");
    assert_eq!(outcome.status, Some(1), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("`optimizer.safetensors`: expected SHA-256"), "{}", outcome.stderr);
}
