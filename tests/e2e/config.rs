//! Settings from files.

use crate::support::{SMALL, World, without_times};

#[cfg(target_os = "linux")]
#[test]
fn a_configuration_without_an_end_is_refused() {
    let world = World::new();
    world.run("train --config /dev/zero").refused(&["`/dev/zero`", "16777216 bytes"]);
}

#[test]
fn flags_override_the_file_and_the_file_the_defaults() {
    let world = World::new();
    world.write("run.toml", "model = \"model\"\ntrain = \"train.txt\"\nlr = 1e-3\neta = 0.5\nbatch_size = 4\nmax_length = 60\nseed = 9\n");
    let plan = world.run("train --config run.toml --out run --eta 0.25 --dry-run --json").row();
    let config = &plan["config"];
    assert_eq!(
        (&config["eta"], &config["lr"], &config["grad_accum"]),
        (&0.25.into(), &1e-3.into(), &8.into())
    );
    assert_eq!((&config["seed"], &config["batch_size"]), (&9.into(), &4.into()));
    let plan =
        world.run("train --config run.toml --out run --seed 3 --mixing-ratio 1 --dry-run --json").row();
    assert_eq!((&plan["config"]["seed"], &plan["config"]["eta"]), (&3.into(), &1.0.into()));
}

#[test]
fn an_objective_is_written_with_its_parameters_or_as_keys() {
    let world = World::new();
    let file = |objective: &str| {
        format!("model = \"model\"\ntrain = \"train.txt\"\nmax_length = 60\nbatch_size = 4\n{objective}\n")
    };
    let config = |objective: &str, flags: &str| {
        world.write("run.toml", file(objective));
        world.run(&format!("train --config run.toml --out run --dry-run --json {flags}")).row()["config"]
            .clone()
    };
    let keys = config("objective = \"tailr\"\ngamma = 0.25", "");
    assert_eq!(
        (&keys["objective"], &keys["gamma"], &keys["min_weight"]),
        (&"tailr".into(), &0.25.into(), &0.2.into())
    );
    assert_eq!(config("objective = \"tailr:gamma=0.25\"", ""), keys);
    assert_eq!(config("[objective]\nname = \"tailr\"\ngamma = 0.25", ""), keys);
    assert_eq!(config("eta = 0.5", "--objective mixce:eta=0.25"), config("", "--eta 0.25"));
    world.write("run.toml", file("[objective]\nname = \"tailr\"\neta = 0.25"));
    world.run("train --config run.toml --out run").refused(&[
        "`run.toml`: line 5: `objective`: objective `tailr` has no parameter `eta`: it has `gamma`, `min_weight`",
    ]);
}

#[test]
fn the_run_toml_of_a_run_repeats_it() {
    let world = World::new();
    world
        .run(&format!(
            "train --model model --train train.txt --valid valid.txt --out a --max-steps 5 {SMALL} --seed 8"
        ))
        .success();
    world.run("train --config a/run.toml --out b").success();
    let metrics = |run: &str| without_times(world.rows(&format!("{run}/metrics.jsonl")));
    assert_eq!(metrics("a"), metrics("b"));
    assert!(world.text("a/run.toml").contains("[provenance]"));
}

#[test]
fn mistakes_in_the_file_are_named_with_their_line() {
    let world = World::new();
    for (text, words) in [
        (
            "model = \"model\"\nwarmup_step = 3\n",
            ["line 2: unknown key `warmup_step`", "hint: did you mean `warmup_steps`?"],
        ),
        ("mixing_ratio = 0.3\n", ["unknown key `mixing_ratio`", "did you mean `eta`?"]),
        ("epochs = \"five\"\n", ["line 1: `epochs`", "string \"five\""]),
        ("lr = = 2\n", ["`run.toml`", "line 1"]),
    ] {
        world.write("run.toml", text);
        let before = world.snapshot();
        world.run("train --config run.toml --train train.txt --out run").refused(&words);
        assert!(world.snapshot() == before);
    }
    world.run("train --config missing.toml").refused(&["`missing.toml`"]);
}

#[test]
fn settings_that_make_no_sense_are_refused_before_anything_is_read() {
    let world = World::new();
    let before = world.snapshot();
    for (flags, word) in [
        ("--eta 1.5", "1.5"),
        ("--eta -0.1", "-0.1"),
        ("--eta nan", "eta"),
        ("--objective tailr --gamma 2", "gamma"),
        ("--objective mle --eta 0.5", "`--eta 0.5` does not apply to `--objective mle`"),
        ("--objective mixce:gamma=1", "objective `mixce` has no parameter `gamma`: it has `eta`"),
        ("--objective mixce:eta=2", "`eta` of objective `mixce` must be in [0, 1], got 2"),
        ("--objective mixce:0.5", "expected `parameter=number`, got `0.5`"),
        ("--objective mixce:eta=0.3 --eta 0.5", "set the same parameter: give only one"),
        ("--lr 0", "`--lr`"),
        ("--dropout 1", "`--dropout`"),
        ("--patience 2", "`--patience` needs `--valid`"),
        ("--from-config config.json", "exclude each other"),
        ("--threads 0", "`--threads`"),
        ("--device gpu", "`--device`"),
        ("--batch-size 0", "`--batch-size`"),
        ("--max-length 1", "`--max-length`"),
        ("--select mauve", "`--select mauve` needs `--valid`"),
        ("--select best", "[possible values: loss, nll, mauve]"),
        ("--select-documents 0", "`--select-documents`"),
    ] {
        world.run(&format!("train --model nowhere --train nothing.txt --out run {flags}")).refused(&[word]);
    }
    world.run("train --train train.txt --out run").refused(&["`--model`", "`--from-config`"]);
    world.run("train --model model --out run").refused(&["`--train`"]);
    world.run("train --model model --train train.txt").refused(&["`--out`"]);
    assert!(world.snapshot() == before);
}
