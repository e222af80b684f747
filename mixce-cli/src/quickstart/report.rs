//! The result of the experiment as JSON, table and text.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use mixce_base::files::write_atomic;
use serde::Serialize;

use super::Settings;
use super::settings::name_of;

/// Scores of one model with one sampling method.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct System {
    /// Perplexity per token (end of text included) on held-out texts of the clean grammar, at temperature 1.
    pub(crate) perplexity: f64,
    /// Share of the samples that the clean grammar can generate, in `[0, 1]`.
    pub(crate) in_support: f64,
    /// Mean of `-log` of the smoothed P over the samples, in nats per text.
    pub(crate) reverse_cross_entropy: f64,
    /// Distinct n-grams (n = 1 to 4) of all samples together divided by all.
    pub(crate) diversity: f64,
    /// Share of samples that differ from all others, in `[0, 1]`.
    pub(crate) distinct: f64,
    /// Sampling temperature.
    pub(crate) temperature: f64,
    /// Mean length of a sample, in words and punctuation marks.
    pub(crate) mean_tokens: f64,
    /// The exported model.
    pub(crate) model: PathBuf,
    /// A few samples.
    pub(crate) samples: Vec<String>,
}

/// The same measures for the grammar itself.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Gold {
    /// Exact, on the same held-out texts and tokens.
    pub(crate) perplexity: f64,
    /// Always 1.
    pub(crate) in_support: f64,
    /// Of a fresh sample of the grammar.
    pub(crate) reverse_cross_entropy: f64,
    /// Of a fresh sample of the grammar.
    pub(crate) diversity: f64,
    /// Of a fresh sample of the grammar.
    pub(crate) distinct: f64,
    /// Exact entropy of the grammar, in nats per text.
    pub(crate) entropy_nats: f64,
}

/// The compared systems.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Systems {
    /// Finetuned with MLE, unbiased samples.
    pub(crate) mle: System,
    /// Finetuned with MixCE, unbiased samples.
    pub(crate) mixce: System,
    /// The MLE model at the temperature that gives the diversity of MixCE.
    #[serde(rename = "mle-temperature")]
    pub(crate) mle_temperature: System,
}

impl Systems {
    /// Name and result of each, in the order of the table.
    pub(crate) fn named(&self) -> [(String, &System); 3] {
        let control = format!("MLE at temperature {:.2}", self.mle_temperature.temperature);
        [("MLE".into(), &self.mle), (control, &self.mle_temperature), ("MixCE".into(), &self.mixce)]
    }
}

/// The whole result.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Report {
    /// The systems.
    pub(crate) systems: Systems,
    /// The grammar itself.
    pub(crate) gold: Gold,
    /// How it was made.
    pub(crate) settings: Settings,
    /// The seed.
    pub(crate) seed: u64,
    /// Wall-clock time.
    pub(crate) seconds: f64,
}

impl Report {
    /// Writes `report.json` and `report.md`.
    pub(super) fn write(&self, out: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self)? + "\n";
        for (name, content) in [("report.json", json), ("report.md", self.to_text(out))] {
            write_atomic(&out.join(name), content.as_bytes())?;
        }
        Ok(())
    }

    /// The human-readable report: a Markdown table, the verdict, a few samples.
    pub(crate) fn to_text(&self, out: &Path) -> String {
        let mut text = String::new();
        let s = &self.settings;
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{} texts of a grammar, {:.0} % with a wrong word ({} noise); {} samples from each model; eta {}, seed {}.\n",
            s.texts,
            100.0 * s.noise_rate,
            name_of(s.noise),
            s.samples,
            s.eta,
            s.seed
        );
        text.push_str(
            "| sampled from | perplexity | in support | reverse CE (nats) | diversity | distinct |\n",
        );
        text.push_str("| --- | ---: | ---: | ---: | ---: | ---: |\n");
        for (name, x) in self.systems.named() {
            row(
                &mut text,
                &name,
                [x.perplexity, x.in_support, x.reverse_cross_entropy, x.diversity, x.distinct],
            );
        }
        let g = &self.gold;
        let gold = [g.perplexity, g.in_support, g.reverse_cross_entropy, g.diversity, g.distinct];
        row(&mut text, "the grammar itself", gold);
        let _ = writeln!(text, "\n{}\n", self.verdict());
        for (name, system) in self.systems.named() {
            let _ = writeln!(text, "{name}:");
            for sample in &system.samples {
                let _ = writeln!(text, "    {sample}");
            }
            text.push('\n');
        }
        let _ = writeln!(
            text,
            "Models: {} and {}\nFigure: {}",
            self.systems.mle.model.display(),
            self.systems.mixce.model.display(),
            out.join("quickstart.svg").display()
        );
        text
    }

    /// The verdict in words, whatever the outcome.
    pub(crate) fn verdict(&self) -> String {
        let Systems { mle, mixce, mle_temperature: control } = &self.systems;
        let points = |a: &System, b: &System| 100.0 * (a.in_support - b.in_support);
        // Two standard errors of a difference of two shares near one half: differences below are noise.
        let noise = 200.0 * (0.5 / self.settings.samples as f64).sqrt();
        let says = |difference: f64| match difference {
            d if d > noise => format!("{d:.1} points more than"),
            d if d < -noise => format!("{:.1} points fewer than", -d),
            d => format!("within noise ({d:+.1} points) of"),
        };
        // The temperature is found to about 0.01, which changes the diversity by less than this.
        let unmatched = if (control.diversity - mixce.diversity).abs() <= 0.02 * mixce.diversity {
            ""
        } else {
            " (but no temperature gave this diversity, so the two are not comparable)"
        };
        format!(
            "MixCE writes {} MLE inside the grammar's support, and {} MLE sampled at the temperature of equal diversity{}.",
            says(points(mixce, mle)),
            says(points(mixce, control)),
            unmatched,
        )
    }
}

fn row(text: &mut String, name: &str, [perplexity, support, reverse, diversity, distinct]: [f64; 5]) {
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "| {name} | {perplexity:.3} | {:.1} % | {reverse:.1} | {diversity:.3} | {:.1} % |",
        100.0 * support,
        100.0 * distinct
    );
}
