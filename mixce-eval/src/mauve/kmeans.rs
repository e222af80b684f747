//! Exact Lloyd's k-means that skips comparisons which cannot change anything.
//!
//! Legend: N points, D dimensions, K clusters.
//! A point is compared with all K centres only if its own centre moved in the last round; otherwise only with those that moved, because
//! its distances to the others are unchanged and its own centre was the nearest. In late rounds few centres move, so a round costs a
//! fraction of `N K D`. Comparisons are matrix products over blocks of points.
//! Blocks and the order of sums do not depend on the number of threads, so neither do the results.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use mixce_base::rng::Stream;
use rayon::prelude::*;

/// Points per matrix product.
const BLOCK: usize = 256;
/// Centres side by side in the search for the nearest.
const LANES: usize = 16;
/// Rounds without improvement after which a run ends (only empty clusters can prolong it).
const PATIENCE: usize = 10;
/// Relative perturbation of the halves of a split cluster (as in faiss).
const SPLIT: f32 = 1.0 / 1024.0;

/// A clustering.
#[derive(Clone, Debug, PartialEq)]
pub struct Clustering {
    /// The cluster of each point.
    pub assignments: Vec<u32>,
    /// Sum of squared distances of the points to their centres.
    pub objective: f64,
    /// Rounds of the run.
    pub rounds: usize,
}

/// The best of `restarts` runs, each from K points drawn without replacement, of at most `max_rounds` rounds; a run ends when no
/// point changes its cluster. The run of the lowest objective wins, the first of equal ones.
///
/// `points` is `[N, D]`, row-major and finite; K is at most N.
#[must_use]
pub fn kmeans(
    points: &[f32],
    dimensions: usize,
    clusters: usize,
    restarts: usize,
    max_rounds: usize,
    stream: Stream,
) -> Clustering {
    let data = Data::new(points, dimensions);
    let clusters = clusters.min(data.n);
    let runs = (0..restarts.max(1) as u64)
        .into_par_iter()
        .map(|r| Lloyd::new(&data, clusters, stream.fold(r)).run(max_rounds));
    // By index, not by who is first to finish.
    let runs: Vec<Clustering> = runs.collect();
    let best = runs.into_iter().reduce(|a, b| if b.objective < a.objective { b } else { a });
    best.unwrap_or_else(|| Clustering { assignments: Vec::new(), objective: 0.0, rounds: 0 })
}

struct Data<'a> {
    points: &'a [f32],
    d: usize,
    n: usize,
    /// Squared norm of each point.
    norms: Vec<f64>,
}

impl<'a> Data<'a> {
    fn new(points: &'a [f32], d: usize) -> Self {
        let norms =
            points.par_chunks_exact(d).map(|p| p.iter().map(|x| f64::from(*x).powi(2)).sum()).collect();
        Self { points, d, n: points.len() / d, norms }
    }

    fn point(&self, i: u32) -> &'a [f32] {
        &self.points[i as usize * self.d..][..self.d]
    }
}

/// The nearest centre of a point: its number, and squared distance less the point's squared norm.
type Nearest = (u32, f32);

struct Lloyd<'a> {
    data: &'a Data<'a>,
    k: usize,
    stream: Stream,
    /// `[K, D]`.
    centres: Vec<f32>,
    nearest: Vec<Nearest>,
    /// Which centres moved in the last round.
    moved: Vec<bool>,
}

impl<'a> Lloyd<'a> {
    fn new(data: &'a Data<'a>, k: usize, stream: Stream) -> Self {
        let order = stream.fold(0).permutation(data.n as u32);
        let centres = order.iter().take(k).flat_map(|&i| data.point(i)).copied().collect();
        Self { data, k, stream: stream.fold(1), centres, nearest: Vec::new(), moved: vec![true; k] }
    }

