//! Drawing from many small categorical distributions: inverse distribution functions with a guide table.

/// A set of categorical distributions with `columns` outcomes each.
///
/// A guide table (Chen and Asau, 1974) says for each of `columns` equal slices of `[0, 1)` where the search begins,
/// so a draw takes O(1) steps on average. An outcome of probability 0 is never drawn.
#[derive(Clone, Debug)]
pub struct RowSampler {
    columns: usize,
    cumulative: Vec<f32>,
    guide: Vec<u16>,
    last: Vec<u16>,
}

impl RowSampler {
    /// Room for `rows` distributions over `columns` outcomes (at most 65535).
    #[must_use]
    pub fn new(rows: usize, columns: usize) -> Self {
        Self {
            columns,
            cumulative: vec![0.0; rows * columns],
            guide: vec![0; rows * columns],
            last: vec![0; rows],
        }
    }

    /// Sets distribution `row`; `probabilities` are normalised by their sum.
    pub fn set(&mut self, row: usize, probabilities: impl Iterator<Item = f64> + Clone) {
        let total: f64 = probabilities.clone().sum();
        let span = row * self.columns..(row + 1) * self.columns;
        let (cumulative, guide) = (&mut self.cumulative[span.clone()], &mut self.guide[span]);
        let (mut sum, mut slice) = (0.0, 0usize);
        for (outcome, p) in probabilities.enumerate().take(self.columns) {
            sum += p / total;
            cumulative[outcome] = sum as f32;
            if p > 0.0 {
                self.last[row] = outcome as u16;
            }
            // Slices that begin below the new sum start their search here.
            while slice < self.columns && (slice as f32 / self.columns as f32) < cumulative[outcome] {
                guide[slice] = outcome as u16;
                slice += 1;
            }
        }
        guide[slice..].fill(self.last[row]);
    }

    /// The outcome of distribution `row` for a uniform 32-bit word.
    #[inline]
    #[must_use]
    pub fn draw(&self, row: usize, word: u32) -> usize {
        let u = (word >> 8) as f32 * (1.0 / 16_777_216.0);
        let base = row * self.columns;
        let slice = ((u * self.columns as f32) as usize).min(self.columns - 1);
        let mut outcome = usize::from(self.guide[base + slice]);
        let last = usize::from(self.last[row]);
        // Rounding may put the guide one slice too far: step back before the search.
        while outcome > 0 && self.cumulative[base + outcome - 1] > u {
            outcome -= 1;
        }
        while outcome < last && self.cumulative[base + outcome] <= u {
            outcome += 1;
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mixce_kernels::rng::Stream;

    #[test]
    fn frequencies_follow_probabilities() {
        let p = [0.0, 0.3, 0.0, 0.05, 0.6, 0.05, 0.0];
        let mut sampler = RowSampler::new(2, p.len());
        sampler.set(0, [0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0].into_iter());
        sampler.set(1, p.iter().map(|x| x * 3.0));
        let mut counts = [0u32; 7];
        let n = 200_000;
        for i in 0..n {
            let word = Stream::new(4).u32(i);
            assert_eq!(sampler.draw(0, word), 2);
            counts[sampler.draw(1, word)] += 1;
        }
        for (count, p) in counts.iter().zip(p) {
            let rate = f64::from(*count) / n as f64;
            assert!((rate - p).abs() < 5.0 * (p * (1.0 - p) / n as f64).sqrt() + 1e-12, "{rate} {p}");
        }
        assert_eq!((sampler.draw(1, 0), sampler.draw(1, u32::MAX)), (1, 5));
    }
}
