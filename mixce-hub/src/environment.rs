//! The settings of the hub client, with the same names and meanings as in the Python tools.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use mixce_base::files::read_limited;

use crate::error::{Error, Result};

/// The public hub.
pub const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// An access token. It can be sent but not shown: `Debug` prints a placeholder and there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Parses a token; surrounding white space is dropped. `origin` is its source, for error messages.
    ///
    /// # Errors
    /// [`Error::InvalidToken`] if it contains anything but visible ASCII characters.
    pub fn new(text: &str, origin: &str) -> Result<Self> {
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Error::InvalidToken { origin: origin.to_owned() });
        }
        Ok(Self(text.to_owned()))
    }

    /// The token itself, to be sent.
    pub(crate) fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

/// How failed requests are retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retries {
    /// Maximum consecutive attempts without progress, the first included.
    pub attempts: u32,
    /// Delay before the second attempt; doubles each time.
    pub first_delay: Duration,
    /// The longest accepted `Retry-After`; above it the error is reported immediately.
    pub longest_wait: Duration,
}

impl Default for Retries {
    fn default() -> Self {
        Self { attempts: 4, first_delay: Duration::from_millis(500), longest_wait: Duration::from_secs(60) }
    }
}

/// Everything the hub client takes from the process environment, except the proxy.
///
/// | variable | meaning |
/// | --- | --- |
/// | `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE` | the cache folder; else `$HF_HOME/hub` |
/// | `HF_HOME` | else `$XDG_CACHE_HOME/huggingface`, else `~/.cache/huggingface` |
/// | `HF_ENDPOINT` | the hub's address, [`DEFAULT_ENDPOINT`] |
/// | `HF_TOKEN`, `HUGGING_FACE_HUB_TOKEN` | the access token; else the file `$HF_TOKEN_PATH`, else `$HF_HOME/token` |
/// | `HF_HUB_DISABLE_IMPLICIT_TOKEN` | true: no token is sent |
/// | `HF_HUB_OFFLINE`, `TRANSFORMERS_OFFLINE` | true: no network |
/// | `HF_HUB_ETAG_TIMEOUT`, `HF_HUB_DOWNLOAD_TIMEOUT` | seconds of silence before a request or a transfer is abandoned |
///
/// True is `1`, `on`, `yes` or `true` in any case. An empty variable counts as unset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubEnvironment {
    /// The cache folder, shared with the Python tools.
    pub cache_dir: PathBuf,
    /// The hub's address, without a final `/`.
    pub endpoint: String,
    /// The access token.
    pub token: Option<Token>,
    /// Whether network access is forbidden.
    pub offline: bool,
    /// Timeout for connecting and for the hub's response to a request.
    pub metadata_timeout: Duration,
    /// Timeout for a stalled transfer.
    pub transfer_timeout: Duration,
    /// How failures are retried.
    pub retries: Retries,
}

impl HubEnvironment {
    /// The settings from a function that gives a variable's value.
    ///
    /// # Errors
    ///
    /// [`Error::NoCacheFolder`] if no variable leads to a cache folder, [`Error::InvalidToken`] for a token that is no
    /// token, and [`Error::Io`] if a token file exists but cannot be read.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let get = |name: &str| lookup(name).filter(|value| !value.trim().is_empty());
        let user_home = get("HOME").or_else(|| get("USERPROFILE")).map(PathBuf::from);
        let path = |name: &str| get(name).map(|value| expand_home(&value, user_home.as_deref()));
        let hf_home = path("HF_HOME")
            .or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
            .or_else(|| user_home.as_ref().map(|home| home.join(".cache").join("huggingface")));
        let cache_dir = path("HF_HUB_CACHE")
            .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| hf_home.as_ref().map(|home| home.join("hub")))
            .ok_or(Error::NoCacheFolder)?;
        let flag = |name: &str| get(name).is_some_and(|value| is_true(&value));
        let token_file = path("HF_TOKEN_PATH").or_else(|| hf_home.map(|home| home.join("token")));
        let token = if flag("HF_HUB_DISABLE_IMPLICIT_TOKEN") { None } else { find_token(get, token_file)? };
        let endpoint = get("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        let seconds = |name: &str, default: u64| {
            let given = get(name).and_then(|value| value.trim().parse::<u64>().ok()).filter(|&s| s > 0);
            Duration::from_secs(given.unwrap_or(default))
        };
        Ok(Self {
            cache_dir,
            endpoint: endpoint.trim().trim_end_matches('/').to_owned(),
            token,
            offline: flag("HF_HUB_OFFLINE") || flag("TRANSFORMERS_OFFLINE"),
            metadata_timeout: seconds("HF_HUB_ETAG_TIMEOUT", 15),
            transfer_timeout: seconds("HF_HUB_DOWNLOAD_TIMEOUT", 30),
            retries: Retries::default(),
        })
    }

    /// The settings of this process. Read them once at the start of the program and pass them on.
    ///
    /// # Errors
    ///
    /// As [`HubEnvironment::from_lookup`].
    pub fn from_process() -> Result<Self> {
        Self::from_lookup(|name| std::env::var(name).ok())
    }
}

