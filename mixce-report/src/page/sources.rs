//! Settings and versions of everything that the numbers come from.

use std::fmt::Write as _;

use serde_json::Value;

use super::escape::html;
use crate::report::Settings;
use crate::scoring::Scoring;
use crate::study::{Source, Study};

/// The section's content.
pub(super) fn sources(study: &Study, scoring: &[Scoring], settings: &Settings) -> String {
    let mut text = String::from("<h3>This report</h3>\n");
    let resampling = &settings.resampling;
    text += &list(&[
        ("mixce", settings.version.clone()),
        ("resamples", resampling.resamples.to_string()),
        ("level of the intervals", resampling.level.to_string()),
        ("seed of the resampling", resampling.seed.to_string()),
    ]);
    for source in &study.sources {
        text += &of_source(source);
    }
    for found in scoring {
        let _ = writeln!(text, "<h3>{}: settings of {} files</h3>", html(&found.what), found.files);
        text += &json(&found.settings);
    }
    text
}

fn of_source(source: &Source) -> String {
    let mut text = format!(
        "<h3>{} {}</h3>\n",
        if source.kind == "sweep" { "Sweep" } else { "Run" },
        html(&source.folder.display().to_string())
    );
    let mut facts: Vec<(&str, String)> =
        source.versions.iter().map(|(name, version)| (name.as_str(), version.clone())).collect();
    facts.extend(source.seconds.map(|seconds| ("time of all cells together", duration(seconds))));
    text += &list(&facts);
    text + &json(&source.settings)
}

fn list(facts: &[(&str, String)]) -> String {
    let facts: String = facts
        .iter()
        .map(|(name, value)| format!("<dt>{}</dt><dd>{}</dd>", html(name), html(value)))
        .collect();
    if facts.is_empty() { facts } else { format!("<dl>{facts}</dl>\n") }
}

fn json(value: &Value) -> String {
    format!(
        "<details><summary>Settings</summary><pre tabindex=\"0\">{}</pre></details>\n",
        html(&format!("{value:#}"))
    )
}

/// Seconds as hours and minutes.
fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s} s"),
        (h, m, _) => format!("{h} h {m} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_readable() {
        assert_eq!([12.4, 61.0, 7325.0].map(duration), ["12 s", "1 min 1 s", "2 h 2 min"]);
    }
}
