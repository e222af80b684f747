//! Bounds how much a tokenizer's normalizer may lengthen a text.
//!
//! A chain of thirty `Replace` steps that each double a text makes gigabytes of one letter.

use std::sync::Arc;

use serde_json::Value;
use tokenizers::utils::SysRegex;
use tokenizers::{NormalizedString, Normalizer as _, NormalizerWrapper};

use super::charsmap;
use super::json::Component;

/// Largest normalized text: the library keeps about 40 bytes for each byte of it.
pub(super) const MAX_NORMALIZED_BYTES: usize = 48 << 20;
/// Largest growth: NFKC makes at most 11 bytes of one, spelled-out line ends or digits some more.
pub(super) const MAX_GROWTH: usize = 64;
/// Allowed beyond [`MAX_GROWTH`], for what is added once per text.
const SLACK_BYTES: usize = 4096;
/// Largest growth by a step of the library's own: NFKC, which case folding may follow.
const OWN_GROWTH: usize = 12;
/// Text is measured in parts of this size, so that measuring takes little memory.
const PART_BYTES: usize = 1 << 16;

/// The steps of a normalizer, with bounds.
#[derive(Debug, Clone, Default)]
pub(super) struct Growth {
    steps: Arc<[Step]>,
    /// Largest growth of all steps together.
    factor: usize,
    added: usize,
}

#[derive(Debug)]
struct Step {
    normalizer: NormalizerWrapper,
    /// The result has at most `factor * bytes + added` bytes.
    factor: usize,
    added: usize,
    replaced: Option<Replaced>,
}

#[derive(Debug)]
struct Replaced {
    pattern: Pattern,
    content_bytes: usize,
}

#[derive(Debug)]
enum Pattern {
    Literal(String),
    Regex(SysRegex),
}

impl Growth {
    /// The bounds of the steps of a `tokenizer.json`'s normalizer, which have been checked.
    pub(super) fn of(steps: &[Component<'_>]) -> Result<Self, String> {
        let steps = steps.iter().map(Step::of).collect::<Result<Vec<Step>, String>>()?;
        let (factor, added) = steps.iter().fold((1usize, 0usize), |(factor, added), step| {
            let added = added.saturating_mul(step.factor).saturating_add(step.added);
            (factor.saturating_mul(step.factor), added)
        });
        Ok(Self { steps: steps.into(), factor, added })
    }

    /// Refuses a text that the normalizer would make too long.
    pub(super) fn check(&self, text: &str) -> Result<(), String> {
        let limit = limit_of(text.len());
        if text.len().saturating_mul(self.factor).saturating_add(self.added) <= limit || self.steps.is_empty()
        {
            return Ok(());
        }
        let failed = |cause: tokenizers::Error| cause.to_string();
        let mut normalized = NormalizedString::from(text);
        for step in &*self.steps {
            if step.bound(normalized.len()) > limit && step.measure(normalized.get()).map_err(failed)? > limit
            {
                return Err(format!(
                    "the normalizer makes more than {limit} bytes of the {} bytes of a text (limits: {MAX_GROWTH} times its length, and {} MiB)",
                    text.len(),
                    MAX_NORMALIZED_BYTES >> 20
                ));
            }
            step.normalizer.normalize(&mut normalized).map_err(failed)?;
        }
        Ok(())
    }
}

fn limit_of(bytes: usize) -> usize {
    MAX_NORMALIZED_BYTES.min(bytes.saturating_mul(MAX_GROWTH).saturating_add(SLACK_BYTES))
}

impl Step {
    fn of(component: &Component<'_>) -> Result<Self, String> {
        let Component { at, value } = component;
        let failed = |cause: &dyn std::fmt::Display| format!("`{at}`: {cause}");
        let normalizer = serde_json::from_value((*value).clone()).map_err(|cause| failed(&cause))?;
        let text = |key: &str| value.get(key).and_then(Value::as_str);
        let mut step = Self { normalizer, factor: OWN_GROWTH, added: 0, replaced: None };
        if let Some(table) = text("precompiled_charsmap") {
            step.factor = charsmap::check(table).map_err(|problem| failed(&problem))?.max(1);
        } else if let Some(prefix) = text("prepend") {
            (step.factor, step.added) = (1, prefix.len());
        } else if let (Some(pattern), Some(content)) = (value.get("pattern"), text("content")) {
            step.factor = replacement_growth(pattern, content);
            step.added = content.len();
            let pattern = Pattern::of(pattern).map_err(|cause| failed(&cause))?;
            step.replaced = Some(Replaced { pattern, content_bytes: content.len() });
        }
        Ok(step)
    }

