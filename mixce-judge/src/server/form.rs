//! The fields of a posted answer.

use crate::study::Scale;

/// Reasons to tick: key and label.
pub(super) const REASONS: [(&str, &str); 5] = [
    ("fits", "fits the prompt better"),
    ("sense", "makes more sense"),
    ("fluent", "is better written"),
    ("repeats", "repeats itself less"),
    ("interesting", "is more interesting"),
];
/// Longest note in characters.
pub(super) const MAX_NOTE_CHARS: usize = 2000;

/// What a judge filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filled {
    /// Negative: text A is better. `None` if nothing was chosen.
    pub(super) choice: Option<i8>,
    /// Keys of the reasons in the order of [`REASONS`], separated by spaces.
    pub(super) reasons: String,
    pub(super) note: String,
}

/// Reads a form; an error is a message for the judge.
pub(super) fn parse(body: &[u8], scale: Scale) -> Result<Filled, String> {
    let mut filled = Filled { choice: None, reasons: String::new(), note: String::new() };
    let mut ticked = [false; REASONS.len()];
    for (key, value) in form_urlencoded::parse(body) {
        match &*key {
            "choice" if filled.choice.is_none() => {
                let choice =
                    value.parse().ok().filter(|c: &i8| c.unsigned_abs() <= scale.extreme().unsigned_abs());
                filled.choice = Some(choice.ok_or_else(|| "This answer does not exist.".to_owned())?);
            }
            "reason" => {
                let known = REASONS.iter().position(|(reason, _)| *reason == value);
                ticked[known.ok_or_else(|| "This reason does not exist.".to_owned())?] = true;
            }
            // Browsers send line breaks as CR LF.
            "note" => filled.note = value.replace("\r\n", "\n").trim().to_owned(),
            _ => return Err("The form has a field that this page does not have.".into()),
        }
    }
    let given = filled.note.chars().count();
    if given > MAX_NOTE_CHARS {
        return Err(format!("The note has {given} characters; at most {MAX_NOTE_CHARS} are possible."));
    }
    let keys: Vec<&str> = REASONS.iter().zip(ticked).filter(|(_, t)| *t).map(|((key, _), _)| *key).collect();
    filled.reasons = keys.join(" ");
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_read() {
        let filled =
            parse(b"choice=-1&reason=sense&reason=fits&note=+a%0D%0Ab+%F0%9F%98%80", Scale::Three).unwrap();
        assert_eq!(filled, Filled { choice: Some(-1), reasons: "fits sense".into(), note: "a\nb 😀".into() });
        assert_eq!(parse(b"note=", Scale::Three).unwrap().choice, None);
        assert_eq!(parse(b"choice=2", Scale::Five).unwrap().choice, Some(2));
    }

    #[test]
    fn what_no_page_sends_is_refused() {
        let long = format!("choice=0&note={}", "x".repeat(MAX_NOTE_CHARS + 1));
        for body in [
            "choice=2",
            "choice=x",
            "choice=",
            "choice=-128",
            "choice=0&choice=1",
            "reason=x",
            "judge=2",
            &long,
        ] {
            assert!(parse(body.as_bytes(), Scale::Three).is_err(), "{body}");
        }
    }
}
