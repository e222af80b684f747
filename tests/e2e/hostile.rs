//! Files from strangers: one error that names them, no crash, no hang, nothing that a terminal obeys.
#![cfg(unix)]

use std::os::unix::fs::symlink;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{SMALL, World, fixtures};

fn pipe(world: &World, name: &str) {
    let made = Command::new("mkfifo").arg(world.path(name)).status().unwrap();
    assert!(made.success());
}

/// A model whose tokenizer is read as its `tokenizer.json` says, changed.
fn model_with(world: &World, change: impl FnOnce(&mut Value)) {
    let mut json: Value =
        serde_json::from_slice(&std::fs::read(fixtures().join("tokenizer/tokenizer.json")).unwrap()).unwrap();
    change(&mut json);
    world.write("model/tokenizer.json", json.to_string());
    world.write(
        "model/tokenizer_config.json",
        r#"{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}"#,
    );
    for name in ["vocab.json", "merges.txt", "special_tokens_map.json"] {
        let _ = std::fs::remove_file(world.path("model").join(name));
    }
}

/// The file, the field and what is wrong, with status 2 and no panic.
#[test]
fn a_tokenizer_that_would_crash_is_refused() {
    let world = World::new();
    let replace =
        |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
    let bomb: Vec<Value> = (0..31).map(|_| replace("e", "ee")).collect();
    for (pointer, value, words) in [
        (
            "/normalizer",
            json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
            "`normalizer.precompiled_charsmap` is damaged",
        ),
        ("/normalizer", replace("", "x"), "`normalizer.pattern` is empty"),
        ("/normalizer", json!({"type": "Sequence", "normalizers": bomb}), "the normalizer makes more than"),
        ("/pre_tokenizer", json!({"type": "FixedLength", "length": 0}), "`pre_tokenizer.length` is 0"),
        ("/model/vocab/!", json!(1u64 << 31), "the impossible id 2147483648"),
    ] {
        model_with(&world, |json| *json.pointer_mut(pointer).unwrap() = value);
        world.run("generate --model model --prompt e").refused(&["model/tokenizer.json", words]);
    }
}

/// BPE-dropout would make every encoding, and so every score, another one.
#[test]
fn dropout_in_a_tokenizer_is_not_applied() {
    let world = World::new();
    model_with(&world, |_| {});
    let plain = world.run("evaluate --model model --data valid.txt --json").row();
    model_with(&world, |json| json["model"]["dropout"] = 0.5.into());
    let outcome = world.run("evaluate --model model --data valid.txt --json").success();
    assert!(
        outcome.stderr.contains("`model.dropout` = 0.5 of tokenizer.json is not applied"),
        "{}",
        outcome.stderr
    );
    let row = outcome.row();
    for key in ["tokens", "nll"] {
        assert_eq!(row.get(key), plain.get(key), "{row}");
    }
}

#[test]
fn pipes_and_devices_are_not_waited_for() {
    let world = World::new();
    for name in ["config.json", "model.safetensors"] {
        world.model("bad", &crate::support::small_config());
        std::fs::remove_file(world.path("bad").join(name)).unwrap();
        pipe(&world, &format!("bad/{name}"));
        world.run("generate --model bad --prompt water").refused(&[name, "a named pipe"]);
        std::fs::remove_file(world.path("bad").join(name)).unwrap();
        symlink("/dev/zero", world.path("bad").join(name)).unwrap();
        world.run("generate --model bad --prompt water").refused(&[name, "a device"]);
        std::fs::remove_dir_all(world.path("bad")).unwrap();
    }
    world.run("train --config /dev/zero").refused(&["/dev/zero", "at most 16777216 bytes"]);
    world.run("generate --model model --prompts /dev/zero").refused(&["/dev/zero", "device"]);
    world
        .run("train --model model --train /dev/zero --valid valid.txt --out run")
        .refused(&["/dev/zero", "device"]);
    world
        .run("synthetic --transitions /dev/zero --out run")
        .refused(&["/dev/zero", "more than 536870912 bytes"]);
}

/// Names in files that set a terminal's title, hide text and reverse it.
const EVIL: &str = "a\u{1b}]0;PWN\u{7}\u{1b}[31m\u{9b}2J\u{202e}";

fn shows_nothing_obeyed(text: &str) {
    let obeyed = text
        .chars()
        .find(|c| (c.is_control() && *c != '\n' && *c != '\t') || matches!(c, '\u{202a}'..='\u{202e}'));
    assert_eq!(obeyed, None, "{text:?}");
}

