//! `mixce bench train`.

use std::sync::atomic::AtomicBool;

use anyhow::Result;
use clap::Args;
use mixce_core::ObjectiveConfig;
use mixce_kernels::rng::{Stream, purpose};
use mixce_lm::{Parameters, flops};
use mixce_train::config::{Precision, TrainConfig};
use mixce_train::trainer::TrainStep;
use serde_json::json;

use super::batches::{Batches, TextArgs, input_lengths};
use super::measure::{Step, steps};
use super::model::Common;
use super::report::{Measured, print};
use crate::commands::train::words;
use crate::context::Context;
use crate::objective::{ObjectiveParser, short_form_help};
use crate::speed::timed;

/// Measure training steps: forward, loss, backward, gradient check and AdamW, as in `mixce train`
#[derive(Debug, Args)]
#[command(
    after_help = "Example: mixce bench train --model-config gpt2 --batch-size 8 --seq-len 512 --threads 2 --json\n\n\
    Tokens are target tokens: those that have a loss. A step is one microbatch and one update. Ragged real text:\n\
    mixce bench train --data train.txt --tokenizer openai-community/gpt2 --batch-size 8 --seq-len 512"
)]
pub(super) struct TrainBench {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    text: TextArgs,
    /// All three dropout rates, in [0, 1) [default: the configuration's]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    dropout: Option<f64>,
    /// Training objective: the weight w of a token's cross-entropy as a function of its probability q
    #[arg(long, default_value = "mixce", value_name = "NAME[:PARAMETER=VALUE,..]", value_parser = ObjectiveParser)]
    objective: ObjectiveConfig,
    #[arg(long, value_name = "ETA", help = short_form_help("eta"), allow_negative_numbers = true)]
    eta: Option<f64>,
    /// Number format of the operands of matrix products; bf16 needs a CPU with AVX512-BF16 or a GPU of compute capability 8.0
    #[arg(long, default_value = "f32", value_parser = words::<Precision>(&["f32", "bf16"]))]
    precision: Precision,
    /// Recompute activations in the backward pass: less memory, more time
    #[arg(long)]
    activation_checkpointing: bool,
}

pub(super) fn run(args: &TrainBench, context: &Context) -> Result<()> {
    let config = TrainConfig {
        objective: args.objective.clone(),
        eta: args.eta,
        dropout: args.dropout,
        precision: args.precision,
        activation_checkpointing: args.activation_checkpointing,
        seed: context.seed(),
        ..TrainConfig::default()
    }
    .resolved();
    config.validate_settings()?;
    let model_config = config.with_dropout(&args.common.model_config()?);
    let text = args.text.fitted(&*model_config);
    let batches = Batches::new(&args.common, &text, &*model_config, config.seed)?;

    let device = context.start()?;
    config.check_device(&device)?;
    let parameters = Parameters::random(&*model_config, config.seed, &device)?;
    let count = parameters.element_count();
    let objective = config.objective_config().build()?;
    let mut train =
        TrainStep::new(&*model_config, parameters, objective, config.adamw(), config.clip_grad_norm)?
            .with_options(config.pass_options());
    let (dropout, stop) = (Stream::new(config.seed).fold(purpose::DROPOUT), AtomicBool::new(false));

    let steps = steps(&args.common, |index| {
        let batch = batches.get(index);
        let lengths: Vec<usize> = input_lengths(&batch).collect();
        let microbatches = [batch];
        let (done, seconds) =
            timed(&device, || Ok(train.run(&microbatches, dropout.fold(index), config.lr, &stop)?))?;
        Ok(Step { tokens: done.targets, flops: flops::training(&*model_config, lengths), seconds })
    })?;
    let chosen = config.objective_config();
    let mut objective = serde_json::Map::from_iter([("name".to_owned(), json!(chosen.spec().name))]);
    objective.extend(chosen.parameters().map(|(parameter, value)| (parameter.name.to_owned(), json!(value))));
    let own = json!({
        "objective": objective,
        "dropout": model_config.dropout(),
        "lr": config.lr,
        "precision": config.precision,
        "activation_checkpointing": args.activation_checkpointing,
        "seed": config.seed,
    });
    let settings = vec![json!(args.common), json!(text), own];
    let measured = Measured { bench: "train", unit: "target tokens", steps, parameters: count, settings };
    print(measured, args.common.gflops, &device, context)
}
