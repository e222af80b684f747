//! `--gpus`: starts the program's command line once for each GPU of this machine, as a launcher does.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use mixce_data::input::STDIN;
use mixce_train::config::TrainConfig;
use mixce_train::distributed::Launched;

use crate::error::Problem;
use crate::interrupt;

/// How often the processes are looked at.
const POLL: Duration = Duration::from_millis(20);
/// How long the others may take to notice a failure themselves, before they are told to end.
const NOTICE: Duration = Duration::from_secs(2);
/// How long they may take to end then.
const END: Duration = Duration::from_secs(10);
/// Exit statuses of a process that a signal has ended in an orderly way: SIGHUP, SIGINT, SIGTERM.
const BY_SIGNAL: [i32; 3] = [129, 130, 143];

/// Whether this process is to start others, rather than to train.
///
/// # Errors
/// If there cannot be so many, or a launcher has started another number.
pub(super) fn starts_processes(
    gpus: usize,
    launched: Option<&Launched>,
    config: &TrainConfig,
) -> Result<bool> {
    if let Some(Launched { launcher, size, .. }) = launched {
        return match *size == gpus {
            true => Ok(false),
            false => Err(Problem::new(format!("`--gpus {gpus}`: {launcher} has started {size} processes"))
                .hint("leave it out: a launcher says how many")
                .into()),
        };
    }
    if config.device != "cuda" {
        let device = &config.device;
        return Err(Problem::new(format!("`--gpus {gpus}`: expected `--device cuda`, got `{device}`")).into());
    }
    if gpus == 1 {
        return Ok(false);
    }
    let mut files = [&config.train, &config.valid].into_iter().flatten().flat_map(|files| &files.0);
    if files.any(|file| file == Path::new(STDIN)) {
        return Err(Problem::new(format!("`--gpus {gpus}`: its processes cannot each read standard input"))
            .hint("write the documents to a file")
            .into());
    }
    if !cfg!(feature = "nccl") {
        return Err(Problem::new(format!("`--gpus {gpus}`: this build has no NCCL, which connects GPUs"))
            .hint("build it with `cargo build --release --features nccl`")
            .into());
    }
    let there = mixce_kernels::cuda_devices().context("`--gpus`: cannot count the GPUs of this machine")?;
    if gpus > there {
        return Err(Problem::new(format!("`--gpus {gpus}`: this machine has {there}")).into());
    }
    Ok(true)
}

/// A process of the run.
struct Rank {
    number: usize,
    child: Child,
}

/// Runs the command line in `gpus` processes until all have ended: well, or after the first failure.
pub(super) fn launch(gpus: usize) -> Result<()> {
    // The processes save and report.
    interrupt::install_saving("");
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    let port = free.context("cannot find a free port for the processes of the run")?.port();
    let mut ranks = Vec::new();
    for number in 0..gpus {
        match start(number, gpus, port) {
            Ok(child) => ranks.push(Rank { number, child }),
            Err(error) => {
                ranks.iter_mut().for_each(Rank::kill);
                return Err(error.context(format!("cannot start rank {number} of the run")));
            }
        }
    }
    match wait(ranks)? {
        None => Ok(()),
        Some((number, status)) => Err(match status.code().and_then(|code| u8::try_from(code).ok()) {
            // It has said why.
            Some(code) => Problem::reported(code).into(),
            None => Problem::new(format!("rank {number} of the run has died: {status}"))
                .hint("look for the reason in the system's log; continue with `--resume auto`")
                .into(),
        }),
    }
}

fn start(number: usize, gpus: usize, port: u16) -> Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(std::env::args_os().skip(1));
    for name in ["RANK", "LOCAL_RANK"] {
        command.env(name, number.to_string());
    }
    for name in ["WORLD_SIZE", "LOCAL_WORLD_SIZE"] {
        command.env(name, gpus.to_string());
    }
    command.env("MASTER_ADDR", Ipv4Addr::LOCALHOST.to_string()).env("MASTER_PORT", port.to_string());
    command.env_remove("TORCHELASTIC_USE_AGENT_STORE");
    // The child has the pipe, so that it ends with this process, however that ends; the other children do not inherit it.
    command.env(interrupt::HELD_STDIN, "1").stdin(Stdio::piped());
    // A terminal's Ctrl-C comes to this process alone, which passes it on once.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let child = command.spawn()?;
    interrupt::pass_on_to(child.id());
    Ok(child)
}

/// Waits for all processes; the first that has failed, or else the first that was interrupted.
fn wait(mut ranks: Vec<Rank>) -> Result<Option<(usize, ExitStatus)>> {
    let (mut failed, mut interrupted): (Option<(usize, ExitStatus)>, _) = (None, None);
    let (mut failed_at, mut is_told) = (Instant::now(), false);
    while !ranks.is_empty() {
        let mut running = Vec::new();
        for mut rank in ranks {
            match rank.child.try_wait().context("cannot wait for the processes of the run")? {
                None => running.push(rank),
                Some(status) => {
                    interrupt::pass_on_no_more(rank.child.id());
                    let ended = Some((rank.number, status));
                    if status.code().is_some_and(|code| BY_SIGNAL.contains(&code)) {
                        interrupted = interrupted.or(ended);
                    } else if !status.success() && failed.is_none() {
                        (failed, failed_at) = (ended, Instant::now());
                    }
                }
            }
        }
        ranks = running;
        if failed.is_some() && failed_at.elapsed() > NOTICE && !is_told {
            ranks.iter_mut().for_each(Rank::terminate);
            is_told = true;
        }
        if is_told && failed_at.elapsed() > NOTICE + END {
            ranks.iter_mut().for_each(Rank::kill);
        }
        thread::sleep(POLL);
    }
    Ok(failed.or(interrupted))
}

impl Rank {
    #[cfg(unix)]
    fn terminate(&mut self) {
        interrupt::send(self.child.id(), nix::sys::signal::Signal::SIGTERM);
    }

    #[cfg(not(unix))]
    fn terminate(&mut self) {
        self.kill();
    }

    fn kill(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
    }
}
