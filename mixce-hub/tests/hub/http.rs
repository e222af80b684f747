//! HTTP/1.1 as the hub on loopback speaks it: a request a connection, byte ranges, and answers that break off.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
};

use crate::server::Fault;

/// A request as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    /// `GET`, `HEAD`, `POST` or `PUT`.
    pub(crate) method: String,
    /// The path with its query.
    pub(crate) path: String,
    /// Header names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    /// Whether it came to the storage port.
    pub(crate) storage: bool,
    /// What it brought.
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// What it brought, as JSON.
    pub(crate) fn json(&self) -> Option<serde_json::Value> {
        serde_json::from_slice(&self.body).ok()
    }
}

/// What is sent back.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn refusal(status: u16, code: &str) -> Self {
        let mut headers = vec![("X-Error-Message", format!("words for status {status}."))];
        if !code.is_empty() {
            headers.push(("X-Error-Code", code.to_owned()));
        }
        Self { status, headers, body: Vec::new() }
    }
}

/// Reads a request; `None` when the client said nothing.
pub(crate) fn read_request(stream: &TcpStream, storage: bool) -> std::io::Result<Option<Request>> {
    let mut reader = BufReader::new(stream);
    let mut lines = reader.by_ref().take(64 << 10).lines();
    let Some(first) = lines.next().transpose()? else { return Ok(None) };
    let mut words = first.split(' ').map(str::to_owned);
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(None) };
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length: usize = headers.get("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
    let mut body = Vec::new();
    reader.take(length as u64).read_to_end(&mut body)?;
    Ok(Some(Request { method, path, headers, storage, body }))
}

/// Bytes, from where a `Range` asks for them.
pub(crate) fn send(
    bytes: &[u8],
    mut headers: Vec<(&'static str, String)>,
    request: &Request,
    no_range: bool,
) -> Answer {
    let range = request.header("range").filter(|_| !no_range);
    let Some(start) =
        range.and_then(|text| text.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok())
    else {
        return Answer { status: 200, headers, body: bytes.to_vec() };
    };
    if start >= bytes.len() {
        headers.push(("Content-Range", format!("bytes */{}", bytes.len())));
        return Answer { status: 416, headers, body: Vec::new() };
    }
    headers.push(("Content-Range", format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len())));
    Answer { status: 206, headers, body: bytes[start..].to_vec() }
}

/// Writes an answer, or what a fault leaves of it.
pub(crate) fn write_answer(
    mut stream: TcpStream,
    mut answer: Answer,
    request: &Request,
    fault: Option<&Fault>,
) -> std::io::Result<()> {
    if fault == Some(&Fault::WrongBytes) {
        answer.body.iter_mut().take(1).for_each(|byte| *byte ^= 1);
    }
    if fault == Some(&Fault::TooLong) {
        answer.body.extend_from_slice(b"more");
    }
    let mut head = format!(
        "HTTP/1.1 {} Words\r\nConnection: close\r\nContent-Length: {}\r\n",
        answer.status,
        answer.body.len()
    );
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    let end = match fault {
        Some(Fault::Drop(bytes)) => (*bytes).min(answer.body.len()),
        _ => answer.body.len(),
    };
    if request.method != "HEAD" {
        stream.write_all(&answer.body[..end])?;
    }
    stream.flush()
}
