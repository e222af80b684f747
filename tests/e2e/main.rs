//! End-to-end tests: the program as a user runs it, in a folder of its own, with no network but loopback.
//!
//! The modules are named by what a user does.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail the test")]

mod bad_input;
mod bench;
mod config;
mod data;
mod datasets;
mod documentation;
mod documents;
mod evaluate;
mod export;
mod finetune;
mod help;
mod hub;
mod inspect;
mod interrupt;
mod llama;
mod nll_histogram;
mod plan;
mod push;
mod quickstart;
mod resume;
mod rows;
mod sample;
mod score;
mod score_contract;
mod support;
mod token_cache;

/// HTTP as the small hub speaks it.
#[path = "../../mixce-hub/tests/hub/http.rs"]
mod http;

/// A small hub on loopback; the tests of the hub client use the same one.
#[path = "../../mixce-hub/tests/hub/server.rs"]
#[expect(dead_code, reason = "the hub client's own tests use more of it")]
mod server;

/// The other half of it.
#[path = "../../mixce-hub/tests/hub/uploads.rs"]
mod uploads;
