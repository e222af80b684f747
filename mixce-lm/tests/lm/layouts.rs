//! One small BPE in every layout of files, against the ids that transformers reads
//! (`scripts/fixtures/make_layout_fixtures.py`).
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::common::fixture;
use mixce_lm::Tokenizer;
use serde::Deserialize;

#[derive(Deserialize)]
struct Fixture {
    texts: Vec<String>,
    vocabularies: BTreeMap<String, String>,
    tables: Vec<Vec<Vec<u32>>>,
    layouts: Vec<Layout>,
}

#[derive(Deserialize)]
struct Layout {
    name: String,
    files: BTreeMap<String, String>,
    /// The error of transformers, if it refuses the layout; there are no ids then.
    refused: Option<String>,
    table: Option<usize>,
    #[serde(default)]
    size: usize,
    bos: Option<u32>,
    eos: Option<u32>,
    #[serde(default)]
    special: Vec<u32>,
}

fn fixture_of_layouts() -> Fixture {
    serde_json::from_str(&fs::read_to_string(fixture("tokenizer/layouts.json")).unwrap()).unwrap()
}

/// The layout's files; a text that begins with `@` stands for one of the vocabularies.
fn write(layout: &Layout, vocabularies: &BTreeMap<String, String>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in &layout.files {
        let text = content.strip_prefix('@').map_or(content, |vocabulary| &vocabularies[vocabulary]);
        fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

/// What differs from transformers, in words.
fn difference(layout: &Layout, dir: &Path, fixture: &Fixture) -> Option<String> {
    let tokenizer = match Tokenizer::from_dir(dir) {
        Ok(tokenizer) => tokenizer,
        Err(error) => return Some(error.to_string()),
    };
    // transformers refuses: whatever we read must at least be a tokenizer.
    let table = &fixture.tables[layout.table?];
    for (text, want) in fixture.texts.iter().zip(table) {
        let got = tokenizer.encode(text).unwrap();
        if got != *want {
            return Some(format!("{text:?}: {got:?}, expected {want:?}"));
        }
    }
    let special: Vec<u32> =
        tokenizer.added_tokens().into_iter().filter(|token| token.special).map(|token| token.id).collect();
    if (tokenizer.vocab_size(), &special) != (layout.size, &layout.special) {
        let want = (layout.size, &layout.special);
        return Some(format!("size and special: {:?}, expected {want:?}", (tokenizer.vocab_size(), special)));
    }
    // Where transformers has no EOS, `<|endoftext|>` of the vocabulary is taken.
    let fallback = tokenizer.token_id("<|endoftext|>");
    let (got, want) =
        ([tokenizer.bos_id(), tokenizer.eos_id()], [layout.bos.or(fallback), layout.eos.or(fallback)]);
    (got != want).then(|| format!("BOS and EOS: {got:?}, expected {want:?}"))
}

fn assert_none(differences: Vec<String>, of: usize) {
    assert!(differences.is_empty(), "{} of {of} differ:\n{}", differences.len(), differences.join("\n"));
}

#[test]
fn every_layout_gives_the_ids_of_transformers() {
    let fixture = fixture_of_layouts();
    let layouts = &fixture.layouts;
    let differences = layouts.iter().filter_map(|layout| {
        let dir = write(layout, &fixture.vocabularies);
        difference(layout, dir.path(), &fixture).map(|what| format!("{}: {what}", layout.name))
    });
    assert_none(differences.collect(), layouts.len());
    assert!(layouts.iter().filter(|layout| layout.refused.is_none()).count() > 300);
}

#[test]
fn every_layout_survives_being_saved() {
    let fixture = fixture_of_layouts();
    let differences = fixture.layouts.iter().filter_map(|layout| {
        let dir = write(layout, &fixture.vocabularies);
        let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
        let saved = tempfile::tempdir().unwrap();
        tokenizer.save(saved.path()).unwrap();
        // As an exported model has it.
        fs::write(saved.path().join("config.json"), r#"{"model_type": "gpt2"}"#).unwrap();
        let ids = difference(layout, saved.path(), &fixture);
        let again = Tokenizer::from_dir(saved.path()).unwrap();
        let differs = ids.or_else(|| {
            (again.added_tokens() != tokenizer.added_tokens())
                .then(|| format!("{:?}, expected {:?}", again.added_tokens(), tokenizer.added_tokens()))
        });
        differs.map(|what| format!("{}: {what}", layout.name))
    });
    assert_none(differences.collect(), fixture.layouts.len());
}
