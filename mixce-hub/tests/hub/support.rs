//! A hub with one model, and a client of it with a cache of its own.

#![expect(clippy::expect_used, reason = "helpers of tests fail the test")]

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use mixce_hub::{Error, Hub, HubEnvironment, ModelId, NoProgress, Snapshot};
use tempfile::TempDir;

use crate::server::{HubServer, Storage};

pub(crate) const MODEL: &str = "owner/tiny";
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub(crate) const OTHER_COMMIT: &str = "89abcdef0123456789abcdef0123456789abcdef";

/// A server with a model and a folder for the cache.
pub(crate) struct World {
    pub(crate) server: HubServer,
    pub(crate) home: TempDir,
}

impl World {
    /// A hub whose model has small files and `model.safetensors`, on branch `main`.
    pub(crate) fn new() -> Self {
        let world =
            Self { server: HubServer::start(), home: tempfile::tempdir().expect("a temporary folder") };
        world.put_small_files(COMMIT);
        world.server.put(MODEL, COMMIT, "model.safetensors", Storage::Large, weights(0));
        world.server.put(MODEL, COMMIT, "tf_model.h5", Storage::Large, "not wanted");
        world.server.put(MODEL, COMMIT, "README.md", Storage::Git, "not wanted");
        world.server.point(MODEL, "main", COMMIT);
        world
    }

    /// A hub whose model has nothing yet.
    pub(crate) fn without_weights() -> Self {
        let world =
            Self { server: HubServer::start(), home: tempfile::tempdir().expect("a temporary folder") };
        world.put_small_files(COMMIT);
        world.server.point(MODEL, "main", COMMIT);
        world
    }

    fn put_small_files(&self, commit: &str) {
        for name in ["config.json", "generation_config.json", "vocab.json", "merges.txt"] {
            self.server.put(MODEL, commit, name, Storage::Git, format!("the content of {name}"));
        }
    }

    /// The settings of a client, with more variables that count before the usual ones.
    pub(crate) fn environment(&self, variables: &[(&str, &str)]) -> HubEnvironment {
        let home = self.home.path().to_str().expect("a path in UTF-8");
        let endpoint = self.server.endpoint();
        let usual = [("HF_HOME", home), ("HF_ENDPOINT", endpoint.as_str())];
        let all: BTreeMap<&str, &str> = usual.iter().chain(variables).copied().collect();
        let lookup = |name: &str| all.get(name).map(|value| (*value).to_owned());
        let mut environment = HubEnvironment::from_lookup(lookup).expect("an environment");
        environment.retries.first_delay = Duration::from_millis(1);
        environment
    }

    pub(crate) fn hub(&self, variables: &[(&str, &str)]) -> Hub {
        Hub::new(self.environment(variables)).expect("a client")
    }

    /// Fetches the model with the usual settings.
    pub(crate) fn fetch(&self) -> Result<Snapshot, Error> {
        self.hub(&[]).fetch_model(&id(MODEL), &mut NoProgress)
    }

    /// The model's folder in the cache.
    pub(crate) fn cache(&self) -> PathBuf {
        self.home.path().join("hub/models--owner--tiny")
    }

    /// The names of the blobs in the cache, incomplete ones included, in order.
    pub(crate) fn blobs(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.cache().join("blobs")) else { return Vec::new() };
        let names = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"));
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }
}

pub(crate) fn id(text: &str) -> ModelId {
    text.parse().expect("a model id")
}

/// Three megabytes that differ everywhere.
pub(crate) fn weights(seed: u32) -> Vec<u8> {
    (seed..seed + 750_000).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}
