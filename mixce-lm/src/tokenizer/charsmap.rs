//! Checks SentencePiece's normalization table (`precompiled_charsmap`).
//!
//! The table is a trie (a double array, 32 bits per unit) followed by the replacements, separated by zero bytes. The reader in the
//! `spm_precompiled` crate trusts every size and position in it.

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Largest table: that of NFKC with case folding has 240 kB.
const MAX_BYTES: usize = 4 << 20;

/// Checks a table in base64: no text may lead outside the trie or the replacements. Returns the length of the longest replacement.
pub(super) fn check(encoded: &str) -> Result<usize, String> {
    if encoded.len() > MAX_BYTES / 3 * 4 {
        return Err(format!("has more than the {MAX_BYTES} bytes that are supported"));
    }
    let bytes = STANDARD.decode(encoded).map_err(|cause| format!("is not base64: {cause}"))?;
    let damaged = |what: &str| format!("is damaged: {what}");
    let (size, rest) = bytes.split_first_chunk::<4>().ok_or_else(|| damaged("it has no length"))?;
    // As the reader does: whole units only.
    let trie_bytes = u32::from_le_bytes(*size) as usize / 4 * 4;
    let (trie, replacements) =
        rest.split_at_checked(trie_bytes).ok_or_else(|| damaged("its trie is longer than the table"))?;
    let units: Vec<u32> = trie.as_chunks::<4>().0.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
    let replacements =
        std::str::from_utf8(replacements).map_err(|_| damaged("its replacements are not UTF-8"))?;
    longest_replacement(&units, replacements).map_err(|what| damaged(&what))
}

/// Follows every path of the trie, as `DoubleArray::common_prefix_search` does.
fn longest_replacement(units: &[u32], replacements: &str) -> Result<usize, String> {
    let unit_at = |at: usize| units.get(at).copied().ok_or("a path leaves its trie");
    // The children of a node are at `base ^ byte`.
    let mut bases = vec![offset(unit_at(0)?)];
    let mut seen: HashSet<usize> = bases.iter().copied().collect();
    let mut longest = 0;
    while let Some(base) = bases.pop() {
        for byte in 1..=255 {
            let child = base ^ byte;
            let unit = unit_at(child)?;
            if unit & ((1 << 31) | 0xff) != byte as u32 {
                continue;
            }
            let next = child ^ offset(unit);
            if (unit >> 8) & 1 == 1 {
                let start = (unit_at(next)? & (u32::MAX >> 1)) as usize;
                let tail = replacements.get(start..).ok_or("a path ends outside its replacements")?;
                longest = longest.max(tail.find('\0').unwrap_or(tail.len()));
            }
            if seen.insert(next) {
                bases.push(next);
            }
        }
    }
    Ok(longest)
}

fn offset(unit: u32) -> usize {
    ((unit >> 10) as usize) << ((unit & (1 << 9)) >> 6)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokenizers::normalizers::Precompiled;
    use tokenizers::{NormalizedString, Normalizer as _};

    use super::*;

    /// A table that replaces `a` with `bc`: the root at 0, its children from 256 on, the value of the leaf at 256.
    fn table() -> Vec<u8> {
        let mut units = vec![0u32; 512];
        units[0] = 256 << 10;
        units[256 ^ 97] = 97 | (1 << 8) | (97 << 10);
        units[256] = 1;
        let mut bytes = (units.len() as u32 * 4).to_le_bytes().to_vec();
        units.iter().for_each(|unit| bytes.extend(unit.to_le_bytes()));
        bytes.extend(b"xbc\0y");
        bytes
    }

    fn normalized(bytes: &[u8], text: &str) -> String {
        let rules = Precompiled::from(bytes).unwrap();
        let mut text = NormalizedString::from(text);
        rules.normalize(&mut text).unwrap();
        text.get().to_owned()
    }

    #[test]
    fn a_good_table_is_read_and_measured() {
        assert_eq!(normalized(&table(), "a-a"), "bc-bc");
        assert_eq!(check(&STANDARD.encode(table())), Ok(2));
    }

    #[test]
    fn damage_is_named() {
        let with = |at: usize, unit: u32| {
            let mut bytes = table();
            bytes[4 + 4 * at..][..4].copy_from_slice(&unit.to_le_bytes());
            bytes
        };
        let huge = |size: u32| [&size.to_le_bytes()[..], &table()[4..]].concat();
        for (bytes, problem) in [
            (vec![1, 2, 3], "it has no length"),
            (vec![0, 0, 0, 0], "a path leaves its trie"),
            (huge(u32::MAX), "its trie is longer than the table"),
            (with(0, 1 << 30), "a path leaves its trie"),
            (with(256, 6), "a path ends outside its replacements"),
            ([&table()[..], &[0xff]].concat(), "its replacements are not UTF-8"),
        ] {
            let error = check(&STANDARD.encode(bytes)).unwrap_err();
            assert!(error.contains(problem), "{error}");
        }
        assert!(check("?").unwrap_err().contains("is not base64"));
        assert!(check(&"A".repeat(6 << 20)).unwrap_err().contains("more than the 4194304 bytes"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

        /// The reader does not panic on a table that passes.
        #[test]
        fn what_passes_can_be_applied(
            damage in prop::collection::vec((prop::sample::select(vec![0usize, 97, 256, 353, 300, 511]), any::<u32>(), 0u32..32), 1..4),
            text in any::<String>(),
        ) {
            let mut bytes = table();
            for (at, unit, shift) in damage {
                bytes[4 + 4 * at..][..4].copy_from_slice(&(unit >> shift).to_le_bytes());
            }
            if let Ok(longest) = check(&STANDARD.encode(&bytes)) {
                let text = format!("a{text}");
                prop_assert!(normalized(&bytes, &text).len() <= text.len() * longest.max(1));
            }
        }
    }
}
