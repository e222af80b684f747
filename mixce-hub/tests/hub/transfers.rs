//! Transfers that break off, stall, or bring the wrong bytes.

use mixce_base::Hint as _;
use std::{fs, time::Duration};

use mixce_hub::{Error, FetchProgress, FileProgress, Hub, NoProgress};

use crate::{
    http::Request,
    server::{Fault, Storage, etag},
    support::{COMMIT, MODEL, World, id, weights},
};

fn weights_etag() -> String {
    etag(Storage::Large, &weights(0))
}

/// The ranges that were asked of the storage, in order.
fn ranges(requests: &[Request]) -> Vec<Option<&str>> {
    requests.iter().filter(|request| request.storage).map(|request| request.header("range")).collect()
}

#[test]
fn a_lost_connection_is_resumed_within_a_fetch() {
    let world = World::new();
    world.server.fault("GET", &weights_etag(), Fault::Drop(1_000_000), 1);
    let snapshot = world.fetch().unwrap();
    assert_eq!(fs::read(snapshot.path.join("model.safetensors")).unwrap(), weights(0));
    let requests = world.server.take_requests();
    assert_eq!(ranges(&requests), [None, Some("bytes=1000000-")]);
}

#[test]
fn a_later_fetch_resumes_what_an_earlier_one_left() {
    let world = World::new();
    let incomplete = format!("{}.incomplete", weights_etag());
    world.server.fault("GET", &weights_etag(), Fault::Drop(1_000_000), 1);
    world.server.fault("GET", &weights_etag(), Fault::Drop(0), 100);
    let error = world.fetch().unwrap_err();
    assert!(matches!(error, Error::Connection { .. }), "{error}");
    assert!(error.hint().unwrap().contains("resumed"));
    assert_eq!(fs::read(world.cache().join("blobs").join(&incomplete)).unwrap(), weights(0)[..1_000_000]);
    assert!(!world.cache().join("refs/main").exists());
    assert!(!world.blobs().contains(&weights_etag()));
    let world = World { server: World::new().server, home: world.home };
    let snapshot = world.fetch().unwrap();
    assert_eq!(fs::read(snapshot.path.join("model.safetensors")).unwrap(), weights(0));
    assert_eq!(ranges(&world.server.take_requests()), [Some("bytes=1000000-")]);
    assert!(!world.blobs().contains(&incomplete));
}

#[test]
fn a_server_without_ranges_is_asked_for_everything() {
    let world = World::new();
    world.server.fault("GET", &weights_etag(), Fault::Drop(1_000_000), 1);
    world.server.fault("GET", &weights_etag(), Fault::NoRange, 1);
    let snapshot = world.fetch().unwrap();
    assert_eq!(fs::read(snapshot.path.join("model.safetensors")).unwrap(), weights(0));
}

#[test]
fn wrong_bytes_are_reported_and_not_kept() {
    let world = World::new();
    world.server.fault("GET", &weights_etag(), Fault::WrongBytes, 1);
    let error = world.fetch().unwrap_err();
    let Error::Checksum { algorithm, expected, got, .. } = &error else { panic!("{error}") };
    assert_eq!((*algorithm, expected), ("SHA-256", &weights_etag()));
    assert_ne!(got, expected);
    assert!(error.to_string().contains("`model.safetensors` of `owner/tiny` arrived damaged"), "{error}");
    assert!(world.blobs().iter().all(|blob| !blob.starts_with(&weights_etag())), "{:?}", world.blobs());
    assert!(!world.cache().join("snapshots").join(COMMIT).join("model.safetensors").exists());
    world.fetch().unwrap();
}

#[test]
fn wrong_bytes_of_a_small_file_are_noticed_too() {
    let world = World::new();
    world.server.fault("GET", "/config.json", Fault::WrongBytes, 1);
    let error = world.fetch().unwrap_err();
    assert!(matches!(error, Error::Checksum { algorithm: "git SHA-1", .. }), "{error}");
    assert_eq!(world.blobs(), [] as [&str; 0]);
}

