//! Names of files and anchors, and how numbers are written in sentences.

use std::collections::BTreeSet;

use crate::results::Group;

/// Hands out unique names of lower-case letters, digits and hyphens.
#[derive(Debug, Default)]
pub(crate) struct Names(BTreeSet<String>);

impl Names {
    /// A name like this one, with a number if it is taken.
    pub(crate) fn unique(&mut self, wanted: &str) -> String {
        let slug = slug(wanted);
        let name = match self.0.contains(&slug) {
            false => slug,
            true => (2..).map(|n| format!("{slug}-{n}")).find(|name| !self.0.contains(name)).unwrap_or(slug),
        };
        self.0.insert(name.clone());
        name
    }

    /// The name of a group.
    pub(crate) fn of_group(group: &Group) -> String {
        let size = group.train_size.map_or_else(String::new, |n| format!("-n{n}"));
        format!("{}-{}{size}-l{}", group.corpus, group.model, group.max_length)
    }

    /// A group in words.
    pub(crate) fn group_title(group: &Group) -> String {
        let size = group.train_size.map_or_else(String::new, |n| format!(", {n} training documents"));
        format!("{}, {}{size}, up to {} tokens", group.corpus, group.model, group.max_length)
    }
}

/// At most 80 characters, so that file names stay short.
fn slug(text: &str) -> String {
    let mut slug = String::new();
    for character in text.chars() {
        match character {
            _ if slug.len() >= 80 => break,
            'a'..='z' | '0'..='9' | '.' => slug.push(character),
            'A'..='Z' => slug.push(character.to_ascii_lowercase()),
            _ if slug.ends_with('-') => {}
            _ => slug.push('-'),
        }
    }
    slug.trim_matches(['-', '.']).to_owned()
}

/// A number with its sign, a real minus included; zero has none.
pub(crate) fn signed(value: f64, decimals: usize) -> String {
    let text = format!("{:.decimals$}", value.abs());
    match value {
        _ if text.trim_matches(['0', '.']).is_empty() => text,
        _ if value < 0.0 => format!("\u{2212}{text}"),
        _ => format!("+{text}"),
    }
}

/// A share as per cent.
pub(crate) fn percent(share: f64) -> String {
    let text = format!("{:.2}", 100.0 * share);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

/// Words in a list: `a, b and c`.
pub(crate) fn list(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_and_unique() {
        let mut names = Names::default();
        let long = "x".repeat(200);
        let found: Vec<String> = ["Data/train 10K.txt", "data/train_10K.txt", "../..", &long]
            .iter()
            .map(|name| names.unique(name))
            .collect();
        assert_eq!(found[..3], ["data-train-10k.txt", "data-train-10k.txt-2", ""]);
        assert_eq!(found[3].len(), 80);
    }

    #[test]
    fn numbers_are_written_for_readers() {
        assert_eq!(
            [0.02, -0.02, 0.0001, -0.0].map(|x| signed(x, 2)),
            ["+0.02", "\u{2212}0.02", "0.00", "0.00"]
        );
        assert_eq!([0.95, 0.999, 0.5].map(percent), ["95 %", "99.9 %", "50 %"]);
        assert_eq!(list(&["a".into(), "b".into(), "c".into()]), "a, b and c");
    }
}
