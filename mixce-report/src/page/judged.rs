//! Every item of a human evaluation.

use std::fmt::Write as _;

use mixce_judge::{Candidate, ItemReport, Judged, Kind};

use super::escape::html;
use super::samples::long;
use crate::judged::JudgedStudy;

/// The items of a study with their answers, behind a line that opens them.
pub(super) fn items(judged: &JudgedStudy) -> String {
    let all = judged.report.items.as_deref().unwrap_or_default();
    let mut text =
        format!("<details><summary>All {} items of {}</summary>\n", all.len(), html(&judged.name()));
    all.iter().for_each(|item| text += &of_item(item));
    text + "</details>\n"
}

fn of_item(item: &ItemReport) -> String {
    let kind = match item.kind {
        Kind::Comparison => "",
        Kind::Check => " (attention check)",
    };
    let mut text = format!(
        "<article class=\"item\"><h3>Item {}{kind}</h3><div class=\"text given\" dir=\"auto\">{}</div><div class=\"side\">",
        item.item,
        long(&item.prompt)
    );
    for Candidate { system, text: shown } in [&item.first, &item.second] {
        let _ = write!(
            text,
            "<div><h4>{}</h4><div class=\"text\" dir=\"auto\">{}</div></div>",
            html(system),
            long(shown)
        );
    }
    text.push_str("</div><ul class=\"small\">");
    item.answers.iter().for_each(|answer| text += &of_answer(answer));
    text + "</ul></article>\n"
}

fn of_answer(answer: &Judged) -> String {
    let better = match (&answer.better, answer.preference.abs()) {
        (None, _) => "no difference".to_owned(),
        (Some(system), 2) => format!("{system} is much better"),
        (Some(system), _) => format!("{system} is better"),
    };
    let reasons =
        if answer.reasons.is_empty() { String::new() } else { format!(" ({})", answer.reasons.join(", ")) };
    let note =
        if answer.note.is_empty() { String::new() } else { format!(": \u{201c}{}\u{201d}", answer.note) };
    let (name, told) = (html(&answer.name), html(&format!("{better}{reasons}{note}")));
    format!("<li><bdi>{name}</bdi>: <bdi>{told}</bdi></li>")
}

#[cfg(test)]
mod tests {
    #[test]
    fn texts_names_and_notes_are_shown_and_not_obeyed() {
        let made = super::items(&crate::judged::tests::judged());
        for expected in [
            "All 1 items of first",
            "&lt;script&gt;alert(1)&lt;/script&gt;",
            "a[U+202E]b",
            "&lt;/section&gt;",
            "judge &lt;1&gt;",
            "mixce is better (fits): \u{201c}&lt;b&gt;good&lt;/b&gt;\u{201d}",
        ] {
            assert!(made.contains(expected), "{expected}\n{made}");
        }
        assert!(!made.contains("<script") && !made.contains("<b>"));
    }
}
