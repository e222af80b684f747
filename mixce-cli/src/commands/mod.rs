//! One file per subcommand: its flags, and `run`.

pub(crate) mod bench;
pub(crate) mod completions;
pub(crate) mod data;
pub(crate) mod doctor;
pub(crate) mod download;
pub(crate) mod evaluate;
pub(crate) mod export;
pub(crate) mod generate;
pub(crate) mod inspect;
pub(crate) mod judge;
pub(crate) mod man;
pub(crate) mod nll_histogram;
pub(crate) mod plan;
pub(crate) mod push;
pub(crate) mod quickstart;
pub(crate) mod report;
pub(crate) mod score;
pub(crate) mod sweep;
pub(crate) mod synthetic;
pub(crate) mod train;
pub(crate) mod watch;
