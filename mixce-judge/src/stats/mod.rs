//! The statistics of a report: an exact sign test, Krippendorff's alpha, a bootstrap over items.

mod alpha;
mod bootstrap;
mod sign_test;

pub use alpha::{Level, alpha, pairwise_agreement};
pub use bootstrap::{Interval, bootstrap, quantile};
pub use sign_test::sign_test;
