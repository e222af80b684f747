//! Faults under a run: damaged, swapped and missing files, kills, a deleted folder, a full disk. All random choices are seeded.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use mixce_train::checkpoint;

use crate::support::{Outcome, SMALL, World, without_times};

/// Pseudo-random numbers below `n`.
pub(crate) struct Draws(pub(crate) u64);

impl Draws {
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

/// A run of `steps` steps with checkpoints every second step.
fn line(out: &str, steps: u64) -> String {
    format!(
        "train --model model --train train.txt --valid valid.txt --scheduler constant --dropout 0.1 --save-every 2 --eval-every 2 \
        --keep-last 9 --out {out} --max-steps {steps} --resume auto {SMALL}"
    )
}

/// A world with an undisturbed run `whole` of six steps, and `run`, stopped after four.
fn world() -> World {
    let world = World::new();
    world.run(&line("whole", 6)).success();
    world.run(&line("run", 4)).success();
    world
}

const NEWEST: &str = "run/checkpoints/step-00000004";
const FILES: [&str; 5] =
    ["COMPLETE", "config.json", "model.safetensors", "optimizer.safetensors", "state.json"];

/// The first thing in which two finished runs differ: weights or reports.
pub(crate) fn difference(world: &World, a: &str, b: &str) -> Option<String> {
    for file in ["final/model.safetensors", "best/model.safetensors"] {
        let [read_a, read_b] = [a, b].map(|run| fs::read(world.path(run).join(file)).ok());
        if read_a.is_none() || read_a != read_b {
            return Some(format!("`{file}` of `{a}` and `{b}` differ"));
        }
    }
    let reports = |run: &str| {
        let mut rows = without_times(world.rows(&format!("{run}/metrics.jsonl")));
        // After a kill the best model may have to be selected anew: what was better than it then is not known.
        rows.iter_mut().for_each(|row| _ = row.as_object_mut().unwrap().remove("best"));
        rows
    };
    (reports(a) != reports(b)).then(|| format!("the metrics of `{a}` and `{b}` differ"))
}

fn assert_same_runs(world: &World, a: &str, b: &str) {
    assert_eq!(difference(world, a, b), None);
}

pub(crate) fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() { copy(&path, &target) } else { _ = fs::copy(&path, &target).unwrap() }
    }
}

#[test]
fn no_flipped_bit_of_a_checkpoint_is_accepted() {
    let world = world();
    let mut draws = Draws(1);
    let folder = world.path(NEWEST);
    assert_eq!(names(&folder), FILES);
    for name in FILES {
        let whole = fs::read(folder.join(name)).unwrap();
        for _ in 0..60 {
            let (place, bit) = (draws.below(whole.len()), draws.below(8));
            let mut bytes = whole.clone();
            bytes[place] ^= 1 << bit;
            fs::write(folder.join(name), bytes).unwrap();
            let outcome = checkpoint::load(&folder);
            assert!(matches!(outcome, Err(mixce_train::Error::BadCheckpoint { .. })), "{name} {place} {bit}");
        }
        fs::write(folder.join(name), whole).unwrap();
    }
    checkpoint::load(&folder).unwrap();
}

/// The newest checkpoint damaged in every way: the run continues from the one before, and ends as if nothing had happened.
#[test]
fn a_damaged_checkpoint_is_set_aside_and_the_older_one_taken() {
    let world = world();
    let mut draws = Draws(2);
    let older = world.path("run/checkpoints/step-00000002");
    let flip = |name: &str, place: usize| {
        let mut bytes = world.read(&format!("{NEWEST}/{name}"));
        let place = place % bytes.len();
        bytes[place] ^= 1;
        world.write(&format!("{NEWEST}/{name}"), bytes);
    };
    copy(&world.path("run"), &world.path("intact"));
    for case in 0..9 {
        fs::remove_dir_all(world.path("run")).unwrap();
        copy(&world.path("intact"), &world.path("run"));
        let names_of_case = ["model.safetensors", "optimizer.safetensors", "state.json"];
        let name = names_of_case[case % 3];
        match case / 3 {
            0 => flip(name, 2000 + draws.below(4000)),
            1 => _ = fs::copy(older.join(name), world.path(NEWEST).join(name)).unwrap(),
            _ => fs::remove_file(world.path(NEWEST).join(name)).unwrap(),
        }
        let damaged = names(&world.path(NEWEST));
        let outcome = world.run(&line("run", 6)).success();
        for words in ["step-00000004` is damaged", "is set aside as", "older checkpoint", "step-00000002"] {
            assert!(outcome.stderr.contains(words), "{case}: {}", outcome.stderr);
        }
        assert_same_runs(&world, "run", "whole");
        let aside = world.path("run/checkpoints/step-00000004.set-aside");
        assert_eq!(names(&aside), damaged, "{case}: nothing of it is deleted");
    }
}

