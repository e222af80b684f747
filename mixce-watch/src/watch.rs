//! A folder that is watched.

use std::path::Path;

use serde::Serialize;

use crate::error::Error;
use crate::locks::Locks;
use crate::run::{Run, RunReader, RunState, is_run};
use crate::sweep::{Sweep, SweepReader, SweepState, is_sweep};

/// What a folder holds at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Snapshot {
    /// A training run.
    Run(Box<Run>),
    /// A sweep.
    Sweep(Box<Sweep>),
}

impl Snapshot {
    /// Whether a process is at it.
    #[must_use]
    pub fn is_running(&self) -> bool {
        match self {
            Self::Run(run) => matches!(run.state, RunState::Running { .. }),
            Self::Sweep(sweep) => sweep.state == SweepState::Running,
        }
    }
}

/// A folder that is read again and again.
#[derive(Debug)]
pub struct Watch {
    reader: Reader,
}

#[derive(Debug)]
enum Reader {
    Run(RunReader),
    Sweep(SweepReader),
}

impl Watch {
    /// Begins with a folder of a run or a sweep, or an empty one, in which a run may start.
    ///
    /// # Errors
    /// When the folder does not exist or is neither.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        folder.read_dir().map_err(|source| Error::Read { path: folder.to_owned(), source })?;
        let reader = if is_sweep(folder) {
            Reader::Sweep(SweepReader::new(folder.to_owned()))
        } else if is_run(folder) {
            Reader::Run(RunReader::new(folder.to_owned()))
        } else {
            return Err(Error::UnknownFolder { path: folder.to_owned() });
        };
        Ok(Self { reader })
    }

    /// Reads what is new.
    pub fn poll(&mut self) -> Snapshot {
        let locks = Locks::read();
        match &mut self.reader {
            Reader::Run(reader) => Snapshot::Run(Box::new(reader.poll(&locks))),
            Reader::Sweep(reader) => Snapshot::Sweep(Box::new(reader.poll(&locks))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use mixce_base::Hint as _;

    use super::*;

    #[test]
    fn folders_are_told_apart() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("x");
        let error = Watch::open(&folder).unwrap_err();
        assert!(error.to_string().contains("/x`") && error.hint().is_some(), "{error}");
        fs::create_dir(&folder).unwrap();
        assert!(matches!(Watch::open(&folder).unwrap().poll(), Snapshot::Run(_)));
        fs::write(folder.join("thesis.tex"), "dear").unwrap();
        assert!(matches!(Watch::open(&folder), Err(Error::UnknownFolder { .. })));
        assert!(matches!(Watch::open(&folder.join("thesis.tex")), Err(Error::Read { .. })));
        fs::write(folder.join("run.toml"), "").unwrap();
        assert!(matches!(Watch::open(&folder).unwrap().poll(), Snapshot::Run(_)));
        fs::write(folder.join("sweep.toml"), "").unwrap();
        let snapshot = Watch::open(&folder).unwrap().poll();
        assert!(matches!(snapshot, Snapshot::Sweep(_)) && !snapshot.is_running());
    }
}
