//! Sampling from many small categorical distributions, and from the Markov chains they form.

use mixce_base::rng::Stream;
use pulp::{Arch, Simd, WithSimd};

/// Outcomes searched at once: one AVX-512 register of f32.
const CHUNK: usize = 16;

/// A set of categorical distributions, inverted by a search in two levels.
///
/// A row holds its cumulative probabilities in chunks of 16, and apart from them the last of every chunk. A draw counts
/// how many of these do not exceed the uniform number, then the same inside one chunk: two short loops without branches,
/// five cache lines of a row of 1000 outcomes. Setting a row is one pass without divisions, because Q changes with every
/// step. An outcome of probability 0 is never drawn.
#[derive(Clone, Debug)]
pub(crate) struct RowSampler {
    /// Chunks in a row.
    chunks: usize,
    /// Row stride of `tops`.
    tops_stride: usize,
    /// `[rows, chunks, CHUNK]`; infinite from the last possible outcome on.
    cumulative: Vec<[f32; CHUNK]>,
    /// The last of every chunk `[rows, tops_stride]`, then infinity.
    tops: Vec<f32>,
}

impl RowSampler {
    /// Room for `rows` distributions over `columns` outcomes (at most 65535).
    pub(crate) fn new(rows: usize, columns: usize) -> Self {
        let chunks = columns.div_ceil(CHUNK);
        let tops_stride = chunks.next_multiple_of(CHUNK);
        Self {
            chunks,
            tops_stride,
            cumulative: vec![[f32::INFINITY; CHUNK]; rows * chunks],
            tops: vec![f32::INFINITY; rows * tops_stride],
        }
    }

    /// Sets the distributions of all rows from `[rows, stride]` probabilities, each row summing to 1; columns past the
    /// outcomes are 0. The last possible outcome of a row takes what rounding leaves over.
    pub(crate) fn set(&mut self, probabilities: &[f32], stride: usize) {
        Arch::new().dispatch(SetRows { sampler: self, probabilities, stride });
    }

    /// The outcome of distribution `row` for a uniform 32-bit word.
    #[inline(always)]
    fn draw<S: Simd>(&self, simd: S, row: usize, word: u32) -> usize {
        let u = (word >> 8) as f32 * (1.0 / 16_777_216.0);
        let chunk = at_most(simd, &self.tops[row * self.tops_stride..][..self.tops_stride], u);
        chunk * CHUNK + at_most(simd, &self.cumulative[row * self.chunks + chunk], u)
    }

    /// Walks chains from row 0: the outcome is the next row, until `end` is drawn or the limit is reached. Appends the
    /// tokens of one chain after another and where each ends. A chain depends on its own stream only.
    pub(crate) fn walk(&self, walks: &Walks, tokens: &mut Vec<u16>, ends: &mut Vec<usize>) {
        const GROUP: usize = 1024;
        let mut lengths = [0; GROUP];
        let last = walks.first + walks.count;
        for first in (walks.first..last).step_by(GROUP) {
            let group = Walks { first, count: GROUP.min(last - first), ..*walks };
            let mut end = tokens.len();
            tokens.resize(end + group.count * walks.limit, 0);
            let (start, lengths) = (end, &mut lengths[..group.count]);
            Arch::new().dispatch(WalkChains {
                sampler: self,
                walks: &group,
                tokens: &mut tokens[start..],
                lengths,
            });
            for (chain, &length) in lengths.iter().enumerate() {
                let from = start + chain * walks.limit;
                tokens.copy_within(from..from + length, end);
                end += length;
                ends.push(end);
            }
            tokens.truncate(end);
        }
    }
}

/// How many of the ascending numbers are at most `u`; their count is a multiple of [`CHUNK`].
#[inline(always)]
fn at_most<S: Simd>(simd: S, numbers: &[f32], u: f32) -> usize {
    let (vectors, _) = S::as_simd_f32s(numbers);
    let (u, zero, one) = (simd.splat_f32s(u), simd.splat_f32s(0.0), simd.splat_f32s(1.0));
    let mut below = zero;
    for x in vectors {
        let counts = simd.select_f32s(simd.less_than_or_equal_f32s(*x, u), one, zero);
        below = simd.add_f32s(below, counts);
    }
    simd.reduce_sum_f32s(below) as usize
}

