//! `mixce doctor`: describes this machine and checks the arithmetic on it.

mod checks;
mod links;
mod llama;
mod parity;
mod passes;

use std::path::{Path, PathBuf};

use anyhow::Result;
use candle_core::Device;
use clap::Args;
use mixce_base::files::OwnTemporary;
use mixce_hub::HubEnvironment;
use mixce_kernels::{Gpu, gpu};
use mixce_train::distributed::{Launched, lead};
use serde::Serialize;

use crate::context::{Context, device_name};
use crate::error::Problem;
use crate::output::{bytes, table};
use crate::{ranks, version};
use checks::Check;
use links::Links;

/// Show device, features, cache and hub settings, and check the fused operations against plain ones
#[derive(Debug, Args)]
#[command(after_help = "Example: mixce doctor --json\n\nExit status 1 if a check fails.\n\n\
    Under a launcher, `mpirun -n 4 mixce doctor`, the processes also check sums over all of them, and measure the latency and bandwidth of\n\
    these sums; the first one prints, and describes its own machine.")]
pub(crate) struct DoctorArgs {
    /// Compare the GPU with the CPU: operations forward and backward, ten steps of training, sampling, speed
    #[arg(long)]
    parity: bool,
    /// With `--parity`: use the shapes of GPT-2 small (takes minutes on the CPU)
    #[arg(long, requires = "parity")]
    full: bool,
    #[command(flatten)]
    patience: ranks::TimeoutArgs,
}

#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    features: Vec<&'static str>,
    platform: String,
    device: String,
    gpu: Option<GpuReport>,
    threads: usize,
    cpu_features: Vec<&'static str>,
    hub: HubReport,
    checks: Vec<Check>,
    /// The checks of `--parity` skipped for lack of a GPU.
    not_checked: Vec<&'static str>,
    /// With several ranks.
    #[serde(skip_serializing_if = "Option::is_none")]
    links: Option<Links>,
}

/// Properties of a GPU.
#[derive(Debug, Serialize)]
struct GpuReport {
    name: String,
    memory_bytes: u64,
    compute_capability: String,
    cuda_version: String,
    /// What cublasLt does at the end of products in bf16.
    epilogues: Vec<&'static str>,
}

impl From<Gpu> for GpuReport {
    fn from(gpu: Gpu) -> Self {
        let Gpu { name, memory_bytes, compute_capability, cuda_version, epilogues } = gpu;
        Self { name, memory_bytes, compute_capability, cuda_version, epilogues }
    }
}

impl GpuReport {
    fn in_words(&self, device: &str) -> String {
        let Self { name, memory_bytes, compute_capability, cuda_version, epilogues } = self;
        let memory = bytes(*memory_bytes);
        format!(
            "{device}: {name}, {memory}, compute capability {compute_capability}, driver for CUDA {cuda_version}, {}",
            match epilogues[..] {
                [] => "bf16 products by cuBLAS alone".to_owned(),
                _ => format!("bf16 products with {} by cublasLt", epilogues.join(" and ")),
            }
        )
    }
}

/// The hub's settings, without the token itself.
#[derive(Debug, Serialize)]
struct HubReport {
    endpoint: String,
    offline: bool,
    token: bool,
    cache_dir: PathBuf,
    cache_writable: bool,
}

pub(crate) fn run(args: &DoctorArgs, context: &Context) -> Result<()> {
    let launched = Launched::of_environment()?;
    let ranks = ranks::connect(launched, args.patience.timeout())?;
    let device = context.start_rank(None, ranks::threads(launched), launched.as_ref())?;
    let ranks = ranks::connect_devices(ranks, &device)?;
    let report = lead(&*ranks, || examine(args, &device))?;
    let links = (ranks.size() > 1).then(|| links::measure(&*ranks, &device)).transpose()?;
    ranks::disconnect(ranks);
    let Some(mut report) = report else { return Ok(()) };
    if let Some((links, checks)) = links {
        report.checks.extend(checks);
        report.links = Some(links);
    }
    context.output.either(&report, || text(&report))?;
    let failed: Vec<&str> = report.checks.iter().filter(|c| !c.holds).map(|c| c.name).collect();
    if failed.is_empty() {
        Ok(())
    } else {
        Err(Problem::check_failed(format!("failed: {}", failed.join(", "))).into())
    }
}

/// What concerns this process alone.
fn examine(args: &DoctorArgs, device: &Device) -> Result<Report> {
    let environment = HubEnvironment::from_process()?;
    let writable = is_writable(&environment.cache_dir);
    let mut checks = checks::numeric(device)?;
    let not_checked = match (args.parity, device.is_cpu()) {
        (true, true) => parity::NOT_CHECKED.to_vec(),
        (true, false) => {
            checks.extend(parity::parity(device, args.full)?);
            Vec::new()
        }
        (false, _) => Vec::new(),
    };
    let cache = environment.cache_dir.display();
    checks.push(Check::new(
        "hub cache",
        writable,
        format!("`{cache}` {}", if writable { "is writable" } else { "is not writable" }),
    ));
    Ok(Report {
        version: env!("CARGO_PKG_VERSION"),
        features: version::features(),
        platform: format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH),
        device: device_name(device),
        gpu: gpu(device)?.map(GpuReport::from),
        threads: rayon::current_num_threads(),
        cpu_features: cpu_features(),
        hub: HubReport {
            endpoint: environment.endpoint.clone(),
            offline: environment.offline,
            token: environment.token.is_some(),
            cache_writable: writable,
            cache_dir: environment.cache_dir.clone(),
        },
        checks,
        not_checked,
        links: None,
    })
}

fn text(report: &Report) -> String {
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let hub = &report.hub;
    let mut rows = vec![
        row("mixce", format!("{} ({})", report.version, report.features.join(", "))),
        row("platform", report.platform.clone()),
        row(
            "device",
            report.gpu.as_ref().map_or_else(|| report.device.clone(), |gpu| gpu.in_words(&report.device)),
        ),
        row("threads", report.threads.to_string()),
        row("cpu", report.cpu_features.join(" ")),
        row("hub", format!("{}{}", hub.endpoint, if hub.offline { " (offline)" } else { "" })),
        row("token", if hub.token { "set" } else { "not set" }.to_owned()),
        row("cache", hub.cache_dir.display().to_string()),
    ];
    rows.extend(report.links.iter().flat_map(Links::in_words).map(|(name, value)| row(name, value)));
    for check in &report.checks {
        let against = check.against.map(|other| format!(" against {other}")).unwrap_or_default();
        rows.push(row(
            if check.holds { "ok" } else { "FAILED" },
            format!("{}{against}: {}", check.name, check.detail),
        ));
    }
    for name in &report.not_checked {
        rows.push(row("not checked", format!("{name}: no GPU")));
    }
    table(&rows, &[])
}

/// Whether files can be created in a folder, or in its nearest existing ancestor.
fn is_writable(folder: &Path) -> bool {
    let Some(existing) = folder.ancestors().find(|f| f.exists()) else { return false };
    OwnTemporary::file(&existing.join("mixce-doctor")).is_ok()
}

#[cfg(target_arch = "x86_64")]
fn cpu_features() -> Vec<&'static str> {
    let known = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
    ];
    known.into_iter().filter(|(_, has)| *has).map(|(name, _)| name).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn cpu_features() -> Vec<&'static str> {
    Vec::new()
}
