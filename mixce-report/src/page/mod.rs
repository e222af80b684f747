//! The page: one HTML file without anything from elsewhere.
//!
//! It is readable without its script, which only searches the samples. A content security policy allows this style and this script, by their
//! digests, and nothing else, so that a text that slipped through [`escape::html`] could not run either.

pub(crate) mod escape;
mod judged;
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
const RELOAD: &str = include_str!("reload.js");

/// Anchor, title and content of a section.
type Section = (&'static str, &'static str, String);

/// What a page that is served while its files change shows too.
#[derive(Clone, Copy, Debug)]
pub struct Live<'a> {
    /// The entity tag of this state of the page.
    pub version: &'a str,
    /// How what it is about stands, in a sentence.
    pub status: &'a str,
}

impl Report {
    /// The page. Its links to tables and figures are relative to the report's folder; everything is in the page itself too.
    #[must_use]
    pub fn page(&self) -> String {
        self.page_of(None)
    }

    /// The page for a server: it asks for `/` with its version as the entity tag, and loads itself anew, at the same place, when there is another
    /// one. Without scripts it does so regularly.
    #[must_use]
    pub fn live_page(&self, live: &Live<'_>) -> String {
        self.page_of(Some(live))
    }

    fn page_of(&self, live: Option<&Live<'_>>) -> String {
        let sections = self.sections();
        let contents: String =
            sections.iter().map(|(id, title, _)| format!("<li><a href=\"#{id}\">{title}</a></li>")).collect();
        let mut body = format!(
            "<nav aria-label=\"Contents\"><ul>{contents}</ul></nav>\n<main id=\"main\" tabindex=\"-1\">\n"
        );
        for (id, title, content) in &sections {
            let _ = write!(
                body,
                "<section aria-labelledby=\"{id}\">\n<h2 id=\"{id}\">{title}</h2>\n{content}</section>\n"
            );
        }
        let _ = write!(
            body,
            "</main>\n<footer><p class=\"small\">Written by mixce {}.</p></footer>\n",
            html(&self.settings.version)
        );
        frame(&self.title(), &self.lead(), &body, live)
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
        let items: String = self.study.judged.iter().map(judged::items).collect();
        add("judged", "Human judgement", self.judged.iter().map(with_files).collect::<String>() + &items);
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

/// The page of a server that has nothing to show yet, because of `problem`.
#[must_use]
pub fn live_message(live: &Live<'_>, problem: &str) -> String {
    let body = format!("<main id=\"main\" tabindex=\"-1\">\n<p>{}</p>\n</main>\n", html(problem));
    frame(
        "There is nothing to report yet",
        "This page changes as soon as there is something to show.",
        &body,
        Some(live),
    )
}

/// A whole page around its main part.
fn frame(title: &str, lead: &str, body: &str, live: Option<&Live<'_>>) -> String {
    let style = format!("{STYLE}{CHART_STYLE}");
    let (title, lead) = (html(title), html(lead));
    let scripts: &[&str] = if live.is_some() { &[SCRIPT, RELOAD] } else { &[SCRIPT] };
    let sources =
        scripts.iter().map(|script| format!("'{}'", source_of(script))).collect::<Vec<_>>().join(" ");
    let connect = if live.is_some() { "connect-src 'self'; " } else { "" };
    let policy = format!(
        "default-src 'none'; style-src '{}'; script-src {sources}; {connect}img-src data:; base-uri 'none'; form-action 'none'",
        source_of(&style),
    );
    let version = live.map_or_else(String::new, |live| format!(" data-version=\"{}\"", html(live.version)));
    let refresh = live.map_or("", |_| "<noscript><meta http-equiv=\"refresh\" content=\"10\"></noscript>\n");
    let status = live.map_or_else(String::new, |live| {
        format!("\n<p class=\"lead\" id=\"live\" role=\"status\">{}</p>", html(live.status))
    });
    let scripts: String = scripts.iter().map(|script| format!("<script>{script}</script>\n")).collect();
    format!(
        "<!doctype html>\n<html lang=\"en\"{version}>\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<meta name=\"referrer\" content=\"no-referrer\">\n{refresh}\
         <link rel=\"icon\" href=\"data:,\">\n<title>{title}</title>\n<style>{style}</style>\n</head>\n<body>\n\
         <a class=\"skip\" href=\"#main\">Skip to the content</a>\n<header><h1>{title}</h1>\n<p class=\"lead\">{lead}</p>{status}</header>\n\
         {body}{scripts}</body>\n</html>\n"
    )
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
        assert!(
            !SCRIPT.contains("</")
                && !RELOAD.contains("</")
                && !STYLE.contains("</")
                && !CHART_STYLE.contains("</")
        );
    }
}