/// Largest token file; a token has some 40 characters.
const MAX_TOKEN_FILE_BYTES: u64 = 1 << 16;

fn find_token(get: impl Fn(&str) -> Option<String>, file: Option<PathBuf>) -> Result<Option<Token>> {
    for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
        if let Some(value) = get(name) {
            return Token::new(&value, &format!("`{name}`")).map(Some);
        }
    }
    let Some(file) = file else { return Ok(None) };
    let text =
        read_limited(&file, MAX_TOKEN_FILE_BYTES).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    match text.map_err(|error| error.source) {
        Ok(text) if text.trim().is_empty() => Ok(None),
        Ok(text) => Token::new(&text, &format!("the file `{}`", file.display())).map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read the token file", file)(error)),
    }
}

fn is_true(value: &str) -> bool {
    ["1", "on", "yes", "true"].iter().any(|word| value.trim().eq_ignore_ascii_case(word))
}

fn expand_home(value: &str, home: Option<&Path>) -> PathBuf {
    match (value.strip_prefix('~'), home) {
        (Some(""), Some(home)) => home.to_owned(),
        (Some(rest), Some(home)) if rest.starts_with('/') => home.join(&rest[1..]),
        _ => PathBuf::from(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(variables: &[(&str, &str)]) -> HubEnvironment {
        try_resolve(variables).unwrap()
    }

    fn try_resolve(variables: &[(&str, &str)]) -> Result<HubEnvironment> {
        HubEnvironment::from_lookup(|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn cache_folder_has_the_python_precedence() {
        let all = [
            ("HF_HUB_CACHE", "/c"),
            ("HUGGINGFACE_HUB_CACHE", "/o"),
            ("HF_HOME", "/h"),
            ("XDG_CACHE_HOME", "/x"),
            ("HOME", "/u"),
        ];
        for (skip, expected) in
            ["/c", "/o", "/h/hub", "/x/huggingface/hub", "/u/.cache/huggingface/hub"].iter().enumerate()
        {
            assert_eq!(resolve(&all[skip..]).cache_dir, Path::new(expected));
        }
        assert_eq!(resolve(&[("HF_HOME", "~/hf"), ("HOME", "/u")]).cache_dir, Path::new("/u/hf/hub"));
        assert_eq!(
            resolve(&[("HF_HOME", ""), ("HOME", "/u")]).cache_dir,
            Path::new("/u/.cache/huggingface/hub")
        );
        assert!(matches!(try_resolve(&[]), Err(Error::NoCacheFolder)));
    }

    #[test]
    fn endpoint_and_flags() {
        let plain = resolve(&[("HOME", "/u")]);
        assert_eq!((plain.endpoint.as_str(), plain.offline), (DEFAULT_ENDPOINT, false));
        assert_eq!(
            resolve(&[("HOME", "/u"), ("HF_ENDPOINT", "http://127.0.0.1:1/")]).endpoint,
            "http://127.0.0.1:1"
        );
        for (value, offline) in [
            ("1", true),
            ("TRUE", true),
            ("Yes", true),
            ("on", true),
            ("0", false),
            ("", false),
            ("no", false),
        ] {
            assert_eq!(resolve(&[("HOME", "/u"), ("HF_HUB_OFFLINE", value)]).offline, offline, "{value}");
        }
        assert!(resolve(&[("HOME", "/u"), ("TRANSFORMERS_OFFLINE", "1")]).offline);
        assert_eq!(
            resolve(&[("HOME", "/u"), ("HF_HUB_DOWNLOAD_TIMEOUT", "7")]).transfer_timeout,
            Duration::from_secs(7)
        );
    }

    #[test]
    fn token_comes_from_variable_then_file_and_is_never_shown() {
        let home = tempfile::tempdir().unwrap();
        let other = home.path().join("other");
        std::fs::write(home.path().join("token"), "hf_file\n").unwrap();
        std::fs::write(&other, "hf_other").unwrap();
        let hf_home = ("HF_HOME", home.path().to_str().unwrap());
        let token_of =
            |variables: &[(&str, &str)]| resolve(variables).token.map(|token| token.secret().to_owned());
        assert_eq!(token_of(&[hf_home]).as_deref(), Some("hf_file"));
        assert_eq!(
            token_of(&[hf_home, ("HF_TOKEN_PATH", other.to_str().unwrap())]).as_deref(),
            Some("hf_other")
        );
        assert_eq!(token_of(&[hf_home, ("HF_TOKEN", " hf_env ")]).as_deref(), Some("hf_env"));
        assert_eq!(token_of(&[hf_home, ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
        assert_eq!(token_of(&[("HOME", "/nowhere")]), None);
        let shown = format!("{:?}", resolve(&[hf_home]));
        assert!(shown.contains("Token(hidden)") && !shown.contains("hf_file"), "{shown}");
        let error = try_resolve(&[hf_home, ("HF_TOKEN", "hf_secret word")]).unwrap_err();
        assert!(
            !error.to_string().contains("hf_secret") && error.to_string().contains("`HF_TOKEN`"),
            "{error}"
        );
    }
}
