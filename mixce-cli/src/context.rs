//! The validated global flags.

use anyhow::Result;
use candle_core::Device;
use mixce_train::distributed::Launched;
use mixce_train::plan::roofline::Gpu;
pub(crate) use mixce_train::run_folder::device_name;

use crate::cli::GlobalArgs;
use crate::error::Problem;
use crate::output::Output;
use crate::{logging, progress};

/// The default seed, as in `mixce_train::config::TrainConfig`.
const DEFAULT_SEED: u64 = 42;

/// More threads than any machine has; a larger number is a typo.
const MAX_THREADS: usize = 4096;

/// What every subcommand receives.
#[derive(Debug)]
pub(crate) struct Context {
    /// Writes to stdout.
    pub(crate) output: Output,
    /// `--device`, if given.
    pub(crate) device: Option<String>,
    /// `--threads`, if given.
    pub(crate) threads: Option<usize>,
    /// `--seed`, if given.
    pub(crate) seed: Option<u64>,
}

impl Context {
    /// Checks the flags and starts logging. Of the ranks of a run only the first, 0, shows progress and warnings without `-v`.
    pub(crate) fn new(global: &GlobalArgs, rank: Option<usize>) -> Result<Self> {
        let quiet = global.quiet || (global.verbose == 0 && rank.is_some_and(|rank| rank > 0));
        logging::start(global.verbose, quiet, global.color.on_stderr(), rank);
        if quiet || rank.is_some_and(|rank| rank > 0) {
            progress::hide();
        }
        if let Some(threads) = global.threads.filter(|n| !(1..=MAX_THREADS).contains(n)) {
            return Err(
                Problem::new(format!("`--threads`: expected 1 to {MAX_THREADS}, got `{threads}`")).into()
            );
        }
        if let Some(device) = &global.device {
            DeviceChoice::parse(device)?;
        }
        Ok(Self {
            output: Output::new(global.json),
            device: global.device.clone(),
            threads: global.threads,
            seed: global.seed,
        })
    }

    /// `--seed`, or the default.
    pub(crate) fn seed(&self) -> u64 {
        self.seed.unwrap_or(DEFAULT_SEED)
    }

    /// The GPU that `--device` names for an estimate, such as `h100`.
    pub(crate) fn named_gpu(&self) -> Option<&'static Gpu> {
        self.device.as_deref().and_then(Gpu::named)
    }

    /// Starts the thread pool and opens the device.
    pub(crate) fn start(&self) -> Result<Device> {
        self.start_rank(None, None, None)
    }

    /// As [`Self::start`], with these defaults for flags that were not given, in a process that a launcher may have started as one of
    /// several: these take a GPU of their machine each.
    pub(crate) fn start_rank(
        &self,
        device: Option<&str>,
        threads: Option<usize>,
        launched: Option<&Launched>,
    ) -> Result<Device> {
        self.start_threads(threads);
        // One command, which does one thing after another.
        mixce_kernels::allow_recording();
        let choice = DeviceChoice::parse(self.device.as_deref().or(device).unwrap_or("auto"))?;
        launched.map_or(Ok(choice), |launched| choice.of_rank(launched))?.open()
    }

    /// Starts the thread pool alone, with this default for `--threads`.
    pub(crate) fn start_threads(&self, threads: Option<usize>) {
        if let Some(threads) = self.threads.or(threads) {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            if let Err(error) = pool.build_global() {
                tracing::warn!("`--threads {threads}` has no effect: {error}");
            }
        }
    }
}

/// Values of `--device`.
#[derive(Clone, Copy, Debug, PartialEq)]
enum DeviceChoice {
    Auto,
    Cpu,
    /// With a number, or this process's.
    Cuda(Option<usize>),
    /// A GPU to estimate for; no device to open.
    Named(&'static Gpu),
}

impl DeviceChoice {
    fn parse(text: &str) -> Result<Self> {
        let number = |text: &str| text.strip_prefix("cuda:").and_then(|n| n.parse().ok());
        Ok(match text {
            "auto" => Self::Auto,
            "cpu" => Self::Cpu,
            "cuda" => Self::Cuda(None),
            _ => match number(text) {
                Some(n) => Self::Cuda(Some(n)),
                None if let Some(gpu) = Gpu::named(text) => Self::Named(gpu),
                None => {
                    return Err(Problem::new(format!(
                        "`--device`: expected `auto`, `cpu`, `cuda` or `cuda:N`, got `{text}`"
                    ))
                    .into());
                }
            },
        })
    }

    /// The device of one of several processes.
    fn of_rank(self, launched: &Launched) -> Result<Self> {
        let Launched { local_rank, local_size, .. } = *launched;
        match self {
            Self::Auto | Self::Cuda(None) => match mixce_kernels::cuda_devices() {
                // The launcher has given this process one of the machine's.
                Ok(1) => Ok(Self::Cuda(Some(0))),
                Ok(count) if count > 0 && local_rank >= count => Err(Problem::new(format!(
                    "process {local_rank} of this machine, counted from 0, has no GPU: there are {count}"
                ))
                .hint("start as many processes on a machine as it has GPUs")
                .into()),
                Ok(count) if count > 0 => Ok(Self::Cuda(Some(local_rank))),
                // Opening it says what is wrong.
                Ok(_) | Err(_) => Ok(self),
            },
            Self::Cuda(Some(n)) if local_size > 1 => Err(Problem::new(format!(
                "`--device cuda:{n}`: expected `cuda` for {local_size} processes on a machine, each of which takes the GPU of its number"
            ))
            .into()),
            other => Ok(other),
        }
    }

    fn open(self) -> Result<Device> {
        let cuda = candle_core::utils::cuda_is_available();
        match self {
            Self::Cpu => Ok(Device::Cpu),
            // A CUDA build may run on a machine without a GPU.
            Self::Auto if cuda => Ok(mixce_kernels::cuda_device(0).unwrap_or_else(|error| {
                tracing::warn!("no CUDA device, using the CPU: {error}");
                Device::Cpu
            })),
            Self::Auto => Ok(Device::Cpu),
            Self::Cuda(n) if cuda => {
                let n = n.unwrap_or(0);
                mixce_kernels::cuda_device(n)
                    .map_err(|error| Problem::new(format!("cannot open CUDA device {n}: {error}")).into())
            }
            Self::Named(gpu) => Err(Problem::new(format!(
                "`--device {}`: this names a GPU for an estimate, not a device of this machine",
                gpu.name
            ))
            .hint("`mixce plan --roofline` estimates for it; to use a GPU give `--device cuda`")
            .into()),
            Self::Cuda(_) => Err(Problem::new("`--device cuda`: this build has no CUDA support")
                .hint("build it with `cargo build --release --features cuda`")
                .into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read() {
        assert_eq!(DeviceChoice::parse("cuda:3").unwrap(), DeviceChoice::Cuda(Some(3)));
        assert_eq!(DeviceChoice::parse("cpu").unwrap(), DeviceChoice::Cpu);
        for bad in ["gpu", "metal", "cuda:", "cuda:x", ""] {
            assert!(DeviceChoice::parse(bad).unwrap_err().to_string().contains(&format!("`{bad}`")));
        }
    }
}
