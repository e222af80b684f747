//! `mixce bench`: speed and memory of training, scoring, sampling and tokenisation on this machine.

mod batches;
mod forward;
mod generate;
mod measure;
mod model;
mod report;
mod tokenize;
mod train;

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::context::Context;

/// Measure speed, memory and share of the machine's matmul peak
///
/// Weights are random, because speed does not depend on them. Speeds are those of the median step, without warm-up steps.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: mixce bench train --model-config gpt2 --batch-size 8 --seq-len 512 --threads 2 --json\n\n\
        Floating-point operations are those of the matrix products: 2 for each multiply-add, in attention only the causal lower\n\
    triangle, the LM head included, training three times the forward pass. The peak is the fastest of several f32 matrix\n\
    products of GPT-2's shapes in the same process, on the same threads, unless --gflops is given."
)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

/// The benchmark.
#[derive(Debug, Subcommand)]
enum What {
    Train(train::TrainBench),
    Forward(forward::ForwardBench),
    Generate(generate::GenerateBench),
    Tokenize(tokenize::TokenizeBench),
}

pub(crate) fn run(args: &BenchArgs, context: &Context) -> Result<()> {
    match &args.what {
        What::Train(args) => train::run(args, context),
        What::Forward(args) => forward::run(args, context),
        What::Generate(args) => generate::run(args, context),
        What::Tokenize(args) => tokenize::run(args, context),
    }
}
