//! Texts in HTML and SVG.

/// Text for an element or a quoted attribute: markup characters as references.
///
/// Characters that would be invisible or turn the direction of the text around them (controls, bidirectional overrides, zero-width ones) are
/// shown as their code points, `[U+202E]`: a reader of samples wants to see them. Line feeds, tabs, and joiners, which emoji and several scripts
/// need, stay.
#[must_use]
pub(crate) fn html(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + text.len() / 16);
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' | '\t' => escaped.push(character),
            _ if is_invisible(character) => escaped.push_str(&format!("[U+{:04X}]", u32::from(character))),
            _ => escaped.push(character),
        }
    }
    escaped
}

fn is_invisible(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{061c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}'
                | '\u{2060}' | '\u{2066}'..='\u{2069}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{fffe}' | '\u{ffff}'
        )
}

#[cfg(test)]
mod tests {
    use super::html;

    #[test]
    fn markup_is_shown_and_not_obeyed() {
        assert_eq!(
            html("<script>alert('1' && \"2\")</script>"),
            "&lt;script&gt;alert(&#39;1&#39; &amp;&amp; &quot;2&quot;)&lt;/script&gt;"
        );
        assert_eq!(html("a\u{202e}b\u{0}c\r\n\td"), "a[U+202E]b[U+0000]c[U+000D]\n\td");
        // A family of four, joined; an accent of its own.
        let text = "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467} e\u{301} \u{5d0}";
        assert_eq!(html(text), text);
    }
}
