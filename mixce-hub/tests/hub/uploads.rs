//! The half of the hub that takes things in: repositories, commits, and its storage.

use std::collections::BTreeMap;

use base64::Engine as _;
use serde_json::{Value, json};

use crate::{
    http::{Answer, Request},
    server::{State, Storage, etag},
};

/// What has been made and sent.
#[derive(Default)]
pub(crate) struct Uploads {
    /// Repositories made here, and whether they are private.
    pub(crate) repositories: BTreeMap<String, bool>,
    /// Objects of the storage by SHA-256.
    objects: BTreeMap<String, Vec<u8>>,
    /// Parts on their way.
    parts: BTreeMap<(String, u64), Vec<u8>>,
    /// Bytes of a part; 0: files are sent whole.
    pub(crate) part_bytes: usize,
    /// Summaries of the commits.
    pub(crate) commits: Vec<String>,
}

fn ok(body: &Value) -> Answer {
    let headers = vec![("Content-Type", "application/json".to_owned())];
    Answer { status: 200, headers, body: body.to_string().into_bytes() }
}

/// Answers a `POST` to the hub.
pub(crate) fn post(state: &mut State, request: &Request, hub_port: u16, storage_port: u16) -> Option<Answer> {
    let path = request.path.trim_start_matches('/').to_owned();
    if path == "api/repos/create" {
        return create(state, &request.json()?);
    }
    if let Some((repository, _)) = path.split_once(".git/info/lfs/") {
        if path.ends_with("/verify") {
            let asked = request.json()?;
            let there = state.uploads.objects.get(asked["oid"].as_str()?);
            let whole = there.is_some_and(|bytes| asked["size"] == bytes.len());
            return Some(if whole { ok(&json!({})) } else { Answer::refusal(404, "") });
        }
        let verify = format!("http://127.0.0.1:{hub_port}/{repository}.git/info/lfs/verify");
        return batch(state, &request.json()?, &verify, storage_port);
    }
    let rest = path.strip_prefix("api/models/")?;
    if let Some((repository, _)) = rest.split_once("/preupload/") {
        if !state.uploads.repositories.contains_key(repository) {
            return Some(Answer::refusal(404, "RepoNotFound"));
        }
        return Some(preupload(&request.json()?));
    }
    let (repository, branch) = rest.split_once("/commit/")?;
    commit(state, repository, branch, &request.body)
}

fn create(state: &mut State, asked: &Value) -> Option<Answer> {
    let name = asked["name"].as_str()?;
    let owner = asked.get("organization").and_then(Value::as_str);
    let repository = owner.map_or_else(|| name.to_owned(), |owner| format!("{owner}/{name}"));
    if state.uploads.repositories.contains_key(&repository) {
        return Some(Answer::refusal(409, ""));
    }
    state.uploads.repositories.insert(repository, asked["private"].as_bool()?);
    Some(ok(&json!({"url": "x"})))
}

fn preupload(asked: &Value) -> Answer {
    let files = asked["files"].as_array().into_iter().flatten().map(|file| {
        let large = file["path"].as_str().is_some_and(|path| path.ends_with(".safetensors"));
        json!({"path": file["path"], "uploadMode": if large { "lfs" } else { "regular" }, "shouldIgnore": false})
    });
    ok(&json!({"files": files.collect::<Vec<_>>()}))
}

fn batch(state: &State, asked: &Value, verify: &str, storage_port: u16) -> Option<Answer> {
    let mut objects = Vec::new();
    for object in asked["objects"].as_array()? {
        let (oid, size) = (object["oid"].as_str()?, object["size"].as_u64()? as usize);
        let mut told = json!({"oid": oid, "size": size});
        if !state.uploads.objects.contains_key(oid) {
            let storage = format!("http://127.0.0.1:{storage_port}/upload/{oid}");
            let mut upload =
                json!({"href": format!("{storage}?signature=secret"), "header": {"X-Kind": "whole"}});
            if state.uploads.part_bytes > 0 {
                upload["header"] = json!({"chunk_size": state.uploads.part_bytes.to_string()});
                for part in 1..=size.div_ceil(state.uploads.part_bytes) {
                    upload["header"][format!("{part:05}")] =
                        format!("{storage}/{part}?signature=secret").into();
                }
            }
            told["actions"] = json!({"upload": upload, "verify": {"href": verify, "header": {}}});
        }
        objects.push(told);
    }
    Some(ok(&json!({"transfer": "basic", "objects": objects})))
}

/// Answers a request to the storage that brings something.
pub(crate) fn store(state: &mut State, request: &Request) -> Option<Answer> {
    let path = request.path.split('?').next()?.strip_prefix("/upload/")?;
    let mut answer = ok(&json!({}));
    if request.method == "POST" {
        let oid = path.to_owned();
        let parts = request.json()?["parts"].as_array()?.clone();
        let mut whole = Vec::new();
        for part in parts {
            let number = part["partNumber"].as_u64()?;
            let bytes = state.uploads.parts.get(&(oid.clone(), number))?;
            if part["etag"] != format!("\"etag-{number}\"") {
                return Some(Answer::refusal(400, ""));
            }
            whole.extend_from_slice(bytes);
        }
        return Some(keep(state, &oid, whole));
    }
    match path.split_once('/') {
        None => return Some(keep(state, path, request.body.clone())),
        Some((oid, part)) => {
            let number = part.parse().ok()?;
            answer.headers.push(("ETag", format!("\"etag-{number}\"")));
            state.uploads.parts.insert((oid.to_owned(), number), request.body.clone());
        }
    }
    Some(answer)
}

fn keep(state: &mut State, oid: &str, bytes: Vec<u8>) -> Answer {
    if etag(Storage::Large, &bytes) != oid {
        return Answer::refusal(400, "");
    }
    state.uploads.objects.insert(oid.to_owned(), bytes);
    ok(&json!({}))
}

fn commit(state: &mut State, repository: &str, branch: &str, body: &[u8]) -> Option<Answer> {
    let number = state.uploads.commits.len() + 1;
    let commit = format!("{number:040x}");
    let mut files = BTreeMap::new();
    let mut summary = String::new();
    for line in std::str::from_utf8(body).ok()?.lines() {
        let row: Value = serde_json::from_str(line).ok()?;
        let value = &row["value"];
        match row["key"].as_str()? {
            "header" => summary = value["summary"].as_str()?.to_owned(),
            "file" => {
                let content =
                    base64::engine::general_purpose::STANDARD.decode(value["content"].as_str()?).ok()?;
                files.insert(value["path"].as_str()?.to_owned(), (Storage::Git, content));
            }
            "lfsFile" => {
                let object = state.uploads.objects.get(value["oid"].as_str()?)?;
                if value["size"] != object.len() {
                    return Some(Answer::refusal(400, ""));
                }
                files.insert(value["path"].as_str()?.to_owned(), (Storage::Large, object.clone()));
            }
            _ => return None,
        }
    }
    state.uploads.commits.push(summary);
    state.files.insert((repository.to_owned(), commit.clone()), files);
    state.branches.insert((repository.to_owned(), branch.to_owned()), commit.clone());
    Some(ok(&json!({"commitOid": commit, "commitUrl": "x"})))
}
