//! What the published data sets put into their texts on top of the tokenisation.

/// Takes the marks off WikiText's joined tokens: ` @-@ `, ` @,@ ` and ` @.@ ` become `-`, `,` and `.`.
///
/// All ` @` go first, then all `@ `, as in the MixCE authors' two `sed` commands; an `@` that stands alone in a text loses a space with it.
///
/// ```
/// assert_eq!(mixce_data::moses::wikitext_markers("1 @,@ 200 @.@ 5 well @-@ known"), "1,200.5 well-known");
/// ```
#[must_use]
pub fn wikitext_markers(line: &str) -> String {
    if !line.contains('@') {
        return line.to_owned();
    }
    line.replace(" @", "").replace("@ ", "")
}

/// Resolves the marks of WritingPrompts: `<newline>` becomes a space, ` `` ` and `''` become `"`.
///
/// ```
/// assert_eq!(mixce_data::moses::writing_prompt_marks("`` Go ! '' <newline> She went ."), "\" Go ! \"   She went .");
/// ```
#[must_use]
pub fn writing_prompt_marks(line: &str) -> String {
    line.replace("<newline>", " ").replace("``", "\"").replace("''", "\"")
}
