//! A report: what is in it, and its folder.

use std::fs;
use std::path::Path;

use mixce_base::files::{AtomicFolder, write_atomic};
use serde::Serialize;
use serde_json::{Value, json};

use crate::arm::Arm;
use crate::chart::Chart;
use crate::compare::{Comparison, Resampling, Scene};
use crate::error::{Error, Result};
use crate::figures;
use crate::findings::{Findings, findings, summary_of};
use crate::input::read_json;
use crate::judged::{self, JudgedStudy};
use crate::names::{Names, list};
use crate::samples::{Samples, samples};
use crate::scoring::{Scoring, scoring, warning};
use crate::study::Study;
use crate::table::Table;
use crate::tables::{self, SPLITS};

/// The settings of a report.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The page's title; by default the names of what it is about.
    pub title: Option<String>,
    /// Prompts of each group whose samples are shown.
    pub samples: usize,
    /// How intervals and tests are computed.
    pub resampling: Resampling,
    /// Version of the program.
    pub version: String,
}

/// Tables, figures, samples and sentences.
#[derive(Clone, Debug)]
pub struct Report {
    pub(crate) study: Study,
    pub(crate) settings: Settings,
    pub(crate) findings: Vec<Findings>,
    pub(crate) results: Vec<Table>,
    pub(crate) comparisons: Option<Table>,
    pub(crate) judged: Vec<Table>,
    pub(crate) further: Vec<Table>,
    pub(crate) cells: Table,
    pub(crate) charts: Vec<Chart>,
    pub(crate) samples: Vec<Samples>,
    pub(crate) scoring: Vec<Scoring>,
    all_comparisons: Vec<Comparison>,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Written {
    /// The report's folder.
    pub out: String,
    /// The page.
    pub page: String,
    /// Every file, relative to the folder.
    pub files: Vec<String>,
}

/// The machine-readable part of a report, which also marks its folder as one.
const MARKER: &str = "report.json";
/// The `kind` in it.
const KIND: &str = "mixce report";
/// The name of the page.
const PAGE: &str = "index.html";

impl Report {
    /// Computes everything.
    ///
    /// # Errors
    /// When a file of samples, likelihoods or settings cannot be read or has another form.
    pub fn new(study: Study, settings: Settings) -> Result<Self> {
        let mut names = Names::default();
        let resampling = settings.resampling;
        let mut all_comparisons = Vec::new();
        for group in study.groups() {
            let arms = Arm::of_group(&study, group);
            for split in SPLITS {
                all_comparisons
                    .extend(Scene { study: &study, group, split, resampling: &resampling }.compare(&arms));
            }
        }
        let scoring = scoring(&study)?;
        let mut findings = findings(&study, &all_comparisons, &resampling);
        findings.extend(judged::findings(&study, resampling.level));
        if let Some(sentence) = warning(&scoring) {
            findings.insert(0, Findings { title: "Settings".to_owned(), sentences: vec![sentence] });
        }
        Ok(Self {
            findings,
            results: tables::results(&study, &resampling, &mut names),
            comparisons: tables::comparisons(&study, &all_comparisons, &resampling, &mut names),
            judged: tables::judged(&study, &mut names),
            further: tables::further(&study, &mut names),
            cells: tables::cells(&study, &mut names),
            charts: figures::all(&study, &mut names)?,
            samples: samples(&study, settings.samples)?,
            scoring,
            all_comparisons,
            study,
            settings,
        })
    }

    /// What it says, in sentences.
    #[must_use]
    pub fn findings(&self) -> &[Findings] {
        &self.findings
    }

    pub(crate) fn title(&self) -> String {
        self.settings.title.clone().unwrap_or_else(|| {
            let name = |folder: &Path| {
                folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned()
            };
            let folders: Vec<String> = self.study.sources.iter().map(|source| name(&source.folder)).collect();
            format!("Report on {}", list(&folders))
        })
    }

    pub(crate) fn lead(&self) -> String {
        let groups: Vec<String> =
            self.study.groups().iter().map(|group| summary_of(group, &self.study)).collect();
        format!("{}.", groups.join("; "))
    }

