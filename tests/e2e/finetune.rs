//! Finetuning a model, and training one from scratch.

use crate::support::{SMALL, World, number, without_times};

#[test]
fn finetuning_leaves_a_whole_run_folder() {
    let world = World::new();
    let line = format!(
        "train --model model --train train.txt --valid valid.txt --out run --epochs 3 {SMALL} --json"
    );
    let rows = world.run(&line).rows();
    let steps: Vec<_> = rows.iter().filter(|row| row.get("loss").is_some()).collect();
    assert_eq!(steps.len(), 24);
    for (index, row) in steps.iter().enumerate() {
        for key in ["loss", "nll", "lr", "grad_norm", "tokens", "tokens_per_s"] {
            assert!(number(row, key) > 0.0, "{row}");
        }
        assert_eq!(row["step"], index + 1);
        assert_eq!(row["epoch"], index / 8);
        assert!(number(row, "loss") < number(row, "nll"), "MixCE weighs tokens below 1: {row}");
    }
    let mean =
        |rows: &[&serde_json::Value]| rows.iter().map(|r| number(r, "nll")).sum::<f64>() / rows.len() as f64;
    assert!(mean(&steps[16..]) < mean(&steps[..8]) - 0.5, "the loss falls: {steps:?}");

    let done = &rows[rows.len() - 1];
    assert_eq!(done["event"], "done");
    assert_eq!(done["best"]["path"], "run/best");
    for file in
        ["run.toml", "metrics.jsonl", "best/model.safetensors", "final/tokenizer.json", "final/README.md"]
    {
        assert!(world.path("run").join(file).is_file(), "{file}");
    }
    for file in ["model.safetensors", "optimizer.safetensors", "state.json", "COMPLETE"] {
        assert!(world.path("run/checkpoints/step-00000024").join(file).is_file(), "{file}");
    }
    let kept = std::fs::read_dir(world.path("run/checkpoints")).unwrap().count();
    assert_eq!(kept, 2, "`--keep-last` is 2");
    let events = std::fs::read_dir(world.path("run")).unwrap().flatten();
    assert!(events.into_iter().any(|e| e.file_name().to_string_lossy().starts_with("events.out.tfevents.")));

    // The model that was kept has the likelihood that was reported.
    let kept = world.run("evaluate --model run --data valid.txt --max-length 60 --json").row();
    let (got, reported) = (number(&kept, "nll"), number(&done["best"], "valid_nll"));
    assert!((got - reported).abs() < 1e-6, "{got} against {reported}");
}

#[test]
fn without_json_the_summary_names_the_models() {
    let world = World::new();
    let line =
        format!("train --model model --train train.txt --valid valid.txt --out run --max-steps 2 {SMALL}");
    let outcome = world.run(&line).success();
    assert!(
        outcome.stdout.contains("run/best") && outcome.stdout.contains("run/final"),
        "{}",
        outcome.stdout
    );
    assert_eq!(outcome.stderr, "", "no progress bar when stderr is no terminal");
}

