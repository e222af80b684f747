//! Uploads large files to the hub's storage with the git LFS protocol.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Cursor, Read, Seek, SeekFrom},
    path::PathBuf,
    sync::OnceLock,
};

use mixce_base::digest::{hex, sha256};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    error::{Error, Result},
    progress::{FetchProgress, FileProgress, FileState},
    remote::Remote,
    send::LFS_JSON,
    source::RepositoryId,
};

/// A file to upload.
#[derive(Debug)]
pub(crate) struct LocalFile {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    content: Content,
    sha256: OnceLock<String>,
}

#[derive(Debug)]
enum Content {
    Disk(PathBuf),
    Memory(Vec<u8>),
}

impl LocalFile {
    pub(crate) fn on_disk(name: String, path: PathBuf) -> Result<Self> {
        let bytes = std::fs::metadata(&path).map_err(Error::io("read", &path))?.len();
        Ok(Self { name, bytes, content: Content::Disk(path), sha256: OnceLock::new() })
    }

    pub(crate) fn in_memory(name: String, content: Vec<u8>) -> Self {
        let bytes = content.len() as u64;
        Self { name, bytes, content: Content::Memory(content), sha256: OnceLock::new() }
    }

    /// The bytes from `start` on, `length` at most.
    pub(crate) fn open(&self, start: u64, length: u64) -> Result<Box<dyn Read + Send>> {
        match &self.content {
            Content::Memory(bytes) => {
                let start = (start as usize).min(bytes.len());
                Ok(Box::new(Cursor::new(bytes[start..].to_vec()).take(length)))
            }
            Content::Disk(path) => {
                let mut file = File::open(path).map_err(Error::io("open", path))?;
                file.seek(SeekFrom::Start(start)).map_err(Error::io("read", path))?;
                Ok(Box::new(file.take(length)))
            }
        }
    }

    /// The first bytes.
    pub(crate) fn head(&self, length: usize) -> Result<Vec<u8>> {
        let mut head = Vec::new();
        self.open(0, length as u64)?.read_to_end(&mut head).map_err(Error::io("read", &self.name))?;
        Ok(head)
    }

    /// All bytes; for small files.
    pub(crate) fn content(&self) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        self.open(0, self.bytes)?.read_to_end(&mut all).map_err(Error::io("read", &self.name))?;
        Ok(all)
    }

    /// SHA-256 in hexadecimal, computed once.
    pub(crate) fn sha256(&self) -> Result<&str> {
        if let Some(known) = self.sha256.get() {
            return Ok(known);
        }
        let digest = sha256(&mut self.open(0, self.bytes)?).map_err(Error::io("read", &self.name))?;
        Ok(self.sha256.get_or_init(|| hex(&digest)))
    }
}

/// The storage's instructions for a file.
#[derive(Debug, Deserialize)]
struct Object {
    oid: String,
    #[serde(default)]
    actions: BTreeMap<String, Action>,
    #[serde(default)]
    error: Option<ObjectError>,
}

#[derive(Debug, Deserialize)]
struct ObjectError {
    #[serde(default)]
    code: u16,
    #[serde(default)]
    message: String,
}

#[derive(Debug, Deserialize)]
struct Action {
    href: String,
    #[serde(default)]
    header: BTreeMap<String, Value>,
}

/// Uploads files to the storage; returns the number of bytes sent.
pub(crate) fn upload(
    remote: &Remote,
    id: &RepositoryId,
    files: &[&LocalFile],
    progress: &mut dyn FetchProgress,
) -> Result<u64> {
    let mut sent = 0;
    for file in files {
        let path = format!("{}.git/info/lfs/objects/batch", id.repository());
        let question = json!({
            "operation": "upload",
            "transfers": ["basic", "multipart"],
            "hash_algo": "sha256",
            "objects": [{"oid": file.sha256()?, "size": file.bytes}],
        });
        #[derive(Deserialize)]
        struct Answer {
            objects: Vec<Object>,
        }
        let answer: Answer = remote.post_for(id, &path, LFS_JSON, question.to_string().as_bytes())?;
        let oid = file.sha256()?;
        let Some(object) = answer.objects.into_iter().find(|object| object.oid == oid) else {
            return Err(remote.malformed(&path, &format!("nothing about `{}`", file.name)));
        };
        if let Some(error) = object.error {
            let message = format!("`{}`: {}", file.name, error.message);
            return Err(Error::Status {
                url: remote.url(&path)?.to_string(),
                status: error.code,
                message: Some(message),
            });
        }
        let report = |state, done, progress: &mut dyn FetchProgress| {
            let (name, bytes_total) = (file.name.as_str(), Some(file.bytes));
            progress.update(&FileProgress { name, bytes_done: done, bytes_total, state });
        };
        let Some(action) = object.actions.get("upload") else {
            report(FileState::Cached, file.bytes, progress);
            continue;
        };
        report(FileState::Transferring, 0, progress);
        send(remote, file, action, progress)?;
        if let Some(verify) = object.actions.get("verify") {
            let question = json!({"oid": oid, "size": file.bytes}).to_string();
            remote.post_action(&verify.href, &text_headers(verify), question.as_bytes())?;
        }
        sent += file.bytes;
        report(FileState::Complete, file.bytes, progress);
    }
    Ok(sent)
}

/// Sends a file in one request, or in the parts for which the storage has given addresses.
fn send(remote: &Remote, file: &LocalFile, action: &Action, progress: &mut dyn FetchProgress) -> Result<()> {
    let Some(part_bytes) = action.header.get("chunk_size") else {
        let headers = text_headers(action);
        return remote.put(&action.href, &headers, file, 0..file.bytes).map(|_| ());
    };
    let malformed =
        |what: &str| Error::Malformed { url: without_query(&action.href), reason: what.to_owned() };
    let part_bytes: u64 = part_bytes
        .as_u64()
        .or_else(|| part_bytes.as_str()?.parse().ok())
        .filter(|&n| n > 0)
        .ok_or_else(|| malformed("`chunk_size` is not a positive number"))?;
    let mut parts: Vec<(u64, &str)> =
        action.header.iter().filter_map(|(name, url)| Some((name.parse().ok()?, url.as_str()?))).collect();
    parts.sort_unstable();
    if parts.len() as u64 != file.bytes.div_ceil(part_bytes) {
        return Err(malformed("the number of parts does not match the file"));
    }
    let mut done = Vec::new();
    for (index, (number, url)) in (0u64..).zip(parts) {
        let start = index * part_bytes;
        let end = (start + part_bytes).min(file.bytes);
        let etag = remote.put(url, &BTreeMap::new(), file, start..end)?;
        let etag = etag.ok_or_else(|| malformed("a part was taken without an `ETag`"))?;
        done.push(json!({"partNumber": number, "etag": etag}));
        let (name, bytes_total) = (file.name.as_str(), Some(file.bytes));
        let state = FileState::Transferring;
        progress.update(&FileProgress { name, bytes_done: end, bytes_total, state });
        if progress.stopped() {
            return Err(Error::Stopped { file: file.name.clone() });
        }
    }
    let whole = json!({"oid": file.sha256()?, "parts": done}).to_string();
    remote.post_action(&action.href, &BTreeMap::new(), whole.as_bytes())
}

fn text_headers(action: &Action) -> BTreeMap<String, String> {
    action
        .header
        .iter()
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// A signed address without its signature, for messages.
pub(crate) fn without_query(url: &str) -> String {
    url.split('?').next().unwrap_or_default().to_owned()
}
