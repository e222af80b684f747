//! Reads TOML: unknown keys are refused with a suggestion, errors give the line.
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use serde::de::{self, Deserialize, Visitor};

use super::TrainConfig;
use crate::error::{Error, Result};

/// Maximum size of a configuration file; a longer one (a device, a data file) is not read into memory.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// Names in other trainers, for suggestions only.
const ELSEWHERE: &[(&str, &str)] = &[
    ("model_name_or_path", "model"),
    ("train_file", "train"),
    ("validation_file", "valid"),
    ("output_dir", "out"),
    ("learning_rate", "lr"),
    ("num_train_epochs", "epochs"),
    ("max_train_steps", "max_steps"),
    ("per_device_train_batch_size", "batch_size"),
    ("gradient_accumulation_steps", "grad_accum"),
    ("lr_scheduler_type", "scheduler"),
    ("num_warmup_steps", "warmup_steps"),
    ("mixing_ratio", "eta"),
    ("max_grad_norm", "clip_grad_norm"),
    ("resume_from_checkpoint", "resume"),
];

/// Table of `run.toml` with the provenance of a run; ignored on reading.
pub(crate) const PROVENANCE: &str = "provenance";

impl TrainConfig {
    /// Reads a TOML file; absent keys keep their defaults. A run folder's `run.toml` is such a file.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::ConfigFile`] with the line and, for an unknown key, a suggestion.
    pub fn from_toml_file(path: &Path) -> Result<Self> {
        Self::from_toml_str(&read_text(path)?, path)
    }

    /// Reads TOML text; `path` is only used in error messages.
    ///
    /// # Errors
    /// [`Error::ConfigFile`].
    pub fn from_toml_str(text: &str, path: &Path) -> Result<Self> {
        let error = |message: String, hint| Error::ConfigFile { path: path.into(), message, hint };
        let toml_error = |e: toml::de::Error, table: Option<&toml::Table>| {
            let line = e.span().map(|span| line_of(text, span.start));
            // An already parsed table has no spans; its message names the key instead.
            let place = line.filter(|_| table.is_none()).map_or_else(String::new, |n| format!("line {n}: "));
            error(format!("{place}{}", one_line(e.message())), None)
        };
        let mut table: toml::Table = toml::from_str(text).map_err(|e| toml_error(e, None))?;
        table.remove(PROVENANCE);
        for key in table.keys() {
            if !Self::keys().contains(&key.as_str()) {
                let place = line_of_key(text, key).map_or_else(String::new, |n| format!("line {n}: "));
                let hint = suggestion(key).map(|known| format!("did you mean `{known}`?"));
                return Err(error(format!("{place}unknown key `{key}`"), hint));
            }
        }
        // Deserializing one key at a time gives the best message.
        for (key, value) in &table {
            let single = toml::Table::from_iter([(key.clone(), value.clone())]);
            if let Err(e) = Self::deserialize(single) {
                let place = line_of_key(text, key).map_or_else(String::new, |n| format!("line {n}: "));
                return Err(error(format!("{place}`{key}`: {}", one_line(e.message())), None));
            }
        }
        let config = Self::deserialize(table.clone()).map_err(|e| toml_error(e, Some(&table)))?;
        Ok(config.with_objective_as_keys())
    }

    /// The configuration as TOML text.
    ///
    /// # Errors
    /// [`Error::Config`] if a value cannot be written as TOML (such as a seed above 2^63 - 1).
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self)
            .map_err(|e| Error::config(format!("cannot write the configuration as TOML: {e}")))
    }

    /// All keys, as serde knows them.
    #[must_use]
    pub fn keys() -> &'static [&'static str] {
        let mut keys: &'static [&'static str] = &[];
        // The collector always returns an error, after it has recorded the names.
        let _ = Self::deserialize(KeyCollector { keys: &mut keys });
        keys
    }
}

/// The text of a configuration file.
pub(super) fn read_text(path: &Path) -> Result<String> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    let mut text = String::new();
    file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(Error::io("read", path))?;
    if text.len() as u64 > MAX_FILE_BYTES {
        let message = format!("expected a configuration of at most {MAX_FILE_BYTES} bytes, got more");
        return Err(Error::ConfigFile { path: path.into(), message, hint: None });
    }
    Ok(text)
}

/// The known key most similar to `unknown`.
fn suggestion(unknown: &str) -> Option<&'static str> {
    let plain = unknown.replace('-', "_").to_ascii_lowercase();
    if let Some((_, known)) = ELSEWHERE.iter().find(|(other, _)| *other == plain) {
        return Some(known);
    }
    let scored = TrainConfig::keys().iter().map(|known| (strsim::jaro_winkler(&plain, known), *known));
    let best = scored.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 > 0.8).then_some(best.1)
}

fn one_line(message: &str) -> String {
    message.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join(" ")
}

fn line_of(text: &str, byte: usize) -> usize {
    text.bytes().take(byte).filter(|b| *b == b'\n').count() + 1
}