    /// All tables, in the order of the page.
    pub fn tables(&self) -> impl Iterator<Item = &Table> {
        let judged = self.comparisons.iter().chain(&self.judged);
        self.results.iter().chain(judged).chain(&self.further).chain([&self.cells])
    }

    /// All figures, in the order of the page.
    #[must_use]
    pub fn charts(&self) -> &[Chart] {
        &self.charts
    }

    /// Writes the page, the tables as Markdown, CSV and LaTeX, the figures as SVG, and `report.json`. The folder gets its name only when it is
    /// complete.
    ///
    /// # Errors
    /// When the folder has contents and `overwrite` is not set or they are no report, when a folder that the report is about lies in it, or
    /// when a file cannot be written.
    pub fn write(&self, out: &Path, overwrite: bool) -> Result<Written> {
        self.check(out, overwrite)?;
        let folder = AtomicFolder::create(out)?;
        let mut files =
            vec![(PAGE.to_owned(), self.page()), (MARKER.to_owned(), format!("{:#}\n", self.json()))];
        files.extend(self.tables_and_figures());
        for (file, text) in &files {
            write_atomic(&folder.path().join(file), text.as_bytes())?;
        }
        if is_empty(out) {
            folder.finish()?
        } else {
            folder.replace()?
        }
        let shown = |path: &Path| path.display().to_string();
        let files = files.into_iter().map(|(file, _)| file).collect();
        Ok(Written { out: shown(out), page: shown(&out.join(PAGE)), files })
    }

    /// The files of all tables and figures: paths relative to the report's folder, and contents.
    #[must_use]
    pub fn tables_and_figures(&self) -> Vec<(String, String)> {
        let tables = self.tables().flat_map(|table| {
            let forms = [("md", table.markdown()), ("csv", table.csv()), ("tex", table.latex())];
            forms.map(|(form, text)| (format!("tables/{}.{form}", table.id), text))
        });
        let figures = self.charts.iter().map(|chart| (format!("figures/{}.svg", chart.id), chart.file()));
        tables.chain(figures).collect()
    }

    fn check(&self, out: &Path, overwrite: bool) -> Result<()> {
        let refuse = |problem, hint| Err(Error::Output { path: out.to_owned(), problem, hint });
        if out.exists() && !out.is_dir() {
            return refuse("is a file", "choose another name");
        }
        if is_empty(out) {
            return Ok(());
        }
        let marker: Option<Value> = read_json(&out.join(MARKER)).unwrap_or_default();
        if marker.is_none_or(|marker| marker["kind"] != KIND) {
            return refuse("is not empty and holds no report", "choose another folder");
        }
        if !overwrite {
            return refuse("holds a report", "choose another folder, or replace it with `config.overwrite`");
        }
        let inside = |source: &Path| match (fs::canonicalize(source), fs::canonicalize(out)) {
            (Ok(source), Ok(out)) => source.starts_with(out),
            _ => false,
        };
        if self.study.sources.iter().any(|source| inside(&source.folder)) {
            return refuse("holds a folder that the report is about", "choose another folder");
        }
        Ok(())
    }

