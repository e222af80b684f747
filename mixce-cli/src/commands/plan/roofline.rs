//! `mixce plan --roofline`: where the time of a step goes on a GPU, on paper.

use anyhow::Result;
use mixce_lm::ModelConfig;
use mixce_train::config::Precision;
use mixce_train::plan::roofline::{GPUS, Gpu, Roofline, roofline};
use serde::Serialize;

use super::{PlanArgs, rounded};
use crate::context::Context;
use crate::error::Problem;
use crate::output::{bytes, grouped, table};

/// The output of `--json`.
#[derive(Debug, Serialize)]
struct Estimate {
    model: String,
    device: &'static Gpu,
    precision: Precision,
    batch_size: usize,
    max_length: usize,
    #[serde(flatten)]
    roofline: Roofline,
}

pub(super) fn run(
    args: &PlanArgs,
    max_length: usize,
    config: &dyn ModelConfig,
    context: &Context,
) -> Result<()> {
    let device = named_gpu(context)?;
    let inputs = max_length.saturating_sub(1);
    let roofline = roofline(config, device, args.precision.into(), args.batch_size, inputs);
    let estimate = Estimate {
        model: args.model.clone(),
        device,
        precision: args.precision,
        batch_size: args.batch_size,
        max_length,
        roofline,
    };
    context.output.either(&estimate, || estimate.text())
}

fn named_gpu(context: &Context) -> Result<&'static Gpu> {
    context.named_gpu().ok_or_else(|| {
        let names: Vec<String> = GPUS.iter().map(|gpu| format!("`{}`", gpu.name)).collect();
        let given = context.device.as_deref().unwrap_or("auto");
        Problem::new(format!("`--roofline`: expected `--device` {}, got `{given}`", names.join(" or ")))
            .into()
    })
}

impl Estimate {
    fn text(&self) -> String {
        let step = &self.roofline;
        let mut rows = vec![["part", "ms", "at peak rates", "GFLOP", "moved"].map(str::to_owned).to_vec()];
        rows.extend(step.parts.iter().map(|part| {
            let gflop = part.flops / 1e9;
            vec![
                part.name.to_owned(),
                rounded(part.ms),
                rounded(part.bound_ms),
                rounded(gflop),
                bytes(part.bytes as u64),
            ]
        }));
        rows.push(vec![
            "step".to_owned(),
            rounded(step.step_ms),
            rounded(step.bound_ms),
            String::new(),
            String::new(),
        ]);
        format!(
            "{}, {} documents of {} tokens, {}, on the {}: estimated from the shapes, not measured\n\n{}\n{} tokens/s, {:.1} % of the peak",
            self.model,
            self.batch_size,
            self.max_length,
            self.precision,
            self.device.product,
            table(&rows, &[false, true, true, true, true]),
            grouped(step.tokens_per_s.round() as u64),
            100.0 * step.mfu
        )
    }
}
