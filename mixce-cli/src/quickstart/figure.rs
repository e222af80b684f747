//! The result as a figure: share of samples inside the support, with diversity.

use std::path::Path;

use anyhow::Result;
use mixce_base::files::write_atomic;
use plotters::prelude::*;

use super::Report;
use crate::svg::{self, Area};

const WIDTH: u32 = 760;
const HEIGHT: u32 = 300;

/// Draws one horizontal bar per system: the share of its samples that the clean grammar can generate.
pub(super) fn write(report: &Report, path: &Path) -> Result<()> {
    let text = svg::draw((WIDTH, HEIGHT), |root| draw(report, root))?;
    Ok(write_atomic(path, text.as_bytes())?)
}

fn draw(report: &Report, root: &Area<'_>) -> Result<()> {
    let ink = RGBColor(40, 40, 48);
    let title = ("sans-serif", 18).into_font().color(&ink);
    root.draw_text("Share of samples inside the support of the true distribution", &title, (24, 18))?;
    let small = ("sans-serif", 12).into_font().color(&RGBColor(110, 110, 120));
    let caption = format!(
        "2-layer GPT-2 finetuned on {} texts, {:.0} % with a wrong word; unbiased samples; eta = {}, seed {}",
        report.settings.texts,
        100.0 * report.settings.noise_rate,
        report.settings.eta,
        report.seed
    );
    root.draw_text(&caption, &small, (24, 44))?;

    let gold = &report.gold;
    let mut rows: Vec<(String, f64, f64, RGBColor)> = report
        .systems
        .named()
        .into_iter()
        .zip([RGBColor(150, 160, 180), RGBColor(190, 198, 212), RGBColor(20, 110, 190)])
        .map(|((name, system), colour)| (name, system.in_support, system.diversity, colour))
        .collect();
    rows.push(("the grammar itself".into(), gold.in_support, gold.diversity, RGBColor(90, 150, 90)));
    for (i, (name, share, diversity, colour)) in rows.iter().enumerate() {
        let y = 78 + 50 * i as i32;
        let (left, right) = (210, 600);
        let end = left + (share * f64::from(right - left)) as i32;
        let label = ("sans-serif", 14).into_font().color(&ink);
        root.draw_text(name, &label, (24, y + 9))?;
        root.draw(&Rectangle::new([(left, y), (end, y + 30)], colour.filled()))?;
        root.draw_text(&format!("{:.1} %", 100.0 * share), &label, (end + 8, y + 9))?;
        let note = ("sans-serif", 11).into_font().color(&RGBColor(110, 110, 120));
        root.draw_text(&format!("diversity {diversity:.3}"), &note, (668, y + 11))?;
    }
    Ok(())
}
