//! The texts of the experiment and a tokenizer trained on them.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use mixce_base::files::write_atomic;
use mixce_base::rng::{Stream, purpose};
use mixce_lm::Tokenizer;
use mixce_synthetic::grammar::{Grammar, NoisyCorpus};
use mixce_train::data::cache::encode_file;
use mixce_train::data::{EncodeSettings, Examples};

use super::Settings;

/// Longest text in tokens, beginning and end included; the grammar's longest has 27 words.
pub(super) const MAX_TOKENS: usize = 64;

/// Room for every word of the grammar with a space before it, capitalised and not.
const VOCABULARY: usize = 1024;

pub(super) struct Corpus {
    pub(super) tokenizer: Tokenizer,
    pub(super) train: Examples,
    pub(super) valid: Examples,
    /// Clean texts, sampled from P.
    pub(super) held_out: Vec<String>,
    pub(super) held_out_examples: Examples,
}

impl Corpus {
    /// Draws the texts, writes them as `train.txt`, `valid.txt` (noisy, as training) and `test.txt` (clean), and trains a
    /// byte-level BPE on the training texts.
    pub(super) fn write(grammar: &Grammar, settings: &Settings, dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create `{}`", dir.display()))?;
        let stream = Stream::new(settings.seed).fold(purpose::CORPUS);
        let noisy = NoisyCorpus::new(grammar, settings.noise, settings.noise_rate, stream.fold(0))?;
        let train: Vec<String> = noisy.texts(0..settings.texts).collect();
        let valid: Vec<String> = noisy.texts(settings.texts..settings.texts + settings.held_out).collect();
        let clean = |i| mixce_synthetic::grammar::render(&grammar.sample(stream.fold(1), i));
        let held_out: Vec<String> = (0..settings.held_out).map(clean).collect();

        let tokenizer = Tokenizer::train(train.iter().map(String::as_str), VOCABULARY)?;
        let encode = |name: &str, texts: &[String]| -> Result<Examples> {
            let path = write_lines(&dir.join(name), texts)?;
            let encoding = EncodeSettings { max_length: Some(MAX_TOKENS), add_bos: true };
            Ok(Examples::documents(encode_file(&path, &tokenizer, encoding)?))
        };
        Ok(Self {
            train: encode("train.txt", &train)?,
            valid: encode("valid.txt", &valid)?,
            held_out_examples: encode("test.txt", &held_out)?,
            held_out,
            tokenizer,
        })
    }
}

/// Writes one text per line.
pub(super) fn write_lines(path: &Path, texts: &[String]) -> Result<PathBuf> {
    let mut content = texts.join("\n");
    content.push('\n');
    write_atomic(path, content.as_bytes())?;
    Ok(path.to_owned())
}