fn line_of_key(text: &str, key: &str) -> Option<usize> {
    let starts = |line: &str| {
        let line = line.trim_start().trim_start_matches(['[', '"']);
        line.strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with(['=', '.', ']', '"']))
    };
    text.lines().position(starts).map(|n| n + 1)
}

/// A deserializer that only records the field names of a struct.
struct KeyCollector<'a> {
    keys: &'a mut &'static [&'static str],
}

impl<'de> de::Deserializer<'de> for KeyCollector<'_> {
    type Error = de::value::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> std::result::Result<V::Value, Self::Error> {
        *self.keys = fields;
        Err(de::Error::custom("names only"))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> std::result::Result<V::Value, Self::Error> {
        Err(de::Error::custom("names only"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct seq
        tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::super::Every;
    use super::*;
    use mixce_base::Hint as _;

    fn parse(text: &str) -> Result<TrainConfig> {
        TrainConfig::from_toml_str(text, Path::new("run.toml"))
    }

    fn message(text: &str) -> (String, Option<String>) {
        let error = parse(text).unwrap_err();
        (error.to_string(), error.hint())
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

        /// Any value under any key is understood or refused.
        #[test]
        fn no_value_makes_it_panic(
            lines in proptest::collection::vec((proptest::prelude::any::<proptest::sample::Index>(), 0usize..12), 0..4),
            noise in "[a-z_=\\[\\]\"' .0-9\n\u{1b}{}-]{0,40}",
        ) {
            let keys = TrainConfig::keys();
            let values = ["0", "-1", "1", "9223372036854775807", "1e300", "nan", "\"\"", "\"auto\"", "[]", "{}", "true", "\"/\\u0000\""];
            let text: String = lines.iter().map(|(key, value)| format!("{} = {}\n", key.get(keys), values[*value])).collect();
            for text in [text.clone(), text + &noise] {
                let _ = parse(&text).map(|config| config.validate());
            }
        }
    }

    #[test]
    fn absent_keys_keep_their_defaults() {
        let config = parse("objective = \"mle\"\nlr = 1e-3\neval_every = 20\n").unwrap();
        let want = TrainConfig {
            objective: "mle".parse().unwrap(),
            lr: 1e-3,
            eval_every: Every::Steps(20),
            ..TrainConfig::default()
        };
        assert_eq!(config, want);
        assert_eq!(parse("").unwrap(), TrainConfig::default());
    }

    #[test]
    fn a_written_configuration_reads_back() {
        let config = TrainConfig {
            model: Some("a/b@c".into()),
            eta: Some(0.1),
            max_steps: Some(7),
            save_every: Every::Steps(3),
            patience: Some(2),
            ..TrainConfig::default()
        };
        let text = config.to_toml().unwrap() + "\n[provenance]\nmixce = \"0.1.0\"\n";
        assert_eq!(parse(&text).unwrap(), config);
    }

    #[test]
    fn unknown_keys_are_refused_with_a_suggestion() {
        let (error, hint) = message("lr = 1e-3\nwarmup_step = 3\n");
        assert_eq!(error, "`run.toml`: line 2: unknown key `warmup_step`");
        assert_eq!(hint.unwrap(), "did you mean `warmup_steps`?");
        assert_eq!(message("learning_rate = 1\n").1.unwrap(), "did you mean `lr`?");
        assert_eq!(message("batch-size = 1\n").1.unwrap(), "did you mean `batch_size`?");
        assert_eq!(message("zzz = 1\n").1, None);
    }

    #[test]
    fn wrong_values_name_key_and_line() {
        for (text, words) in [
            ("lr = 1\nepochs = \"five\"\n", "line 2: `epochs`: invalid type: string \"five\""),
            (
                "lr = 1\nobjective = \"mixe\"\n",
                "line 2: `objective`: unknown objective `mixe`: expected one of `mle`,",
            ),
            (
                "objective = \"mle:eta=1\"\n",
                "line 1: `objective`: objective `mle` has no parameter `eta`: it has none",
            ),
            (
                "lr = 1\n[objective]\nname = \"mle\"\neta = 1\n",
                "line 2: `objective`: objective `mle` has no parameter",
            ),
            ("scheduler = \"square\"\n", "line 1: `scheduler`: unknown variant `square`"),
            ("eval_every = 0\n", "expected `epoch`, `never` or a number of steps above 0, got `0`"),
            ("lr = = 2\n", "line 1: "),
            ("batch_size = -1\n", "`batch_size`"),
        ] {
            let (error, _) = message(text);
            assert!(error.contains(words) && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn keys_are_those_of_the_struct() {
        let keys = TrainConfig::keys();
        assert!(keys.contains(&"lr") && keys.contains(&"activation_checkpointing"));
        assert!(ELSEWHERE.iter().all(|(_, known)| keys.contains(known)));
    }
}
