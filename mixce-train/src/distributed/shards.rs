//! The division of tensors between ranks.
use std::ops::Range;

use mixce_kernels::SQUARES_CHUNK;

/// The values of some tensors, one tensor after another, of which each rank has a consecutive *shard*.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shards {
    /// Where each tensor starts; at the end the number of values.
    tensors: Vec<usize>,
    /// Where each shard starts; at the end the number of values.
    shards: Vec<usize>,
}

impl Shards {
    /// Shards for `ranks` of tensors with `lengths` values. A tensor is divided only between chunks of [`SQUARES_CHUNK`] values, so that each term
    /// of its norm is in one shard; up to such a chunk the shards are of equal length.
    #[must_use]
    pub fn new(lengths: impl IntoIterator<Item = usize>, ranks: usize) -> Self {
        Self::between(lengths, ranks, SQUARES_CHUNK)
    }

    /// [`Self::new`] with chunks of `chunk` values.
    fn between(lengths: impl IntoIterator<Item = usize>, ranks: usize, chunk: usize) -> Self {
        let mut tensors = vec![0];
        let mut total = 0;
        tensors.extend(lengths.into_iter().map(|length| {
            total += length;
            total
        }));
        let shards = (0..=ranks).map(|rank| nearest_bound(&tensors, total * rank / ranks.max(1), chunk));
        let shards = shards.collect();
        Self { tensors, shards }
    }

    /// The number of values.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.last().copied().unwrap_or_default()
    }

    /// Whether there are no values.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The shard of a rank among all values.
    #[must_use]
    pub fn shard(&self, rank: usize) -> Range<usize> {
        self.shards[rank]..self.shards[rank + 1]
    }

    /// For each tensor, those of its values that are in the shard of `rank`; possibly none.
    pub fn parts(&self, rank: usize) -> impl Iterator<Item = Range<usize>> {
        let shard = self.shard(rank);
        self.tensors.windows(2).map(move |tensor| {
            let within = |place: usize| place.clamp(tensor[0], tensor[1]) - tensor[0];
            within(shard.start)..within(shard.end)
        })
    }

    /// How many values of a range are in each shard.
    #[must_use]
    pub fn lengths_within(&self, range: Range<usize>) -> Vec<usize> {
        let within = |place: usize| place.clamp(range.start, range.end);
        self.shards.windows(2).map(|shard| within(shard[1]) - within(shard[0])).collect()
    }

    /// Messages of about `values` values that together have all: in each a piece of every shard.
    pub fn messages(&self, values: usize) -> impl Iterator<Item = Vec<Range<usize>>> {
        let shards = || self.shards.windows(2);
        let piece = (values / shards().len().max(1)).max(1);
        let longest = shards().map(|shard| shard[1] - shard[0]).max().unwrap_or(0);
        (0..longest.div_ceil(piece)).map(move |message| {
            let bound = |shard: &[usize], pieces: usize| shard[1].min(shard[0] + pieces * piece);
            shards().map(|shard| bound(shard, message)..bound(shard, message + 1)).collect()
        })
    }
}

/// The bound between two chunks that is nearest to `place`.
fn nearest_bound(tensors: &[usize], place: usize, chunk: usize) -> usize {
    let next = tensors.partition_point(|start| *start <= place);
    let (Some(start), Some(end)) = (next.checked_sub(1).map(|own| tensors[own]), tensors.get(next)) else {
        // The end of all values.
        return place;
    };
    let below = place - (place - start) % chunk.max(1);
    let above = (below + chunk.max(1)).min(*end);
    if place - below <= above - place { below } else { above }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(shards: &Shards, rank: usize) -> Vec<Range<usize>> {
        shards.parts(rank).collect()
    }

    #[test]
    fn tensors_are_divided_between_chunks() {
        let shards = Shards::between([10, 3, 7], 2, 4);
        // Half of 20 is the end of the first tensor.
        assert_eq!((shards.shard(0), shards.shard(1)), (0..10, 10..20));
        let shards = Shards::between([100, 3], 3, 8);
        assert_eq!(parts(&shards, 0), [0..32, 0..0]);
        assert_eq!(parts(&shards, 1), [32..64, 0..0]);
        assert_eq!(parts(&shards, 2), [64..100, 0..3]);
        let few = Shards::between([3], 3, 8);
        assert_eq!((0..3).map(|rank| few.shard(rank)).collect::<Vec<_>>(), [0..0, 0..3, 3..3]);
    }

    #[test]
    fn a_message_has_a_piece_of_every_shard() {
        let shards = Shards::between([5, 5, 2], 2, 1);
        let messages: Vec<_> = shards.messages(8).collect();
        assert_eq!(messages, [vec![0..4, 6..10], vec![4..6, 10..12]]);
        assert_eq!(Shards::between([], 2, 1).messages(8).count(), 0);
    }

    #[test]
    fn a_range_is_in_one_shard_or_several() {
        let shards = Shards::between([5, 5, 2], 3, 1);
        let lengths = |range| shards.lengths_within(range);
        assert_eq!(
            [lengths(0..12), lengths(2..3), lengths(3..9), lengths(4..4)],
            [[4; 3], [1, 0, 0], [1, 4, 1], [0; 3]]
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

        #[test]
        fn every_value_is_in_one_shard_one_part_and_one_message(
            lengths in proptest::collection::vec(0usize..60, 0..8),
            ranks in 1usize..6,
            chunk in 1usize..9,
            message in 1usize..50,
        ) {
            let (shards, total) = (Shards::between(lengths.iter().copied(), ranks, chunk), lengths.iter().sum::<usize>());
            let mut ends = vec![0; lengths.len()];
            for rank in 0..ranks {
                let shard = shards.shard(rank);
                prop_assert!(shard.len().abs_diff(total / ranks) <= chunk + 1, "{shard:?} of {total}");
                for (tensor, part) in shards.parts(rank).enumerate().filter(|(_, part)| !part.is_empty()) {
                    prop_assert_eq!(part.start, ends[tensor]);
                    prop_assert!(part.end % chunk == 0 || part.end == lengths[tensor]);
                    ends[tensor] = part.end;
                }
            }
            prop_assert_eq!(ends, lengths);
            let mut seen = vec![0; total];
            for pieces in shards.messages(message) {
                prop_assert!(pieces.iter().map(Range::len).sum::<usize>() <= message.max(ranks));
                for (rank, piece) in pieces.into_iter().enumerate() {
                    let shard = shards.shard(rank);
                    prop_assert!(piece.is_empty() || (shard.start <= piece.start && piece.end <= shard.end));
                    piece.for_each(|value| seen[value] += 1);
                }
            }
            prop_assert!(seen.iter().all(|times| *times == 1));
        }
    }
}
