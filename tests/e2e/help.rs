//! Help, version, completions, manual pages, doctor, pipes.

use std::process::Stdio;

use crate::support::{Outcome, World};

#[test]
fn help_teaches_and_goes_to_stdout() {
    let world = World::new();
    let text = world.run("--help").success().stdout;
    for command in [
        "train",
        "evaluate",
        "generate",
        "score",
        "report",
        "export",
        "inspect",
        "judge",
        "download",
        "bench",
        "doctor",
        "completions",
        "man",
    ] {
        assert!(text.contains(&format!("\n  {command} ")), "{command}: {text}");
        let text = world.run(&format!("{command} --help")).success().stdout;
        assert!(text.contains(&format!("mixce {command}")) && text.contains("Example: mixce "), "{text}");
    }
    let train = world.run("train --help").success().stdout;
    let train = train.split_whitespace().collect::<Vec<_>>().join(" "); // help is wrapped
    for words in [
        "[default: 5e-5]",
        "[default: 512, or the model's",
        "in [0, 1]",
        "Optimizer steps",
        "w = eta + (1 - eta) q;",
    ] {
        assert!(train.contains(words), "{words}: {train}");
    }
    assert!(!train.contains("per_device_train_batch_size"), "the authors' spellings are hidden");
    let version = world.run("--version").success().stdout;
    assert!(version.starts_with("mixce 0.") && version.contains("features: cpu"), "{version}");
}

#[test]
fn usage_errors_have_status_2_and_a_suggestion() {
    let world = World::new();
    world.run("trian").refused(&["train"]);
    world.run("train --learning-rat 3").refused(&["--learning-rat"]);
    world.run("train --objective mixe").refused(&["unknown objective `mixe`: expected one of", "`mixce`"]);
    assert_eq!(world.run("").status, Some(2));
}

#[test]
fn completions_and_manual_pages_are_written() {
    let world = World::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = world.run(&format!("completions {shell}")).success().stdout;
        assert!(
            script.contains("mixce")
                && (shell == "elvish" || shell == "powershell" || script.contains("trsft"))
        );
    }
    assert!(world.run("man").success().stdout.contains(".TH mixce 1"));
    world.run("man --out pages").success();
    assert!(world.text("pages/mixce-train.1").contains("grad\\-accum"));
}

#[test]
fn doctor_checks_the_arithmetic_and_hides_the_token() {
    let world = World::new();
    let output = world.command("doctor --json --threads 1").env("HF_TOKEN", "hf_secret").output().unwrap();
    let outcome = Outcome::of(output, "doctor");
    assert!(!outcome.stdout.contains("hf_secret") && !outcome.stderr.contains("hf_secret"));
    let row = outcome.row();
    assert_eq!(
        (&row["device"], &row["threads"], &row["hub"]["token"]),
        (&"cpu".into(), &1.into(), &true.into())
    );
    let checks = row["checks"].as_array().unwrap();
    assert!(checks.len() >= 8 && checks.iter().all(|check| check["holds"] == true), "{row}");
    assert_eq!(row["not_checked"].as_array().map(Vec::len), Some(0));
}

#[test]
fn doctor_says_what_it_cannot_check_without_a_gpu() {
    let world = World::new();
    let row = world.run("doctor --json --parity --device cpu").row();
    assert_eq!(row["not_checked"].as_array().map(Vec::len), Some(4), "{row}");
    assert!(world.run("doctor --parity --device cpu").success().stdout.contains("not checked"));
}

#[cfg(unix)]
#[test]
fn a_failed_check_has_status_1() {
    let world = World::new();
    // The cache would lie below a file.
    let output = world.command("doctor").env("HF_HUB_CACHE", world.path("train.txt")).output().unwrap();
    let outcome = Outcome::of(output, "doctor");
    assert_eq!(outcome.status, Some(1), "{outcome:?}");
    assert!(
        outcome.stdout.contains("FAILED") && outcome.stderr.contains("error: failed: hub cache"),
        "{outcome:?}"
    );
}

#[test]
fn a_closed_pipe_is_no_error() {
    let world = World::new();
    let mut program =
        world.command("completions bash").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(program.stdout.take());
    let outcome = Outcome::of(program.wait_with_output().unwrap(), "completions bash");
    assert_eq!((outcome.status, outcome.stderr.as_str()), (Some(0), ""));
}

#[test]
fn colours_are_used_when_asked_for() {
    let world = World::new();
    assert!(world.run("inspect nothing --color always").stderr.starts_with("\u{1b}["));
    assert!(world.run("inspect nothing --color never").stderr.starts_with("error: "));
}
