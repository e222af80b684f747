//! Training by processes that `mpirun` starts. Needs Open MPI; `scripts/check-mpi.sh` runs it.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail the test")]

mod program;

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
