//! Translates the libraries' field names to flags.

use crate::cli;

/// Fields without a flag of that name, shown as in a configuration file.
const WITHOUT_FLAG: [&str; 1] = ["adam_epsilon"];

/// Not a field, although the program has a flag of this name: `config.json` is a file.
const FILE_ENDING: &str = "json";

/// A library's message with flags instead of field names: `` `config.max_length = 8` `` (or `settings.`) becomes
/// `` `--max-length 8` ``. Everything else is unchanged.
pub(crate) fn in_words_of_flags(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('`') {
        let (before, quoted) = rest.split_at(at + 1);
        out.push_str(before);
        rest = quoted;
        let Some((name, value)) = field(quoted) else { continue };
        if WITHOUT_FLAG.contains(&name) {
            out.push_str(name);
        } else {
            let flag = name.replace('_', "-");
            if flag == FILE_ENDING || !cli::has_flag(&flag) {
                continue;
            }
            out.push_str("--");
            out.push_str(&flag);
        }
        rest = value;
        if let Some(value) = value.strip_prefix(" = ") {
            out.push(' ');
            rest = value;
        }
    }
    out + rest
}

/// The field name at the start of the quoted text, and the text after it.
fn field(quoted: &str) -> Option<(&str, &str)> {
    let named = quoted.strip_prefix("config.").or_else(|| quoted.strip_prefix("settings."))?;
    let end = named.find(|c: char| !c.is_ascii_lowercase() && c != '_')?;
    let (name, after) = named.split_at(end);
    (after.starts_with('`') || after.starts_with(" = ")).then_some((name, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_become_flags() {
        for (text, words) in [
            (
                "`config.max_length`: expected at least 2, got `1`",
                "`--max-length`: expected at least 2, got `1`",
            ),
            ("`settings.delimiter = ;`: x", "`--delimiter ;`: x"),
            (
                "`config.warmup_steps = 9` must be less than `config.max_steps = 9`",
                "`--warmup-steps 9` must be less than `--max-steps 9`",
            ),
            ("`config.objective = mixce:eta=0.3`", "`--objective mixce:eta=0.3`"),
            ("`config.adam_epsilon`: x", "`adam_epsilon`: x"),
        ] {
            assert_eq!(in_words_of_flags(text), words);
        }
    }

    #[test]
    fn everything_else_stays() {
        for text in [
            "cannot read `models/config.json`: no such file",
            "`config.json` has no `vocab_size`",
            "`settings.json`",
            "`config.model.bak`",
            "`settings.nothing = 3`",
            "config.max_length is no quotation",
            "an odd ` and `config.max_length",
            "`",
            "",
        ] {
            assert_eq!(in_words_of_flags(text), text);
        }
    }

    /// The keys of a configuration are the fields that errors name.
    #[test]
    fn every_key_of_a_configuration_has_a_flag() {
        let defaults = mixce_train::config::TrainConfig::default().resolved();
        let table: toml::Table = toml::from_str(&defaults.to_toml().unwrap()).unwrap();
        for key in table.keys() {
            let words = in_words_of_flags(&format!("`config.{key}`"));
            assert!(
                words == format!("`--{}`", key.replace('_', "-")) || WITHOUT_FLAG.contains(&key.as_str()),
                "{words}"
            );
        }
    }
}
