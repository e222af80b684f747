//! Going on with a run.

use crate::support::{SMALL, World, without_times};

#[test]
fn a_resumed_run_equals_one_without_a_break() {
    let world = World::new();
    let train = |flags: &str| {
        let line = format!(
            "train --model model --train train.txt --valid valid.txt --scheduler constant --dropout 0.1 --save-every 3 {SMALL} {flags}"
        );
        world.run(&line).success()
    };
    train("--out whole --max-steps 11");
    train("--out parts --max-steps 6");
    let outcome = train("--out parts --max-steps 11 --resume auto");
    assert!(outcome.stderr.contains("planned for 6 steps and is now for 11"), "{}", outcome.stderr);
    assert!(world.read("whole/final/model.safetensors") == world.read("parts/final/model.safetensors"));
    let steps = |name: &str| {
        let mut rows = without_times(world.rows(name));
        rows.retain(|row| row.get("loss").is_some());
        rows
    };
    assert_eq!(steps("whole/metrics.jsonl"), steps("parts/metrics.jsonl"));
}

#[test]
fn a_checkpoint_whose_counters_disagree_is_refused() {
    let world = World::new();
    let line = format!("train --model model --train train.txt --out run --save-every 3 {SMALL}");
    world.run(&format!("{line} --max-steps 3")).success();
    let state = "run/checkpoints/step-00000003/state.json";
    let edited = world.text(state).replace("\"step_in_epoch\": 3", "\"step_in_epoch\": 1");
    world.write(state, edited);
    world.run(&format!("{line} --max-steps 6 --resume auto")).refused(&[
        "step-00000003",
        "after step 3 the data continue in epoch 0 at step 3",
        "says epoch 0, step 1",
    ]);
}

#[test]
fn resume_auto_begins_anew_where_there_is_nothing() {
    let world = World::new();
    let line = format!("train --model model --train train.txt --out run --max-steps 2 --resume auto {SMALL}");
    world.run(&line).success();
}

#[test]
fn a_run_with_other_settings_is_not_resumed_and_not_touched() {
    let world = World::new();
    let line =
        format!("train --model model --train train.txt --out run --max-steps 2 --save-every 1 {SMALL}");
    world.run(&line).success();
    let before = world.snapshot();
    let outcome = world.run(
        &format!("{line} --max-steps 4 --resume auto --batch-size 8")
            .replacen("--batch-size 4", "", 1)
            .replacen("--max-steps 2", "", 1),
    );
    outcome.refused(&["cannot resume", "`batch_size` was 4 and is 8 now", "hint: "]);
    assert!(world.snapshot() == before);
    let none = world.run(&format!(
        "train --model model --train train.txt --out new --max-steps 2 --resume model {SMALL}"
    ));
    none.refused(&["`model` holds no complete checkpoint"]);
}