struct SetRows<'a> {
    sampler: &'a mut RowSampler,
    probabilities: &'a [f32],
    stride: usize,
}

impl WithSimd for SetRows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let RowSampler { chunks, tops_stride, cumulative, tops } = self.sampler;
        let rows = self.probabilities.chunks_exact(self.stride).zip(cumulative.chunks_exact_mut(*chunks));
        for ((row, cumulative), tops) in rows.zip(tops.chunks_exact_mut(*tops_stride)) {
            let mut carry = 0f64;
            for (chunk, out) in row.chunks(CHUNK).zip(cumulative.iter_mut()) {
                // Sums inside a chunk do not wait for the chunks before it.
                let (mut sums, mut sum) = ([0f64; CHUNK], 0f64);
                for (s, &p) in sums.iter_mut().zip(chunk) {
                    sum += f64::from(p);
                    *s = sum;
                }
                for (out, s) in out.iter_mut().zip(&sums) {
                    *out = (carry + s) as f32;
                }
                carry += sum;
            }
            let last = row.iter().rposition(|p| *p > 0.0).unwrap_or(0);
            cumulative.as_flattened_mut()[last..].fill(f32::INFINITY);
            for (top, chunk) in tops.iter_mut().zip(cumulative.iter()) {
                *top = chunk[CHUNK - 1];
            }
        }
    }
}

/// Chains to walk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Walks {
    /// How many.
    pub(crate) count: usize,
    /// Maximum tokens of a chain.
    pub(crate) limit: usize,
    /// The outcome that ends a chain.
    pub(crate) end: usize,
    /// Random numbers; chain i has the sub-stream `first + i`.
    pub(crate) stream: Stream,
    /// The number of the first chain.
    pub(crate) first: usize,
}

/// A chain being sampled.
#[derive(Clone, Copy)]
struct Walker {
    index: usize,
    stream: Stream,
    row: usize,
    position: usize,
    words: [u32; 4],
}

struct WalkChains<'a> {
    sampler: &'a RowSampler,
    walks: &'a Walks,
    tokens: &'a mut [u16],
    lengths: &'a mut [usize],
}