#[test]
fn without_an_intact_checkpoint_nothing_is_begun_anew_and_nothing_deleted() {
    let world = world();
    for step in [2, 4] {
        fs::remove_file(world.path(&format!("run/checkpoints/step-{step:08}/COMPLETE"))).unwrap();
    }
    let before = world.snapshot();
    world.run(&line("run", 6)).refused(&[
        "no checkpoint in `run/checkpoints` can be resumed",
        "`step-00000002` has no `COMPLETE`",
        "`step-00000004` has no `COMPLETE`",
        "hint: ",
    ]);
    assert!(world.snapshot() == before);
    // A finished model whose checkpoints are gone is not replaced either.
    fs::remove_dir_all(world.path("run/checkpoints")).unwrap();
    let before = world.snapshot();
    world.run(&line("run", 6)).refused(&["finished model, but no checkpoint", "hint: "]);
    assert!(world.snapshot() == before);
}

#[test]
fn a_folder_without_a_manifest_beside_a_good_checkpoint_is_kept() {
    let world = world();
    fs::remove_file(world.path(NEWEST).join("COMPLETE")).unwrap();
    let outcome = world.run(&line("run", 6)).success();
    assert!(
        outcome.stderr.contains("step-00000004` has no `COMPLETE`: it is set aside"),
        "{}",
        outcome.stderr
    );
    assert_same_runs(&world, "run", "whole");
    assert!(world.path("run/checkpoints/step-00000004.set-aside/model.safetensors").is_file());
}

#[test]
fn the_checkpoint_of_another_run_is_refused_and_both_stay() {
    let world = world();
    let before = world.snapshot();
    let other = line("run", 6).replace("auto", "whole/checkpoints/step-00000002");
    world.run(&other).refused(&["does not belong to the run in `run`", "hint: choose another `--out`"]);
    world.run(&line("run", 6).replace("auto", "whole")).refused(&["does not belong to the run in `run`"]);
    assert!(world.snapshot() == before);
    // Into a new folder it is a branch.
    world.run(&other.replace("--out run", "--out branch")).success();
    assert!(world.read("branch/final/model.safetensors") == world.read("whole/final/model.safetensors"));
}

#[test]
fn a_copy_under_a_short_name_does_not_disturb_rotation() {
    let world = world();
    copy(&world.path(NEWEST), &world.path("run/checkpoints/step-4"));
    let line = line("run", 6).replace("--keep-last 9", "--keep-last 1");
    let outcome = world.run(&line).success();
    assert!(
        outcome.stderr.contains("step-4` is not called `step-00000004`: it is not used"),
        "{}",
        outcome.stderr
    );
    assert_eq!(names(&world.path("run/checkpoints")), ["step-00000006", "step-4"]);
    assert_same_runs(&world, "run", "whole");
}

/// A run folder without `run.toml`, as a kill at its very beginning leaves it, or as it is after the file was lost.
#[test]
fn a_run_without_its_run_toml_goes_on() {
    let world = world();
    fs::remove_file(world.path("run/run.toml")).unwrap();
    world.run(&line("run", 6)).success();
    assert_same_runs(&world, "run", "whole");
    assert!(world.path("run/run.toml").is_file());
    world.write("new/metrics.jsonl", "");
    world.write("new/events.out.tfevents.1700000000.12", "begun");
    world.run(&line("new", 6)).success();
    assert_same_runs(&world, "new", "whole");
    world.write("mine/thesis.tex", "dear");
    let refused = world.run(&line("mine", 6));
    refused.refused(&["`mine` is not a run folder", "`thesis.tex`", "hint: choose another `--out`"]);
    assert!(!refused.stderr.contains("--resume"), "{}", refused.stderr);
}

