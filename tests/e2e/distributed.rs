//! Started as one of several processes by a launcher; `tests/mpi` trains with them.

use std::io::Write as _;
use std::net::TcpStream;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::support::{Outcome, SMALL, World, as_rank, assert_follow, free_port, number, torchrun};

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
    train(&world, &torchrun).refused(&["one of 2 processes", "`torchrun`", "`MASTER_PORT`"]);
    assert!(!world.path("run").exists());
    // The script of a Slurm job is one process, as is a launcher's only one.
    train(&world, &[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4"), ("RANK", "0"), ("WORLD_SIZE", "1")])
        .success();
    assert!(world.text("run/run.toml").contains("\nranks = 1\n"));
}

#[test]
fn generate_does_not_sample_by_itself() {
    let world = World::new();
    let torchrun = [("RANK", "0"), ("WORLD_SIZE", "2")];
    for source in ["--unconditional 2", "--documents train.txt --out samples"] {
        let line = format!("generate --model model {source}");
        let outcome = Outcome::of(world.command(&line).envs(torchrun).output().unwrap(), &line);
        outcome.refused(&["one of 2 processes", "`torchrun`", "MASTER_ADDR"]);
    }
    assert!(!world.path("samples").exists());
}

#[test]
fn processes_that_torchrun_starts_follow_one() {
    let world = World::new();
    let line = |out: &str| {
        format!(
            "train --model model --train train.txt --valid valid.txt --out {out} --max-steps 6 --dropout 0.1 --threads 1 --device cpu {SMALL} --json"
        )
    };
    let alone = world.run(&line("one")).rows();
    let outcomes = torchrun(2, &line("two"), || world.command(&line("two")));
    let [first, second] = outcomes.try_into().unwrap();
    assert_eq!(
        (second.success().stdout.as_str(), first.stderr.as_str()),
        ("", ""),
        "only the first rank speaks"
    );
    let rows = first.rows();
    assert_follow(&rows, &alone, 1e-5);
    assert_eq!(rows.last().unwrap()["ranks"], 2);
    assert!(world.text("two/run.toml").contains("\nranks = 2\n"));
    let rounded = format!("{} --grad-reduce-dtype bf16", line("rounded"));
    let outcomes = torchrun(2, &rounded, || world.command(&rounded));
    let rounded = outcomes.into_iter().next().unwrap().rows();
    assert_follow(&rounded, &alone, 1e-3);
    assert_ne!(rounded[1]["grad_norm"], rows[1]["grad_norm"], "gradients are rounded");
    assert!(world.text("rounded/run.toml").contains("\ngrad_reduce_dtype = \"bf16\"\n"));
}

#[test]
fn a_process_that_does_not_come_or_dies_is_named() {
    let world = World::new();
    let line =
        format!("train --model model --train train.txt --out run --device cpu --comm-timeout 1 {SMALL}");
    let alone = as_rank(world.command(&line), 0, 3, free_port()).output().unwrap();
    Outcome::of(alone, &line).refused(&["missing: 1, 2", "waited 1 s", "--comm-timeout"]);
    let alone = as_rank(world.command(&line), 1, 2, free_port()).output().unwrap();
    Outcome::of(alone, &line).refused(&["cannot reach rank 0", "within 1 s", "MASTER_ADDR"]);
    let outcomes = torchrun(2, &line, || world.command(&line.replace("train.txt", "missing.txt")));
    outcomes[0].refused(&["missing.txt"]);
    assert_eq!((outcomes[1].status, outcomes[1].stderr.as_str()), (Some(2), ""), "it is reported once");
    assert!(!world.path("run").exists());
}

#[test]
fn doctor_checks_and_times_the_sums_of_processes() {
    let world = World::new();
    let line = "doctor --device cpu --threads 1 --json";
    let [first, second, third] = torchrun(3, line, || world.command(line)).try_into().unwrap();
    for silent in [second, third] {
        assert_eq!((silent.stdout.as_str(), silent.stderr.as_str(), silent.status), ("", "", Some(0)));
    }
    let row = first.row();
    let checks = row["checks"].as_array().unwrap();
    for name in ["layer norm", "sum over ranks", "same sum on all ranks"] {
        assert!(checks.iter().any(|check| check["name"] == name && check["holds"] == true), "{name}: {row}");
    }
    let links = &row["links"];
    assert_eq!((&links["ranks"], &links["bytes"]), (&3.into(), &(4 << 20).into()));
    for times in [&links["latency_us"], &links["bucket_s"]] {
        let [fastest, median, slowest] = ["fastest", "median", "slowest"].map(|key| number(times, key));
        assert!(0.0 < fastest && fastest <= median && median <= slowest, "{row}");
    }
    let (bandwidth, seconds) = (number(links, "bytes_per_s"), number(&links["bucket_s"], "median"));
    assert!((bandwidth * seconds / number(links, "bytes") - 1.0).abs() < 1e-9, "{row}");
    assert!((number(links, "gpt2_gradients_s") * bandwidth / (4.0 * 124_439_808.0) - 1.0).abs() < 1e-9);

    let alone = world.run(line).row();
    assert_eq!(alone["links"], Value::Null);
    assert_eq!(alone["checks"].as_array().unwrap().len() + 2, checks.len());
    let text = "doctor --device cpu --threads 1";
    let outcomes = torchrun(2, text, || world.command(text));
    let table = &outcomes[0].stdout;
    for words in
        ["ranks", "latency", "bandwidth", "us for an all-reduce", "GPT-2 small's gradients (497.8 MB)"]
    {
        assert!(table.contains(words), "{words}: {table}");
    }
}

/// A process that greets rank 0 of two, and from then on does nothing.
fn join_and_fall_silent(port: u16) -> TcpStream {
    let mut stream = loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => break stream,
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    };
    let (rank, size) = (1u32.to_le_bytes(), 2u32.to_le_bytes());
    stream.write_all(&[b"mixce\0\0\x01".as_slice(), &rank, &size].concat()).unwrap();
    // An empty message: it is there.
    stream.write_all(&[1, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    stream
}

#[test]
fn a_process_that_falls_silent_is_noticed() {
    let world = World::new();
    for line in [
        "doctor --device cpu --threads 1 --comm-timeout 1",
        "score --human train.txt --model-text valid.txt --device cpu --comm-timeout 1",
    ] {
        let port = free_port();
        let mut command = as_rank(world.command(line), 0, 2, port);
        let first = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let silent = join_and_fall_silent(port);
        let outcome = Outcome::of(first.wait_with_output().unwrap(), line);
        outcome.refused(&["no answer from the other ranks of the run within 1 s", "--comm-timeout"]);
        assert!(!outcome.stderr.contains("--resume"), "{}", outcome.stderr);
        drop(silent);
    }
}

#[test]
fn gpus_need_nccl_and_a_gpu() {
    let world = World::new();
    let train =
        |more: &str| world.run(&format!("train --model model --train train.txt --out run {SMALL} {more}"));
    if cfg!(not(feature = "nccl")) {
        train("--gpus 2").refused(&["`--gpus 2`", "no NCCL", "--features nccl"]);
    }
    train("--gpus 2 --device cuda --valid -").refused(&["`--gpus 2`", "standard input"]);
    train("--gpus 2 --device cpu").refused(&["`--gpus 2`", "`--device cuda`", "`cpu`"]);
    train("--gpus 0").refused(&["--gpus", "1..=1024"]);
    let line = format!("train --model model --train train.txt --out run --gpus 4 {SMALL}");
    let launched = as_rank(world.command(&line), 0, 2, free_port()).output().unwrap();
    Outcome::of(launched, &line).refused(&["`--gpus 4`", "has started 2 processes"]);
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
    let rounded = plan("--ranks 4 --grad-reduce-dtype bf16");
    let exchanged = |plan: &Value| number(plan, "exchanged_bytes_per_step");
    assert_eq!(
        (exchanged(&rounded), &rounded["grad_reduce_dtype"]),
        (exchanged(&four) / 2.0, &"bf16".into())
    );
    let sharded = plan("--ranks 4 --shard-optimizer --grad-reduce-dtype bf16");
    assert_eq!(exchanged(&sharded), 1.5 * exchanged(&rounded), "weights are exchanged in f32");
    let copies = |plan: &Value| number(&plan["memory"], "exchange");
    assert_eq!([&one, &four, &rounded].map(copies), [0.0, f64::from(32 << 20), f64::from(20 << 20)]);
    assert_eq!(number(&four["memory"], "peak") - number(&rounded["memory"], "peak"), f64::from(12 << 20));
    let speedup = number(&four["time"], "tokens_per_s") / number(&one["time"], "tokens_per_s");
    assert!((speedup - 3.0).abs() < 1e-9, "{speedup}");
    world.run("plan --model gpt2 --ranks 0").refused(&["`--ranks`", "at least 1"]);
}