    fn run(mut self, max_rounds: usize) -> Clustering {
        let (mut lowest, mut since) = (f64::INFINITY, 0);
        let mut rounds = 0;
        while rounds < max_rounds.max(1) {
            rounds += 1;
            let before = std::mem::take(&mut self.nearest);
            self.nearest = self.assign(&before);
            let objective = self.objective();
            (lowest, since) = if objective < lowest { (objective, 0) } else { (lowest, since + 1) };
            if since >= PATIENCE || !self.update(&before) {
                break;
            }
        }
        let assignments = self.nearest.iter().map(|nearest| nearest.0).collect();
        Clustering { assignments, objective: self.objective(), rounds }
    }

    fn objective(&self) -> f64 {
        let distances = self
            .nearest
            .iter()
            .zip(&self.data.norms)
            .map(|(nearest, norm)| (norm + f64::from(nearest.1)).max(0.0));
        distances.sum()
    }

    /// The nearest centre of every point.
    fn assign(&self, before: &[Nearest]) -> Vec<Nearest> {
        let moved: Vec<u32> = (0..self.k as u32).filter(|&c| self.moved[c as usize]).collect();
        let all: Vec<u32> = (0..self.k as u32).collect();
        let is_loose = |i: &u32| before.get(*i as usize).is_none_or(|nearest| self.moved[nearest.0 as usize]);
        let (loose, settled): (Vec<u32>, Vec<u32>) = (0..self.data.n as u32).partition(is_loose);
        let mut nearest = before.to_vec();
        nearest.resize(self.data.n, (0, f32::INFINITY));
        let full = self.compare(&loose, &Centres::gather(self, &all), |_| (0, f32::INFINITY));
        let few = self.compare(&settled, &Centres::gather(self, &moved), |i| before[i as usize]);
        loose
            .iter()
            .zip(full)
            .chain(settled.iter().zip(few))
            .for_each(|(i, found)| nearest[*i as usize] = found);
        nearest
    }

    /// The nearest of some centres to some points, unless what a point has already is as near.
    fn compare(
        &self,
        points: &[u32],
        centres: &Centres,
        has: impl Fn(u32) -> Nearest + Sync,
    ) -> Vec<Nearest> {
        let d = self.data.d;
        let width = centres.numbers.len();
        if width == 0 {
            return points.iter().map(|i| has(*i)).collect();
        }
        let block = |points: &[u32]| {
            let rows: Vec<f32> = points.iter().flat_map(|&i| self.data.point(i)).copied().collect();
            let mut products = vec![0.0f32; points.len() * width];
            let out = MatMut::from_row_major_slice_mut(&mut products, points.len(), width);
            let rows = MatRef::from_row_major_slice(&rows, points.len(), d);
            let centre_columns = MatRef::from_column_major_slice(&centres.values, d, width);
            matmul(out, Accum::Replace, rows, centre_columns, 1.0, Par::Seq);
            let best = |(i, products): (&u32, &[f32])| {
                let (at, score) = smallest(products, &centres.norms);
                let has = has(*i);
                if score < has.1 { (centres.numbers[at], score) } else { has }
            };
            points.iter().zip(products.chunks_exact(width)).map(best).collect::<Vec<_>>()
        };
        let blocks: Vec<Vec<Nearest>> = points.par_chunks(BLOCK).map(block).collect();
        blocks.concat()
    }

    /// Moves the centres of the clusters that gained or lost points; false when there are none.
    fn update(&mut self, before: &[Nearest]) -> bool {
        let mut touched = vec![before.is_empty(); self.k];
        for (old, new) in before.iter().zip(&self.nearest).filter(|(old, new)| old.0 != new.0) {
            touched[old.0 as usize] = true;
            touched[new.0 as usize] = true;
        }
        if !touched.contains(&true) {
            return false;
        }
        let mut members: Vec<Vec<u32>> = vec![Vec::new(); self.k];
        for (i, nearest) in (0..).zip(&self.nearest) {
            members[nearest.0 as usize].push(i);
        }
        let (data, d) = (self.data, self.data.d);
        let rows = self.centres.par_chunks_exact_mut(d).zip(&members).zip(&touched);
        rows.filter(|((_, members), touched)| **touched && !members.is_empty()).for_each(
            |((centre, members), _)| {
                let mut sums = vec![0.0f64; d];
                for &i in members {
                    sums.iter_mut().zip(data.point(i)).for_each(|(sum, x)| *sum += f64::from(*x));
                }
                centre.iter_mut().zip(&sums).for_each(|(x, sum)| *x = (sum / members.len() as f64) as f32);
            },
        );
        self.moved = touched;
        self.fill_empty(members.iter().map(Vec::len).collect());
        true
    }

