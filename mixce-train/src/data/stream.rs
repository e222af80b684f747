//! Streams documents through the tokenizer in batches of bounded size.
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use mixce_data::{Document, Input};

use super::encode::{Encode, EncodeSettings, encode_documents};
use super::store::DataCounts;
use crate::error::{Error, Result};

/// Maximum documents per tokenizer batch.
const BATCH_DOCUMENTS: usize = 1024;
/// Bytes of text at which a batch is full.
const BATCH_BYTES: usize = 4 << 20;
/// Batches queued while another one is encoded.
const BATCHES_AHEAD: usize = 1;

/// Calls `sink` with the ids of every usable document in the input's order.
///
/// One thread reads and decompresses while all others encode. At most three batches are in memory. `stop` is checked between batches; if it
/// is true, the result is [`Error::Interrupted`].
pub(super) fn for_each_document(
    input: &Input,
    tokenizer: &dyn Encode,
    settings: EncodeSettings,
    stop: &AtomicBool,
    mut sink: impl FnMut(&[u32]) -> Result<()>,
) -> Result<DataCounts> {
    let mut counts = DataCounts::default();
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel(BATCHES_AHEAD);
        scope.spawn(move || read_batches(input, &sender));
        // On an error the receiver is dropped, which stops the reader.
        for message in receiver {
            if stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            match message {
                Message::Batch(batch) => encode_batch(&batch, tokenizer, settings, &mut counts, &mut sink)?,
                Message::End { bad } => counts.bad = bad,
                Message::Failed(error) => return Err(error),
            }
        }
        Ok(())
    })?;
    if counts.documents == 0 {
        return Err(Error::NoDocuments { name: input.name(), empty: counts.empty, short: counts.short });
    }
    Ok(counts)
}

enum Message {
    Batch(Vec<Document>),
    End { bad: u64 },
    Failed(Error),
}

/// Sends the input's documents; stops if the receiver is dropped.
fn read_batches(input: &Input, sender: &mpsc::SyncSender<Message>) {
    let mut documents = input.documents();
    loop {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < BATCH_DOCUMENTS && bytes < BATCH_BYTES {
            match documents.next() {
                Some(Ok(document)) => {
                    bytes += document.text.len();
                    batch.push(document);
                }
                Some(Err(error)) => {
                    let _ = sender.send(Message::Failed(error.into()));
                    return;
                }
                None => break,
            }
        }
        let last = batch.is_empty();
        let message = if last { Message::End { bad: documents.skipped() } } else { Message::Batch(batch) };
        if sender.send(message).is_err() || last {
            return;
        }
    }
}

/// The failure of a batch, with the first document of it that fails alone.
fn named_failure(
    batch: &[Document],
    tokenizer: &dyn Encode,
    settings: EncodeSettings,
    message: String,
) -> Error {
    let alone = |document: &&Document| {
        let is_empty = document.text.trim().is_empty();
        !is_empty && encode_documents(tokenizer, &[document.text.as_str()], settings).is_err()
    };
    let place = |document: &Document| format!("`{}` {}", document.path.display(), document.place);
    let document = batch.iter().find(alone).or(batch.first()).map(place).unwrap_or_default();
    Error::Tokenize { document, message }
}

fn encode_batch(
    batch: &[Document],
    tokenizer: &dyn Encode,
    settings: EncodeSettings,
    counts: &mut DataCounts,
    sink: &mut dyn FnMut(&[u32]) -> Result<()>,
) -> Result<()> {
    let texts: Vec<&str> = batch.iter().map(|d| d.text.as_str()).filter(|t| !t.trim().is_empty()).collect();
    counts.empty += (batch.len() - texts.len()) as u64;
    let encoded = encode_documents(tokenizer, &texts, settings)
        .map_err(|message| named_failure(batch, tokenizer, settings, message))?;
    for (ids, cut) in encoded {
        if ids.len() < 2 {
            counts.short += 1;
            continue;
        }
        counts.truncated += u64::from(cut);
        counts.documents += 1;
        counts.tokens += ids.len() as u64;
        sink(&ids)?;
    }
    Ok(())
}
