//! The results of experiments, and reports on them.
//!
//! - [`results`], [`documents`]: the files that a sweep writes.
//! - [`study`]: what a report is about, read from run folders and sweep folders ([`Study::read`]).
//! - [`compare`]: comparisons of systems with their evidence. Statistics are in `mixce-eval`.
//! - [`table`], [`chart`]: tables as Markdown, CSV and LaTeX, charts as SVG for light and dark pages.
//! - [`Report`]: everything together, and its folder with one self-contained page.
//!
//! The same results give the same bytes.

pub mod arm;
pub mod chart;
pub mod compare;
pub mod documents;
mod error;
mod figures;
mod findings;
mod input;
mod judged;
pub mod metric;
mod names;
mod page;
mod report;
pub mod results;
mod samples;
mod scoring;
pub mod study;
pub mod table;
mod tables;
#[cfg(test)]
mod tests;

pub use compare::Resampling;
pub use error::{Error, Result};
pub use findings::Findings;
pub use input::{Curve, Likelihoods, Stage, Text, Texts, objective_of, total_steps};
pub use judged::JudgedStudy;
pub use page::{Live, live_message};
pub use report::{Report, Settings, Written};
pub use samples::{Prompt, Samples};
pub use study::Study;
