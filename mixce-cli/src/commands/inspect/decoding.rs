//! Describes how data files were decoded.

use mixce_data::input::{Archive, Decoding, Layer, Unused};

use crate::output::{grouped, table};

/// Maximum number of files, members and unused files listed; the JSON object has all.
const MAX_LISTED: usize = 20;

/// The distinct formats.
pub(super) fn formats(decodings: &[Decoding]) -> Vec<&'static str> {
    let mut names = Vec::new();
    let members = |file: &'_ Decoding| file.archive.as_ref().map(|archive| archive.used.clone());
    for file in decodings.iter().flat_map(|file| members(file).unwrap_or_else(|| vec![file.clone()])) {
        let name = file.format.map_or("unknown", |format| format.name());
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// One row per file or member, then the unread ones.
pub(super) fn text(decodings: &[Decoding], unused: &[Unused]) -> String {
    let head = ["file", "format", "documents", "compression", "encoding", "LF", "CRLF", "CR"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let mut left_out: Vec<String> = unused.iter().map(told).collect();
    let (mut files, mut uncounted) = (0, unused.len() as u64);
    for file in decodings {
        files += 1;
        push(&mut rows, row(file));
        let Some(Archive { members, used, not_used, unused, .. }) = &file.archive else { continue };
        files += members;
        uncounted += not_used;
        used.iter().for_each(|member| push(&mut rows, row(member)));
        left_out.extend(unused.iter().map(told));
    }
    let shown = rows.len() as u64 - 1;
    let mut text = table(&rows, &[false, false, true, false, false, true, true, true]);
    if files > shown {
        text += &format!("and {} more\n", grouped(files - shown));
    }
    for line in left_out.iter().take(MAX_LISTED) {
        text += &format!("not read: {line}\n");
    }
    if uncounted > MAX_LISTED as u64 {
        text += &format!("and {} more are not read\n", grouped(uncounted - MAX_LISTED as u64));
    }
    text
}

fn push(rows: &mut Vec<Vec<String>>, row: Vec<String>) {
    if rows.len() <= MAX_LISTED {
        rows.push(row);
    }
}

fn told(unused: &Unused) -> String {
    format!("`{}` ({})", unused.path.display(), unused.reason)
}

fn row(file: &Decoding) -> Vec<String> {
    let format = match (&file.archive, file.format) {
        (Some(_), _) => "tar",
        (None, format) => format.map_or("", |format| format.name()),
    };
    let compression: Vec<String> = file.compression.iter().map(layer).collect();
    let mark = if file.byte_order_mark { " with mark" } else { "" };
    let encoding = file.encoding.map_or_else(String::new, |encoding| format!("{}{mark}", encoding.name()));
    let ends = [file.line_ends.lf, file.line_ends.crlf, file.line_ends.cr];
    let mut row = vec![
        file.path.display().to_string(),
        format.to_owned(),
        grouped(file.documents),
        if compression.is_empty() { "none".to_owned() } else { compression.join(" in ") },
        encoding,
    ];
    row.extend(ends.map(|count| if file.encoding.is_none() { String::new() } else { grouped(count) }));
    row
}

/// `zstd (3 frames, 1 skippable, window 2048 MiB)`.
fn layer(layer: &Layer) -> String {
    let mut facts = Vec::new();
    if layer.parts != 1 {
        facts.push(format!("{} parts", grouped(layer.parts)));
    }
    for (count, what) in [
        (layer.skippable, "skippable frames"),
        (layer.padding_bytes, "bytes of padding"),
        (layer.trailing_bytes, "trailing bytes ignored"),
    ] {
        if count > 0 {
            facts.push(format!("{} {what}", grouped(count)));
        }
    }
    if layer.window_bytes >= 1 << 27 {
        facts.push(format!("window {} MiB", grouped(layer.window_bytes >> 20)));
    }
    let facts = if facts.is_empty() { String::new() } else { format!(" ({})", facts.join(", ")) };
    format!("{}{facts}", layer.kind.name())
}
