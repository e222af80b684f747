//! Metrics and statistics against their reference implementations.
mod published;
mod registry;
mod statistics;
