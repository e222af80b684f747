//! A batch of sequences that is being continued token by token.

use std::fmt::{self, Debug};

use candle_core::{DType, Tensor};
use mixce_kernels::{RecordedStep, StepInputs, read_tokens, recording_is_allowed};

use crate::architecture::Architecture;
use crate::cache::KvCache;
use crate::decoder::TransformerDecoder;
use crate::error::Result;
use crate::model::Decoder as _;
use crate::sampler::Sampler;

/// Sequences that are being continued ([`Decoder::start`](crate::Decoder::start)).
pub trait Session: Debug + Send {
    /// Appends a token to each sequence and chooses the next one of each; `None` where a logit is not finite. On a GPU only these tokens are
    /// copied to the host.
    ///
    /// # Errors
    /// As [`Decoder::decode`](crate::Decoder::decode).
    fn next(&mut self, ids: &[u32]) -> Result<Vec<Option<u32>>>;

    /// Keeps only the sequences with these indices, in this order.
    ///
    /// # Errors
    /// When a tensor operation fails.
    fn keep(&mut self, sequences: &[usize]) -> Result<()>;
}

/// The first token behind each prompt, and the session that continues them.
pub type Started<'a> = (Vec<Option<u32>>, Box<dyn Session + 'a>);

/// What a recorded step does.
type Work<'a> = Box<dyn Fn(&StepInputs, &Tensor) -> candle_core::Result<()> + Send + Sync + 'a>;

/// The session of a transformer.
///
/// Launching its kernels one by one keeps a GPU waiting for the host. So, where that is allowed ([`mixce_kernels::allow_recording`]), only
/// the first step of a batch is launched that way, which also loads the kernels; then a step is recorded, and the others are launched at
/// once. A recorded step is for a certain number of rows, and weights are read once for all of them: on a GPU the row of a sequence that is
/// not kept stays, with a token that nobody reads, until half of the rows are such.
pub(crate) struct TransformerSession<'a, A: Architecture> {
    decoder: &'a TransformerDecoder<A>,
    cache: KvCache,
    sampler: Sampler<'a>,
    /// The row of each sequence in cache and sampler.
    rows: Vec<usize>,
    recorded: Option<RecordedStep<Work<'a>>>,
    /// Whether steps may be recorded, and the driver does so.
    records: bool,
}

/// Steps that must remain for recording one to be worth it.
const MIN_STEPS: usize = 4;

impl<A: Architecture> Debug for TransformerSession<'_, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cache, sampler, rows, recorded, .. } = self;
        let mut session = f.debug_struct("TransformerSession");
        session.field("cache", cache).field("sampler", sampler).field("rows", rows);
        session.field("recorded", recorded).finish_non_exhaustive()
    }
}

impl<'a, A: Architecture> TransformerSession<'a, A> {
    /// For the sequences of this cache.
    pub(crate) fn new(decoder: &'a TransformerDecoder<A>, cache: KvCache, sampler: Sampler<'a>) -> Self {
        let rows = (0..cache.lengths().len()).collect();
        let records = decoder.is_on_gpu() && recording_is_allowed();
        Self { decoder, cache, sampler, rows, recorded: None, records }
    }

    /// The next token of each sequence, given its hidden state `[B, C]` after a prompt.
    pub(crate) fn choose(&mut self, hidden: &Tensor) -> Result<Vec<Option<u32>>> {
        self.sampler.choose(self.decoder.lm_head(), hidden, self.cache.positions())
    }

    /// Ids and positions of all rows; rows without a sequence begin again and again.
    fn of_rows(&self, ids: &[u32]) -> (Vec<u32>, Vec<u32>) {
        let lengths = self.cache.lengths();
        let (mut all_ids, mut positions) = (vec![0; lengths.len()], vec![0; lengths.len()]);
        for (row, id) in self.rows.iter().zip(ids) {
            (all_ids[*row], positions[*row]) = (*id, lengths[*row]);
        }
        (all_ids, positions)
    }

    /// Whether there are enough steps to come.
    fn is_worth_recording(&self) -> bool {
        let longest = self.cache.lengths().iter().max().map_or(0, |length| *length as usize);
        let positions = self.decoder.spec().positions.saturating_sub(longest);
        self.records && self.cache.room().min(positions) >= MIN_STEPS
    }

    /// Records a step. Where the driver refuses, steps go on being launched kernel by kernel.
    fn record(&mut self, ids: &[u32]) -> Result<()> {
        let device = self.decoder.device();
        let inputs = StepInputs::new(ids, self.cache.lengths(), device)?;
        let tokens = Tensor::zeros(ids.len(), DType::U32, device)?;
        let (decoder, cache, sampler) = (self.decoder, self.cache.clone(), self.sampler.fork());
        let work = move |inputs: &StepInputs, tokens: &Tensor| {
            let step = || {
                let mut cache = cache.clone();
                cache.set_lengths(inputs.positions.clone());
                let hidden = decoder.step(&inputs.tokens, &mut cache)?;
                sampler.choose_on_gpu(decoder.lm_head(), &hidden, &inputs.lengths, tokens)
            };
            step().map_err(candle_core::Error::wrap)
        };
        match RecordedStep::new(inputs, tokens, Box::new(work) as Work<'a>) {
            Ok(step) => self.recorded = Some(step),
            Err(error) => {
                self.records = false;
                tracing::warn!("sampling launches kernel by kernel: the driver records no step: {error}");
            }
        }
        Ok(())
    }

    /// The next token of each row.
    fn step(&mut self, ids: &[u32], positions: &[u32]) -> Result<Vec<Option<u32>>> {
        if let Some(step) = &mut self.recorded {
            let tokens = read_tokens(step.run(ids, positions)?)?;
            self.cache.count(positions);
            return Ok(tokens);
        }
        let inputs = StepInputs::new(ids, positions, self.decoder.device())?;
        let hidden = self.decoder.extend(&inputs, &mut self.cache)?;
        let tokens = self.sampler.choose(self.decoder.lm_head(), &hidden, &inputs.lengths)?;
        if self.is_worth_recording() {
            self.record(ids)?;
        }
        Ok(tokens)
    }
}

impl<A: Architecture> Session for TransformerSession<'_, A> {
    fn next(&mut self, ids: &[u32]) -> Result<Vec<Option<u32>>> {
        if ids.len() != self.rows.len() {
            let message =
                format!("expected a token for each of {} sequences, got {}", self.rows.len(), ids.len());
            return Err(candle_core::Error::Msg(message).into());
        }
        let (ids, positions) = self.of_rows(ids);
        self.decoder.check(&ids, &positions, &self.cache)?;
        let tokens = self.step(&ids, &positions)?;
        Ok(self.rows.iter().map(|row| tokens[*row]).collect())
    }

    fn keep(&mut self, sequences: &[usize]) -> Result<()> {
        self.rows = sequences.iter().map(|i| self.rows[*i]).collect();
        if self.decoder.is_on_gpu() && 2 * self.rows.len() > self.cache.lengths().len() {
            self.sampler.restart_all_but(&self.rows);
            return Ok(());
        }
        self.recorded = None;
        self.sampler.keep(&self.rows);
        self.cache.keep(&self.rows)?;
        self.rows = (0..sequences.len()).collect();
        Ok(())
    }
}
