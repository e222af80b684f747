//! The pages: HTML that works without scripts. Every text goes through [`escape`].

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::Link;
use super::form::{Filled, MAX_NOTE_CHARS, REASONS};
use crate::study::Scale;

/// How far a judge is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress<'a> {
    /// Path of the judge's first page.
    pub(super) home: &'a str,
    pub(super) answered: usize,
    pub(super) tasks: usize,
}

/// What a judge sees of a task: no names, no numbers of items.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair<'a> {
    /// Place in the judge's order, from 1.
    pub(super) number: usize,
    pub(super) prompt: &'a str,
    pub(super) a: &'a str,
    pub(super) b: &'a str,
}

/// Text for HTML content and quoted attributes. Control characters, which HTML cannot hold, become U+FFFD.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 16);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            '\r' => out.push_str("&#13;"),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

fn page(status: StatusCode, title: &str, main: &str) -> Response {
    let html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
        <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta name=\"robots\" content=\"noindex\">\n\
        <title>{}</title>\n<link rel=\"stylesheet\" href=\"/style.css\">\n<script src=\"/keys.js\" defer></script>\n</head>\n\
        <body>\n<main>\n{main}</main>\n</body>\n</html>\n",
        escape(title),
    );
    (status, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], html).into_response()
}

/// A message, with a link to go on if there is one.
pub(super) fn problem(status: StatusCode, message: &str, onward: Option<&str>) -> Response {
    let onward =
        onward.map(|path| format!("<p><a class=\"button\" href=\"{}\">Go on</a></p>\n", escape(path)));
    let main = format!("<h1>{}</h1>\n{}", escape(message), onward.unwrap_or_default());
    page(status, "Which continuation is better?", &main)
}

/// The links of all judges, on a machine of one's own.
pub(super) fn index(links: &[Link]) -> Response {
    let mut main = "<h1>Who are you?</h1>\n<ul class=\"judges\">\n".to_owned();
    for Link { name, url, answered, tasks, .. } in links {
        let (name, url) = (escape(name), escape(url));
        main += &format!(
            "<li><a class=\"button\" href=\"{url}\"><bdi>{name}</bdi></a> <span>{answered} of {tasks} answered</span></li>\n"
        );
    }
    page(StatusCode::OK, "Who are you?", &(main + "</ul>\n"))
}

/// Instructions and an example.
pub(super) fn instructions(progress: &Progress<'_>, scale: Scale, begun: bool) -> Response {
    let home = escape(progress.home);
    let go_on = match (begun, progress.answered) {
        (false, _) => format!(
            "<form method=\"post\" action=\"{home}/begin\"><button class=\"button\">I have read this: begin</button></form>\n"
        ),
        (true, _) => format!("<p><a class=\"button\" href=\"{home}/task\">Go on</a></p>\n"),
    };
    let best = match scale {
        Scale::Three => "A is better",
        Scale::Five => "A is much better",
    };
    let keys = u8::from(scale);
    let example = pair(
        "The old keeper climbed the stairs of the lighthouse",
        " and lit the lamp. Far out, a ship answered with three short flashes, and he smiled: they had seen him.",
        " and climbed the stairs of the lighthouse and climbed the stairs, which was a lighthouse of the stairs of the lamp.",
        "example",
    );
    let main = format!(
        "<h1>Which continuation is better?</h1>\n{bar}\
        <p>You will see the beginning of a text and two ways in which it may go on, A and B. Read both, then say which is the \
        better continuation: one that fits the beginning, makes sense, and reads like the work of a good writer.</p>\n\
        <ul>\n<li>Judge the text, not whether you like its subject or whether its facts are true.</li>\n\
        <li>Texts may stop in the middle of a sentence. That is no fault.</li>\n\
        <li>Choose “No difference” when you cannot tell, but try to decide.</li>\n\
        <li>Reasons are optional. An answer is final once it is saved.</li>\n\
        <li>A few pairs check that you read attentively. Their answer is obvious.</li>\n\
        <li>You may stop at any time and come back by the same link.</li>\n</ul>\n\
        <p class=\"keyboard\">On a keyboard: <kbd>1</kbd> to <kbd>{keys}</kbd> choose an answer, <kbd>Enter</kbd> saves it.</p>\n\
        <h2>An example</h2>\n<div class=\"example\">\n{example}\
        <p><strong>{best}:</strong> it tells what happens next, while B repeats itself and makes no sense.</p>\n</div>\n{go_on}",
        bar = bar(progress),
    );
    page(StatusCode::OK, "Which continuation is better?", &main)
}

