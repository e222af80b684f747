//! The statistics of a report that only it needs: an exact sign test, Krippendorff's alpha. The bootstrap is that of `mixce-eval`.

mod alpha;
mod sign_test;

pub use alpha::{Level, alpha, pairwise_agreement};
pub use sign_test::sign_test;