    /// Gives each empty cluster half of a large one: the two centres are that centre, perturbed in opposite directions.
    fn fill_empty(&mut self, mut counts: Vec<usize>) {
        let d = self.data.d;
        for empty in 0..self.k {
            if counts[empty] > 0 {
                continue;
            }
            // A cluster of m points is drawn with weight m - 1.
            let weights: u64 = counts.iter().map(|count| count.saturating_sub(1) as u64).sum();
            self.stream = self.stream.fold(0);
            let mut draw = self.stream.below(0, weights);
            let fits = |count: &usize| {
                let weight = count.saturating_sub(1) as u64;
                let found = draw < weight;
                draw = draw.saturating_sub(weight);
                found
            };
            let Some(large) = counts.iter().position(fits) else { continue };
            for j in 0..d {
                let x = self.centres[large * d + j];
                let sign = if j % 2 == 0 { SPLIT } else { -SPLIT };
                self.centres[empty * d + j] = x * (1.0 + sign);
                self.centres[large * d + j] = x * (1.0 - sign);
            }
            counts[empty] = counts[large] / 2;
            counts[large] -= counts[empty];
            self.moved[empty] = true;
            self.moved[large] = true;
        }
    }
}

/// Some of the centres, sequentially.
struct Centres {
    numbers: Vec<u32>,
    values: Vec<f32>,
    norms: Vec<f32>,
}

impl Centres {
    fn gather(of: &Lloyd<'_>, numbers: &[u32]) -> Self {
        let d = of.data.d;
        let values: Vec<f32> =
            numbers.iter().flat_map(|&c| &of.centres[c as usize * d..][..d]).copied().collect();
        let norms =
            values.chunks_exact(d).map(|c| c.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() as f32);
        Self { numbers: numbers.to_vec(), norms: norms.collect(), values }
    }
}

