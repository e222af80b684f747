//! Samples the models and scores the texts.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use mixce_core::objective::Mle;
use mixce_eval::diversity::pooled_diversity;
use mixce_kernels::Precision;
use mixce_lm::generate::{Continuation, GenerateOptions, generate};
use mixce_lm::sampling::Sampling;
use mixce_lm::{LanguageModel, ScoringOptions};
use mixce_synthetic::grammar::{Grammar, SampleScore, SmoothedGrammar};
use mixce_train::evaluate::evaluate;

use super::corpus::{Corpus, MAX_TOKENS, write_lines};
use super::report::{Gold, System};
use super::training::Trained;
use super::{Progress, Settings};

/// Sequences sampled at once.
const BATCH: usize = 250;

/// Samples shown to the user.
const SHOWN: usize = 5;

/// Range of temperatures searched for the one of equal diversity.
const TEMPERATURES: (f64, f64) = (0.1, 1.5);

/// Halvings of the interval: the last is about 0.01 wide.
const BISECTIONS: usize = 7;

pub(super) struct Sampler<'a> {
    settings: &'a Settings,
    grammar: &'a Grammar,
    smoothed: SmoothedGrammar<'a>,
    corpus: &'a Corpus,
    dir: PathBuf,
}

impl<'a> Sampler<'a> {
    pub(super) fn new(
        settings: &'a Settings,
        grammar: &'a Grammar,
        corpus: &'a Corpus,
        dir: &Path,
    ) -> Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create `{}`", dir.display()))?;
        let smoothed = SmoothedGrammar::new(grammar, SmoothedGrammar::EPSILON)?;
        Ok(Self { settings, grammar, smoothed, corpus, dir: dir.to_owned() })
    }

    /// Samples a model at a temperature and scores the texts.
    pub(super) fn score(
        &mut self,
        name: &str,
        model: &Trained,
        temperature: f64,
        progress: &mut dyn Progress,
    ) -> Result<System> {
        progress.begin(&format!("sampling {name}"), self.settings.samples);
        let samples = self.sample(&*model.model, temperature, progress)?;
        progress.end();
        self.judge(name, model, temperature, &samples)
    }

    /// Finds the temperature at which the model's samples have this diversity, and scores them there.
    ///
    /// Diversity rises with temperature, and all temperatures use the same random numbers, so bisection converges.
    pub(super) fn match_diversity(
        &mut self,
        name: &str,
        model: &Trained,
        diversity: f64,
        progress: &mut dyn Progress,
    ) -> Result<System> {
        progress.begin("matching the temperature", self.settings.samples * BISECTIONS as u64);
        let (mut low, mut high) = TEMPERATURES;
        for round in 0..BISECTIONS {
            let middle = 0.5 * (low + high);
            let samples = self.sample(&*model.model, middle, &mut Quiet)?;
            progress.update((round as u64 + 1) * self.settings.samples, &format!("temperature {middle:.3}"));
            let reached = diversity_of(&samples)?;
            if reached < diversity { low = middle } else { high = middle }
        }
        progress.end();
        self.score(name, model, 0.5 * (low + high), progress)
    }

    /// Scores of P itself: its exact perplexity on the held-out texts, and a fresh sample of it.
    pub(super) fn gold(&self) -> Result<Gold> {
        let held_out = &self.corpus.held_out;
        let nats: f64 = held_out.iter().filter_map(|text| self.grammar.log_prob_text(text)).map(|l| -l).sum();
        let perplexity = (nats / self.corpus.held_out_examples.targets() as f64).exp();
        let stream = mixce_kernels::rng::Stream::new(self.settings.seed)
            .fold(mixce_kernels::rng::purpose::CORPUS)
            .fold(2);
        let texts: Vec<String> = (0..self.settings.samples)
            .map(|i| mixce_synthetic::grammar::render(&self.grammar.sample(stream, i)))
            .collect();
        let score = SampleScore::of(&self.smoothed, &texts).context("no samples were requested")?;
        let ids = self.corpus.tokenizer.encode_batch(&texts)?;
        Ok(Gold {
            perplexity,
            in_support: score.in_support,
            reverse_cross_entropy: score.reverse_cross_entropy_nats,
            diversity: pooled_diversity(&ids).context("no samples were requested")?,
            distinct: score.distinct,
            entropy_nats: self.grammar.facts().entropy_nats,
        })
    }

    fn sample(
        &self,
        model: &dyn LanguageModel,
        temperature: f64,
        progress: &mut dyn Progress,
    ) -> Result<Vec<Continuation>> {
        let begin =
            [self.corpus.tokenizer.bos_id().context("the tokenizer has no beginning-of-text token")?];
        let prompts: Vec<(u64, &[u32])> = (0..self.settings.samples).map(|i| (i, begin.as_slice())).collect();
        let options = GenerateOptions {
            sampling: Sampling { temperature, ..Sampling::default() },
            max_new_tokens: MAX_TOKENS - 1,
            eos: self.corpus.tokenizer.eos_id().into_iter().collect(),
            batch_size: BATCH,
            seed: self.settings.seed,
        };
        let mut done = 0;
        let decoder = model.detached()?.into_decoder(Precision::F32)?;
        let samples = generate(&*decoder, &prompts, &options, &mut |ended, _| {
            done += ended as u64;
            progress.update(done, "");
        })?;
        Ok(samples)
    }

    fn judge(
        &self,
        name: &str,
        trained: &Trained,
        temperature: f64,
        samples: &[Continuation],
    ) -> Result<System> {
        let decode = |sample: &Continuation| Ok(self.corpus.tokenizer.decode(&sample.tokens)?);
        let texts: Vec<String> = samples.iter().map(decode).collect::<Result<_>>()?;
        // A sample may contain a line break; JSON still keeps one sample per line.
        let json = |text: &String| serde_json::json!({ "text": text }).to_string();
        write_lines(&self.dir.join(format!("{name}.jsonl")), &texts.iter().map(json).collect::<Vec<_>>())?;
        let score = SampleScore::of(&self.smoothed, &texts).context("no samples were requested")?;
        let held_out = &self.corpus.held_out_examples;
        let evaluation =
            evaluate(&*trained.model, held_out, &Mle, ScoringOptions::default(), &mut |_| Ok(()))?;
        Ok(System {
            perplexity: evaluation.perplexity,
            in_support: score.in_support,
            reverse_cross_entropy: score.reverse_cross_entropy_nats,
            diversity: diversity_of(samples)?,
            distinct: score.distinct,
            temperature,
            mean_tokens: score.mean_tokens,
            model: trained.dir.clone(),
            samples: texts.into_iter().take(SHOWN).collect(),
        })
    }
}

fn diversity_of(samples: &[Continuation]) -> Result<f64> {
    let ids: Vec<&[u32]> = samples.iter().map(|sample| sample.tokens.as_slice()).collect();
    pooled_diversity(&ids).context("all samples are empty")
}

/// Shows nothing.
struct Quiet;

impl Progress for Quiet {
    fn begin(&mut self, _stage: &str, _total: u64) {}
    fn update(&mut self, _done: u64, _note: &str) {}
    fn end(&mut self) {}
}
