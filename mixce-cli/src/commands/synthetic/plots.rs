//! Figures of the synthetic experiments, as SVG.

use std::path::Path;

use anyhow::Result;
use mixce_base::files::write_atomic;
use mixce_core::objective::MixCe;
use mixce_synthetic::bigram::table::{Row, Spread, rows};
use mixce_synthetic::bigram::{Cell, ChargePoint, Finished, ObjectiveName, Runner, population_distance};
use plotters::prelude::*;

use super::report::worlds;
use crate::svg::{Area, COLORS, draw, legend, sample};

/// Smaller values are clamped to this, because a logarithmic axis has no zero.
const LOWEST: f64 = 1e-8;
/// Heat maps have a rectangle per cell; larger ones would make too large a file.
const HEATMAP_VOCAB: usize = 50;

/// A line of a figure: name and points.
type Line = (String, Vec<(f64, f64)>);

/// Writes all figures of a run.
pub(super) fn write_all(runner: &Runner<'_>, done: &[Finished], folder: &Path) -> Result<()> {
    let cells: Vec<Cell> = done.iter().map(|f| f.cell.clone()).collect();
    let rows = rows(&cells);
    for (vocab, zeros, keys) in worlds(&cells) {
        let mine: Vec<&Row> = rows.iter().filter(|r| (r.vocab, r.zeros) == (vocab, zeros)).collect();
        let mut etas: Vec<f64> = mine.iter().map(|r| r.eta).collect();
        etas.sort_by(f64::total_cmp);
        etas.dedup();
        let name = format!("v{vocab}-z{zeros:.2}");
        let title = |metric: &str| format!("{metric}, V = {vocab}, {:.0} % zeros", zeros * 100.0);
        let mut js = lines(&mine, &etas, |row| row.avg_js);
        let mut oracle = Vec::new();
        for (x, eta) in etas.iter().enumerate().filter(|(_, eta)| **eta > 0.0) {
            let objective = MixCe::new(*eta)?;
            let mut values = Vec::new();
            for key in &keys {
                values.extend(population_distance(&objective, &runner.world(key)?)?.map(|d| d.avg_js));
            }
            oracle.push((x as f64, Spread::of(&values).mean));
        }
        js.push(("mixce, optimum".to_owned(), oracle));
        let figure = against_eta(&title("avg. js"), "avg. js (nats)", &etas, &js)?;
        write_atomic(&folder.join(format!("avg-js-{name}.svg")), figure.as_bytes())?;
        let leaks = lines(&mine, &etas, |row| row.avg_0s);
        let figure = against_eta(&title("avg. 0s"), "avg. 0s (probability)", &etas, &leaks)?;
        write_atomic(&folder.join(format!("avg-0s-{name}.svg")), figure.as_bytes())?;
        if vocab <= HEATMAP_VOCAB {
            heatmaps(runner, done, &mine, folder, &name)?;
        }
    }
    Ok(())
}

/// One line per objective; objectives without eta give a horizontal line.
fn lines(rows: &[&Row], etas: &[f64], value: impl Fn(&Row) -> Spread) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for objective in ObjectiveName::all() {
        let mine: Vec<&&Row> = rows.iter().filter(|r| r.objective == objective).collect();
        let points: Vec<(f64, f64)> = match mine.as_slice() {
            [] => continue,
            [only] if !objective.has_eta() => (0..etas.len()).map(|x| (x as f64, value(only).mean)).collect(),
            many => many
                .iter()
                .filter_map(|r| etas.iter().position(|eta| *eta == r.eta).map(|x| (x as f64, value(r).mean)))
                .collect(),
        };
        lines.push((objective.to_string(), points));
    }
    lines
}

/// A line chart over the values of eta, evenly spaced, with a logarithmic y axis.
fn against_eta(title: &str, label: &str, etas: &[f64], lines: &[Line]) -> Result<String> {
    draw((720, 440), |area| {
        let visible = |points: &[(f64, f64)]| -> Vec<(f64, f64)> {
            points.iter().copied().filter(|p| p.1 >= LOWEST).collect()
        };
        let values = lines.iter().flat_map(|(_, points)| visible(points));
        let (low, high) = values.fold((f64::MAX, LOWEST), |(l, h), (_, y)| (l.min(y), h.max(y)));
        let mut chart = ChartBuilder::on(area)
            .caption(title, ("sans-serif", 18))
            .margin(10)
            .x_label_area_size(40)
            .y_label_area_size(70)
            .right_y_label_area_size(0)
            .build_cartesian_2d(
                -0.2..etas.len() as f64 + 1.2,
                (low.min(high) / 2.0..high * 2.0).log_scale(),
            )?;
        let name = |x: &f64| {
            let near = (x - x.round()).abs() < 1e-6 && *x > -0.1;
            etas.get(x.round() as usize).filter(|_| near).map_or_else(String::new, f64::to_string)
        };
        chart
            .configure_mesh()
            .x_labels(etas.len() + 3)
            .x_label_formatter(&name)
            .y_label_formatter(&|y| format!("{y:.0e}"))
            .x_desc("eta (or the objective's own parameter)")
            .y_desc(label)
            .disable_x_mesh()
            .draw()?;
        for (index, (name, points)) in lines.iter().enumerate() {
            let color = COLORS[index % COLORS.len()];
            let points = visible(points);
            let line = LineSeries::new(points.iter().copied(), color.stroke_width(2));
            chart.draw_series(line)?.label(name).legend(sample(color));
            let dots = points.iter().map(|p| Circle::new(*p, 3, color.filled()));
            chart.draw_series(dots)?;
        }
        legend(&mut chart, SeriesLabelPosition::UpperRight)
    })
}

