//! Resuming a run.

use std::path::Path;

use crate::support::{SMALL, World, fixtures, without_times};

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
    world.write(state, &edited);
    let resumed = format!("{line} --max-steps 6 --resume auto");
    world.run(&resumed).refused(&["step-00000003` is damaged", "`state.json`: expected"]);
    // As an earlier version would have written it, without digests.
    world.write(state, edited.replace("\"version\": 2", "\"version\": 1"));
    world.write("run/checkpoints/step-00000003/COMPLETE", "step 3\n");
    world.run(&resumed).refused(&[
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

#[test]
fn a_run_goes_on_from_any_folder() {
    let world = World::new();
    let line = format!(
        "train --model model --train train.txt --valid valid.txt --out runs/first --max-steps 2 {SMALL}"
    );
    world.run(&line).success();
    std::fs::create_dir(world.path("elsewhere")).unwrap();
    let at = |folder: &str, line: &str| {
        let output = world.command(line).current_dir(world.path(folder)).output().unwrap();
        crate::support::Outcome::of(output, line)
    };
    // The folder above the run is that of its relative paths, also after the project has moved.
    let outcome =
        at("elsewhere", "train --config ../runs/first/run.toml --resume auto --max-steps 3").success();
    assert!(outcome.stderr.contains("in which the run was started"), "{}", outcome.stderr);
    assert!(world.path("runs/first/checkpoints/step-00000003").is_dir());
    assert_eq!(std::fs::read_dir(world.path("elsewhere")).unwrap().count(), 0);
    world.run(&line.replace("runs/first", "runs/second")).success();
    at("elsewhere", "train --config ../runs/second/run.toml --out again").success();
    assert!(world.path("elsewhere/again/final").is_dir());
    let row = at("elsewhere", "inspect ../runs/second --json").row();
    let here = world.path("").canonicalize().unwrap();
    assert_eq!(
        std::path::Path::new(row["provenance"]["folder"].as_str().unwrap()).canonicalize().unwrap(),
        here
    );

    // A file moved out of its run folder still records the base of its paths.
    std::fs::rename(world.path("runs/second"), world.path("renamed")).unwrap();
    let outcome = at("elsewhere", "train --config ../renamed/run.toml --out third");
    outcome.refused(&["hint: relative paths in `../renamed/run.toml`", "start it there"]);
    assert!(!world.path("elsewhere/third").exists());
}

#[test]
fn what_a_killed_run_left_goes_with_the_next_start_and_nothing_else_does() {
    let world = World::new();
    let line = format!("train --model model --train train.txt --valid valid.txt --out run {SMALL}");
    world.run(&format!("{line} --max-steps 2")).success();
    let temporary = |name: &str| mixce_base::files::temporary_beside(&world.path(&format!("run/{name}")));
    let folders = [
        temporary("best"),
        temporary("checkpoints/step-00000004"),
        // The names used by earlier versions.
        world.path("run/..best.12-0.tmp.partial-12"),
        world.path("run/.final.partial-12"),
        world.path("run/checkpoints/.step-00000004.12-1.tmp"),
    ];
    for folder in &folders {
        std::fs::create_dir(folder).unwrap();
        std::fs::write(folder.join("model.safetensors.partial-7"), "half").unwrap();
    }
    let file = temporary("run.toml");
    std::fs::write(&file, "half").unwrap();
    let users = ["run/.best.mine.tmp", "run/notes.txt", "run/checkpoints/.mine.7-0.tmp"];
    users.iter().for_each(|name| world.write(name, "mine"));
    world.run(&format!("{line} --max-steps 3 --resume auto")).success();
    for path in folders.iter().chain([&file]) {
        assert!(!path.exists(), "{}", path.display());
    }
    for name in users {
        assert_eq!(world.text(name), "mine");
    }
}

/// The folder was written by mixce 0.1.0 (see its README); the reference weights are from an uninterrupted run of that program.
#[test]
fn a_run_of_an_earlier_program_goes_on() {
    let world = World::new();
    let fixture = fixtures().join("run-0.1.0");
    copy(&fixture, &world.path("old"));
    copy(&fixtures().join("tokenizer"), &world.path("tokenizer"));
    let line = "train --from-config config.json --tokenizer ../tokenizer --train train.txt --valid valid.txt --batch-size 4 \
        --grad-accum 2 --max-length 32 --lr 1e-2 --objective tailr --gamma 0.2 --min-weight 0.1 --max-steps 8 --log-every 1 \
        --save-every 4 --eval-every 4 --keep-last 9 --seed 3 --threads 1 --out run --resume auto";
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    let output = world.command(&line).current_dir(world.path("old")).output().unwrap();
    let outcome = crate::support::Outcome::of(output, &line).success();
    assert!(outcome.stderr.contains("earlier version without digests"), "{}", outcome.stderr);
    let steps: Vec<u64> =
        world.rows("old/run/metrics.jsonl").iter().filter_map(|row| row["step"].as_u64()).collect();
    assert_eq!(steps, [1, 2, 3, 4, 4, 5, 6, 7, 8, 8]);
    let load = |path: &Path| candle_core::safetensors::load(path, &candle_core::Device::Cpu).unwrap();
    let got = load(&world.path("old/run/final/model.safetensors"));
    let want = load(&fixture.join("expected.safetensors"));
    assert_eq!(got.len(), want.len());
    for (name, want) in &want {
        // Matrix products round differently from processor to processor.
        let difference =
            (&got[name] - want).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(difference < 1e-4, "{name}: {difference}");
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (entry, target) = (entry.as_ref().unwrap(), to.join(entry.as_ref().unwrap().file_name()));
        if entry.path().is_dir() {
            copy(&entry.path(), &target)
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}
