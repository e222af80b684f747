//! Parses one JSON object: the text fields, or the kinds of all fields.
use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::ops::Range;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// What stands under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Text(String),
    Other(Kind),
    /// The key occurs twice in the object.
    Twice,
}

/// What sort of value something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Null,
    Boolean,
    Number,
    String,
    Array,
    /// An array whose first item is an object.
    Objects,
    Object,
}

impl Kind {
    /// The kind of a value that is known to be one, by its first byte.
    pub(super) fn of(bytes: &[u8]) -> Self {
        match bytes.first() {
            Some(b'{') => Self::Object,
            Some(b'[') => Self::Array,
            Some(b'"') => Self::String,
            Some(b't' | b'f') => Self::Boolean,
            Some(b'n') => Self::Null,
            _ => Self::Number,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean => "a boolean",
            Self::Number => "a number",
            Self::String => "a string",
            Self::Array => "an array",
            Self::Objects => "an array of objects",
            Self::Object => "an object",
        }
    }
}

/// The bytes with a number in the place of each of `words`, which JSON does not have.
pub(super) fn without_words(bytes: &[u8], words: &[Range<usize>]) -> Vec<u8> {
    let mut patched = bytes.to_vec();
    for word in words {
        patched[word.clone()].fill(b' ');
        patched[word.start] = b'0';
    }
    patched
}

/// The bytes with a space for every `\u` escape of half a character: the parser refuses half a pair, which says nothing of an object's keys.
fn without_surrogates(bytes: &[u8]) -> Cow<'_, [u8]> {
    let is_half = |at: &usize| {
        matches!(bytes.get(at + 2..at + 4), Some([b'd' | b'D', b'8' | b'9' | b'a'..=b'f' | b'A'..=b'F']))
    };
    let halves: Vec<usize> = memchr::memmem::find_iter(bytes, br"\u").filter(is_half).collect();
    if halves.is_empty() {
        return Cow::Borrowed(bytes);
    }
    let mut plain = bytes.to_vec();
    for at in halves {
        if let Some(digits) = plain.get_mut(at + 2..at + 6) {
            digits.copy_from_slice(b"0020");
        }
    }
    Cow::Owned(plain)
}

/// The fields of an object under some keys, `None` for a key that is not there.
pub(super) fn fields(bytes: &[u8], keys: &[String]) -> serde_json::Result<Vec<Option<Field>>> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let fields = deserializer.deserialize_map(FieldsVisitor(keys))?;
    deserializer.end()?;
    Ok(fields)
}

/// The keys of an object and what they hold.
pub(super) fn kinds(bytes: &[u8]) -> serde_json::Result<Vec<(String, Kind)>> {
    let (found, bytes) = (RefCell::new(Vec::new()), without_surrogates(bytes));
    serde_json::Deserializer::from_slice(&bytes).deserialize_map(KindsVisitor(&found))?;
    Ok(found.into_inner())
}

/// The first key of an object, which may be cut off, that holds an array of objects.
pub(super) fn list_of_rows(bytes: &[u8]) -> Option<String> {
    let found = RefCell::new(Vec::new());
    // An error is expected where the object is truncated: what was seen before counts.
    let _ = serde_json::Deserializer::from_slice(bytes).deserialize_map(KindsVisitor(&found));
    found.into_inner().into_iter().find(|(_, kind)| *kind == Kind::Objects).map(|(key, _)| key)
}

struct FieldsVisitor<'k>(&'k [String]);

impl<'de> Visitor<'de> for FieldsVisitor<'_> {
    type Value = Vec<Option<Field>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = vec![None; self.0.len()];
        while let Some(index) = map.next_key_seed(KeySeed(self.0))? {
            let Some(index) = index else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let field = map.next_value_seed(FieldSeed)?;
            let field = if fields[index].is_some() { Field::Twice } else { field };
            // The same column may be asked for twice.
            for (at, _) in self.0.iter().enumerate().filter(|(_, key)| **key == self.0[index]) {
                fields[at] = Some(field.clone());
            }
        }
        Ok(fields)
    }
}

/// The position of a key among those that are wanted.
struct KeySeed<'k>(&'k [String]);

impl<'de> DeserializeSeed<'de> for KeySeed<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeed<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|wanted| wanted == key))
    }
}

struct FieldSeed;

impl<'de> DeserializeSeed<'de> for FieldSeed {
    type Value = Field;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Field, D::Error> {
        deserializer.deserialize_any(ValueVisitor { is_item: false, keeps_text: true, note: &|_| () })
    }
}

struct KindsVisitor<'f>(&'f RefCell<Vec<(String, Kind)>>);

