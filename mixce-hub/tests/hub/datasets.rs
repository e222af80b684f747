//! Files of data sets, through the same cache and the same faults.

use std::fs;

use mixce_hub::{Error, NoProgress, RepositoryId, Snapshot};

use crate::{
    server::{Fault, Storage, etag},
    support::{COMMIT, World, weights},
};

const DATASET: &str = "owner/stories";
const KEY: &str = "datasets/owner/stories";
const FIRST: &str = "en/train-00000-of-00002.parquet";
const SECOND: &str = "en/train-00001-of-00002.parquet";

fn world() -> World {
    let world = World::new();
    world.server.put(KEY, COMMIT, "README.md", Storage::Git, "words");
    world.server.put(KEY, COMMIT, FIRST, Storage::Large, weights(1));
    world.server.put(KEY, COMMIT, SECOND, Storage::Large, weights(2));
    world.server.point(KEY, "main", COMMIT);
    world
}

#[expect(clippy::unwrap_used, reason = "a helper of tests fails the test")]
fn fetch(world: &World, variables: &[(&str, &str)], ending: &str) -> Result<Snapshot, Error> {
    let choose =
        |names: &[String]| names.iter().filter(|name| name.ends_with(ending)).cloned().collect::<Vec<_>>();
    let id = RepositoryId::dataset(DATASET).unwrap();
    world.hub(variables).fetch_files(&id, "table", &choose, &mut NoProgress)
}

#[test]
fn chosen_files_come_into_the_shared_cache_and_are_used_offline() {
    let world = world();
    let snapshot = fetch(&world, &[], ".parquet").unwrap();
    assert_eq!(
        (snapshot.commit.as_str(), snapshot.files.as_slice()),
        (COMMIT, &[FIRST.to_owned(), SECOND.to_owned()][..])
    );
    assert_eq!(fs::read(snapshot.path.join(FIRST)).unwrap(), weights(1));
    let root = world.home.path().join("hub/datasets--owner--stories");
    assert_eq!(snapshot.path, root.join("snapshots").join(COMMIT));
    assert_eq!(fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT);
    world.server.take_requests();
    assert_eq!(fetch(&world, &[("HF_HUB_OFFLINE", "1")], ".parquet").unwrap(), snapshot);
    assert_eq!(world.server.take_requests(), []);
    // A shard that is missing is noticed by the names of the others.
    fs::remove_file(snapshot.path.join(SECOND)).unwrap();
    let error = fetch(&world, &[("HF_HUB_OFFLINE", "1")], ".parquet").unwrap_err();
    assert!(error.to_string().contains("train-00001-of-00002"), "{error}");
}

#[test]
fn drops_rate_limits_and_a_new_name_are_sat_out() {
    let world = world();
    world.server.rename("owner/old", DATASET);
    let storage = etag(Storage::Large, &weights(1));
    world.server.fault("GET", "/revision/main", Fault::RateLimit(1), 1);
    world.server.fault("GET", &storage, Fault::Drop(1_000_000), 1);
    world.server.fault("GET", &storage, Fault::RateLimit(1), 1);
    let id = RepositoryId::dataset("owner/old").unwrap();
    let choose = |_: &[String]| vec![FIRST.to_owned()];
    let snapshot = world.hub(&[]).fetch_files(&id, "table", &choose, &mut NoProgress).unwrap();
    assert_eq!(fs::read(snapshot.path.join(FIRST)).unwrap(), weights(1));
    let requests = world.server.take_requests();
    let ranges: Vec<_> = requests.iter().filter(|r| r.storage).map(|r| r.header("range")).collect();
    assert_eq!(ranges, [None, Some("bytes=1000000-"), Some("bytes=1000000-")]);
}

#[test]
fn what_is_missing_is_called_a_data_set() {
    let world = world();
    let error = fetch(&world, &[], ".csv").unwrap_err();
    let words = "the data set `owner/stories` at revision `main` has no table; its files: `README.md`";
    assert!(error.to_string().starts_with(words), "{error}");
    let none = RepositoryId::dataset("owner/none").unwrap();
    let error = world.hub(&[]).fetch_files(&none, "x", &|_| Vec::new(), &mut NoProgress).unwrap_err();
    assert!(error.to_string().contains("has no data set `owner/none`"), "{error}");
    let error = RepositoryId::dataset("a b").unwrap_err();
    assert!(error.to_string().starts_with("`a b` is not a data set on the hub"), "{error}");
}
