//! Ctrl-C.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use crate::support::{Outcome, SMALL, World};

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_a_checkpoint_to_go_on_from() {
    let world = World::new();
    let line = format!(
        "train --model model --train train.txt --valid valid.txt --out run --max-steps 1000000 --save-every 1000000 --eval-every 1000000 {SMALL} --json"
    );
    let mut program = world.command(&line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Training has started once the first steps are reported.
    let mut lines = BufReader::new(program.stdout.take().unwrap()).lines();
    for _ in 0..3 {
        lines.next().unwrap().unwrap();
    }
    let mut second = world.command(&format!("{line} --resume auto"));
    Outcome::of(second.output().unwrap(), &line)
        .refused(&["run folder `run` is in use by another process", "hint: "]);
    assert!(Command::new("kill").args(["-INT", &program.id().to_string()]).status().unwrap().success());
    let last = lines.map_while(Result::ok).last().unwrap();
    let event: serde_json::Value = serde_json::from_str(&last).unwrap();
    assert_eq!(event["event"], "interrupted", "{event}");
    let outcome = program.wait_with_output().unwrap();
    let stderr = String::from_utf8(outcome.stderr).unwrap();
    assert_eq!(outcome.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("interrupted after step") && stderr.contains("--resume auto"), "{stderr}");
    let checkpoint = event["checkpoint"].as_str().unwrap();
    assert!(world.path(checkpoint).join("COMPLETE").is_file());
    assert!(!world.path("run/final").exists());

    let step = event["step"].as_u64().unwrap();
    let steps = format!("--max-steps {}", step + 2);
    let rows = world.run(&line.replace("--max-steps 1000000", &format!("{steps} --resume auto"))).rows();
    assert_eq!(rows[0]["step"], step + 1, "it goes on where it stopped");
    assert!(world.path("run/final/model.safetensors").is_file());
}
