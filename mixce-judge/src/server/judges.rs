//! Names and links of the judges.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use mixce_base::digest::hex;

use crate::error::Error;
use crate::store::{Judge, Store};
use crate::study::Study;

/// Fewest and most characters of a token in a list of judges.
const TOKEN_CHARS: std::ops::RangeInclusive<usize> = 16..=128;

/// The judges of a study: those of the list, or else those known to the database, or else numbered ones.
///
/// A listed judge without a token keeps the stored one, or gets a new one of 128 random bits.
pub(super) fn judges(store: &Store, study: &Study, list: Option<&Path>) -> Result<Vec<Judge>, Error> {
    let count = study.header.judges;
    let new = |number: usize| Ok(Judge { name: format!("judge {number}"), token: random()?, begun: false });
    let Some(path) = list else { return store.judges(count, new) };
    let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
    let listed = parse(&text).map_err(|(line, problem)| Error::Line { path: path.into(), line, problem })?;
    if listed.len() != count {
        let expected = format!("a list of the study's {count} judges");
        return Err(Error::Setting { name: "judges", expected, got: format!("{} names", listed.len()) });
    }
    let known = store.judges(count, new)?;
    for (number, ((name, token), known)) in (1..).zip(listed.into_iter().zip(known)) {
        let judge = Judge { name, token: token.unwrap_or(known.token), begun: known.begun };
        store.put_judge(number, &judge)?;
    }
    store.judges(count, new)
}

/// Names, with the tokens that are given.
type Listed = Vec<(String, Option<String>)>;

/// Blank lines are skipped. The error is a line from 1 and a problem.
fn parse(text: &str) -> Result<Listed, (usize, String)> {
    let mut listed = Vec::new();
    let (mut names, mut tokens) = (HashSet::new(), HashSet::new());
    for (number, line) in (1..).zip(text.trim_start_matches('\u{feff}').lines()) {
        if line.trim().is_empty() {
            continue;
        }
        let (name, token) = match line.split_once('\t') {
            Some((name, token)) => (name.trim(), Some(token.trim())),
            None => (line.trim(), None),
        };
        if name.is_empty() || !names.insert(name) {
            return Err((number, format!("expected a new name, got `{name}`")));
        }
        if let Some(token) = token {
            let is_plain = token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
            if !is_plain || !TOKEN_CHARS.contains(&token.len()) {
                return Err((number, "expected a token of 16 to 128 letters, digits, `-` and `_`".into()));
            }
            if !tokens.insert(token) {
                return Err((number, "the token is that of another judge".into()));
            }
        }
        listed.push((name.to_owned(), token.map(str::to_owned)));
    }
    Ok(listed)
}

fn random() -> Result<String, Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| Error::NoRandomness { cause: error.to_string() })?;
    Ok(hex(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_have_names_and_tokens() {
        let listed = parse("\u{feff}Ann\n\n Bo \t0123456789abcdef\r\n").unwrap();
        assert_eq!(listed, [("Ann".into(), None), ("Bo".into(), Some("0123456789abcdef".into()))]);
        for (text, line) in [
            ("Ann\nAnn", 2),
            ("\t0123456789abcdef", 1),
            ("Ann\tshort", 1),
            ("Ann\t0123456789abcde/", 1),
            ("Ann\t0123456789abcdef\n\nBo\t0123456789abcdef", 3),
        ] {
            assert_eq!(parse(text).unwrap_err().0, line, "{text}");
        }
        assert_ne!(random().unwrap(), random().unwrap());
    }
}
