//! Blind pairwise human evaluation: people see a prompt with two continuations and say which is better.
//!
//! - [`make`] draws prompts, adds attention checks and plans who judges what, as a folder ([`Study`]).
//! - [`Server`] shows the pairs in the browser and stores each answer in SQLite before the page moves on.
//! - [`answers`] reads them back with the names of the systems, and [`report()`] computes the statistics of [`stats`].
//!
//! A judge sees texts, never names of systems: these are joined to an answer only by [`answers`].

mod error;
mod export;
mod make;
mod plan;
mod report;
mod rows;
mod server;
pub mod stats;
mod store;
mod study;

pub use error::Error;
pub use export::{Judged, answers};
pub use make::{MakeSettings, System, make};
pub use report::{
    Agreement, Estimate, ItemReport, JudgeReport, PairReport, Report, ReportSettings, Results, Seconds,
    report,
};
pub use server::{Link, ServeSettings, Server};
pub use study::{Candidate, Header, Item, Kind, Scale, Study, Task};
