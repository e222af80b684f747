//! Checks that the ranks agree.
use super::Communicator;
use crate::error::{Error, Result};

/// Checks that all ranks have the same `bytes`, such as a digest of `what`.
///
/// # Errors
/// [`Error::RanksDiffer`], on every rank; as [`Communicator::all_gather`].
pub fn require_same(ranks: &dyn Communicator, what: &'static str, bytes: Vec<u8>) -> Result<()> {
    let all = ranks.all_gather(bytes)?;
    match all.iter().position(|other| *other != all[0]) {
        Some(rank) => Err(Error::RanksDiffer { what, rank }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::on_ranks;
    use super::*;

    #[test]
    fn the_first_that_differs_is_named_on_all_ranks() {
        for result in on_ranks(3, |rank| require_same(rank, "data", vec![u8::from(rank.rank() == 1)])) {
            let error = result.unwrap_err();
            assert!(matches!(error, Error::RanksDiffer { what: "data", rank: 1 }), "{error}");
        }
        assert!(on_ranks(2, |rank| require_same(rank, "data", vec![5])).into_iter().all(|r| r.is_ok()));
    }
}
