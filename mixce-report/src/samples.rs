//! Samples of several systems side by side.

use std::collections::BTreeMap;

use crate::arm::Arm;
use crate::error::{Error, Result};
use crate::figures::shown;
use crate::findings::final_split;
use crate::input::{Texts, read_texts};
use crate::names::Names;
use crate::results::{Group, Split};
use crate::study::Study;

/// The samples of a group.
#[derive(Clone, Debug, PartialEq)]
pub struct Samples {
    /// The group in words.
    pub title: String,
    /// The part of the corpus.
    pub split: Split,
    /// Names of the columns: the human texts and the systems.
    pub columns: Vec<String>,
    /// Some prompts, evenly spaced over the file.
    pub prompts: Vec<Prompt>,
    /// Prompts that all columns together have.
    pub total: usize,
}

/// A prompt and what follows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    /// Number of the document or prompt.
    pub index: u64,
    /// The prompt.
    pub prompt: String,
    /// One continuation for each column; `None` if that has no such prompt.
    pub texts: Vec<Option<String>>,
}

/// At most `limit` prompts of each group: the first seed's first sampling run of MLE, its controls and the objectives in focus, beside the human texts.
pub(crate) fn samples(study: &Study, limit: usize) -> Result<Vec<Samples>> {
    let mut all = Vec::new();
    if limit > 0 {
        for group in study.groups() {
            all.extend(of_group(study, group, limit)?);
        }
    }
    Ok(all)
}

fn of_group(study: &Study, group: &Group, limit: usize) -> Result<Option<Samples>> {
    let arms = Arm::of_group(study, group);
    let split = final_split(&arms);
    let mut columns: Vec<(String, Texts)> = Vec::new();
    let mut prompts: BTreeMap<u64, String> = BTreeMap::new();
    let human = study.human(group, split).map(|human| ("Human".to_owned(), human.file.clone()));
    let of_arm =
        |arm: &&Arm<'_>| Some((arm.label(), arm.measured(split).next()?.sample_files().first()?.clone()));
    for (name, file) in human.into_iter().chain(shown(study, group, &arms).iter().filter_map(of_arm)) {
        let Some(texts) = read_texts(&file)? else { continue };
        for (row, text) in texts.iter().enumerate() {
            match prompts.get(&text.index) {
                None => {
                    prompts.insert(text.index, text.prompt.clone());
                }
                Some(prompt) if *prompt == text.prompt => {}
                Some(prompt) => {
                    let problem = format!(
                        "prompt {} is `{}`, but `{}` in the files before it",
                        text.index,
                        start(&text.prompt),
                        start(prompt)
                    );
                    return Err(Error::Malformed { path: file, line: Some(row + 1), problem });
                }
            }
        }
        columns.push((name, texts));
    }
    if columns.iter().all(|(_, texts)| texts.is_empty()) {
        return Ok(None);
    }
    let (total, count) = (prompts.len(), prompts.len().min(limit));
    let (names, texts): (Vec<String>, Vec<Texts>) = columns.into_iter().unzip();
    let by_index: Vec<BTreeMap<u64, &str>> = texts
        .iter()
        .map(|texts| texts.iter().map(|text| (text.index, text.text.as_str())).collect())
        .collect();
    let all: Vec<(u64, String)> = prompts.into_iter().collect();
    let prompt = |place: usize| {
        let (index, prompt) = &all[place * total / count];
        let texts = by_index.iter().map(|texts| texts.get(index).map(|text| (*text).to_owned()));
        Prompt { index: *index, prompt: prompt.clone(), texts: texts.collect() }
    };
    Ok(Some(Samples {
        title: Names::group_title(group),
        split,
        columns: names,
        prompts: (0..count).map(prompt).collect(),
        total,
    }))
}

/// The first characters of a prompt, for a message.
fn start(text: &str) -> String {
    text.chars().take(30).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::Measured;
    use crate::tests::{cell, human, measured, study};

    fn files(folder: &std::path::Path, human_rows: &str, sample_rows: &str) -> Study {
        std::fs::write(folder.join("human.jsonl"), human_rows).unwrap();
        std::fs::write(folder.join("samples-0.jsonl"), sample_rows).unwrap();
        let mut study = study(vec![cell("mle", None, 1)]);
        study.systems[0].valid = Some(Measured { folder: folder.to_owned(), ..measured(0.5, &[Some(0.5)]) });
        let mut texts = human(&[Some(0.5)]);
        texts.file = folder.join("human.jsonl");
        study.humans.push(texts);
        study
    }

    fn row(index: u64, prompt: &str, text: &str) -> String {
        format!("{{\"index\":{index},\"prompt\":\"{prompt}\",\"text\":\"{text}\"}}\n")
    }

    #[test]
    fn rows_meet_by_their_number_and_are_spread_over_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let humans: String = (0..10).map(|i| row(i, &format!("p{i}"), &format!("h{i}"))).collect();
        let study = files(folder.path(), &humans, &(row(5, "p5", "m5") + &row(11, "p11", "m11")));
        let found = samples(&study, 2).unwrap();
        assert_eq!(
            (found[0].columns.clone(), found[0].total),
            (vec!["Human".to_owned(), "MLE".to_owned()], 11)
        );
        let texts: Vec<_> = found[0].prompts.iter().map(|p| (p.index, p.texts.clone())).collect();
        assert_eq!(
            texts,
            [(0, vec![Some("h0".into()), None]), (5, vec![Some("h5".into()), Some("m5".into())])]
        );
        assert_eq!(samples(&study, 0).unwrap(), []);
        assert_eq!(samples(&study, 99).unwrap()[0].prompts.len(), 11);
    }

    #[test]
    fn another_prompt_under_one_number_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let study = files(folder.path(), &row(0, "a", "b"), &row(0, "c", "d"));
        let error = samples(&study, 2).unwrap_err().to_string();
        assert!(error.contains("samples-0.jsonl`, line 1: prompt 0 is `c`, but `a`"), "{error}");
    }
}
