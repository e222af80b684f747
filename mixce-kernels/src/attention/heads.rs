//! The shape of multi-head attention.

use candle_core::{Result, bail};

/// The shape of multi-head attention: how many heads, which of them share keys and values, and how far back they look.
///
/// A row of queries, keys and values has `(count + 2 kv) D` channels: `count` heads of queries, then `kv` heads of keys, then `kv` heads
/// of values, `D` channels each. Query head `h` reads the keys and values of head `h / (count / kv)`: grouped-query attention (Ainslie
/// et al., 2023), multi-query attention with `kv = 1`, ordinary multi-head attention with `kv = count`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heads {
    /// Heads of queries.
    pub count: usize,
    /// Heads of keys and values: a divisor of `count`.
    pub kv: usize,
    /// The factor of the scores.
    pub scale: f64,
    /// With a window of `w` tokens the query at position `i` sees the keys `j` with `i - w < j <= i` (transformers'
    /// `sliding_window`); without one, all up to its own.
    pub window: Option<usize>,
}

impl Heads {
    /// As many heads of keys and values as of queries, and no window.
    #[must_use]
    pub fn new(count: usize, scale: f64) -> Self {
        Self { count, kv: count, scale, window: None }
    }

    /// `D`, where a row of queries, keys and values has so many channels.
    ///
    /// # Errors
    /// When there is no such attention, or the channels are not those of its heads.
    pub fn head_size(self, op: &str, channels: usize) -> Result<usize> {
        let Self { count, kv, window, .. } = self;
        if count == 0 || kv == 0 || !count.is_multiple_of(kv) {
            bail!(
                "{op}: expected a number of heads that is a multiple of the key-value heads, got {count} and {kv}"
            );
        }
        if window == Some(0) {
            bail!("{op}: expected a window of at least 1 token, got 0");
        }
        let parts = count + 2 * kv;
        if channels == 0 || !channels.is_multiple_of(parts) {
            bail!(
                "{op}: expected rows of {parts} D channels for {count} heads and {kv} key-value heads, got {channels}"
            );
        }
        Ok(channels / parts)
    }

    /// Whether the kernels on tensor cores take heads of `d` channels, in bf16.
    pub(crate) fn fit_tensor_cores(self, d: usize) -> bool {
        d.is_multiple_of(8) && d <= 128 && self.scale > 0.0
    }

    /// Query heads that share a head of keys and values.
    pub(crate) fn group(self) -> usize {
        self.count / self.kv
    }

    /// The first key that a query sees; both count from the beginning of their document.
    pub(crate) fn first_key(self, query: usize) -> usize {
        self.window.map_or(0, |window| (query + 1).saturating_sub(window))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_shapes_are_refused() {
        let heads = |count, kv, window| Heads { kv, window, ..Heads::new(count, 1.0) };
        assert_eq!(heads(4, 2, Some(1)).head_size("op", 24).unwrap(), 3);
        let refused = |heads: Heads, channels| heads.head_size("op", channels).unwrap_err().to_string();
        for (count, kv) in [(4, 0), (0, 4), (0, 0), (4, 3), (2, 4)] {
            let error = refused(heads(count, kv, None), 24);
            assert!(error.contains(&format!("got {count} and {kv}")), "{error}");
        }
        assert!(refused(heads(4, 2, Some(0)), 24).contains("at least 1 token"));
        assert!(refused(heads(4, 2, None), 25).contains("8 D channels"));
        assert!(refused(heads(4, 2, None), 0).contains("got 0"));
    }
}
