//! Selects the files of a data set's hub repository to download.
use std::path::Path;

use super::files::{Unused, is_data};
use super::split::assign;

/// What is fetched of a repository, and which of its data files are not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    /// Names in the repository, sorted.
    pub files: Vec<String>,
    /// Data files of the configuration that are left where they are.
    pub unused: Vec<Unused>,
}

/// Which files of a data set's repository are data: those below a folder `config` (if one is named), of the split `split` (a word of the file's or its
/// folder's name), or else of any split; where no name decides on a split, all but `.json` files, which are rather descriptions. Parquet is taken
/// where there is any.
#[must_use]
pub fn choose_files(names: &[String], config: Option<&str>, split: Option<&str>) -> Chosen {
    let in_config = |name: &&String| {
        config.is_none_or(|config| name.split('/').rev().skip(1).any(|folder| folder == config))
    };
    let data: Vec<&String> = names.iter().filter(|name| is_data(Path::new(name))).filter(in_config).collect();
    let mut chosen = Chosen::default();
    match split {
        Some(split) => {
            let split = split.to_ascii_lowercase();
            chosen.files = data.into_iter().filter(|name| words(name).contains(&split)).cloned().collect();
        }
        None => {
            let paths: Vec<&Path> = data.iter().map(Path::new).collect();
            let assignment = assign(&paths);
            for (i, name) in data.iter().enumerate() {
                let reason = match &assignment {
                    // In doubt all are fetched; sorting them says what the doubt is.
                    Err(_) => None,
                    Ok(found) if found.splits[i].is_none() => Some(Unused::NO_SPLIT),
                    Ok(found) if !found.decided && name.ends_with(".json") => Some(Unused::DESCRIPTION),
                    Ok(_) => None,
                };
                chosen.put(name, reason);
            }
        }
    }
    if chosen.files.iter().any(|name| name.ends_with(".parquet")) {
        for name in std::mem::take(&mut chosen.files) {
            chosen.put(&name, (!name.ends_with(".parquet")).then_some(Unused::OTHER_FORMAT));
        }
    }
    chosen.files.sort();
    chosen
}

impl Chosen {
    fn put(&mut self, name: &str, unused: Option<&'static str>) {
        match unused {
            None => self.files.push(name.to_owned()),
            Some(reason) => self.unused.push(Unused::new(name, reason)),
        }
    }
}

/// The words of a file's name, and the name of its folder.
fn words(name: &str) -> Vec<String> {
    let (folder, file) = name.rsplit_once('/').unwrap_or(("", name));
    let own = file.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    own.chain(folder.rsplit('/').take(1)).map(str::to_ascii_lowercase).collect()
}
