//! Features that another program computed.

use std::path::{Path, PathBuf};

use anyhow::Result;
use mixce_eval::features::Features;

/// Features of the human side and of each system.
#[derive(Clone, Debug)]
pub(super) struct FeatureFiles {
    pub(super) human: Features,
    pub(super) systems: Vec<Features>,
    /// The files they came from, the human one first.
    pub(super) paths: Vec<PathBuf>,
}

impl FeatureFiles {
    /// Reads files, if they were given.
    pub(super) fn read(human: Option<&Path>, systems: &[PathBuf]) -> Result<Option<Self>> {
        let Some(path) = human else { return Ok(None) };
        let human = Features::read(path)?;
        let paths = std::iter::once(path.to_owned()).chain(systems.iter().cloned()).collect();
        let systems = systems.iter().map(|path| Ok(Features::read(path)?)).collect::<Result<_>>()?;
        Ok(Some(Self { human, systems, paths }))
    }
}
