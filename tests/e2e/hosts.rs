//! Two machines, as two network namespaces between which packets are delayed and lost. Skipped where namespaces are not permitted.

use std::path::Path;
use std::process::Command;

use crate::running::{Running, assert_continues_as_if_undisturbed};
use crate::support::{Outcome, SMALL, World, as_rank, torchrun};

/// Connects the namespace `far` with that of the shell. The queue of three packets delays them, and loses those that do not fit.
const CONNECT: &str = "mount -t tmpfs none /run && ip netns add far && ip link add left type veth peer name right netns far || exit 77
far() { nsenter --net=/run/netns/far \"$@\"; }
slow='root tbf rate 50mbit burst 4k limit 6k'
ip address add 10.0.0.1/24 dev left && ip link set left up && ip link set lo up && tc qdisc add dev left $slow || exit 77
far ip address add 10.0.0.2/24 dev right && far ip link set right up && far tc qdisc add dev right $slow || exit 77
";

/// A command of the shell in namespaces of its own; `None` with a message where that is not permitted.
#[expect(clippy::print_stderr, reason = "says what was not tried")]
fn connected(world: &World, script: &str) -> Option<Command> {
    let shell = |script: &str| {
        let mut shell = Command::new("unshare");
        shell.args(["-rnm", "sh", "-c", &format!("{CONNECT}{script}")]).current_dir(world.path(""));
        shell
    };
    if shell("").output().is_ok_and(|output| output.status.success()) {
        return Some(shell(script));
    }
    eprintln!("skipped: networks in namespaces are not permitted here");
    None
}

/// The words of a shell that starts the program as rank `rank` of 2, of which rank 0 listens at 10.0.0.1.
fn as_host(world: &World, rank: usize, line: &str) -> String {
    let command = as_rank(world.command(line), rank, 2, 29500);
    let mut words = vec!["env".to_owned(), "-i".to_owned()];
    words.extend(command.get_envs().filter_map(|(name, value)| {
        let value = value?.to_str().unwrap();
        let value = if name == "MASTER_ADDR" { "10.0.0.1" } else { value };
        Some(format!("'{}={value}'", name.to_str().unwrap()))
    }));
    words.push(format!("'{}'", Path::new(command.get_program()).display()));
    words.extend(command.get_args().map(|word| format!("'{}'", word.to_str().unwrap())));
    words.join(" ")
}

fn line(out: &str, steps: u64) -> String {
    format!(
        "train --model model --train train.txt --out {out} --max-steps {steps} --scheduler constant --save-every 5 --dropout 0.1 --threads 1 \
        --device cpu --comm-timeout 3 {SMALL} --json"
    )
}

fn on_one_machine(world: &World, line: &str) -> Outcome {
    torchrun(2, line, || world.command(line)).swap_remove(0)
}

#[test]
fn hosts_that_lose_packets_train_as_one_machine() {
    let world = World::new();
    let [near, far] = [0, 1].map(|rank| as_host(&world, rank, &line("hosts", 6)));
    let script = format!(
        "{near} & near=$!
        far {far} && wait $near || exit 1
        tc -s qdisc show dev left | sed -n 's/.*dropped \\([0-9]*\\).*/\\1/p' > lost.txt"
    );
    let Some(mut shell) = connected(&world, &script) else { return };
    let hosts = Outcome::of(shell.output().unwrap(), &script).rows();
    let together = on_one_machine(&world, &line("together", 6)).rows();
    assert_eq!(hosts.len(), together.len());
    let weights = |out: &str| world.read(&format!("{out}/final/model.safetensors"));
    assert!(weights("hosts") == weights("together"), "the same weights bit for bit");
    let lost: u64 = world.text("lost.txt").trim().parse().unwrap();
    assert!(lost > 10, "{lost} packets were lost");
}

#[test]
fn a_cut_cable_ends_the_ranks_on_both_sides() {
    let world = World::new();
    let [near, far] = [0, 1].map(|rank| as_host(&world, rank, &line("run", 1_000_000)));
    let script = format!(
        "far {far} 2> far.txt & far=$!
        {near} & near=$!
        while [ ! -e cut ]; do sleep 0.02; done
        ip link set left down
        wait $far; echo $? > far-status.txt
        wait $near"
    );
    let Some(shell) = connected(&world, &script) else { return };
    let running = Running::start(shell, 7);
    world.write("cut", "");
    let (status, stderr, rows) = running.wait();
    assert_eq!(status, Some(2), "{stderr}");
    assert!(stderr.contains("--comm-timeout"), "{stderr}");
    assert_eq!(world.text("far-status.txt").trim(), "2", "{}", world.text("far.txt"));
    assert!(world.text("far.txt").contains("--comm-timeout"), "{}", world.text("far.txt"));
    let end = 7 + rows.len() as u64 + 10;
    let first = assert_continues_as_if_undisturbed(
        &world,
        |out| line(out, end),
        |line| on_one_machine(&world, line).rows(),
    );
    assert_eq!(first % 5, 1, "it continues from a checkpoint");
}
