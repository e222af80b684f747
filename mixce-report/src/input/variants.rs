//! Training runs of one objective are seeds of one system only if nothing else differs.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::study::Study;

/// Settings that do not change what a run computes.
const IRRELEVANT: [&str; 12] = [
    "seed",
    "out",
    "resume",
    "cache_dir",
    "device",
    "threads",
    "log_every",
    "save_every",
    "keep_last",
    "activation_checkpointing",
    "shard_optimizer",
    "skip_bad_rows",
];

/// Names the runs of a group and objective by the settings in which they differ, and those that differ in nothing, not even in their seed, by their
/// folder.
pub(super) fn tell_apart(study: &mut Study) {
    let runs = study.sources.iter().filter(|source| source.kind == "run");
    let settings: BTreeMap<String, Value> =
        runs.map(|source| (source.folder.display().to_string(), source.settings.clone())).collect();
    let mut kinds: BTreeMap<_, Vec<usize>> = BTreeMap::new();
    for (index, system) in
        study.systems.iter().enumerate().filter(|(_, system)| settings.contains_key(&system.id))
    {
        kinds.entry((system.group.clone(), system.objective.clone())).or_default().push(index);
    }
    for same in kinds.values() {
        let of = |index: usize| &settings[&study.systems[index].id];
        let keys: BTreeSet<&String> =
            same.iter().filter_map(|index| of(*index).as_object()).flat_map(|all| all.keys()).collect();
        let differing: Vec<&String> = keys
            .into_iter()
            .filter(|key| !IRRELEVANT.contains(&key.as_str()))
            .filter(|key| same.iter().any(|index| of(*index).get(*key) != of(same[0]).get(*key)))
            .collect();
        let variant = |index: usize| {
            let word = |key: &&String| match of(index).get(*key) {
                Some(value) => {
                    format!("{key} {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned))
                }
                None => format!("no {key}"),
            };
            (!differing.is_empty()).then(|| differing.iter().map(word).collect::<Vec<_>>().join(", "))
        };
        let mut found: Vec<(usize, Option<String>)> =
            same.iter().map(|index| (*index, variant(*index))).collect();
        let mut counts: BTreeMap<(Option<String>, u64), usize> = BTreeMap::new();
        for (index, variant) in &found {
            *counts.entry((variant.clone(), study.systems[*index].seed)).or_default() += 1;
        }
        for (index, variant) in &mut found {
            let system = &study.systems[*index];
            if counts[&(variant.clone(), system.seed)] > 1 {
                *variant = Some(variant.iter().chain([&system.id]).cloned().collect::<Vec<_>>().join(", "));
            }
        }
        for (index, variant) in found {
            study.systems[index].variant = variant;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::arm::Arm;

    fn run(root: &Path, name: &str, settings: &str) -> std::path::PathBuf {
        let folder = root.join(name);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(
            folder.join("run.toml"),
            format!("model = \"m\"\ntrain = \"t\"\nout = \"{name}\"\n{settings}"),
        )
        .unwrap();
        folder
    }

    fn labels(folders: &[std::path::PathBuf]) -> Vec<(String, usize)> {
        let study = Study::read(folders).unwrap();
        let arms = Arm::of_group(&study, study.groups()[0]);
        arms.iter().map(|arm| (arm.label(), arm.systems.len())).collect()
    }

    #[test]
    fn seeds_are_one_system_and_other_settings_are_not() {
        let root = tempfile::tempdir().unwrap();
        let make = |name: &str, settings: &str| {
            run(root.path(), name, &format!("objective = \"mixce\"\neta = 0.5\n{settings}"))
        };
        let [first, second] =
            [("a", "seed = 1\nthreads = 1\n"), ("b", "seed = 2\nthreads = 2\n")].map(|(n, s)| make(n, s));
        assert_eq!(
            labels(&[first.clone(), second.clone(), first.clone()]),
            [("MixCE (eta = 0.5)".to_owned(), 2)]
        );
        let third = make("c", "seed = 3\nlr = 0.01\n");
        assert_eq!(
            labels(&[first.clone(), second, third]),
            [("MixCE (eta = 0.5), lr 0.01".to_owned(), 1), ("MixCE (eta = 0.5), no lr".to_owned(), 2)]
        );
        let again = make("d", "seed = 1\n");
        let told = labels(&[first.clone(), again]);
        assert_eq!(told.len(), 2);
        assert!(told[0].0.ends_with(&format!("eta = 0.5), {}", first.display())), "{told:?}");
    }
}
