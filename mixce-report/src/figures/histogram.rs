//! Histograms of several sets over common bins.

use mixce_eval::histogram::{Bins, Summary};

use crate::chart::{Axis, Chart, Point, Series, Shape};

/// More bins cannot be told apart in a figure.
const MAX_BINS: usize = 60;

/// The densities of named sets: shares divided by the width of a bin, so that sets of different sizes are comparable. `None` unless there are two
/// sets with values.
///
/// The number of bins is Rice's rule for the smallest set, `2 n^(1/3)`, at most 60.
pub(super) fn densities(
    title: String,
    label: &str,
    unit: &str,
    sets: &[(String, Vec<f64>)],
    decimals: usize,
) -> Option<Chart> {
    let sets: Vec<(&str, &[f64], Summary)> = sets
        .iter()
        .filter_map(|(name, values)| Some((name.as_str(), values.as_slice(), Summary::of(values)?)))
        .collect();
    if sets.len() < 2 {
        return None;
    }
    let least = sets.iter().map(|(_, values, _)| values.len()).min().unwrap_or(0);
    let count = ((2.0 * (least as f64).cbrt()).ceil() as usize).min(MAX_BINS);
    let bins = Bins::covering(sets.iter().flat_map(|(_, values, _)| values.iter().copied()), count)?;
    let series = sets.iter().map(|(name, values, _)| Series {
        name: (*name).to_owned(),
        shape: Shape::Steps,
        points: outline(bins.edges(), &bins.counts(values.iter().copied()), values.len()),
    });
    let described = sets.iter().map(|(name, _, s)| {
        format!("{name}: {} values, mean {:.decimals$}, median {:.decimals$}, half of them between {:.decimals$} and {:.decimals$}.", s.n, s.mean, s.median, s.p25, s.p75)
    });
    let description = described.collect::<Vec<_>>().join(" ");
    Some(Chart {
        id: String::new(),
        title,
        notes: vec![description.clone()],
        description,
        x: Axis::linear(label),
        y: Axis::from_zero(format!("share per {unit}")),
        series: series.collect(),
        references: Vec::new(),
    })
}

/// From zero at the first edge over the densities to zero at the last edge.
fn outline(edges: &[f64], counts: &[u64], n: usize) -> Vec<Point> {
    let mut points = vec![Point::at(edges[0], 0.0)];
    for (edge, count) in edges.windows(2).zip(counts) {
        points.push(Point::at(edge[0], *count as f64 / n as f64 / (edge[1] - edge[0])));
    }
    points.push(Point::at(edges[edges.len() - 1], 0.0));
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn densities_integrate_to_one_over_common_bins() {
        let sets = [
            ("a".to_owned(), vec![0.0, 1.0, 1.5, 4.0]),
            ("b".to_owned(), vec![2.0; 9]),
            ("none".to_owned(), vec![]),
        ];
        let chart = densities("t".into(), "nll (nats)", "nat", &sets, 1).unwrap();
        assert_eq!(chart.series.len(), 2);
        // 2 cbrt(4) = 3.2: four bins of width 1.
        let points: Vec<(f64, f64)> = chart.series[0].points.iter().map(|p| (p.x, p.y)).collect();
        assert_eq!(points, [(0.0, 0.0), (0.0, 0.25), (1.0, 0.5), (2.0, 0.0), (3.0, 0.25), (4.0, 0.0)]);
        assert_eq!(chart.series[1].points[3], Point::at(2.0, 1.0));
        assert!(
            chart
                .description
                .starts_with("a: 4 values, mean 1.6, median 1.2, half of them between 0.8 and 2.1.")
        );
        assert!(densities("t".into(), "x", "nat", &sets[1..], 1).is_none());
    }
}
