//! Choosing the next tokens of a batch on a GPU: only their ids reach the host.

use candle_core::{Result, Tensor, bail};

use crate::Positions;
use crate::device::gpu_of;
use crate::device_copy::DeviceCopy;
use crate::rng::Stream;

/// How a token is chosen from its logits. The filters of a draw act in the order of the fields.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Choice {
    /// The most likely token, the first of equals.
    Greedy,
    /// A draw from the softmax.
    Draw {
        /// Divides the logits, above 0.
        temperature: f64,
        /// Keeps the `k` most likely tokens, at least 1, and those tied with the last of them.
        top_k: Option<usize>,
        /// Keeps the smallest set of most likely tokens (of equals the first) whose probabilities sum to at least this, in `(0, 1]`.
        top_p: Option<f64>,
    },
}

impl Choice {
    /// Refuses parameters outside their ranges.
    fn check(self) -> Result<()> {
        let Self::Draw { temperature, top_k, top_p } = self else { return Ok(()) };
        if !temperature.is_finite() || temperature <= 0.0 {
            bail!("sample: expected a finite temperature above 0, got {temperature}");
        }
        if top_k == Some(0) {
            bail!("sample: expected a top-k of at least 1, got 0");
        }
        match top_p {
            Some(p) if !(p > 0.0 && p <= 1.0) => bail!("sample: expected a top-p in (0, 1], got {p}"),
            _ => Ok(()),
        }
    }
}

/// The random numbers of a batch: a stream for each sequence, all of one seed, and the tokens that it began with. Both are copied to the
/// device once.
#[derive(Clone, Debug)]
pub struct Draws {
    streams: Vec<Stream>,
    starts: Positions,
    labels: DeviceCopy,
}

impl Draws {
    /// The stream of each sequence, and the number of its tokens for which number 0 of the stream chooses the next one.
    #[must_use]
    pub fn new(of_sequences: impl IntoIterator<Item = (Stream, u32)>) -> Self {
        let (streams, starts): (_, Vec<u32>) = of_sequences.into_iter().unzip();
        Self { streams, starts: Positions::new(starts), labels: DeviceCopy::default() }
    }

    /// The stream and the first number of tokens of each sequence.
    pub fn iter(&self) -> impl Iterator<Item = (Stream, u32)> + '_ {
        self.streams.iter().copied().zip(self.starts.as_slice().iter().copied())
    }

    /// The number that chooses the token behind `length` tokens of each sequence.
    ///
    /// # Errors
    /// When the sequences are not as many as the lengths, or one is shorter than it began.
    pub fn numbers(&self, lengths: &[u32]) -> Result<Vec<f64>> {
        let numbers = self.iter().zip(lengths).map(|((stream, start), length)| {
            length.checked_sub(start).map(|number| stream.uniform(number.into()))
        });
        match numbers.collect::<Option<Vec<f64>>>() {
            Some(numbers) if self.streams.len() == lengths.len() => Ok(numbers),
            _ => bail!("sample: expected at least {:?} tokens, got {lengths:?}", self.starts.as_slice()),
        }
    }

    /// The key that all streams have.
    fn key(&self) -> Result<u64> {
        let mut keys = self.streams.iter().map(|stream| stream.key_and_label().0);
        let key = keys.next().unwrap_or_default();
        match keys.find(|other| *other != key) {
            Some(other) => bail!("sample: expected streams of one seed, got {key} and {other}"),
            None => Ok(key),
        }
    }

    /// The labels' bits `[B]` i64 and the starts `[B]` u32 on the device of `like`.
    fn on(&self, like: &Tensor) -> Result<(Tensor, Tensor)> {
        let labels = self.labels.get(like.device(), || {
            let labels = self.streams.iter().map(|stream| stream.key_and_label().1.cast_signed());
            Tensor::from_vec(labels.collect::<Vec<_>>(), self.streams.len(), like.device())
        })?;
        Ok((labels, self.starts.on(like.device())?))
    }
}

/// Chooses the next token of each sequence on the GPU, from the first `vocabulary` numbers of each row of `logits` `[B, S]` f32. The ids go
/// to `tokens` `[B]` u32; [`read_tokens`] reads them.
///
/// The number behind `lengths` tokens of each sequence ([`Draws::numbers`]) is the quantile of its token in the filtered distribution, as on
/// the CPU. The weights `exp((z - max) / temperature)` are f32, cut off below 2^-44 of the largest; their sums are exact. So a token differs
/// from the one that sums in f64 would choose only where the quantile, or the end of top-p, is within a few 1e-7 of the border between two
/// tokens; the tokens of a batch are those of its sequences one by one.
///
/// # Errors
/// When shapes do not fit, a parameter is outside its range, the streams are not of one seed, or the logits are not f32 on a CUDA device.
pub fn sample_on_gpu(
    (logits, vocabulary): (&Tensor, usize),
    choice: Choice,
    draws: &Draws,
    lengths: &Positions,
    tokens: &Tensor,
) -> Result<()> {
    choice.check()?;
    let ((b, stride), got) = (logits.dims2()?, draws.numbers(lengths.as_slice())?.len());
    if got != b || !(1..=stride).contains(&vocabulary) {
        bail!("sample: expected logits of {got} sequences and {vocabulary} tokens, got [{b}, {stride}]");
    }
    match gpu_of(logits) {
        Some(gpu) => {
            let ((labels, starts), lengths) = (draws.on(logits)?, lengths.on(logits.device())?);
            let of_sequences = [&labels, &starts, &lengths];
            gpu.sample((logits, vocabulary), choice, draws.key()?, of_sequences, tokens)
        }
        None => {
            let (dtype, device) = (logits.dtype(), logits.device().location());
            bail!("sample: expected f32 logits on CUDA, got {dtype:?} on {device:?}")
        }
    }
}

/// The tokens that [`sample_on_gpu`] chose; `None` for a sequence with a logit that is not finite.
///
/// # Errors
/// When the device fails.
pub fn read_tokens(tokens: &Tensor) -> Result<Vec<Option<u32>>> {
    const BROKEN: u32 = u32::MAX;
    let tokens = tokens.to_vec1::<u32>()?.into_iter();
    Ok(tokens.map(|token| Some(token).filter(|token| *token != BROKEN)).collect())
}
