//! Downloads the files of a data set.

use std::cell::RefCell;
use std::path::PathBuf;

use anyhow::Result;
use mixce_data::prepare::{Collection, Source, choose_files, of_files};
use mixce_data::{Input, ReadSettings};
use mixce_hub::{DEFAULT_REVISION, Hub, HubEnvironment, RepositoryId};

use crate::interrupt;
use crate::progress::FetchBars;

/// The branch with the hub's parquet conversion of data sets in other formats.
const CONVERTED: &str = "refs/convert/parquet";

/// Downloads the files of a configuration (and a split) and assigns them to splits.
pub(super) fn fetch(
    id: &str,
    config: Option<&str>,
    split: Option<&str>,
    collection: Collection,
    reading: ReadSettings,
) -> Result<Source> {
    let id = RepositoryId::dataset(id)?;
    let hub = Hub::new(HubEnvironment::from_process()?)?;
    interrupt::install("partial downloads are kept and resumed next time");
    let mut wanted = "data files".to_owned();
    if let Some(config) = config {
        wanted += &format!(" of configuration `{config}`");
    }
    if let Some(split) = split {
        wanted += &format!(" of split `{split}`");
    }
    let unused = RefCell::default();
    let choose = |names: &[String]| {
        let chosen = choose_files(names, config, split);
        unused.replace(chosen.unused);
        chosen.files
    };
    let mut bars = FetchBars::default();
    let snapshot = match hub.fetch_files(&id, &wanted, &choose, &mut bars) {
        Err(error @ mixce_hub::Error::NoSuchFiles { .. }) if id.revision() == DEFAULT_REVISION => {
            // The first error is more useful than one about the conversion branch.
            hub.fetch_files(&id.at(CONVERTED)?, &wanted, &choose, &mut bars).map_err(|_| error)?
        }
        other => other?,
    };
    tracing::info!("data set `{id}` is commit {}", snapshot.commit);
    let files: Vec<PathBuf> = snapshot.files.iter().map(|name| snapshot.path.join(name)).collect();
    let mut source = match split {
        Some(_) => Source::training(Input::open(&files, reading)?),
        None => of_files(&snapshot.path, &PathBuf::from(id.to_string()), &files, collection, &reading)?,
    };
    source.unused.extend(unused.into_inner());
    Ok(source)
}
