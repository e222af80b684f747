//! The page: one HTML file without anything from elsewhere.
//!
//! It is readable without its script, which only searches the samples. A content security policy allows this style and this script, by their
//! digests, and nothing else, so that a text that slipped through [`escape::html`] could not run either.

pub(crate) mod escape;
mod samples;
mod sources;
mod table;

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mixce_base::digest::{Digest as _, Sha256};

use crate::chart::{Chart, STYLE as CHART_STYLE};
use crate::report::Report;
use crate::table::Table;
use escape::html;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// Anchor, title and content of a section.
type Section = (&'static str, &'static str, String);

impl Report {
    /// The page. Its links to tables and figures are relative to the report's folder; everything is in the page itself too.
    #[must_use]
    pub fn page(&self) -> String {
        let style = format!("{STYLE}{CHART_STYLE}");
        let title = html(&self.title());
        let policy = format!(
            "default-src 'none'; style-src '{}'; script-src '{}'; img-src data:; base-uri 'none'; form-action 'none'",
            source_of(&style),
            source_of(SCRIPT)
        );
        let sections = self.sections();
        let contents: String =
            sections.iter().map(|(id, title, _)| format!("<li><a href=\"#{id}\">{title}</a></li>")).collect();
        let mut page = format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n<meta name=\"referrer\" content=\"no-referrer\">\n\
             <link rel=\"icon\" href=\"data:,\">\n<title>{title}</title>\n<style>{style}</style>\n</head>\n<body>\n\
             <a class=\"skip\" href=\"#main\">Skip to the content</a>\n<header><h1>{title}</h1>\n<p class=\"lead\">{}</p></header>\n\
             <nav aria-label=\"Contents\"><ul>{contents}</ul></nav>\n<main id=\"main\" tabindex=\"-1\">\n",
            html(&self.lead())
        );
        for (id, title, content) in &sections {
            let _ = write!(
                page,
                "<section aria-labelledby=\"{id}\">\n<h2 id=\"{id}\">{title}</h2>\n{content}</section>\n"
            );
        }
        let _ = write!(
            page,
            "</main>\n<footer><p class=\"small\">Written by mixce {}.</p></footer>\n<script>{SCRIPT}</script>\n</body>\n</html>\n",
            html(&self.settings.version)
        );
        page
    }

    fn sections(&self) -> Vec<Section> {
        let mut sections: Vec<Section> = vec![("findings", "What the result says", self.findings_html())];
        let mut add = |id, title, content: String| {
            if !content.is_empty() {
                sections.push((id, title, content));
            }
        };
        add("results", "Results", self.results.iter().map(with_files).collect());
        add("differences", "Differences", self.comparisons.iter().map(with_files).collect());
        add("figures", "Figures", if self.charts.is_empty() { String::new() } else { figures(&self.charts) });
        add(
            "samples",
            "Samples side by side",
            if self.samples.is_empty() { String::new() } else { samples::samples(&self.samples) },
        );
        add("further", "Further metrics", self.further.iter().map(with_files).collect());
        add("systems", "Every system", with_files(&self.cells));
        add(
            "settings",
            "Settings and versions",
            sources::sources(&self.study, &self.scoring, &self.settings),
        );
        sections
    }

    fn findings_html(&self) -> String {
        let mut text = String::new();
        for findings in &self.findings {
            let _ = writeln!(text, "<h3>{}</h3>\n<ul>", html(&findings.title));
            findings.sentences.iter().for_each(|sentence| text += &format!("<li>{}</li>\n", html(sentence)));
            text.push_str("</ul>\n");
        }
        text
    }
}

/// A script or style in a content security policy.
fn source_of(text: &str) -> String {
    format!("sha256-{}", STANDARD.encode(Sha256::digest(text)))
}

/// A table and the links to its files.
fn with_files(made: &Table) -> String {
    let links = ["md", "csv", "tex"]
        .map(|form| format!("<a href=\"tables/{0}.{form}\">{0}.{form}</a>", html(&made.id)));
    format!("{}<p class=\"small\">Files: {}</p>\n", table::table(made), links.join(", "))
}

fn figures(charts: &[Chart]) -> String {
    let mut text = String::from("<div class=\"cards\">\n");
    for chart in charts {
        let (id, title) = (html(&chart.id), html(&chart.title));
        let notes: String = chart.notes.iter().map(|note| format!("<p>{}</p>", html(note))).collect();
        let _ = writeln!(
            text,
            "<figure id=\"{id}\"><h3 id=\"{id}-h\">{title}</h3><div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-labelledby=\"{id}-h\">{}</div>\
             <figcaption>{notes}<p>File: <a href=\"figures/{id}.svg\">{id}.svg</a></p></figcaption>\
             <details><summary>Numbers of this figure</summary>{}</details></figure>",
            chart.svg(),
            table::table(&chart.numbers())
        );
    }
    text + "</div>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_names_the_digest_of_what_the_page_holds() {
        // `printf abc | openssl dgst -sha256 -binary | base64`.
        assert_eq!(source_of("abc"), "sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=");
        // An element's end inside would end it.
        assert!(!SCRIPT.contains("</") && !STYLE.contains("</") && !CHART_STYLE.contains("</"));
    }
}