fn spawn(world: &World, line: &str) -> Child {
    world.command(line).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// SIGKILL at random instants, until the run ends by itself.
#[test]
fn a_run_killed_at_random_instants_ends_as_the_undisturbed_one() {
    let world = World::new();
    let line = |out: &str| {
        format!("{} --cache-dir cache-{out}", line(out, 60).replace("--keep-last 9", "--keep-last 2"))
    };
    let started = Instant::now();
    world.run(&line("whole")).success();
    let whole = started.elapsed();
    let mut draws = Draws(3);
    let mut kills = 0;
    // A run that is killed too early every time would never end.
    while kills < 12 {
        let mut program = spawn(&world, &line("run"));
        std::thread::sleep(whole.mul_f64(draws.below(1000) as f64 / 1000.0));
        if program.try_wait().unwrap().is_some() {
            break;
        }
        program.kill().unwrap();
        program.wait().unwrap();
        kills += 1;
    }
    world.run(&line("run")).success();
    assert!(kills > 0);
    assert_same_runs(&world, "run", "whole");
    let left =
        |folder: &str| names(&world.path(folder)).into_iter().filter(|name| name.starts_with('.')).count();
    assert_eq!((left("run"), left("run/checkpoints")), (0, 0));
    assert_eq!(names(&world.path("run/checkpoints")), names(&world.path("whole/checkpoints")));
}

/// A kill while a token cache is built leaves files as large as the corpus; the next build removes them.
#[test]
fn a_killed_build_of_a_token_cache_leaves_nothing_for_long() {
    let world = World::new();
    world.write("long.txt", crate::support::corpus(60_000, 5));
    let line = format!(
        "train --model model --train long.txt --cache-dir cache --out run --max-steps 1 --resume auto {SMALL}"
    );
    for _ in 0..2 {
        let mut program = spawn(&world, &line);
        let started = Instant::now();
        while fs::read_dir(world.path("cache")).map_or(0, Iterator::count) < 2 {
            assert!(program.try_wait().unwrap().is_none() && started.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(1));
        }
        program.kill().unwrap();
        program.wait().unwrap();
        assert!(
            names(&world.path("cache")).iter().all(|name| name.ends_with(".tmp")),
            "it was killed in time"
        );
    }
    world.run(&line).success();
    let files = names(&world.path("cache"));
    assert!(files.len() == 1 && files[0].ends_with(".tokens"), "{files:?}");
}

#[test]
fn what_a_killed_export_left_goes_with_the_next() {
    let world = World::new();
    let left = mixce_base::files::temporary_beside(&world.path("hf"));
    fs::create_dir(&left).unwrap();
    fs::write(left.join("model.safetensors"), "half").unwrap();
    let other = mixce_base::files::temporary_beside(&world.path("other"));
    fs::create_dir(&other).unwrap();
    world.run("export --model model --out hf").success();
    assert!(!left.exists() && other.is_dir());
}

/// Renamed, which for the program is the same as deleted: the next line of the log finds out.
#[cfg(unix)]
#[test]
fn a_run_folder_that_disappears_ends_the_run() {
    use std::io::{BufRead as _, BufReader};
    let world = World::new();
    let line = format!(
        "train --model model --train train.txt --out run --max-steps 1000000 --save-every never {SMALL} --json"
    );
    let mut program = world.command(&line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut rows = BufReader::new(program.stdout.take().unwrap()).lines();
    for _ in 0..3 {
        rows.next().unwrap().unwrap();
    }
    fs::rename(world.path("run"), world.path("moved")).unwrap();
    assert!(rows.all(|row| row.is_ok()));
    let outcome = program.wait_with_output().unwrap();
    let stderr = String::from_utf8(outcome.stderr).unwrap();
    assert_eq!(outcome.status.code(), Some(2), "{stderr}");
    assert!(
        stderr.contains("run folder `run` was deleted or replaced") && stderr.contains("hint: "),
        "{stderr}"
    );
    assert!(!world.path("run").exists(), "it is not made again");
}

/// What is lost is said on stderr, which may be as full.
#[cfg(target_os = "linux")]
#[test]
fn a_run_ends_as_usual_when_what_it_prints_cannot_be_written() {
    let world = World::new();
    world.run(&line("whole", 6)).success();
    let full = || fs::File::options().write(true).open("/dev/full").unwrap();
    let mut program = world.command(&format!("{} --json", line("run", 6)));
    let status = program.stdin(Stdio::null()).stdout(full()).stderr(full()).status().unwrap();
    // The rows are lost, but nothing else.
    assert_eq!(status.code(), Some(2));
    assert_same_runs(&world, "run", "whole");
}

/// On a disk of one megabyte, in a mount namespace of its own.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_ends_the_run_which_goes_on_when_there_is_room() {
    let world = World::new();
    fs::create_dir(world.path("disk")).unwrap();
    let probe = std::process::Command::new("unshare")
        .args(["-rm", "mount", "-t", "tmpfs", "x"])
        .arg(world.path("disk"))
        .output();
    if !probe.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: mounting a disk in a namespace is not permitted here");
        return;
    }
    world.run(&line("whole", 12)).success();
    let command = world.command(&line("disk/run", 12));
    let program: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_str().unwrap().to_owned())
        .collect();
    let program = program.join(" ");
    // `--force`: the check before the run would refuse it.
    let script = format!(
        "mount -t tmpfs -o size=1m x disk && {{ {program} --force 2> full.txt; echo $? > status.txt; ls -A disk/run disk/run/checkpoints > left.txt; \
        mount -o remount,size=40m disk && {program} 2> again.txt && cp -r disk/run mended; }}"
    );
    let mut command = world.command("");
    let mut shell = std::process::Command::new("unshare");
    shell.args(["-rm", "sh", "-c", &script]).current_dir(world.path("")).env_clear();
    shell.envs(command.stdin(Stdio::null()).get_envs().filter_map(|(name, value)| Some((name, value?))));
    let outcome = Outcome::of(shell.output().unwrap(), &script).success();
    assert_eq!(world.text("status.txt").trim(), "2", "{outcome:?}");
    let full = world.text("full.txt");
    assert!(
        full.contains("error: cannot write `")
            && full.contains("/disk/run/")
            && full.contains("No space left"),
        "{full}"
    );
    assert!(full.contains("hint: ") && !full.contains("panicked"), "{full}");
    assert!(!world.text("left.txt").contains(".tmp"), "{}", world.text("left.txt"));
    assert_same_runs(&world, "mended", "whole");
}

/// Where the system tells it.
fn memory_gigabytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? / 1_000_000)
}

#[test]
fn a_run_that_does_not_fit_is_refused_before_it_begins() {
    let world = World::new();
    let huge = world.text("config.json").replace("\"n_embd\": 16", "\"n_embd\": 26624");
    world.write("huge.json", huge);
    let line = format!(
        "train --from-config huge.json --tokenizer {{tokenizer}} --train train.txt --out run {SMALL}"
    );
    let before = world.snapshot();
    // 17 billion parameters take 272 GB.
    if memory_gigabytes().is_some_and(|available| available < 200) {
        world.run(&line).refused(&["of memory, but only", "hint: lower `--batch-size`", "hint: `--force`"]);
    }
    let often = format!(
        "{} --keep-last 1000000000000 --save-every 1",
        self::line("run", 1_000_000_000_000).replace("--save-every 2", "").replace("--keep-last 9", "")
    );
    if cfg!(unix) {
        world.run(&often).refused(&["space on the disk of `run`", "hint: free some", "hint: `--force`"]);
    }
    assert!(world.snapshot() == before);
}