#[test]
fn a_damaged_beginning_is_fetched_again() {
    let world = World::new();
    let blobs = world.cache().join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    for (damaged, expected) in
        [(vec![0; 1000], vec![Some("bytes=1000-"), None]), (vec![0; 3_000_000], vec![None])]
    {
        fs::write(blobs.join(format!("{}.incomplete", weights_etag())), damaged).unwrap();
        let snapshot = world.fetch().unwrap();
        assert_eq!(fs::read(snapshot.path.join("model.safetensors")).unwrap(), weights(0));
        assert_eq!(ranges(&world.server.take_requests()), expected);
        fs::remove_file(snapshot.path.join("model.safetensors")).unwrap();
        fs::remove_file(blobs.join(weights_etag())).unwrap();
    }
}

#[test]
fn more_bytes_than_announced_are_refused() {
    let world = World::new();
    world.server.fault("GET", &weights_etag(), Fault::TooLong, 1);
    let error = world.fetch().unwrap_err();
    assert!(matches!(error, Error::TooLong { expected_bytes: 3_000_000, .. }), "{error}");
    assert!(!world.blobs().contains(&weights_etag()));
}

#[test]
fn a_silent_server_is_given_up() {
    let world = World::new();
    let patient = Duration::from_millis(200);
    for path in ["/revision/main", "/merges.txt"] {
        let mut environment = world.environment(&[]);
        (environment.metadata_timeout, environment.transfer_timeout) = (patient, patient);
        environment.retries.attempts = 2;
        world.server.fault("GET", path, Fault::Silence, 2);
        let error = Hub::new(environment).unwrap().fetch_model(&id(MODEL), &mut NoProgress).unwrap_err();
        assert!(error.to_string().ends_with("timed out"), "{error}");
    }
}

#[test]
fn passing_troubles_are_sat_out() {
    let world = World::new();
    world.server.fault("GET", "/revision/main", Fault::Drop(10), 1);
    world.server.fault("GET", "/revision/main", Fault::Status(500, ""), 1);
    world.server.fault("GET", "/revision/main", Fault::RateLimit(1), 1);
    world.server.fault("HEAD", "/config.json", Fault::Status(503, ""), 3);
    world.server.fault("GET", "/config.json", Fault::Status(502, ""), 3);
    world.fetch().unwrap();
    let paths: Vec<String> = world.server.take_requests().into_iter().map(|request| request.path).collect();
    assert_eq!(paths.iter().filter(|path| path.ends_with("/revision/main")).count(), 4);
    assert_eq!(paths.iter().filter(|path| path.ends_with("/config.json")).count(), 8);
}

#[test]
fn a_fetch_can_be_stopped_and_goes_on_later() {
    struct StopAtWeights(bool);
    impl FetchProgress for StopAtWeights {
        fn update(&mut self, file: &FileProgress<'_>) {
            self.0 = file.name == "model.safetensors" && file.bytes_done > 500_000;
        }
        fn stopped(&self) -> bool {
            self.0
        }
    }
    let world = World::new();
    let error = world.hub(&[]).fetch_model(&id(MODEL), &mut StopAtWeights(false)).unwrap_err();
    assert!(matches!(&error, Error::Stopped { file } if file == "model.safetensors"), "{error}");
    world.server.take_requests();
    world.fetch().unwrap();
    assert!(ranges(&world.server.take_requests())[0].is_some());
}

#[test]
fn two_fetches_at_once_transfer_once() {
    let world = World::new();
    std::thread::scope(|scope| {
        let both = [scope.spawn(|| world.fetch()), scope.spawn(|| world.fetch())];
        for fetch in both {
            let snapshot = fetch.join().unwrap().unwrap();
            assert_eq!(fs::read(snapshot.path.join("model.safetensors")).unwrap(), weights(0));
        }
    });
    let requests = world.server.take_requests();
    assert_eq!(ranges(&requests), [None], "{requests:?}");
}
