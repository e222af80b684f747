//! Studies of invented texts, and judges with a rule.

use std::fs;
use std::path::{Path, PathBuf};

use mixce_judge::{MakeSettings, Scale, System};
use serde_json::json;

/// The names of the two systems, which no page may contain.
pub(crate) const SYSTEMS: [&str; 2] = ["secretgood", "secretbad"];

/// Files of `prompts` prompts for two systems, and human texts for those and 20 more. A text of the first system contains `GOOD`,
/// a human one the words `w00` to `w11` in order.
pub(crate) fn files(folder: &Path, prompts: usize) -> MakeSettings {
    let rows = |count: usize, text: &dyn Fn(usize) -> String| -> String {
        let row = |i| json!({"prompt": format!("Prompt {i}:"), "text": text(i)}).to_string() + "\n";
        (0..count).map(row).collect()
    };
    let system = |path: PathBuf| System::parse(path.to_str().unwrap());
    let write = |name: &str, text: String| -> PathBuf {
        let path = folder.join(name).with_extension("jsonl");
        fs::write(&path, text).unwrap();
        path
    };
    let words: Vec<String> = (0..12).map(|i| format!("w{i:02}")).collect();
    MakeSettings {
        human: write("people", rows(prompts + 20, &|_| words.join(" "))),
        systems: vec![
            system(write(SYSTEMS[0], rows(prompts, &|i| format!(" GOOD {i}")))),
            system(write(SYSTEMS[1], rows(prompts, &|i| format!(" POOR {i}")))),
        ],
        items: prompts,
        judges: 2,
        judges_per_item: 2,
        checks: Some(2),
        scale: Scale::Three,
        seed: 1,
    }
}

/// The choice of an attentive judge who likes `GOOD` and words in order: -1 for text A, 1 for text B.
pub(crate) fn attentive(a: &str, b: &str) -> i8 {
    let is_good = |text: &str| text.contains("GOOD") || text.starts_with("w00 w01 w02 w03 w04 w05 w06 w07");
    match (is_good(a), is_good(b)) {
        (true, false) => -1,
        (false, true) => 1,
        _ => panic!("both or none: `{a}`, `{b}`"),
    }
}
