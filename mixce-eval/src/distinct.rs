//! Share of distinct texts.

use std::collections::HashSet;
use std::hash::Hash;

/// The number of different texts divided by the number of texts; `None` without any text.
///
/// ```
/// use mixce_eval::distinct::distinct_share;
/// assert_eq!(distinct_share(["a b", "c", "a b", "d"]), Some(0.75));
/// ```
pub fn distinct_share<T: Eq + Hash>(texts: impl IntoIterator<Item = T>) -> Option<f64> {
    let mut count = 0usize;
    let distinct: HashSet<T> = texts.into_iter().inspect(|_| count += 1).collect();
    (count > 0).then(|| distinct.len() as f64 / count as f64)
}
