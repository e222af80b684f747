//! The guide's examples of sweeps that are divided over machines, as a user copies them into a shell.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{Outcome, World, corpus};

/// Four cells, of which each command takes a moment.
const GRID: &str = r#"
metric = "perplexity"
objectives = ["mle", "mixce:eta=0.1"]
seeds = [1, 2]
max_lengths = [40]
corpora.mill = { train = "train.txt", valid = "valid.txt", test = "valid.txt" }
models.tiny.model = "model"
[train]
epochs = 1
batch_size = 4
grad_accum = 2
[evaluate]
prompt_length = 3
samplings = 1
documents = 4
metrics = ["diversity"]
[controls]
top_p = []
temperature = []
"#;

/// A world with the grid, and `mixce` and Slurm's `srun` in `bin`.
fn world() -> World {
    let world = World::new();
    world.write("train.txt", corpus(24, 1));
    world.write("grid.toml", GRID);
    // The variables of a step with one task.
    world.write(
        "bin/srun",
        "#!/bin/sh\nexport SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=1 SLURM_STEP_TASKS_PER_NODE=1 SLURM_NODEID=0\nexec \"$@\"\n",
    );
    fs::set_permissions(world.path("bin/srun"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink(env!("CARGO_BIN_EXE_mixce-e2e"), world.path("bin/mixce")).unwrap();
    world
}

/// The only shell block of the guide with these words, for this folder and a machine without a GPU.
fn example(words: &str) -> String {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/src/guide/choose-eta.md");
    let guide = fs::read_to_string(guide).unwrap();
    let mut blocks = guide.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap());
    let block = blocks.find(|block| block.contains(words)).unwrap();
    assert!(blocks.all(|block| !block.contains(words)));
    block.replace("--device cuda ", "").replace("/shared/runs/grid", "grid")
}

/// Runs a script as `sh` does, with further variables.
fn shell(world: &World, script: &str, variables: &[(&str, &str)]) -> Outcome {
    let mut command = Command::new("sh");
    let path = std::env::var("PATH").unwrap();
    command.args(["-c", script]).current_dir(world.path("")).env_clear().stdin(Stdio::null());
    command.env("HOME", world.path("home")).env("PATH", format!("{}:{path}", world.path("bin").display()));
    Outcome::of(command.envs(variables.iter().copied()).output().unwrap(), script)
}

fn statuses(world: &World) -> Vec<String> {
    let results: Value = serde_json::from_str(&world.text("grid/results.json")).unwrap();
    let cells = results["cells"].as_array().unwrap();
    cells.iter().map(|cell| cell["status"].as_str().unwrap().to_owned()).collect()
}

/// The last command of the guide: it chooses, and scores the test texts.
fn merge(world: &World) {
    let outcome = shell(world, "mixce sweep grid.toml --out grid", &[]).success();
    assert!(outcome.stdout.contains("chosen by development perplexity"), "{}", outcome.stdout);
    assert_eq!(statuses(world), ["done"; 4]);
}

#[test]
fn the_array_of_slurm_computes_every_part() {
    let (world, script) = (world(), example("#SBATCH"));
    for task in 0..8 {
        let outcome = shell(&world, &script, &[("SLURM_ARRAY_TASK_ID", &task.to_string())]).success();
        assert!(!outcome.stderr.contains("error: "), "{}", outcome.stderr);
    }
    assert_eq!(statuses(&world), ["done"; 4]);
    merge(&world);
}

/// As root, and with more processes than cores, which a cluster has not.
const MPI: [(&str, &str); 3] = [
    ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
    ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
    ("OMPI_MCA_rmaps_base_oversubscribe", "1"),
];

#[test]
fn mpirun_computes_every_part_and_a_failed_cell_does_not_end_the_others() {
    let (world, script) = (world(), example("mpirun"));
    if shell(&world, "mpirun -n 1 true", &MPI).status != Some(0) {
        println!("skipped: Open MPI's `mpirun` does not start here");
        return;
    }
    // A file where a run folder should be.
    let blocked = "grid/cells/mill-tiny-mle-nall-l40-s1/run";
    world.write(blocked, "in the way");
    let outcome = shell(&world, &script, &MPI);
    assert_eq!(outcome.stderr.matches("1 of 4 cells failed").count(), 1, "{}", outcome.stderr);
    // The results are those of the part that ended last, to which a failure of another is a cell that waits.
    let failed = statuses(&world).iter().filter(|status| *status != "done").count();
    assert_eq!(failed, 1, "{:?}", statuses(&world));
    fs::remove_file(world.path(blocked)).unwrap();
    merge(&world);
}
