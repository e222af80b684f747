//! Uploads a folder to the hub: creates the repository if necessary, uploads the files, and adds them all in one commit.
//!
//! Small files are sent inside the commit, large ones are uploaded to the hub's storage first (git LFS, in one request or in parts). Objects
//! already in the storage are not sent again, so an interrupted push is cheap to repeat.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Hub,
    error::{Error, Result},
    files::check_name,
    progress::{FetchProgress, FileProgress, FileState},
    remote::Remote,
    source::RepositoryId,
    upload::{self, LocalFile},
};

/// Bytes of a file that the hub uses to detect text.
const SAMPLE_BYTES: usize = 512;
/// Files per request.
const FILES_A_QUESTION: usize = 256;
/// An upload and its target.
#[derive(Debug, Clone)]
pub struct PushRequest<'a> {
    /// The folder; hidden files and folders are not uploaded.
    pub folder: &'a Path,
    /// Additional files, not in the folder: name and content.
    pub extra: Vec<(String, Vec<u8>)>,
    /// The repository and its branch.
    pub id: &'a RepositoryId,
    /// Whether a new repository is private. Existing ones are unchanged.
    pub private: bool,
    /// The commit's first line.
    pub message: &'a str,
}

/// The result of a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// The commit, as the hub names it.
    pub commit: String,
    /// The repository in a browser.
    pub url: String,
    /// Whether it was made.
    pub created: bool,
    /// The files of the commit.
    pub files: Vec<String>,
    /// Bytes sent to the storage, without objects that were already there.
    pub uploaded_bytes: u64,
}

impl Hub {
    /// Uploads a folder as one commit.
    ///
    /// # Errors
    ///
    /// [`Error::NoNetwork`] when offline, [`Error::NoToken`] without a token, [`Error::NothingToPush`] for an empty folder, and what the hub
    /// refuses. Before the commit nothing is visible in the repository.
    pub fn push(&self, request: &PushRequest<'_>, progress: &mut dyn FetchProgress) -> Result<Pushed> {
        let remote = self.remote.as_ref().ok_or(Error::NoNetwork)?;
        if self.environment.token.is_none() {
            return Err(Error::NoToken { endpoint: self.environment.endpoint.clone() });
        }
        let files = local_files(request)?;
        let created = create(remote, request)?;
        let modes = upload_modes(remote, request.id, &files)?;
        let (large, small): (Vec<_>, Vec<_>) = files
            .iter()
            .zip(modes)
            .filter(|(_, mode)| *mode != Mode::Ignored)
            .partition(|(_, mode)| *mode == Mode::Large);
        let large: Vec<&LocalFile> = large.into_iter().map(|(file, _)| file).collect();
        let small: Vec<&LocalFile> = small.into_iter().map(|(file, _)| file).collect();
        let uploaded_bytes = upload::upload(remote, request.id, &large, progress)?;
        let commit = commit(remote, request, &small, &large)?;
        for file in &small {
            let (name, bytes) = (file.name.as_str(), file.bytes);
            let state = FileState::Complete;
            progress.update(&FileProgress { name, bytes_done: bytes, bytes_total: Some(bytes), state });
        }
        Ok(Pushed {
            commit,
            url: format!("{}/{}", self.environment.endpoint, request.id.repository()),
            created,
            files: small.iter().chain(&large).map(|file| file.name.clone()).collect(),
            uploaded_bytes,
        })
    }
}

/// How a file is uploaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Small,
    Large,
    Ignored,
}

fn local_files(request: &PushRequest<'_>) -> Result<Vec<LocalFile>> {
    let mut paths = Vec::new();
    collect(request.folder, &mut paths)?;
    let mut files = Vec::new();
    for path in paths {
        let relative = path.strip_prefix(request.folder).unwrap_or(&path);
        let name = relative.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/");
        files.push(LocalFile::on_disk(name, path)?);
    }
    for (name, content) in &request.extra {
        files.retain(|file| file.name != *name);
        files.push(LocalFile::in_memory(name.clone(), content.clone()));
    }
    for file in &files {
        check_name("file", &file.name, request.id.repository())?;
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    if files.is_empty() {
        return Err(Error::NothingToPush { folder: request.folder.to_owned() });
    }
    Ok(files)
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let entry = entry.map_err(Error::io("read", folder))?;
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        let path = entry.path();
        if path.is_dir() {
            collect(&path, paths)?;
        } else {
            paths.push(path);
        }
    }
    Ok(())
}

/// Creates the repository; `false` if it exists.
fn create(remote: &Remote, request: &PushRequest<'_>) -> Result<bool> {
    let (owner, name) = request.id.owner_and_name();
    let mut question = json!({"name": name, "type": "model", "private": request.private});
    if !owner.is_empty() {
        question["organization"] = owner.into();
    }
    let answer =
        remote.post(request.id, "api/repos/create", "application/json", question.to_string().as_bytes());
    match answer {
        Ok(_) => Ok(true),
        Err(Error::Status { status: 409, .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Queries how each file must be uploaded.
fn upload_modes(remote: &Remote, id: &RepositoryId, files: &[LocalFile]) -> Result<Vec<Mode>> {
    #[derive(Deserialize)]
    struct Answer {
        files: Vec<AnswerFile>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct AnswerFile {
        path: String,
        upload_mode: String,
        #[serde(default)]
        should_ignore: bool,
    }
    let path = format!("api/models/{}/preupload/{}", id.repository(), escaped(id.revision()));
    let mut modes = Vec::with_capacity(files.len());
    for some in files.chunks(FILES_A_QUESTION) {
        let mut asked = Vec::new();
        for file in some {
            let sample = BASE64.encode(file.head(SAMPLE_BYTES)?);
            asked.push(json!({"path": file.name, "size": file.bytes, "sample": sample}));
        }
        let question = json!({"files": asked}).to_string();
        let answer: Answer = remote.post_for(id, &path, "application/json", question.as_bytes())?;
        for file in some {
            let Some(told) = answer.files.iter().find(|told| told.path == file.name) else {
                return Err(remote.malformed(&path, &format!("nothing about `{}`", file.name)));
            };
            modes.push(match told.upload_mode.as_str() {
                _ if told.should_ignore => Mode::Ignored,
                "lfs" => Mode::Large,
                "regular" => Mode::Small,
                other => return Err(remote.malformed(&path, &format!("unknown upload mode `{other}`"))),
            });
        }
    }
    Ok(modes)
}

fn commit(
    remote: &Remote,
    request: &PushRequest<'_>,
    small: &[&LocalFile],
    large: &[&LocalFile],
) -> Result<String> {
    let mut lines: Vec<Value> =
        vec![json!({"key": "header", "value": {"summary": request.message, "description": ""}})];
    for file in small {
        let content = BASE64.encode(file.content()?);
        let value = json!({"path": file.name, "content": content, "encoding": "base64"});
        lines.push(json!({"key": "file", "value": value}));
    }
    for file in large {
        let value = json!({"path": file.name, "algo": "sha256", "oid": file.sha256()?, "size": file.bytes});
        lines.push(json!({"key": "lfsFile", "value": value}));
    }
    let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let id = request.id;
    let path = format!("api/models/{}/commit/{}", id.repository(), escaped(id.revision()));
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Answer {
        commit_oid: String,
    }
    let answer: Answer = remote.post_for(id, &path, "application/x-ndjson", body.as_bytes())?;
    Ok(answer.commit_oid)
}

/// A revision as one part of a path.
fn escaped(revision: &str) -> String {
    revision.replace('/', "%2F")
}