impl WithSimd for WalkChains<'_> {
    type Output = ();

    /// Chains sampled in parallel, to hide the memory latency of each token.
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        const SIDE_BY_SIDE: usize = 16;
        let Self { sampler, walks, tokens, lengths } = self;
        let Walks { count, limit, end, stream, first } = *walks;
        let begin = |index: usize| Walker {
            index,
            stream: stream.fold((first + index) as u64),
            row: 0,
            position: 0,
            words: [0; 4],
        };
        let mut next = count.min(SIDE_BY_SIDE);
        let mut walkers: Vec<Walker> = (0..next).map(begin).collect();
        while !walkers.is_empty() {
            let mut lane = 0;
            while lane < walkers.len() {
                let walker = &mut walkers[lane];
                let at = walker.position;
                if at.is_multiple_of(4) {
                    walker.words = walker.stream.u32s(at as u64 / 4);
                }
                let token = sampler.draw(simd, walker.row, walker.words[at % 4]);
                tokens[walker.index * limit + at] = token as u16;
                (walker.row, walker.position) = (token, at + 1);
                if token != end && at + 1 < limit {
                    lane += 1;
                    continue;
                }
                lengths[walker.index] = at + 1;
                if next < count {
                    *walker = begin(next);
                    next += 1;
                    lane += 1;
                } else {
                    walkers.swap_remove(lane);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(sampler: &RowSampler, row: usize, word: u32) -> usize {
        sampler.draw(pulp::Scalar, row, word)
    }

    #[test]
    fn frequencies_follow_probabilities() {
        let p = [0.0, 0.3, 0.0, 0.05, 0.6, 0.05, 0.0];
        let mut sampler = RowSampler::new(2, p.len());
        let rows = [[0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0], p].concat();
        sampler.set(&rows, 7);
        let mut counts = [0u32; 7];
        let n = 200_000;
        for i in 0..n {
            let word = Stream::new(4).u32(i);
            assert_eq!(draw(&sampler, 0, word), 2);
            counts[draw(&sampler, 1, word)] += 1;
        }
        for (count, p) in counts.iter().zip(p) {
            let (rate, p) = (f64::from(*count) / n as f64, f64::from(p));
            assert!((rate - p).abs() < 5.0 * (p * (1.0 - p) / n as f64).sqrt() + 1e-12, "{rate} {p}");
        }
        assert_eq!((draw(&sampler, 1, 0), draw(&sampler, 1, u32::MAX)), (1, 5));
    }

    /// Against a plain search of the cumulative sums, over rows that need one, several and many chunks.
    #[test]
    fn draws_invert_the_distribution_function() {
        for columns in [2usize, 16, 17, 300, 1001] {
            let stride = columns.next_multiple_of(CHUNK);
            let stream = Stream::new(columns as u64);
            let mut rows = vec![0f32; 3 * stride];
            for (r, row) in rows.chunks_exact_mut(stride).enumerate() {
                let raw: Vec<f64> = (0..columns)
                    .map(|y| if (y + r) % 3 == 0 { 0.0 } else { stream.uniform((r * columns + y) as u64) })
                    .collect();
                let total: f64 = raw.iter().sum();
                row.iter_mut().zip(&raw).for_each(|(p, x)| *p = (x / total) as f32);
            }
            let mut sampler = RowSampler::new(3, columns);
            sampler.set(&rows, stride);
            for i in 0..20_000u64 {
                let (r, word) = ((i % 3) as usize, stream.fold(1).u32(i));
                let got = draw(&sampler, r, word);
                let u = f64::from(word >> 8) / 16_777_216.0;
                let row = &rows[r * stride..][..columns];
                let below: f64 = row[..got].iter().map(|p| f64::from(*p)).sum();
                assert!(row[got] > 0.0 && below <= u + 2e-7, "{columns} {r}: {got} {u}");
                assert!(u < below + f64::from(row[got]) + 2e-7, "{columns} {r}: {got} {u}");
            }
        }
    }

    #[test]
    fn chains_depend_on_their_number_only() {
        let rows = [0.0f32, 0.5, 0.3, 0.2, 0.0, 0.0, 0.9, 0.1, 0.0, 0.8, 0.1, 0.1];
        let mut sampler = RowSampler::new(3, 4);
        sampler.set(&rows, 4);
        let walks = Walks { count: 1500, limit: 20, end: 3, stream: Stream::new(3), first: 0 };
        let (mut tokens, mut ends) = (Vec::new(), Vec::new());
        sampler.walk(&walks, &mut tokens, &mut ends);
        assert_eq!((ends.len(), ends[1499]), (1500, tokens.len()));
        let mut start = 0;
        for (i, &end) in ends.iter().enumerate() {
            let chain = &tokens[std::mem::replace(&mut start, end)..end];
            let (mut alone, mut its_end) = (Vec::new(), Vec::new());
            sampler.walk(&Walks { count: 1, first: i, ..walks }, &mut alone, &mut its_end);
            assert_eq!(alone, chain);
            assert_eq!(chain.iter().position(|t| *t == 3).unwrap_or(19), chain.len() - 1);
            let stream = Stream::new(3).fold(i as u64);
            let mut row = 0;
            for (t, &token) in chain.iter().enumerate() {
                assert_eq!(usize::from(token), draw(&sampler, row, stream.u32(t as u64)));
                row = usize::from(token);
            }
        }
        let lengths: Vec<usize> = std::iter::once(&0).chain(&ends).zip(&ends).map(|(a, b)| b - a).collect();
        assert!(lengths.contains(&1) && lengths.contains(&20));
    }
}
