//! How many tokens have logits at the same time.

use crate::Precision;

/// Maximum memory for the logits of a slice, approximately: on the CPU 1000 tokens of GPT-2's vocabulary, on CUDA 5300 in f32 and more
/// than [`CUDA_TOKENS`] in bf16.
const CPU_BYTES: usize = 192 << 20;
const CUDA_BYTES: usize = 1 << 30;
/// Maximum tokens of a slice. On CUDA each slice reads and writes the head's gradient once, which beside the products of as many tokens
/// costs next to nothing.
const CPU_TOKENS: usize = 1024;
const CUDA_TOKENS: usize = 8192;
/// Rows of logits on CUDA begin at multiples of this many elements: cuBLAS's fast products and kernels want rows aligned to 16 bytes.
const PITCH: usize = 64;

/// The logits of a slice of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// S: tokens of a slice; the last one may have fewer.
    pub tokens: usize,
    /// Elements from the logits of one token to those of the next.
    pub pitch: usize,
    /// Bytes of a logit.
    pub logit_bytes: usize,
}

impl Slice {
    /// The slices of `tokens` tokens in the fused passes, for a vocabulary of `v`.
    #[must_use]
    pub fn new(tokens: usize, v: usize, precision: Precision, on_cuda: bool) -> Self {
        match on_cuda {
            true => Self::on_cuda(tokens, v, precision),
            false => Self { tokens: most(v, 4, CPU_BYTES, CPU_TOKENS).min(tokens), pitch: v, logit_bytes: 4 },
        }
    }

    /// As few slices as memory allows, of the same number of tokens but for a remainder.
    fn on_cuda(tokens: usize, v: usize, precision: Precision) -> Self {
        let logit_bytes = match precision {
            Precision::F32 => 4,
            Precision::Bf16 => 2,
        };
        let pitch = v.div_ceil(PITCH).saturating_mul(PITCH);
        let slices = tokens.div_ceil(most(pitch, logit_bytes, CUDA_BYTES, CUDA_TOKENS));
        Self { tokens: tokens.div_ceil(slices.max(1)), pitch, logit_bytes }
    }

    /// Bytes of its logits.
    #[must_use]
    pub fn bytes(self) -> u128 {
        [self.tokens, self.pitch, self.logit_bytes].map(|size| size as u128).iter().product()
    }

    /// `(first token, tokens)` of the slices of `tokens` tokens.
    pub fn ranges(self, tokens: usize) -> impl Iterator<Item = (usize, usize)> {
        (0..tokens).step_by(self.tokens.max(1)).map(move |first| (first, self.tokens.min(tokens - first)))
    }
}

/// The tokens, between one and `tokens`, whose logits take at most `bytes`.
fn most(pitch: usize, logit_bytes: usize, bytes: usize, tokens: usize) -> usize {
    (bytes / logit_bytes / pitch.max(1)).clamp(1, tokens)
}

/// `(first, tokens)` of the parts of a vocabulary in products on CUDA: all but the last few tokens, and these.
///
/// cuBLAS's fast products want each dimension along which elements are contiguous to be a multiple of 16 bytes, besides the distance
/// between rows. GPT-2's vocabulary is odd; its products run over 50256 tokens, and small ones over the rest. The alternative, a larger
/// vocabulary with tokens that do not exist, would need a padded copy of the head and of its gradient.
pub fn vocabulary_parts(v: usize) -> impl Iterator<Item = (usize, usize)> {
    const MULTIPLE: usize = 8;
    let rest = if v < MULTIPLE { 0 } else { v % MULTIPLE };
    std::iter::once((0, v - rest)).chain((rest > 0).then_some((v - rest, rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GPT2: usize = 50_257;

    #[test]
    fn slices_are_few_and_of_one_size() {
        let tokens = |tokens, v, precision, on_cuda| Slice::new(tokens, v, precision, on_cuda).tokens;
        assert_eq!(tokens(4096, GPT2, Precision::F32, false), 1001);
        assert_eq!(tokens(4096, 10, Precision::Bf16, false), 1024);
        assert_eq!(tokens(4096, GPT2, Precision::F32, true), 4096);
        assert_eq!(tokens(8192, GPT2, Precision::F32, true), 4096);
        assert_eq!(tokens(8192, GPT2, Precision::Bf16, true), 8192);
        assert_eq!(tokens(8193, GPT2, Precision::Bf16, true), 4097);
        assert_eq!(tokens(32 * 1023, GPT2, Precision::Bf16, true), 8184);
        for on_cuda in [false, true] {
            assert_eq!(tokens(0, GPT2, Precision::F32, on_cuda), 0);
            assert_eq!(tokens(3, usize::MAX, Precision::F32, on_cuda), 1);
            assert_eq!(tokens(3, 0, Precision::F32, on_cuda), 3);
        }
    }

    #[test]
    fn rows_are_aligned_on_cuda_and_within_the_memory_limit() {
        for precision in [Precision::F32, Precision::Bf16] {
            let slice = Slice::new(100_000, GPT2, precision, true);
            assert_eq!(slice.pitch, 50_304);
            assert!(slice.bytes() <= CUDA_BYTES as u128, "{slice:?}");
            assert_eq!(Slice::new(9, 128, precision, true).pitch, 128);
        }
        assert_eq!(Slice::new(9, 1001, Precision::Bf16, false).bytes(), 4 * 9 * 1001);
    }

    #[test]
    fn slices_and_parts_cover_everything_once() {
        let slice = Slice::new(8193, 11, Precision::F32, true);
        assert_eq!(slice.ranges(8193).collect::<Vec<_>>(), [(0, 4097), (4097, 4096)]);
        assert_eq!(Slice::new(0, 11, Precision::F32, true).ranges(0).count(), 0);
        let parts = |v| vocabulary_parts(v).collect::<Vec<_>>();
        assert_eq!(parts(GPT2), [(0, 50_256), (50_256, 1)]);
        assert_eq!(parts(128), [(0, 128)]);
        assert_eq!(parts(15), [(0, 8), (8, 7)]);
        assert_eq!(parts(7), [(0, 7)]);
        assert_eq!(parts(0), [(0, 0)]);
    }
}