#[test]
fn training_from_scratch_needs_a_configuration_and_a_tokenizer() {
    let world = World::new();
    let line = format!(
        "train --from-config config.json --tokenizer {{tokenizer}} --train train.txt --out run --max-steps 3 {SMALL} --json"
    );
    let rows = world.run(&line).rows();
    assert_eq!(rows.len(), 4);
    assert!(rows[3]["best"].is_null(), "there were no development documents");
    let row = world.run("evaluate --model run --data train.txt --max-length 60 --json").row();
    assert!(number(&row, "nll").is_finite());
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_seed_another() {
    let world = World::new();
    let train = |out: &str, seed: u32| {
        let line = format!(
            "train --model model --train train.txt --valid valid.txt --out {out} --max-steps 6 --dropout 0.1 --seed {seed} {SMALL}"
        );
        world.run(&line).success();
        (
            without_times(world.rows(&format!("{out}/metrics.jsonl"))),
            world.read(&format!("{out}/final/model.safetensors")),
        )
    };
    let first = train("a", 5);
    assert!(first == train("b", 5), "same seed, same numbers, same weights");
    assert!(first.0 != train("c", 6).0, "the seed decides order and dropout");
}

#[test]
fn mixce_with_eta_1_is_mle() {
    let world = World::new();
    for (out, flags) in [("a", "--objective mle"), ("b", "--objective mixce --eta 1"), ("c", "--eta 0.1")] {
        world
            .run(&format!("train --model model --train train.txt --out {out} --max-steps 4 {flags} {SMALL}"))
            .success();
    }
    assert!(world.read("a/final/model.safetensors") == world.read("b/final/model.safetensors"));
    assert!(world.read("a/final/model.safetensors") != world.read("c/final/model.safetensors"));
}

#[test]
fn the_authors_flags_mean_the_same() {
    let world = World::new();
    let ours = "train --model model --train train.txt --valid valid.txt --out a --lr 1e-3 --max-steps 3 --batch-size 4 \
                --grad-accum 2 --scheduler cosine --warmup-steps 1 --eta 0.3 --max-length 60";
    let theirs = "train --model_name_or_path model --train_file train.txt --validation_file valid.txt --output_dir b \
                  --learning_rate 1e-3 --max_train_steps 3 --per_device_train_batch_size 4 --gradient_accumulation_steps 2 \
                  --lr_scheduler_type cosine --num_warmup_steps 1 --mixing_ratio 0.3 --max_length 60";
    world.run(ours).success();
    world.run(theirs).success();
    assert!(world.read("a/final/model.safetensors") == world.read("b/final/model.safetensors"));
}

#[test]
fn a_dry_run_tells_and_writes_nothing() {
    let world = World::new();
    let before = world.snapshot();
    let line = format!(
        "train --model model --train train.txt --valid valid.txt --out run --epochs 3 {SMALL} --dry-run"
    );
    let plan = world.run(&format!("{line} --json")).row();
    assert_eq!(plan["total_steps"], 24);
    assert_eq!(plan["steps_per_epoch"], 8);
    assert_eq!(plan["parameters"], 13_648);
    assert_eq!(plan["train"]["documents"], 64);
    assert_eq!(plan["config"]["eta"], 0.1);
    assert!(number(&plan["memory"], "activations") > 0.0);
    let text = world.run(&line).success().stdout;
    assert!(
        text.contains("24 (8 per epoch, 8 documents each)") && text.contains("13 648 parameters"),
        "{text}"
    );
    assert!(world.snapshot() == before);
}

#[test]
fn the_best_model_is_selected_by_mauve_of_its_samples() {
    let world = World::new();
    let train = |out: &str, epochs: u32, flags: &str| {
        let line = format!(
            "train --model model --train train.txt --valid valid.txt --out {out} --epochs {epochs} --scheduler constant --select mauve \
             --select-featurizer model --select-documents 8 --select-prompt-length 3 --threads 1 {SMALL} --json {flags}"
        );
        world.run(&line).rows()
    };
    let rows = train("whole", 3, "");
    let evaluations: Vec<_> = rows.iter().filter(|row| row["event"] == "evaluation").collect();
    let scores: Vec<f64> = evaluations.iter().map(|row| number(row, "valid_mauve")).collect();
    assert_eq!(scores.len(), 3);
    assert!(scores.iter().all(|score| (0.0..=1.0).contains(score)), "{scores:?}");
    let highest = scores.iter().copied().fold(0.0, f64::max);
    let best = evaluations.iter().find(|row| number(row, "valid_mauve") == highest).unwrap();
    let done = &rows[rows.len() - 1];
    assert_eq!((&done["best"]["step"], number(&done["best"], "valid_mauve")), (&best["step"], highest));

    // Samples depend on the model alone, so a resumed run selects the same.
    train("parts", 1, "");
    let rest = train("parts", 3, "--resume auto");
    assert_eq!(rest[rest.len() - 1]["best"]["step"], done["best"]["step"]);
    assert!(world.read("parts/best/model.safetensors") == world.read("whole/best/model.safetensors"));
    world
        .run("train --model model --train train.txt --out x --select mauve")
        .refused(&["`--select mauve` needs `--valid`"]);
    let line = "train --model model --train train.txt --valid valid.txt --out x --max-length 40 --select mauve --select-featurizer model";
    world.run(line).refused(&["`--select-prompt-length 50` leaves no room within 40 tokens", "hint: "]);
}
