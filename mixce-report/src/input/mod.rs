//! Reads what a report is about: sweep folders and run folders.

mod curve;
mod read;
mod run;
mod stage;
mod sweep;
mod texts;
mod tokens;
mod variants;

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::results;
use crate::study::Study;

pub use curve::Curve;
pub(crate) use read::read_json;
pub use run::objective_of;
pub use stage::{Stage, total_steps};
pub(crate) use texts::read_texts;
pub use texts::{Text, Texts};
pub use tokens::Likelihoods;

impl Study {
    /// Reads run folders (of `mixce train`) and sweep folders (of `mixce sweep`), in any number and order.
    ///
    /// # Errors
    /// When a folder is neither, a file in it cannot be read or has another form, or two of them have different human texts under one name.
    pub fn read(folders: &[PathBuf]) -> Result<Self> {
        let mut study = Self::default();
        for folder in folders {
            if folder.join(results::FILE).is_file() {
                sweep::add(&mut study, folder)?;
            } else if folder.join(run::SETTINGS).is_file() {
                run::add(&mut study, folder)?;
            } else {
                require_exists(folder)?;
                return Err(Error::UnknownFolder { path: folder.clone() });
            }
        }
        variants::tell_apart(&mut study);
        Ok(study)
    }
}

fn require_exists(folder: &Path) -> Result<()> {
    folder.metadata().map(|_| ()).map_err(|source| Error::Read { path: folder.to_owned(), source })
}
