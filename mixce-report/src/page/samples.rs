//! Samples side by side.

use std::fmt::Write as _;

use super::escape::html;
use crate::samples::Samples;
use crate::tables::split_title;

/// Characters of a text that are shown at once.
const SHOWN: usize = 1500;
/// Characters of a text that the page holds at most; the files have all.
const HELD: usize = 20_000;

/// The section's content.
pub(super) fn samples(all: &[Samples]) -> String {
    let mut text = String::from(
        "<form id=\"find\" class=\"find\" role=\"search\" hidden><label for=\"find-text\">Search in prompts and continuations</label>\
         <input id=\"find-text\" type=\"search\" autocomplete=\"off\" spellcheck=\"false\"><output id=\"find-count\" for=\"find-text\"></output></form>\n",
    );
    for (group, samples) in all.iter().enumerate() {
        let _ = writeln!(
            text,
            "<h3>{}</h3>\n<p class=\"small\">{} of {} prompts of the {} texts, evenly spaced; of each system the first sampling run of its first seed. Invisible and direction-changing characters are shown as their code points.</p>",
            html(&samples.title),
            samples.prompts.len(),
            samples.total,
            split_title(samples.split)
        );
        for prompt in &samples.prompts {
            let id = format!("prompt-{group}-{}", prompt.index);
            let _ = write!(
                text,
                "<article class=\"prompt\" aria-labelledby=\"{id}\"><h4 id=\"{id}\">Prompt {}</h4>",
                prompt.index
            );
            let _ = write!(
                text,
                "<div class=\"text given\" dir=\"auto\">{}</div><div class=\"side\">",
                long(&prompt.prompt)
            );
            for (name, continuation) in samples.columns.iter().zip(&prompt.texts) {
                let continuation = match continuation {
                    None => "<p class=\"small\">No sample for this prompt.</p>".to_owned(),
                    Some(text) if text.trim().is_empty() => {
                        "<p class=\"small\">An empty continuation.</p>".to_owned()
                    }
                    Some(text) => format!("<div class=\"text\" dir=\"auto\">{}</div>", long(text)),
                };
                let _ = write!(text, "<div><h5>{}</h5>{continuation}</div>", html(name));
            }
            text.push_str("</div></article>\n");
        }
    }
    text
}

/// A text, the part of a long one behind a line that opens it.
pub(super) fn long(text: &str) -> String {
    let place = |count: usize| text.char_indices().nth(count).map_or(text.len(), |(place, _)| place);
    let (shown, held) = (place(SHOWN), place(HELD));
    if shown == text.len() {
        return html(text);
    }
    let more = text[shown..].chars().count();
    let cut = text[held..].chars().count();
    let cut = if cut > 0 {
        format!("<p class=\"small\">{cut} further characters are only in the file.</p>")
    } else {
        String::new()
    };
    format!(
        "{}<details><summary>{more} more characters</summary>{}{cut}</details>",
        html(&text[..shown]),
        html(&text[shown..held])
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Split;
    use crate::samples::Prompt;

    #[test]
    fn hostile_texts_are_shown_and_not_obeyed() {
        let texts = ["<script>alert(1)</script>", "\"' onload=x", "a\u{202e}b", " ", "\u{1f600}"];
        let made = samples(&[Samples {
            title: "wiki".into(),
            split: Split::Test,
            columns: texts.iter().map(|_| "<b>".to_owned()).chain(["none".to_owned()]).collect(),
            prompts: vec![Prompt {
                index: 3,
                prompt: "</div>".into(),
                texts: texts.iter().map(|text| Some((*text).to_owned())).chain([None]).collect(),
            }],
            total: 9,
        }]);
        for expected in [
            "&lt;script&gt;alert(1)&lt;/script&gt;",
            "&quot;&#39; onload=x",
            "a[U+202E]b",
            "An empty continuation.",
            "\u{1f600}",
            "<h5>&lt;b&gt;</h5>",
            "No sample for this prompt.",
            ">&lt;/div&gt;<",
            "1 of 9 prompts of the test texts",
        ] {
            assert!(made.contains(expected), "{expected}\n{made}");
        }
        assert!(!made.contains("<script"));
    }

    #[test]
    fn long_texts_are_folded_and_longer_ones_cut_with_a_word() {
        assert_eq!(long("short"), "short");
        let folded = long(&"\u{e9}".repeat(SHOWN + 2));
        assert!(
            folded.ends_with("<details><summary>2 more characters</summary>\u{e9}\u{e9}</details>"),
            "{folded}"
        );
        let cut = long(&"x".repeat(100_000));
        assert!(
            cut.contains("98500 more characters")
                && cut.contains("80000 further characters are only in the file.")
        );
        assert!(cut.len() < 21_000);
    }
}
