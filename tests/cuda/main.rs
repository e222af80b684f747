//! Tests of the CUDA path. They need a CUDA device: a GPU, or the emulated driver of `tests/cuda-emulator`, which
//! `scripts/check-cuda-emulated.sh` links.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail the test")]

mod operations;
mod program;
#[cfg(feature = "nccl")]
mod ranks;

#[cfg(feature = "nccl")]
#[path = "../running.rs"]
mod running;

#[path = "../e2e/support.rs"]
#[expect(dead_code, reason = "the end-to-end tests use more of it")]
mod support;

#[path = "../../mixce-hub/tests/hub/http.rs"]
mod http;

#[path = "../../mixce-hub/tests/hub/server.rs"]
#[expect(dead_code, reason = "the hub client's own tests use more of it")]
mod server;

#[path = "../../mixce-hub/tests/hub/uploads.rs"]
mod uploads;
