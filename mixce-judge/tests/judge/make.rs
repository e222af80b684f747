//! Making studies.

use std::fs;

use mixce_base::Hint as _;
use mixce_judge::{Kind, MakeSettings, Study, System, make};

use super::studies::{SYSTEMS, files};

#[test]
fn the_seed_decides_every_byte() {
    let folder = tempfile::tempdir().unwrap();
    let settings = files(folder.path(), 12);
    let bytes = |name: &str, settings: &MakeSettings| {
        let out = folder.path().join(name);
        make(settings, &out).unwrap();
        ["study.json", "items.jsonl", "plan.jsonl"].map(|file| fs::read(out.join(file)).unwrap())
    };
    let first = bytes("first", &settings);
    assert_eq!(first, bytes("second", &settings));
    let other = bytes("other", &MakeSettings { seed: 2, ..settings });
    assert!(first.iter().zip(&other).all(|(a, b)| a != b));
}

#[test]
fn every_pair_is_compared_on_every_prompt() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = files(folder.path(), 8);
    // The human texts as a third system.
    let third = folder.path().join("third.jsonl");
    settings.systems.push(System { name: "third".into(), path: third.clone() });
    let human = fs::read_to_string(&settings.human).unwrap();
    let known: Vec<&str> = human.lines().take(8).collect();
    fs::write(&third, known.join("\n")).unwrap();
    let settings = MakeSettings { items: 5, checks: None, ..settings };
    let out = folder.path().join("study");
    let header = make(&settings, &out).unwrap();
    // 15 comparisons of 2 judges each, 15 for each of them: two checks.
    assert_eq!((header.comparisons, header.checks), (15, 2));
    let study = Study::open(&out).unwrap();
    let pair = |a: &str, b: &str| {
        let of_pair = study.items.iter().filter(|item| item.first.system == a && item.second.system == b);
        of_pair.map(|item| item.prompt.clone()).collect::<Vec<_>>()
    };
    let prompts = pair(SYSTEMS[0], SYSTEMS[1]);
    assert_eq!(prompts.len(), 5);
    assert!(prompts == pair(SYSTEMS[0], "third") && prompts == pair(SYSTEMS[1], "third"));
    for item in study.items.iter().filter(|item| item.kind == Kind::Check) {
        assert!(!prompts.contains(&item.prompt) && item.first.text != item.second.text, "{item:?}");
    }
}

#[test]
fn unusable_input_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let good = files(folder.path(), 4);
    let short = folder.path().join("short.jsonl");
    fs::write(&short, "{\"prompt\":\"Prompt 0:\",\"text\":\"x\"}\n").unwrap();
    let out = folder.path().join("study");
    let refused = |settings: &MakeSettings, message: &str| {
        let error = make(settings, &out).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
        assert!(!out.exists());
        error
    };
    let system = |path: &std::path::Path| System { name: "short".into(), path: path.into() };
    let systems = vec![good.systems[0].clone(), system(&short)];
    refused(&MakeSettings { systems, ..good.clone() }, "has no row for the prompt `Prompt 1:`");
    let systems = vec![system(&short), good.systems[0].clone()];
    refused(&MakeSettings { systems, ..good.clone() }, "has no row for the prompt `Prompt 1:`");
    refused(&MakeSettings { human: short, ..good.clone() }, "(missing prompts: 3)");
    let systems = vec![good.systems[0].clone(), good.systems[0].clone()];
    refused(
        &MakeSettings { systems, ..good.clone() },
        "`settings.systems`: expected a different name for each system",
    );
    refused(
        &MakeSettings { systems: good.systems[..1].to_vec(), ..good.clone() },
        "at least 2 files, got `1`",
    );
    refused(&MakeSettings { items: 5, ..good.clone() }, "`settings.items`: expected at most the 4 prompts");
    refused(&MakeSettings { items: 0, ..good.clone() }, "`settings.items`: expected 1 to 1000000, got `0`");
    refused(&MakeSettings { judges: 1, ..good.clone() }, "`settings.judges_per_item`: expected at most");
    let few = refused(&MakeSettings { checks: Some(21), ..good.clone() }, "21 attention checks need as many");
    assert!(few.to_string().ends_with("found 20") && few.hint().is_some());
    refused(&MakeSettings { human: folder.path().join("none"), ..good }, "cannot read `");
}

#[test]
fn a_study_is_neither_replaced_nor_changed() {
    let folder = tempfile::tempdir().unwrap();
    let settings = files(folder.path(), 4);
    let out = folder.path().join("study");
    make(&settings, &out).unwrap();
    let before = fs::read(out.join("plan.jsonl")).unwrap();
    assert!(make(&MakeSettings { seed: 9, ..settings }, &out).is_err());
    assert_eq!(fs::read(out.join("plan.jsonl")).unwrap(), before);
    fs::write(out.join("plan.jsonl"), &before[..before.len() / 2]).unwrap();
    let error = Study::open(&out).unwrap_err().to_string();
    assert!(error.contains("`plan.jsonl` was changed after it was made"), "{error}");
}
