//! End-to-end tests: run the program as a user does, in a temporary folder, with no network but loopback.
//!
//! One module per user task.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail the test")]

mod bad_input;
mod bench;
mod config;
mod data;
mod datasets;
mod distributed;
mod documentation;
mod documents;
mod evaluate;
mod export;
mod faults;
mod finetune;
mod gguf;
#[cfg(unix)]
mod harness;
mod help;
mod hostile;
#[cfg(target_os = "linux")]
mod hosts;
mod hub;
mod inspect;
#[cfg(unix)]
mod interrupt;
mod judge;
#[cfg(unix)]
mod launchers;
mod llama;
mod nll_histogram;
mod plan;
mod push;
mod quickstart;
mod report;
mod resume;
mod rows;
mod sample;
mod score;
mod score_contract;
mod score_divided;
mod score_refusals;
mod support;
mod sweep;
mod token_cache;
mod watch;

#[cfg(target_os = "linux")]
#[path = "../running.rs"]
#[expect(dead_code, reason = "the tests of MPI and of several GPUs use more of it")]
mod running;

/// HTTP for the test hub.
#[path = "../../mixce-hub/tests/hub/http.rs"]
mod http;

/// A test hub on loopback, shared with the tests of the hub client.
#[path = "../../mixce-hub/tests/hub/server.rs"]
#[expect(dead_code, reason = "the hub client's own tests use more of it")]
mod server;

/// The uploads of the test hub.
#[path = "../../mixce-hub/tests/hub/uploads.rs"]
mod uploads;