#[test]
fn names_in_files_do_not_reach_the_terminal_as_they_are() {
    let world = World::new();
    world.write("evil.csv", format!("{EVIL},b\nx,y\n"));
    world.write("evil.jsonl", format!("{}\n", json!({EVIL: 1, "b": 2})));
    world.write(&format!("{EVIL}.csv"), "text\nx\n\"y\n");
    world.write("evil.txt", format!("{EVIL}\n").repeat(3));
    for line in [
        "inspect evil.csv".to_owned(),
        "inspect evil.csv --json".to_owned(),
        "inspect evil.jsonl".to_owned(),
        format!("inspect {EVIL}.csv"),
        "train --model model --train evil.csv --valid valid.txt --out run".to_owned(),
        "train --model model --train train.txt --valid valid.txt --text-column nowhere --out run".to_owned(),
        "train --model model --train evil.jsonl --valid valid.txt --out run".to_owned(),
    ] {
        let outcome = world.run(&line);
        shows_nothing_obeyed(&outcome.stdout);
        shows_nothing_obeyed(&outcome.stderr);
    }
    let told = world.run("train --model model --train evil.csv --valid valid.txt --out run");
    told.refused(&[r"a\u{1b}]0;PWN\u{7}\u{1b}[31m\u{9b}2J\u{202e}"]);
    // JSON's own escapes: the name is still the name.
    let row = world.run("inspect {fixtures}/gpt2/plain/model.safetensors --json").row();
    assert!(row["tensors"].is_array());
    let row = world.run(&format!("inspect {EVIL}.csv --json --skip-bad-rows 1"));
    if row.status == Some(0) {
        assert!(row.row().to_string().contains("PWN"));
    }
}

/// What is written for a pipe or file is not changed.
#[test]
fn texts_that_are_the_result_are_written_as_they_are() {
    let world = World::new();
    world.write("evil.txt", format!("{EVIL} x\n"));
    let outcome = world.run("data detokenize evil.txt").success();
    assert!(outcome.stdout.contains('\u{1b}'), "{:?}", outcome.stdout);
}

#[test]
fn a_document_that_is_too_long_is_named() {
    let world = World::new();
    world.write("long.txt", format!("the mill\n{}\nthe river\n", "x".repeat((16 << 20) + 1)));
    world.run(&format!("train --model model --train long.txt --valid valid.txt --out run {SMALL}")).refused(
        &["`long.txt` line 2", "16777217 bytes of text without spaces between words", "at most 16 MiB"],
    );
}

/// A link at a name that is known in advance is not written through.
#[test]
fn a_planted_link_is_not_followed() {
    let world = World::new();
    world.write("victim", "precious");
    std::fs::create_dir(world.path("out")).unwrap();
    for name in [".p.jsonl.partial", ".p.jsonl.tmp", ".dev.sample.jsonl.partial"] {
        symlink(world.path("victim"), world.path("out").join(name)).unwrap();
    }
    world.run("generate --model model --prompt water --out out/p.jsonl").success();
    assert_eq!(world.text("victim"), "precious");
    assert!(std::fs::symlink_metadata(world.path("out/p.jsonl")).unwrap().is_file());
    world
        .run("generate --model model --documents valid.txt --name dev --prompt-length 3 --max-length 40 --out out")
        .refused(&[".dev.sample.jsonl.partial", "expected a regular file"]);
    assert_eq!(world.text("victim"), "precious");
}

/// Like any new file, whatever the umask.
#[test]
fn outputs_and_checkpoints_follow_the_umask() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::new();
    let train =
        format!("train --model model --train train.txt --valid valid.txt --out run --max-steps 2 {SMALL}");
    for line in [train.as_str(), "generate --model model --prompt water --out p.jsonl"] {
        let command = world.command(line);
        let mut shell = Command::new("sh");
        shell
            .args(["-c", "umask 027; exec \"$0\" \"$@\""])
            .arg(command.get_program())
            .args(command.get_args());
        shell.current_dir(world.path(".")).env_clear().env("HOME", world.path("home"));
        let output = shell.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let mut folders = vec![world.path("run")];
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&world.path("p.jsonl")), 0o640);
    while let Some(folder) = folders.pop() {
        assert_eq!(mode(&folder), 0o750, "{}", folder.display());
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                assert_eq!(mode(&path), 0o640, "{}", path.display());
            }
        }
    }
}
