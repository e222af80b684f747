//! The division of a microbatch.
use std::ops::Range;

use crate::data::Microbatch;

/// The part of a microbatch that a rank computes: some of its documents, one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// Its documents; possibly none.
    pub examples: &'a [Vec<u32>],
    /// Target tokens of the microbatch before the part: its dropout masks are those that the microbatch has there.
    pub first_row: usize,
}

/// Target tokens of a document.
fn targets(example: &[u32]) -> usize {
    example.len().saturating_sub(1)
}

impl<'a> Part<'a> {
    /// The part of `rank` among `ranks`.
    ///
    /// The microbatch is divided between documents, in order, such that the largest part has as few target tokens as possible. Where there
    /// are fewer documents than ranks, some ranks have none.
    #[must_use]
    pub fn of(microbatch: &'a Microbatch, rank: usize, ranks: usize) -> Self {
        let examples = &microbatch.examples;
        let range = match ranks {
            0 | 1 => 0..examples.len(),
            _ => range(&examples.iter().map(|e| targets(e)).collect::<Vec<_>>(), rank, ranks),
        };
        let first_row = examples[..range.start].iter().map(|e| targets(e)).sum();
        Self { examples: &examples[range], first_row }
    }
}

/// Part `index` of `parts` consecutive ones, of which the largest sum is as small as possible.
fn range(sizes: &[usize], index: usize, parts: usize) -> Range<usize> {
    // The smallest capacity with which filling one part after another needs no more parts than there are.
    let (mut low, mut high) = (sizes.iter().copied().max().unwrap_or(0), sizes.iter().sum());
    while low < high {
        let middle = low + (high - low) / 2;
        if filled(sizes, middle).count() <= parts { high = middle } else { low = middle + 1 }
    }
    filled(sizes, low).nth(index).unwrap_or(sizes.len()..sizes.len())
}

/// Consecutive parts, each filled until the next size would exceed the capacity, which is at least every size.
fn filled(sizes: &[usize], capacity: usize) -> impl Iterator<Item = Range<usize>> {
    let mut end = 0;
    std::iter::from_fn(move || {
        let (start, mut sum) = (end, 0);
        while end < sizes.len() && sum + sizes[end] <= capacity {
            sum += sizes[end];
            end += 1;
        }
        (end > start).then_some(start..end)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn microbatch(lengths: &[usize]) -> Microbatch {
        Microbatch { examples: lengths.iter().map(|n| vec![0; *n]).collect() }
    }

    fn sizes(lengths: &[usize], ranks: usize) -> Vec<usize> {
        let microbatch = microbatch(lengths);
        (0..ranks)
            .map(|r| Part::of(&microbatch, r, ranks).examples.iter().map(|e| e.len() - 1).sum())
            .collect()
    }

    #[test]
    fn parts_are_balanced_by_tokens() {
        assert_eq!(sizes(&[9, 2, 2, 2, 2, 5], 2), [8, 8]);
        assert_eq!(sizes(&[101, 2, 2], 2), [100, 2]);
        assert_eq!(sizes(&[5, 5, 5], 2), [8, 4]);
        assert_eq!(sizes(&[5], 3), [4, 0, 0], "fewer documents than ranks");
        let whole = microbatch(&[3, 4]);
        assert_eq!(Part::of(&whole, 0, 1), Part { examples: &whole.examples, first_row: 0 });
        assert_eq!(Part::of(&whole, 1, 2), Part { examples: &whole.examples[1..], first_row: 2 });
    }

    /// The smallest possible largest part, by trying every division.
    fn best(sizes: &[usize], parts: usize) -> usize {
        if parts == 1 {
            return sizes.iter().sum();
        }
        let ends = 0..=sizes.len();
        ends.map(|end| sizes[..end].iter().sum::<usize>().max(best(&sizes[end..], parts - 1))).min().unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

        #[test]
        fn every_document_is_in_one_part_at_its_row_and_the_largest_is_as_small_as_possible(
            lengths in proptest::collection::vec(2usize..40, 0..9),
            ranks in 1usize..5,
        ) {
            let microbatch = microbatch(&lengths);
            let parts: Vec<Part<'_>> = (0..ranks).map(|rank| Part::of(&microbatch, rank, ranks)).collect();
            let (mut documents, mut row, mut largest) = (0, 0, 0);
            for part in parts {
                prop_assert_eq!(part.examples, &microbatch.examples[documents..][..part.examples.len()]);
                prop_assert_eq!(part.first_row, row);
                let own: usize = part.examples.iter().map(|e| e.len() - 1).sum();
                (documents, row, largest) = (documents + part.examples.len(), row + own, largest.max(own));
            }
            prop_assert_eq!(documents, lengths.len());
            prop_assert_eq!(row as u64, microbatch.targets());
            let sizes: Vec<usize> = lengths.iter().map(|n| n - 1).collect();
            prop_assert_eq!(largest, best(&sizes, ranks));
        }
    }
}