    /// `report.json`: sources, sentences, every comparison with all digits, names of tables and figures.
    #[must_use]
    pub fn json(&self) -> Value {
        let comparison = |c: &Comparison| {
            let (difference, interval) =
                c.evidence.interval().map_or((None, None), |(d, i)| (Some(d), Some([i.low, i.high])));
            json!({
                "group": c.group, "split": c.split, "metric": c.metric.key, "first": c.first, "second": c.second,
                "means": c.means, "human": c.human, "tested_over": c.evidence.over(), "difference": difference, "interval": interval,
                "p_value": c.evidence.p_value(), "adjusted_p_value": c.adjusted_p, "result": c.verdict.name(),
            })
        };
        let sources: Vec<Value> = self
            .study
            .sources
            .iter()
            .map(|source| json!({"folder": source.folder.display().to_string(), "kind": source.kind, "versions": source.versions}))
            .collect();
        let findings: Vec<Value> =
            self.findings.iter().map(|f| json!({"title": f.title, "sentences": f.sentences})).collect();
        let judged = |judged: &JudgedStudy| {
            let report = mixce_judge::Report { items: None, ..judged.report.clone() };
            json!({"folder": judged.folder.display().to_string(), "report": report})
        };
        let resampling = &self.settings.resampling;
        json!({
            "kind": KIND, "schema": 1, "version": self.settings.version, "title": self.title(), "sources": sources, "findings": findings,
            "comparisons": self.all_comparisons.iter().map(comparison).collect::<Vec<_>>(),
            "judged": self.study.judged.iter().map(judged).collect::<Vec<_>>(),
            "tables": self.tables().map(|table| table.id.as_str()).collect::<Vec<_>>(),
            "figures": self.charts.iter().map(|chart| chart.id.as_str()).collect::<Vec<_>>(),
            "settings": {"resamples": resampling.resamples, "confidence": resampling.level, "seed": resampling.seed, "samples": self.settings.samples},
        })
    }
}

/// Whether there is no folder or nothing in it.
fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).map_or(!folder.exists(), |mut entries| entries.next().is_none())
}

#[cfg(test)]
mod tests {
    use mixce_base::Hint as _;

    use super::*;
    use crate::tests::{cell, human, measured, study};

    fn settings() -> Settings {
        let resampling = Resampling { resamples: 100, level: 0.95, seed: 1 };
        Settings { title: None, samples: 5, resampling, version: "0.1.0".into() }
    }

    fn report() -> Report {
        let values = [Some(0.5), Some(0.75)];
        let with = |objective: &str, mauve| {
            let mut system = cell(objective, None, 1);
            system.valid = Some(measured(mauve, &values));
            system
        };
        let mut study = study(vec![with("mle", 0.5), with("mixce:eta=0.1", 0.75)]);
        study.humans.push(human(&values));
        Report::new(study, settings()).unwrap()
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn the_folder_is_complete_and_replaced_only_on_request() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("report");
        let report = report();
        let written = report.write(&out, false).unwrap();
        assert_eq!(names(root.path()), ["report"]);
        assert_eq!(names(&out), ["figures", "index.html", "report.json", "tables"]);
        assert!(written.files.iter().all(|file| out.join(file).is_file()));
        let ids: Vec<&str> = report.tables().map(|table| table.id.as_str()).collect();
        assert_eq!(ids, ["results-valid-wiki", "comparisons", "cells"]);
        let error = report.write(&out, false).unwrap_err();
        assert!(
            error.to_string().contains("holds a report")
                && error.hint().unwrap().contains("config.overwrite")
        );
        fs::write(out.join("old"), "").unwrap();
        report.write(&out, true).unwrap();
        assert_eq!(names(&out), ["figures", "index.html", "report.json", "tables"]);
        assert_eq!(names(root.path()), ["report"]);
    }

    #[test]
    fn folders_with_other_contents_are_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("thesis");
        fs::create_dir(&out).unwrap();
        report().write(&out, false).unwrap();
        let mine = root.path().join("mine");
        fs::create_dir(&mine).unwrap();
        fs::write(mine.join("thesis.tex"), "dear").unwrap();
        for overwrite in [false, true] {
            let error = report().write(&mine, overwrite).unwrap_err().to_string();
            assert!(error.contains("holds no report"), "{error}");
        }
        assert_eq!(names(&mine), ["thesis.tex"]);
        assert!(
            report().write(&mine.join("thesis.tex"), true).unwrap_err().to_string().contains("is a file")
        );
        let mut about = report();
        let inner = out.join("run");
        fs::create_dir(&inner).unwrap();
        about.study.sources.push(crate::study::Source {
            folder: inner,
            kind: "run",
            versions: Default::default(),
            settings: Value::Null,
            seconds: None,
        });
        assert!(about.write(&out, true).unwrap_err().to_string().contains("that the report is about"));
    }

    #[test]
    fn the_same_results_give_the_same_bytes() {
        let (first, second) = (report(), report());
        assert_eq!(first.page(), second.page());
        assert_eq!(first.json(), second.json());
        assert_eq!(first.json()["comparisons"][1]["tested_over"], "prompts");
    }
}
