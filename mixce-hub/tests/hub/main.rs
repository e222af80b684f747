//! The hub client against a hub on loopback.

mod answers;
mod cache;
mod datasets;
mod http;
mod push;
mod refusals;
mod server;
mod support;
mod transfers;
mod uploads;
