use super::*;

/// Cases written from the rules by hand, each for one rule or one trap.
const CASES: &[(&str, &str)] = &[
    // Closing punctuation, alone and in runs.
    ("the end .", "the end."),
    ("well , yes ; no : 5 % ?!", "well, yes; no: 5%?!"),
    ("a ) ] } b", "a)]} b"),
    ("wait ...", "wait..."),
    ("a \\ b", "a\\ b"),
    // Brackets and currency open.
    ("( a ) [ b ] { c }", "(a) [b] {c}"),
    ("$ 5 and £ 6 and € 7", "$5 and £6 and €7"),
    ("US $ 5", "US $5"),
    ("¿ Qué ? ¡ Ya !", "¿Qué? ¡Ya!"),
    ("( ( a ) )", "((a))"),
    // Clitics.
    ("it 's Tom 've I 'm we 'll", "it's Tom've I'm we'll"),
    ("do n't", "do n't"),
    (", 's", ", 's"),
    ("1990 's", "1990's"),
    ("x² 's", "x² 's"),
    ("' 's", "''s"),
    ("' tis", "'tis"),
    ("'Tis", "'Tis"),
    // Double quotes, counted.
    ("\" a \" \" b \"", "\"a\" \"b\""),
    ("say \" yes", "say \"yes"),
    ("a \" b \" c \" d", "a \"b\" c \"d"),
    // Low and left curly quotes share the counter of ", the right one is a word.
    ("\u{201e} a \u{201c} b", "\u{201e}a\u{201c} b"),
    ("\u{201c} a \u{201d} b", "\u{201c}a \u{201d} b"),
    ("\u{201c} a \"", "\u{201c}a\""),
    // Single quotes: plural genitive, own counter.
    ("the dogs ' bowls", "the dogs' bowls"),
    ("' a ' b", "'a' b"),
    ("the cats ' and ' b '", "the cats' and 'b'"),
    ("' us ' x", "'us' x"),
    // Backticks and doubled apostrophes are spelt apart, so each has its own counter.
    ("` a ` b", "`a` b"),
    ("'' a '' b", "''a'' b"),
    ("`` a '' b", "``a ''b"),
    // Hyphens.
    ("well @-@ known @-@ fact", "well-known-fact"),
    ("@-@ a", "-a"),
    ("1 @,@ 200 @.@ 5", "1 @,@ 200 @.@ 5"),
    ("a -- b - c \u{2014} d", "a -- b - c \u{2014} d"),
    ("a \u{2019}s b", "a \u{2019}s b"),
    // Entities, in order: &amp; comes last and is not read twice.
    ("&lt; b &gt; &amp;", "< b > &"),
    ("&amp;lt;", "&lt;"),
    ("&quot; a &quot;", "\"a\""),
    ("it &apos;s", "it's"),
    ("&#91; a &#93; &bra; b &ket; &#124; &bar;", "[a] [b] | |"),
    // Spaces: an empty field takes the last rule and resets a pending no-space.
    ("(  double", "( double"),
    ("a  .", "a ."),
    ("\"  a", "\" a"),
    ("  a   b  ", "a b"),
    ("a\tb .", "a\tb."),
    ("a\u{a0}b .", "a\u{a0}b."),
    // Lines that pass through.
    ("", ""),
    ("   ", "   "),
    ("<doc id= 3 >", "<doc id= 3 >"),
    ("<unk> was a <unk>", "<unk> was a <unk>"),
    ("<>", "<>"),
    ("<unk> was here .", "<unk> was here."),
    // CJK glues.
    ("日本 語 です", "日本語です"),
    ("in 日本 語 .", "in 日本語."),
    ("日本 and 語", "日本 and 語"),
    ("( 日本 )", "(日本)"),
    // Tags and markup of WritingPrompts.
    ("[ WP ] You wake up .", "[WP] You wake up."),
    ("[ WP ] \" Run ! \" she said .", "[WP] \"Run!\" she said."),
];

#[test]
fn each_rule_and_each_trap() {
    for (tokenized, plain) in CASES {
        assert_eq!(detokenize(tokenized), *plain, "{tokenized:?}");
    }
}

#[test]
fn lines_of_the_fixture() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/moses/lines.jsonl");
    let text = std::fs::read_to_string(path).unwrap();
    let mut kinds = std::collections::BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        let word = |key: &str| row[key].as_str().unwrap().to_owned();
        let prepared = match word("kind").as_str() {
            "wikitext" => wikitext_markers(&word("tokenized")),
            "writingprompts" => writing_prompt_marks(&word("tokenized")),
            _ => word("tokenized"),
        };
        assert_eq!(detokenize(&prepared), word("plain"), "line {}: {line}", number + 1);
        *kinds.entry(word("kind")).or_insert(0) += 1;
    }
    assert!(
        kinds["wikitext"] >= 100 && kinds["writingprompts"] >= 100 && kinds["awkward"] >= 40,
        "{kinds:?}"
    );
}

proptest::proptest! {
    #[test]
    fn nothing_but_spaces_is_lost_or_added(line in "[a-z0-9.,'\"()$ \u{201e}\u{4e00}-\u{4e05}]{0,60}") {
        let bare = |text: &str| text.replace(' ', "");
        proptest::prop_assert_eq!(bare(&detokenize(&line)), bare(&line));
    }

    #[test]
    fn any_line_is_taken(line in "\\PC{0,80}") {
        let _ = detokenize(&line);
    }
}
