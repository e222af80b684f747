//! `mixce bench forward`.

use anyhow::Result;
use clap::Args;
use mixce_core::objective::Mle;
use mixce_lm::{Parameters, ScoringOptions, flops};
use mixce_train::data::{Examples, TokenStore};
use mixce_train::evaluate::evaluate;
use serde_json::json;

use super::batches::{Batches, TextArgs, input_lengths};
use super::measure::{Step, steps};
use super::model::Common;
use super::report::{Measured, print};
use crate::context::Context;
use crate::precision::PrecisionArgs;
use crate::speed::timed;

/// Measure scoring: the log-probability of every token, as `mixce evaluate` computes it
#[derive(Debug, Args)]
#[command(
    after_help = "Example: mixce bench forward --model-config gpt2 --batch-size 8 --seq-len 512 --threads 2 --json\n\n\
    Tokens are scored tokens. A step is one batch, without dropout and without gradients."
)]
pub(super) struct ForwardBench {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    text: TextArgs,
    #[command(flatten)]
    precision: PrecisionArgs,
}

pub(super) fn run(args: &ForwardBench, context: &Context) -> Result<()> {
    let seed = context.seed();
    let config = args.common.model_config()?;
    let text = args.text.fitted(&*config);
    let batches = Batches::new(&args.common, &text, &*config, seed)?;

    let device = context.start()?;
    let precision = args.precision.on(&device)?;
    let parameters = Parameters::random(&*config, seed, &device)?;
    let count = parameters.element_count();
    let model = config.build(parameters)?;
    let steps = steps(&args.common, |index| {
        let batch = batches.get(index);
        let lengths: Vec<usize> = input_lengths(&batch).collect();
        let tokens: usize = lengths.iter().sum();
        let examples = Examples::documents(TokenStore::from_documents(&batch.examples));
        let options = ScoringOptions { batch_tokens: tokens, precision };
        let (_, seconds) =
            timed(&device, || Ok(evaluate(&*model, &examples, &Mle, options, &mut |_| Ok(()))?))?;
        Ok(Step { tokens: tokens as u64, flops: flops::forward(&*config, lengths, tokens), seconds })
    })?;
    let settings = vec![json!(args.common), json!(text), json!(args.precision), json!({"seed": seed})];
    let measured = Measured { bench: "forward", unit: "tokens", steps, parameters: count, settings };
    print(measured, args.common.gflops, &device, context)
}
