//! Started as one of several processes by a launcher; `tests/mpi` trains with them.

use crate::support::{Outcome, SMALL, World, number};

fn train(world: &World, variables: &[(&str, &str)]) -> Outcome {
    let line = format!("train --model model --train train.txt --out run --max-steps 1 {SMALL}");
    Outcome::of(world.command(&line).envs(variables.iter().copied()).output().unwrap(), &line)
}

#[test]
fn several_processes_do_not_each_train_by_themselves() {
    let world = World::new();
    if cfg!(not(feature = "mpi")) {
        let open_mpi = [("OMPI_COMM_WORLD_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", "4")];
        train(&world, &open_mpi).refused(&[
            "one of 4 processes",
            "`mpirun`",
            "without MPI",
            "--features mpi",
        ]);
        let slurm = [("SLURM_PROCID", "1"), ("SLURM_STEP_NUM_TASKS", "2")];
        train(&world, &slurm).refused(&["one of 2 processes", "`srun`", "--features mpi"]);
    }
    let torchrun = [("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0"), ("MASTER_ADDR", "localhost")];
    train(&world, &torchrun).refused(&["one of 2 processes", "`torchrun`", "mpirun -n 2"]);
    assert!(!world.path("run").exists());
    // The script of a Slurm job is one process, as is a launcher's only one.
    train(&world, &[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4"), ("RANK", "0"), ("WORLD_SIZE", "1")])
        .success();
    assert!(world.text("run/run.toml").contains("\nranks = 1\n"));
}

#[test]
fn generate_divides_prompts_and_nothing_else() {
    let world = World::new();
    let torchrun = [("RANK", "0"), ("WORLD_SIZE", "2")];
    let generate = |source: &str| {
        let line = format!("generate --model model {source}");
        Outcome::of(world.command(&line).envs(torchrun).output().unwrap(), &line)
    };
    generate("--unconditional 2").refused(&["one of 2 processes", "`torchrun`", "mpirun -n 2"]);
    generate("--documents train.txt --out samples").refused(&[
        "`--documents`",
        "one process",
        "got 2",
        "without the launcher",
    ]);
    assert!(!world.path("samples").exists());
}

#[test]
fn a_plan_for_ranks_divides_memory_and_time() {
    let world = World::new();
    let plan = |more: &str| {
        world
            .run(&format!(
                "plan --model gpt2 --batch-size 6 --max-length 512 --gflops 1000 --device cpu --json {more}"
            ))
            .row()
    };
    let (one, four) = (plan(""), plan("--ranks 4"));
    assert_eq!((&one["ranks"], &one["exchanged_bytes_per_step"]), (&1.into(), &0.into()));
    assert_eq!(four["ranks"], 4);
    let parameters = number(&four, "parameters");
    assert!((number(&four, "exchanged_bytes_per_step") - 8.0 * parameters * 3.0 / 4.0).abs() < 8.0);
    assert_eq!(four["tokens_per_step"], one["tokens_per_step"], "of the whole run");
    // 2 of 6 documents on the rank with the most.
    assert_eq!(number(&four["memory"], "activations"), number(&one["memory"], "activations") / 3.0);
    let speedup = number(&four["time"], "tokens_per_s") / number(&one["time"], "tokens_per_s");
    assert!((speedup - 3.0).abs() < 1e-9, "{speedup}");
    world.run("plan --model gpt2 --ranks 0").refused(&["`--ranks`", "at least 1"]);
}