/// P beside the matrices learned by MLE and the best MixCE, for the first seed.
fn heatmaps(runner: &Runner<'_>, done: &[Finished], rows: &[&Row], folder: &Path, name: &str) -> Result<()> {
    for objective in [ObjectiveName::MLE, ObjectiveName::MIXCE] {
        let best = rows.iter().filter(|r| r.objective == objective);
        let Some(best) = best.min_by(|a, b| a.avg_js.mean.total_cmp(&b.avg_js.mean)) else { continue };
        let found = done.iter().find(|f| {
            let key = f.cell.key;
            (key.vocab, key.zeros, key.objective, key.eta) == (best.vocab, best.zeros, objective, best.eta)
                && f.learned.is_some()
        });
        let Some((cell, learned)) = found.and_then(|f| Some((&f.cell, f.learned.as_deref()?))) else {
            continue;
        };
        let gold = runner.world(&cell.key)?.contexts();
        let title = format!("{objective}, eta {}, seed {}", best.eta, cell.key.seed);
        let figure = draw((860, 460), |area| {
            let halves = area.split_evenly((1, 2));
            heatmap(&halves[0], "P", best.vocab, &gold)?;
            heatmap(&halves[1], &title, best.vocab, learned)
        })?;
        write_atomic(&folder.join(format!("matrix-{name}-{objective}.svg")), figure.as_bytes())?;
    }
    Ok(())
}

/// Probabilities `[V, V + 1]` without the PAD column, darker is more likely; the fourth root makes small leaks visible.
fn heatmap(area: &Area<'_>, title: &str, vocab: usize, probs: &[f64]) -> Result<()> {
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 16))
        .margin(8)
        .x_label_area_size(30)
        .y_label_area_size(40)
        .build_cartesian_2d(0..vocab as i32, (0..vocab as i32).into_segmented())?;
    chart
        .configure_mesh()
        .disable_mesh()
        .x_desc("next token (last: EOS)")
        .y_desc("context (0: begin)")
        .x_labels(6)
        .y_labels(6)
        .draw()?;
    let rectangles = probs.chunks_exact(vocab + 1).enumerate().flat_map(|(row, probs)| {
        probs[1..].iter().enumerate().filter(|(_, p)| **p > 1e-9).map(move |(column, p)| {
            let shade = 255 - (255.0 * p.clamp(0.0, 1.0).powf(0.25)) as u8;
            let (x, y) = (column as i32, row as i32);
            Rectangle::new(
                [(x, SegmentValue::Exact(y)), (x + 1, SegmentValue::Exact(y + 1))],
                RGBColor(shade, shade, 255 - (255 - shade) / 3).filled(),
            )
        })
    });
    chart.draw_series(rectangles)?;
    Ok(())
}

/// Figure 3 of the paper.
pub(super) fn figure3(points: &[ChargePoint]) -> Result<String> {
    draw((640, 420), |area| {
        let high = points.iter().map(|p| p.reverse.max(p.forward)).fold(1.0, f64::max);
        let mut chart = ChartBuilder::on(area)
            .caption("Cost of mass where P is zero", ("sans-serif", 18))
            .margin(10)
            .x_label_area_size(40)
            .y_label_area_size(50)
            .build_cartesian_2d(0.0..1.0, 0.0..high * 1.05)?;
        chart.configure_mesh().x_desc("mass of Q where P is zero").y_desc("cross-entropy (nats)").draw()?;
        type Value = fn(&ChargePoint) -> f64;
        let curves: [(&str, Value); 2] =
            [("forward, CE(P, Q)", |p| p.forward), ("reverse, CE(Q, P)", |p| p.reverse)];
        for (index, (name, value)) in curves.into_iter().enumerate() {
            let color = COLORS[index];
            chart
                .draw_series(LineSeries::new(
                    points.iter().map(|p| (p.leak, value(p))),
                    color.stroke_width(2),
                ))?
                .label(name)
                .legend(sample(color));
        }
        legend(&mut chart, SeriesLabelPosition::UpperLeft)
    })
}