/// The place and value of the smallest `norm - 2 product`, the first of equal ones.
fn smallest(products: &[f32], norms: &[f32]) -> (usize, f32) {
    let mut lowest = [f32::INFINITY; LANES];
    let mut chunk_of = [0u32; LANES];
    let (products, norms) = (products.chunks_exact(LANES), norms.chunks_exact(LANES));
    let (rest, rest_norms) = (products.remainder(), norms.remainder());
    let mut chunks = 0u32;
    for (products, norms) in products.zip(norms) {
        for lane in 0..LANES {
            let score = norms[lane] - 2.0 * products[lane];
            let lower = score < lowest[lane];
            lowest[lane] = if lower { score } else { lowest[lane] };
            chunk_of[lane] = if lower { chunks } else { chunk_of[lane] };
        }
        chunks += 1;
    }
    let mut best = (usize::MAX, f32::INFINITY);
    let candidates = (0..LANES).map(|lane| (chunk_of[lane] as usize * LANES + lane, lowest[lane]));
    let first_rest = chunks as usize * LANES;
    let tail = rest
        .iter()
        .zip(rest_norms)
        .enumerate()
        .map(|(i, (product, norm))| (first_rest + i, norm - 2.0 * product));
    for (place, score) in candidates.chain(tail) {
        if score < best.1 || (score == best.1 && place < best.0) {
            best = (place, score);
        }
    }
    // If all scores are non-finite, any centre will do.
    if best.0 == usize::MAX || best.0 >= first_rest + rest.len() { (0, best.1) } else { best }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn blobs(centres: usize, each: usize, d: usize, spread: f64) -> Vec<f32> {
        let (place, noise) = (Stream::new(5).fold(1), Stream::new(5).fold(2));
        let value = |i: usize, j: usize| {
            10.0 * place.normal((i / each * d + j) as u64) + spread * noise.normal((i * d + j) as u64)
        };
        (0..centres * each * d).map(|at| value(at / d, at % d) as f32).collect()
    }

    /// Lloyd's algorithm as in a textbook, from the same start.
    fn textbook(points: &[f32], d: usize, k: usize, stream: Stream, max_rounds: usize) -> (Vec<u32>, f64) {
        let data = Data::new(points, d);
        let mut centres: Vec<f64> =
            Lloyd::new(&data, k, stream).centres.iter().map(|x| f64::from(*x)).collect();
        let mut assignments = Vec::new();
        for _ in 0..max_rounds {
            let nearest = |p: &[f32]| {
                let distance =
                    |c: &[f64]| c.iter().zip(p).map(|(c, x)| (c - f64::from(*x)).powi(2)).sum::<f64>();
                let all: Vec<f64> = centres.chunks(d).map(distance).collect();
                let best = (0..k).min_by(|a, b| all[*a].total_cmp(&all[*b])).unwrap();
                (best as u32, all[best])
            };
            let found: Vec<(u32, f64)> = points.chunks(d).map(nearest).collect();
            let new: Vec<u32> = found.iter().map(|f| f.0).collect();
            if new == assignments {
                return (assignments, found.iter().map(|f| f.1).sum());
            }
            assignments = new;
            for (c, centre) in centres.chunks_mut(d).enumerate() {
                let members: Vec<&[f32]> = points
                    .chunks(d)
                    .zip(&assignments)
                    .filter(|(_, a)| **a as usize == c)
                    .map(|(p, _)| p)
                    .collect();
                for (j, x) in centre.iter_mut().enumerate().filter(|_| !members.is_empty()) {
                    *x = members.iter().map(|m| f64::from(m[j])).sum::<f64>() / members.len() as f64;
                }
            }
        }
        panic!("no end")
    }

    #[test]
    fn equals_the_textbook() {
        for (d, k) in [(2, 7), (5, 20), (33, 12)] {
            let points = blobs(9, 40, d, 4.0);
            let stream = Stream::new(11);
            let (assignments, objective) = textbook(&points, d, k, stream.fold(0), 200);
            let ours = kmeans(&points, d, k, 1, 200, stream);
            assert_eq!(ours.assignments, assignments, "{d} {k}");
            assert!((ours.objective - objective).abs() < 1e-4 * objective, "{} {objective}", ours.objective);
        }
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let points = blobs(10, 100, 8, 5.0);
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| kmeans(&points, 8, 30, 3, 100, Stream::new(3)))
        };
        assert_eq!(with(1), with(4));
    }

    #[test]
    fn clusters_far_apart_are_found_and_restarts_help() {
        let points = blobs(6, 50, 4, 0.01);
        let one = kmeans(&points, 4, 6, 1, 100, Stream::new(1));
        let best = kmeans(&points, 4, 6, 30, 100, Stream::new(1));
        assert!(best.objective <= one.objective);
        for blob in best.assignments.chunks(50) {
            assert!(blob.iter().all(|a| *a == blob[0]));
        }
    }

    #[test]
    fn equal_points_end_and_leave_no_room() {
        let found = kmeans(&[1.0; 60], 3, 8, 2, 500, Stream::new(1));
        assert!(found.objective.abs() < 1e-3 && found.rounds <= 1 + PATIENCE + 1, "{found:?}");
        let one = kmeans(&[1.0, 2.0], 2, 5, 1, 10, Stream::new(1));
        assert_eq!(one.assignments, [0]);
    }

    proptest! {
        #[test]
        fn the_smallest_is_the_smallest(products in prop::collection::vec(-9i8..9, 1..70)) {
            let products: Vec<f32> = products.into_iter().map(f32::from).collect();
            let norms: Vec<f32> = (0..products.len()).map(|i| (i % 3) as f32).collect();
            let scores: Vec<f32> = products.iter().zip(&norms).map(|(p, n)| n - 2.0 * p).collect();
            let (place, score) = smallest(&products, &norms);
            let expected = (0..scores.len()).min_by(|a, b| scores[*a].total_cmp(&scores[*b])).unwrap();
            prop_assert_eq!((place, score), (expected, scores[expected]));
        }
    }
}