impl<'de> Visitor<'de> for KindsVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            map.next_value_seed(KindSeed { key, found: self.0 })?;
        }
        Ok(())
    }
}

/// Notes the kind of a value before the value is read to its end.
struct KindSeed<'f> {
    key: String,
    found: &'f RefCell<Vec<(String, Kind)>>,
}

impl<'de> DeserializeSeed<'de> for KindSeed<'_> {
    type Value = Field;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Field, D::Error> {
        let note = |kind| self.found.borrow_mut().push((self.key.clone(), kind));
        deserializer.deserialize_any(ValueVisitor { is_item: false, keeps_text: false, note: &note })
    }
}

/// Takes any value, or the first item of an array.
struct ValueVisitor<'n> {
    is_item: bool,
    keeps_text: bool,
    /// A trait object: as a type parameter it would nest with every item.
    note: &'n dyn Fn(Kind),
}

impl<'de> DeserializeSeed<'de> for ValueVisitor<'_> {
    type Value = Field;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Field, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl ValueVisitor<'_> {
    fn kind(&self, kind: Kind) -> Kind {
        let kind = match (self.is_item, kind) {
            (false, kind) => kind,
            (true, Kind::Object) => Kind::Objects,
            (true, _) => Kind::Array,
        };
        (self.note)(kind);
        kind
    }

    fn simple<E>(self, kind: Kind) -> Result<Field, E> {
        Ok(Field::Other(self.kind(kind)))
    }
}

impl<'de> Visitor<'de> for ValueVisitor<'_> {
    type Value = Field;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Field, E> {
        self.simple(Kind::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Field, E> {
        self.simple(Kind::Boolean)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Field, E> {
        self.simple(Kind::Number)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Field, E> {
        self.simple(Kind::Number)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Field, E> {
        self.simple(Kind::Number)
    }

    fn visit_str<E>(self, text: &str) -> Result<Field, E> {
        let kind = self.kind(Kind::String);
        Ok(if self.keeps_text { Field::Text(text.to_owned()) } else { Field::Other(kind) })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Field, A::Error> {
        let kind = self.kind(Kind::Object);
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Field::Other(kind))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Field, A::Error> {
        if self.is_item {
            self.kind(Kind::Array);
            while items.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(Field::Other(Kind::Array));
        }
        let first = ValueVisitor { is_item: true, keeps_text: false, note: self.note };
        let Some(field) = items.next_element_seed(first)? else { return self.simple(Kind::Array) };
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(object: &str, key: &str) -> Option<Field> {
        fields(object.as_bytes(), &[key.to_owned()]).unwrap().remove(0)
    }

    #[test]
    fn only_the_fields_that_are_wanted_are_kept() {
        let object = r#"{"a":"x","b":[{"c":1}],"d":[1],"e":{},"f":null,"a":"y"}"#;
        assert_eq!(one(object, "a"), Some(Field::Twice));
        assert_eq!(one(object, "b"), Some(Field::Other(Kind::Objects)));
        assert_eq!(one(object, "d"), Some(Field::Other(Kind::Array)));
        assert_eq!(one(object, "e"), Some(Field::Other(Kind::Object)));
        assert_eq!(one(object, "f"), Some(Field::Other(Kind::Null)));
        assert_eq!(one(object, "g"), None);
        assert_eq!(one(r#"{"a":"x \ud83d\ude00"}"#, "a"), Some(Field::Text("x \u{1f600}".into())));
        let twice = fields(br#"{"a":"x"}"#, &["a".to_owned(), "a".to_owned()]).unwrap();
        assert_eq!(twice, [Some(Field::Text("x".into())), Some(Field::Text("x".into()))]);
    }

    #[test]
    fn half_a_surrogate_matters_only_in_the_text() {
        let object = br#"{"a":"\ud83d","b":"fine"}"#;
        assert_eq!(fields(object, &["b".to_owned()]).unwrap(), [Some(Field::Text("fine".into()))]);
        assert_eq!(kinds(object).unwrap(), [("a".to_owned(), Kind::String), ("b".to_owned(), Kind::String)]);
        assert!(fields(object, &["a".to_owned()]).unwrap_err().to_string().contains("hex escape"));
    }

    #[test]
    fn a_list_of_rows_is_found_though_its_end_is_missing() {
        assert_eq!(list_of_rows(br#"{"version":"1","data":[{"text":"a"},{"te"#), Some("data".to_owned()));
        assert_eq!(list_of_rows(br#"{"text":"a","ids":[1,2],"meta":{"x":[{}]}"#), None);
    }

    #[test]
    fn words_of_python_become_numbers() {
        assert_eq!(without_words(b"[NaN,-Infinity]", &[1..4, 5..14]), b"[0  ,0        ]");
    }
}
