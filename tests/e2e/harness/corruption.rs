//! Damaged, swapped and missing files of a checkpoint, an exported model and a token cache.

use std::fs;
use std::path::Path;

use super::Scale;
use super::lab::Lab;
use super::tally::{Bad, Good, Tally, Verdict};
use crate::faults::{Draws, copy, names};

pub(super) fn of_files(lab: &mut Lab, scale: Scale) -> Vec<Tally> {
    [of_checkpoint(lab, scale), of_export(lab, scale), of_token_cache(lab, scale)]
        .into_iter()
        .flatten()
        .collect()
}

/// Damage to the newest of two checkpoints.
fn of_checkpoint(lab: &mut Lab, scale: Scale) -> Vec<Tally> {
    const NEWEST: &str = "run/checkpoints/step-00000004";
    lab.clear();
    assert!(lab.run(&mut lab.program_until(4)).judge() == Ok(Good::Equal));
    let base = lab.world.path("base");
    copy(&lab.world.path("run"), &base);
    let trial = |lab: &mut Lab, damage: &mut dyn FnMut(&Path, &mut Draws) -> String| -> (String, Verdict) {
        fs::remove_dir_all(lab.world.path("run")).unwrap();
        copy(&base, &lab.world.path("run"));
        let what = damage(&lab.world.path(NEWEST), &mut lab.draws);
        (what, lab.resume())
    };
    let files = names(&lab.world.path(NEWEST));
    let mut tallies = Vec::new();
    for name in &files {
        let mut tally = Tally::new(format!("`{name}` of the newest checkpoint damaged"));
        for _ in 0..scale.trials(200) {
            let (what, verdict) = trial(lab, &mut |folder, draws| damage(&folder.join(name), draws));
            tally.add(&what, verdict);
        }
        tallies.push(tally);
    }
    let mut tally = Tally::new("a file of the newest checkpoint missing, or swapped in from the other one");
    let older = base.join("checkpoints/step-00000002");
    for name in files.iter().take(scale.trials(files.len())) {
        let (_, verdict) = trial(lab, &mut |folder, _| {
            fs::remove_file(folder.join(name)).unwrap();
            String::new()
        });
        tally.add(&format!("{name} missing"), verdict);
        let (_, verdict) = trial(lab, &mut |folder, _| {
            fs::copy(older.join(name), folder.join(name)).unwrap();
            String::new()
        });
        tally.add(&format!("{name} swapped"), verdict);
    }
    tallies.push(tally);
    tallies
}

/// Damage to an exported model: of its files, the weights have a checksum.
fn of_export(lab: &mut Lab, scale: Scale) -> Vec<Tally> {
    const EVALUATE: &str = "evaluate --model hf --data valid.txt --json";
    lab.world.run("export --model model --out hf").success();
    let result = |lab: &Lab| fs::read_to_string(lab.world.path("stdout.txt")).unwrap();
    let evaluate = |lab: &Lab| {
        let stdout = fs::File::create(lab.world.path("stdout.txt")).unwrap();
        let mut child = lab.start(lab.world.command(EVALUATE).stdout(stdout));
        lab.watch(&mut child).judge_with_message()
    };
    assert!(evaluate(lab) == Ok(Good::Equal));
    let expected = nll_of(&result(lab));
    let mut tallies = Vec::new();
    for name in names(&lab.world.path("hf")) {
        let path = lab.world.path("hf").join(&name);
        let whole = fs::read(&path).unwrap();
        let mut tally = Tally::new(format!("`{name}` of an exported model damaged"));
        for _ in 0..scale.trials(200) {
            let what = damage(&path, &mut lab.draws);
            let verdict = match evaluate(lab) {
                Ok(Good::Equal) if nll_of(&result(lab)) == expected => Ok(Good::Equal),
                Ok(Good::Equal) if name.ends_with(".safetensors") => {
                    Err((Bad::Difference, format!("{} instead of {expected}", result(lab))))
                }
                Ok(Good::Equal) => Ok(Good::Edited),
                other => other,
            };
            tally.add(&what, verdict);
            fs::write(&path, &whole).unwrap();
        }
        tallies.push(tally);
    }
    tallies
}

fn nll_of(json: &str) -> String {
    let row: serde_json::Value = serde_json::from_str(json).unwrap_or_else(|error| panic!("{json}: {error}"));
    [&row["nll"], &row["tokens"]].map(ToString::to_string).join(" ")
}

fn of_token_cache(lab: &mut Lab, scale: Scale) -> Vec<Tally> {
    lab.clear();
    let mut tally = Tally::new("a file of the token cache damaged");
    let whole = lab.world.path("cache-whole");
    let files = names(&whole);
    for trial in 0..scale.trials(200) {
        lab.clear();
        let cache = lab.world.path("cache-run");
        copy(&whole, &cache);
        let name = &files[trial % files.len()];
        let what = damage(&cache.join(name), &mut lab.draws);
        tally.add(&format!("{name}: {what}"), lab.resume());
    }
    vec![tally]
}

/// Damages a file in one of five ways, and says how.
fn damage(path: &Path, draws: &mut Draws) -> String {
    let whole = fs::read(path).unwrap();
    let mut bytes = whole.clone();
    let place = draws.below(bytes.len());
    let (kind, what) = (draws.below(8), format!("{} at {place}", path.display()));
    let what = match kind {
        0 => {
            bytes.truncate(place);
            format!("cut short {what}")
        }
        1 => {
            bytes.splice(place..place, (0..=draws.below(16)).map(|n| n as u8));
            format!("bytes inserted {what}")
        }
        2 => {
            let end = bytes.len().min(place + 1 + draws.below(512));
            bytes[place..end].fill(0);
            format!("zeros {what}")
        }
        3 => {
            bytes[place] = draws.below(256) as u8;
            format!("another byte {what}")
        }
        _ => {
            let bit = draws.below(8);
            bytes[place] ^= 1 << bit;
            format!("bit {bit} flipped {what}")
        }
    };
    if bytes == whole {
        bytes.push(0);
    }
    fs::write(path, bytes).unwrap();
    what
}