    fn bound(&self, bytes: usize) -> usize {
        bytes.saturating_mul(self.factor).saturating_add(self.added)
    }

    /// The length of the result, within a few bytes.
    fn measure(&self, text: &str) -> tokenizers::Result<usize> {
        if let Some(Replaced { pattern, content_bytes }) = &self.replaced {
            let (matches, matched_bytes) = pattern.count(text);
            return Ok(matches.saturating_mul(*content_bytes).saturating_add(text.len() - matched_bytes));
        }
        let mut rest = text;
        let mut bytes = self.added;
        while !rest.is_empty() {
            let mut end = rest.len().min(PART_BYTES);
            while !rest.is_char_boundary(end) {
                end -= 1;
            }
            let (part, after) = rest.split_at(end);
            let mut part = NormalizedString::from(part);
            self.normalizer.normalize(&mut part)?;
            bytes += part.len();
            rest = after;
        }
        Ok(bytes)
    }
}

/// How many bytes a replacement makes of one byte, at most. A regular expression may match every character, or between any two.
pub(super) fn replacement_growth(pattern: &Value, content: &str) -> usize {
    let shortest = pattern.get("String").and_then(Value::as_str).map(str::len);
    match shortest {
        Some(pattern) => content.len().div_ceil(pattern.max(1)).max(1),
        None => content.len() + 1,
    }
}

impl Pattern {
    fn of(pattern: &Value) -> tokenizers::Result<Self> {
        let text = |key: &str| pattern.get(key).and_then(Value::as_str);
        Ok(match text("String") {
            Some(literal) => Self::Literal(literal.to_owned()),
            None => Self::Regex(SysRegex::new(text("Regex").unwrap_or_default())?),
        })
    }

    /// The number of matches and their total length.
    fn count(&self, text: &str) -> (usize, usize) {
        match self {
            Self::Literal(literal) => {
                let matches = text.matches(literal.as_str()).count();
                (matches, matches * literal.len())
            }
            Self::Regex(regex) => {
                let one_more = |(matches, bytes): (usize, usize), (start, end): (usize, usize)| {
                    (matches + 1, bytes + end - start)
                };
                regex.find_iter(text).fold((0, 0), one_more)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn growth(steps: &[Value]) -> Growth {
        let at = || "normalizer".to_owned();
        Growth::of(&steps.iter().map(|value| Component { at: at(), value }).collect::<Vec<_>>()).unwrap()
    }

    fn replace(pattern: &str, content: &str) -> Value {
        json!({"type": "Replace", "pattern": {"String": pattern}, "content": content})
    }

    #[test]
    fn a_chain_of_replacements_is_stopped_before_it_is_applied() {
        let bomb: Vec<Value> = (0..30).map(|_| replace("a", "aaaa")).collect();
        let error = growth(&bomb).check("a").unwrap_err();
        assert!(error.contains("more than 4160 bytes of the 1 bytes"), "{error}");
        growth(&bomb).check("bbb").unwrap();
        let regex = json!({"type": "Replace", "pattern": {"Regex": "(?=.)"}, "content": "x".repeat(100)});
        assert!(growth(&[regex.clone(), regex]).check("abc").is_err());
    }

    #[test]
    fn honest_normalizers_pass() {
        let steps = [
            replace("\n", "<newline>"),
            replace("``", "\""),
            json!({"type": "NFKC"}),
            json!({"type": "Lowercase"}),
            json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "\u{2581}"}),
            json!({"type": "Prepend", "prepend": "\u{2581}"}),
        ];
        let growth = growth(&steps);
        growth.check("").unwrap();
        growth.check(&"\n".repeat(10_000)).unwrap();
        growth.check(&"\u{fdfa}".repeat(1000)).unwrap();
        growth.check(&"many words  of a long text. ".repeat(100_000)).unwrap();
    }

    #[test]
    fn the_length_of_a_step_is_measured() {
        let steps = growth(&[replace("a.", "xyz"), json!({"type": "NFKC"}), json!({"type": "ByteLevel"})]);
        assert_eq!(steps.steps[0].measure("a.b a.").unwrap(), 8);
        assert_eq!(steps.steps[0].measure("ab").unwrap(), 2);
        assert_eq!(steps.steps[1].measure(&"\u{fdfa}".repeat(50_000)).unwrap(), 33 * 50_000);
        assert_eq!(steps.steps[2].measure("é").unwrap(), 4);
        let bound = |step: usize, text: &str| steps.steps[step].bound(text.len());
        assert!(bound(0, "a.b a.") >= 8 && bound(1, "\u{fdfa}") >= 33 && bound(2, "é") >= 4);
    }
}
