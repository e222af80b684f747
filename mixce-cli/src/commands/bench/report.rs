//! Computes the result of timed steps.

use anyhow::Result;
use candle_core::Device;
use mixce_kernels::peak_device_bytes;
use serde::Serialize;
use serde_json::Value;

use super::measure::Step;
use crate::context::{Context, device_name};
use crate::memory::peak_rss_bytes;
use crate::output::{bytes, grouped, table};
use crate::speed::{self, Peak, median, sorted};

/// The result of a benchmark; the output of `--json`.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    bench: &'static str,
    /// Median rate of the steps.
    tokens_per_s: f64,
    tokens_per_s_min: f64,
    tokens_per_s_max: f64,
    step_s: Vec<f64>,
    tokens: Vec<u64>,
    peak_rss_bytes: Option<u64>,
    /// On CUDA.
    peak_device_bytes: Option<u64>,
    gflops: f64,
    matmul_peak_gflops: f64,
    /// Of the fastest product; null if the peak was given.
    matmul_peak_shape: Option<[usize; 3]>,
    matmul_peak_share: f64,
    parameters: u64,
    device: String,
    threads: usize,
    version: &'static str,
    settings: Value,
}

/// The inputs of the report.
#[derive(Debug)]
pub(super) struct Measured {
    /// `train`, `forward` or `generate`.
    pub(super) bench: &'static str,
    /// The unit of the tokens.
    pub(super) unit: &'static str,
    /// The timed steps.
    pub(super) steps: Vec<Step>,
    /// Parameters of the model.
    pub(super) parameters: usize,
    /// All settings that the numbers depend on: JSON objects to be merged.
    pub(super) settings: Vec<Value>,
}

/// Reads the peak memory, measures the matmul peak unless it is `given` in GFLOP/s, prints.
pub(super) fn print(
    measured: Measured,
    given: Option<f64>,
    device: &Device,
    context: &Context,
) -> Result<()> {
    // In this order, so that the matrices of the second measurement are not counted as the model's memory.
    let memory = [peak_rss_bytes(), peak_device_bytes(device)?];
    let peak = match given {
        Some(gflops) => Peak { gflops, shape: None },
        None => speed::peak(device)?,
    };
    let unit = measured.unit;
    let report = Report::new(measured, memory, peak, device);
    context.output.either(&report, || report.text(unit))
}

impl Report {
    fn new(
        measured: Measured,
        [peak_rss_bytes, peak_device_bytes]: [Option<u64>; 2],
        peak: Peak,
        device: &Device,
    ) -> Self {
        let Measured { bench, steps, parameters, settings, .. } = measured;
        let rates = sorted(steps.iter().map(|step| step.tokens as f64 / step.seconds));
        let gflops = median(&sorted(steps.iter().map(|step| step.flops as f64 / step.seconds / 1e9)));
        Self {
            bench,
            tokens_per_s: median(&rates),
            tokens_per_s_min: rates.first().copied().unwrap_or_default(),
            tokens_per_s_max: rates.last().copied().unwrap_or_default(),
            step_s: steps.iter().map(|step| step.seconds).collect(),
            tokens: steps.iter().map(|step| step.tokens).collect(),
            peak_rss_bytes,
            peak_device_bytes,
            gflops,
            matmul_peak_gflops: peak.gflops,
            matmul_peak_shape: peak.shape,
            matmul_peak_share: gflops / peak.gflops,
            parameters: parameters as u64,
            device: device_name(device),
            threads: rayon::current_num_threads(),
            version: env!("CARGO_PKG_VERSION"),
            settings: merged(settings),
        }
    }

    fn text(&self, unit: &str) -> String {
        let row = |name: &str, value: String| vec![name.to_owned(), value];
        let from = match self.matmul_peak_shape {
            Some([m, k, n]) => format!("{m} x {k} x {n}"),
            None => "given".to_owned(),
        };
        let step_s = sorted(self.step_s.iter().copied());
        let rows = [
            row(
                "speed",
                format!(
                    "{:.1} {unit}/s ({:.1} - {:.1})",
                    self.tokens_per_s, self.tokens_per_s_min, self.tokens_per_s_max
                ),
            ),
            row("step", format!("{:.4} s, median of {}", median(&step_s), step_s.len())),
            row("memory", self.memory()),
            row("arithmetic", format!("{:.1} GFLOP/s", self.gflops)),
            row("matmul peak", format!("{:.1} GFLOP/s ({from})", self.matmul_peak_gflops)),
            row("share", format!("{:.1} %", 100.0 * self.matmul_peak_share)),
            row("model", format!("{} parameters", grouped(self.parameters))),
            row("device", format!("{}, {} threads", self.device, self.threads)),
        ];
        table(&rows, &[])
    }

    fn memory(&self) -> String {
        let known =
            |count: Option<u64>| count.map_or("unknown".to_owned(), |n| format!("{} at most", bytes(n)));
        let resident = known(self.peak_rss_bytes);
        match (self.device.as_str(), self.peak_device_bytes) {
            ("cpu", _) => resident,
            (device, on_device) => format!("{} on {device}; {resident} in the process", known(on_device)),
        }
    }
}

/// Merges the objects.
fn merged(objects: Vec<Value>) -> Value {
    let maps = objects.into_iter().filter_map(|object| match object {
        Value::Object(map) => Some(map),
        _ => None,
    });
    Value::Object(maps.flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_medians_over_the_steps() {
        let step = |tokens, seconds| Step { tokens, flops: 6_000_000_000, seconds };
        let steps = vec![step(100, 1.0), step(100, 2.0), step(40, 0.1), step(100, 4.0)];
        let measured = Measured { bench: "train", unit: "tokens", steps, parameters: 7, settings: vec![] };
        let peak = Peak { gflops: 9.0, shape: Some([1, 2, 3]) };
        let report = Report::new(measured, [Some(5_000_000), None], peak, &Device::Cpu);
        // Rates 100, 50, 400, 25; GFLOP/s 6, 3, 60, 1.5.
        assert_eq!(
            (report.tokens_per_s, report.tokens_per_s_min, report.tokens_per_s_max),
            (75.0, 25.0, 400.0)
        );
        assert_eq!((report.gflops, report.matmul_peak_share), (4.5, 0.5));
        let on_gpu = Report { device: "cuda:0".into(), peak_device_bytes: Some(7_000_000), ..report };
        assert_eq!(on_gpu.memory(), "7.0 MB at most on cuda:0; 5.0 MB at most in the process");
        let text = Report { device: "cpu".into(), peak_device_bytes: None, ..on_gpu }.text("tokens");
        for words in [
            "75.0 tokens/s (25.0 - 400.0)",
            "1.5000 s, median of 4",
            "5.0 MB at most",
            "(1 x 2 x 3)",
            "50.0 %",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
    }
}
