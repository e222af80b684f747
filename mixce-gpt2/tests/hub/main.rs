//! The hub client against a hub on loopback.

mod cache;
mod refusals;
mod server;
mod support;
mod transfers;
