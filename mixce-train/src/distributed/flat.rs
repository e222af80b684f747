//! Several slices as one list of values.
use std::ops::Range;

/// Slices, one after another.
pub(super) struct Flat<'a>(Vec<&'a mut [f32]>);

impl<'a> Flat<'a> {
    pub(super) fn new(slices: Vec<&'a mut [f32]>) -> Self {
        Self(slices)
    }

    pub(super) fn len(&self) -> usize {
        self.0.iter().map(|slice| slice.len()).sum()
    }

    /// What the slices have of a range, in order.
    fn pieces(&mut self, range: Range<usize>) -> impl Iterator<Item = &mut [f32]> {
        let mut start = 0;
        self.0.iter_mut().map(move |slice| {
            let within = |place: usize| place.saturating_sub(start).min(slice.len());
            let piece = within(range.start)..within(range.end);
            start += slice.len();
            &mut slice[piece]
        })
    }

    /// Appends the values of a range to `values`.
    pub(super) fn read(&mut self, range: Range<usize>, values: &mut Vec<f32>) {
        self.pieces(range).for_each(|piece| values.extend_from_slice(piece));
    }

    /// Replaces the values from `start` on.
    pub(super) fn write(&mut self, start: usize, mut values: &[f32]) {
        for piece in self.pieces(start..start + values.len()) {
            let (own, others) = values.split_at(piece.len());
            piece.copy_from_slice(own);
            values = others;
        }
    }

    /// Replaces the values of several ranges, whose new ones follow one another in `values`.
    pub(super) fn write_pieces(&mut self, ranges: &[Range<usize>], mut values: &[f32]) {
        for range in ranges {
            let (own, others) = values.split_at(range.len());
            self.write(range.start, own);
            values = others;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cross_the_slices() {
        let (mut a, mut b, mut c) = ([0., 1.], [2.], [3., 4., 5.]);
        let mut flat = Flat::new(vec![&mut a, &mut [], &mut b, &mut c]);
        assert_eq!(flat.len(), 6);
        for (range, want) in [(0..6, vec![0., 1., 2., 3., 4., 5.]), (1..4, vec![1., 2., 3.]), (5..5, vec![])]
        {
            let mut values = Vec::new();
            flat.read(range, &mut values);
            assert_eq!(values, want);
        }
        flat.write(1, &[7., 8., 9.]);
        flat.write_pieces(&[0..1, 4..6], &[10., 11., 12.]);
        assert_eq!((a, b, c), ([10., 7.], [8.], [9., 11., 12.]));
    }
}
