//! Studies from files to statistics, with judges that speak HTTP to a server on a loopback port.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

mod client;
mod crash;
mod make;
mod refusals;
mod report;
mod serve;
mod studies;
