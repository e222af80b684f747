//! Checks that the program accepts every `mixce` command in README and book.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::World;

/// README and all pages of the book.
fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let (mut pages, mut folders) = (vec![root.join("README.md")], vec![root.join("docs/src")]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.extension() {
                Some(extension) if extension == "md" => pages.push(path),
                None if path.is_dir() => folders.push(path),
                _ => {}
            }
        }
    }
    pages
}

/// The commands in a page's shell blocks, continued lines joined, comments and redirections cut off.
fn commands(page: &str) -> Vec<String> {
    let blocks = page.split("```").skip(1).step_by(2);
    let shell =
        blocks.filter(|block| ["sh\n", "console\n", "bash\n"].iter().any(|kind| block.starts_with(kind)));
    let text = shell.collect::<Vec<_>>().join("\n").replace("\\\n", " ");
    let command = |line: &str| {
        let line = line.trim().trim_start_matches("$ ");
        let start = ["mixce ", "target/release/mixce ", "cargo run --release -- "];
        let rest = start.iter().find_map(|start| line.strip_prefix(start))?;
        Some(rest.split([';', '|', '>', '#', '<']).next().unwrap_or_default().trim().to_owned())
    };
    text.lines().filter_map(command).collect()
}

/// Quoted words as one word without quotes.
fn unquoted(command: &str) -> String {
    let join = |(i, part): (usize, &str)| if i % 2 == 1 { part.replace(' ', "_") } else { part.to_owned() };
    command.replace('\'', "\"").split('"').enumerate().map(join).collect()
}

#[test]
fn documented_commands_are_accepted() {
    let world = World::new();
    let mut count = 0;
    for page in pages() {
        for command in commands(&fs::read_to_string(&page).unwrap()) {
            // `--help` succeeds only if everything before it was accepted.
            let outcome = world.run(&format!("{} --help", unquoted(&command)));
            assert_eq!(outcome.status, Some(0), "{}: `mixce {command}`\n{}", page.display(), outcome.stderr);
            count += 1;
        }
    }
    assert!(count >= 15, "only {count} commands were found");
}
