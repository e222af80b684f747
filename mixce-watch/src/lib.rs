//! The live state of a training run or a sweep, from the files in its folder alone: nothing is written there and nothing locked, so that
//! watching never disturbs what is watched.
//!
//! - [`Watch`]: a folder that is read again and again ([`Watch::poll`]), only as far as its files have grown.
//! - [`Snapshot`]: what it holds at one moment, which [`text`] prints and [`Screen`] shows in a terminal.
//! - [`Page`]: the report on the folder as a page that reloads itself when the files change.

mod curves;
mod error;
mod files;
mod locks;
mod page;
mod run;
mod samples;
mod screen;
mod sweep;
mod tail;
pub mod text;
mod view;
mod watch;

pub use curves::{Curves, Evaluation, Step};
pub use error::Error;
pub use page::{Page, PageSettings};
pub use run::{Run, RunState};
pub use samples::Sample;
pub use screen::{Screen, restore};
pub use sweep::{Cell, CellState, Row, Sweep, SweepState};
pub use watch::{Snapshot, Watch};