/// One comparison; `filled` is what the judge sent without a choice.
pub(super) fn task(
    progress: &Progress<'_>,
    scale: Scale,
    shown: &Pair<'_>,
    status: StatusCode,
    filled: Option<&Filled>,
) -> Response {
    let alert = match filled {
        Some(_) => "<p class=\"alert\" role=\"alert\">Choose one of the answers.</p>\n",
        None => "",
    };
    let ticked: Vec<&str> = filled.map(|f| f.reasons.split(' ').collect()).unwrap_or_default();
    let note = filled.map_or("", |filled| &filled.note);
    let mut reasons = String::new();
    for (key, label) in REASONS {
        let checked = if ticked.contains(&key) { " checked" } else { "" };
        reasons += &format!(
            "<label><input type=\"checkbox\" name=\"reason\" value=\"{key}\"{checked}> {label}</label>\n"
        );
    }
    let open = if reasons.contains(" checked") || !note.is_empty() { " open" } else { "" };
    let main = format!(
        "<h1 class=\"hidden\">Pair {number} of {tasks}</h1>\n{bar}{texts}\
        <form class=\"answer\" method=\"post\" action=\"{home}/task/{number}\">\n{alert}\
        <fieldset class=\"choices scale-{scale_size}\">\n<legend>Which continuation is better?</legend>\n{choices}</fieldset>\n\
        <details{open}>\n<summary>Reasons (optional)</summary>\n\
        <fieldset class=\"reasons\">\n<legend>The better one …</legend>\n{reasons}</fieldset>\n\
        <label for=\"note\">In your words</label>\n\
        <textarea id=\"note\" name=\"note\" rows=\"3\" maxlength=\"{MAX_NOTE_CHARS}\" dir=\"auto\">\n{note}</textarea>\n</details>\n\
        <p class=\"actions\"><button class=\"button\">Save and go on</button> <a href=\"{home}\">Instructions</a></p>\n</form>\n",
        number = shown.number,
        tasks = progress.tasks,
        bar = bar(progress),
        texts = pair(shown.prompt, shown.a, shown.b, "texts"),
        home = escape(progress.home),
        scale_size = u8::from(scale),
        choices = choices(scale),
        note = escape(note),
    );
    page(status, &format!("Pair {} of {}", shown.number, progress.tasks), &main)
}

/// The end.
pub(super) fn done(progress: &Progress<'_>) -> Response {
    let main = format!(
        "<h1>Thank you!</h1>\n{}<p>All {} pairs are answered and saved. You can close this page.</p>\n",
        bar(progress),
        progress.tasks
    );
    page(StatusCode::OK, "Thank you!", &main)
}

fn choices(scale: Scale) -> String {
    let labels: &[&str] = match scale {
        Scale::Three => &["A is better", "No difference", "B is better"],
        Scale::Five => &[
            "A is much better",
            "A is slightly better",
            "No difference",
            "B is slightly better",
            "B is much better",
        ],
    };
    let choice = |(place, label): (usize, &&str)| {
        let value = place as i64 - i64::from(scale.extreme());
        let key = place + 1;
        format!(
            "<label><input type=\"radio\" name=\"choice\" value=\"{value}\" data-key=\"{key}\" required> \
            <span>{label}</span> <kbd aria-hidden=\"true\">{key}</kbd></label>\n"
        )
    };
    labels.iter().enumerate().map(choice).collect()
}

fn bar(Progress { answered, tasks, .. }: &Progress<'_>) -> String {
    format!(
        "<div class=\"progress\"><progress max=\"{tasks}\" value=\"{answered}\" aria-label=\"Answered pairs\"></progress> \
        <span>{answered} of {tasks} answered</span></div>\n"
    )
}

/// A prompt and two texts. A region that may scroll can be reached by keyboard.
fn pair(prompt: &str, a: &str, b: &str, id: &str) -> String {
    let text = |name: &str, heading: &str, text: &str| {
        let shown = match text.trim().is_empty() {
            true => "<div class=\"text empty\">(empty)</div>".to_owned(),
            false => format!(
                "<div class=\"text\" dir=\"auto\" tabindex=\"0\" role=\"region\" aria-labelledby=\"{id}-{name}\">{}</div>",
                escape(text)
            ),
        };
        format!("<section class=\"{name}\"><h2 id=\"{id}-{name}\">{heading}</h2>{shown}</section>\n")
    };
    format!(
        "<div class=\"pair\">\n{}{}{}</div>\n",
        text("prompt", "Beginning", prompt),
        text("a", "A", a),
        text("b", "B", b)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_text_is_markup() {
        assert_eq!(
            escape("<script>alert(\"x\")</script>&amp;'\0\u{85}\r\n\tע\u{202e}😀"),
            "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;&amp;amp;&#39;\u{fffd}\u{fffd}&#13;\n\tע\u{202e}😀"
        );
    }
}
