//! Maps the hub's HTTP error responses to errors.

use std::{io::Read, time::Duration};

use crate::{
    error::Error,
    http::{Answer, text_header},
    source::{DEFAULT_REVISION, RepositoryId},
};

/// Maximum size of an error page.
const MAX_BODY_BYTES: u64 = 16 << 10;
/// Maximum length of a server message, in characters.
const MAX_MESSAGE_CHARS: usize = 300;

/// The request, for the error message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question<'a> {
    pub(crate) endpoint: &'a str,
    pub(crate) token_sent: bool,
    pub(crate) id: &'a RepositoryId,
    /// The action: `read`, `write to`.
    pub(crate) action: &'static str,
    /// The file, if the request was for one.
    pub(crate) file: Option<&'a str>,
}

/// An error response.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: u16,
    url: String,
    code: Option<String>,
    message: Option<String>,
    retry_after: Option<Duration>,
}

impl Refusal {
    /// Reads the headers and the beginning of the body. `url` is the address that was asked, not where it led: a signed
    /// address does not belong into a message.
    pub(crate) fn read(answer: Answer, url: &str) -> Self {
        let status = answer.status().as_u16();
        let header = |name: &str| text_header(answer.headers(), name);
        let (code, message) = (header("x-error-code"), header("x-error-message"));
        let retry_after =
            header("retry-after").and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
        let message = message.or_else(|| {
            let mut body = Vec::new();
            answer.into_body().into_reader().take(MAX_BODY_BYTES).read_to_end(&mut body).ok()?;
            let value: serde_json::Value = serde_json::from_slice(&body).ok()?;
            Some(value.get("error")?.as_str()?.to_owned())
        });
        Self { status, url: url.to_owned(), code, message, retry_after }
    }

    /// The error for a storage server's response, which has no repository information.
    pub(crate) fn plain(self, endpoint: &str) -> Error {
        let message = self.message.map(|text| tidy(&text)).filter(|text| !text.is_empty());
        match self.status {
            429 => Error::RateLimited { endpoint: endpoint.to_owned(), retry_after: self.retry_after },
            status => Error::Status { url: self.url, status, message },
        }
    }

    /// What the refusal means for the question. The hub's error code counts more than the status: it answers 401, not
    /// 404, to an anonymous question about a model that does not exist.
    pub(crate) fn explain(self, question: &Question<'_>) -> Error {
        let endpoint = question.endpoint.to_owned();
        let repository = question.id.repository().to_owned();
        let revision = question.id.revision().to_owned();
        let (token_sent, action, kind) = (question.token_sent, question.action, question.id.kind());
        let message = self.message.map(|text| tidy(&text)).filter(|text| !text.is_empty());
        let gated = self.code.as_deref() == Some("GatedRepo");
        match (self.code.as_deref(), self.status, question.file) {
            (Some("RepoNotFound"), ..) => Error::RepositoryNotFound { endpoint, kind, repository },
            (Some("RevisionNotFound"), ..) => {
                Error::RevisionNotFound { endpoint, kind, repository, revision }
            }
            (_, 401, _) if !gated => {
                Error::Unauthorized { endpoint, action, repository, token_sent, message }
            }
            (_, 401 | 403, _) => {
                Error::Forbidden { endpoint, action, repository, token_sent, gated, message }
            }
            (_, 404, Some(file)) => {
                Error::FileNotFound { endpoint, kind, repository, revision, file: file.to_owned() }
            }
            (_, 404, None) if revision == DEFAULT_REVISION => {
                Error::RepositoryNotFound { endpoint, kind, repository }
            }
            (_, 404, None) => Error::RevisionNotFound { endpoint, kind, repository, revision },
            (_, 429, _) => Error::RateLimited { endpoint, retry_after: self.retry_after },
            (_, status, _) => Error::Status { url: self.url, status, message },
        }
    }
}

/// One line without control characters, of bounded length, because a server's message is printed on a terminal.
fn tidy(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars()
        .filter(|c| !c.is_control())
        .take(MAX_MESSAGE_CHARS)
        .collect::<String>()
        .trim_end_matches('.')
        .to_owned()
}

#[cfg(test)]
mod tests {
    use mixce_base::Hint as _;

    use super::*;

    fn explain(status: u16, code: Option<&str>, id: &str, file: Option<&str>) -> Error {
        let refusal = Refusal {
            status,
            url: "http://hub/x".to_owned(),
            code: code.map(str::to_owned),
            message: Some("Words\n\u{1b}[31mof  the server.".to_owned()),
            retry_after: None,
        };
        let id = id.parse().unwrap();
        refusal.explain(&Question {
            endpoint: "http://hub",
            token_sent: false,
            id: &id,
            action: "read",
            file,
        })
    }

    #[test]
    fn statuses_and_codes_are_told_apart() {
        let said = |error: Error| error.to_string();
        assert_eq!(
            said(explain(401, Some("RepoNotFound"), "a/b", None)),
            "http://hub has no model `a/b`, or it is private"
        );
        assert_eq!(said(explain(404, None, "a/b", None)), "http://hub has no model `a/b`, or it is private");
        assert_eq!(
            said(explain(404, None, "a/b@v2", None)),
            "http://hub has no revision `v2` of a model `a/b`"
        );
        assert_eq!(
            said(explain(404, Some("EntryNotFound"), "a/b", Some("x"))),
            "the model `a/b` has no file `x` at revision `main` on http://hub"
        );
        assert_eq!(
            said(explain(401, None, "a/b", None)),
            "http://hub asks for a login to read `a/b`: Words [31mof the server"
        );
        assert!(
            said(explain(403, Some("GatedRepo"), "a/b", Some("x")))
                .contains("an anonymous user read `a/b`, which is gated")
        );
        assert!(explain(401, Some("GatedRepo"), "a/b", Some("x")).hint().unwrap().contains("http://hub/a/b"));
        assert!(explain(503, None, "a/b", None).is_transient());
        assert!(!explain(403, None, "a/b", None).is_transient());
    }
}
