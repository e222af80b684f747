//! Absolute http(s) addresses: resolving redirects, and recognising the hub's own.

use std::fmt;

use ureq::http::Uri;

/// An absolute `http://` or `https://` address with a host and without fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address(Uri);

impl Address {
    /// Parses an absolute address, escaping invalid characters as browsers do. `None` if it is not one.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.split('#').next().unwrap_or_default();
        let uri: Uri =
            escape(text, |byte| byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte)).parse().ok()?;
        let address = Self(uri);
        let (scheme, host, _) = address.origin();
        (matches!(scheme, "http" | "https") && !host.is_empty()).then_some(address)
    }

    /// Resolves `location` relative to this address ([RFC 3986, section 5](https://www.rfc-editor.org/rfc/rfc3986#section-5)).
    pub(crate) fn join(&self, location: &str) -> Option<Self> {
        let location = location.trim().split('#').next().unwrap_or_default();
        let path_end = location.find(['/', '?']).unwrap_or(location.len());
        if location[..path_end].contains(':') {
            return Self::parse(location);
        }
        let (scheme, path) = (self.0.scheme_str()?, self.0.path());
        let root = format!("{scheme}://{}", self.0.authority()?);
        if location.is_empty() {
            return Some(self.clone());
        }
        if location.starts_with("//") {
            return Self::parse(&format!("{scheme}:{location}"));
        }
        if location.starts_with('?') {
            return Self::parse(&format!("{root}{path}{location}"));
        }
        let folder = if location.starts_with('/') { "" } else { &path[..=path.rfind('/')?] };
        let (given, query) = location.split_at(location.find('?').unwrap_or(location.len()));
        Self::parse(&format!("{root}{}{query}", without_dots(&format!("{folder}{given}"))))
    }

    /// Whether both have the same scheme, host and port.
    pub(crate) fn same_origin(&self, other: &Self) -> bool {
        let ((scheme, host, port), (other_scheme, other_host, other_port)) = (self.origin(), other.origin());
        scheme == other_scheme && host.eq_ignore_ascii_case(other_host) && port == other_port
    }

    /// Whether the host is this machine.
    pub(crate) fn is_loopback(&self) -> bool {
        matches!(self.origin().1, "localhost" | "127.0.0.1" | "[::1]")
    }

    pub(crate) fn uri(&self) -> &Uri {
        &self.0
    }

    fn origin(&self) -> (&str, &str, u16) {
        let scheme = self.0.scheme_str().unwrap_or_default();
        let default_port = if scheme == "https" { 443 } else { 80 };
        (scheme, self.0.host().unwrap_or_default(), self.0.port_u16().unwrap_or(default_port))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A file name as the end of an address, with all characters escaped that are not allowed in a path.
pub(crate) fn escape_path(name: &str) -> String {
    escape(name, |byte| byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@".contains(&byte))
}

fn escape(text: &str, plain: impl Fn(u8) -> bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if plain(byte) {
            escaped.push(char::from(byte));
        } else {
            escaped += &format!("%{byte:02X}");
        }
    }
    escaped
}

/// An absolute path with `.` and `..` resolved.
fn without_dots(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let mut ends_in_folder = false;
    for part in path.split('/').skip(1) {
        ends_in_folder = matches!(part, "" | "." | "..");
        match part {
            "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    if ends_in_folder && parts.last().is_some_and(|last| !last.is_empty()) {
        parts.push("");
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http_addresses_with_a_host_are_read() {
        for text in
            ["", "hub", "hub/x", "ftp://hub", "http://", "http:///x", "mailto:a@b", "/x", "http://a b/"]
        {
            assert_eq!(Address::parse(text), None, "{text}");
        }
        assert_eq!(
            Address::parse("HTTP://hub/ü x?a=\"#part").unwrap().to_string(),
            "http://hub/%C3%BC%20x?a=%22"
        );
    }

    #[test]
    fn locations_are_resolved() {
        let here = Address::parse("https://hub:8443/a/b/c?q=1").unwrap();
        for (location, expected) in [
            ("http://other/x?sig=1%2F2", Some("http://other/x?sig=1%2F2")),
            ("//other/x", Some("https://other/x")),
            ("/x/y", Some("https://hub:8443/x/y")),
            ("d", Some("https://hub:8443/a/b/d")),
            ("../d?e=../f", Some("https://hub:8443/a/d?e=../f")),
            ("../../../d/.", Some("https://hub:8443/d/")),
            ("./", Some("https://hub:8443/a/b/")),
            ("?q=2", Some("https://hub:8443/a/b/c?q=2")),
            ("", Some("https://hub:8443/a/b/c?q=1")),
            ("file:///etc/passwd", None),
            ("javascript:alert(1)", None),
        ] {
            let joined = here.join(location).map(|address| address.to_string());
            assert_eq!(joined.as_deref(), expected, "{location}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let same = |a: &str, b: &str| Address::parse(a).unwrap().same_origin(&Address::parse(b).unwrap());
        assert!(same("https://hub/x", "https://HUB:443/y"));
        assert!(same("http://hub:80", "http://hub"));
        assert!(!same("https://hub", "http://hub"));
        assert!(!same("http://hub", "http://hub:8080"));
        assert!(!same("http://hub", "http://hub.evil"));
    }

    #[test]
    fn names_are_escaped_within_their_folders() {
        assert_eq!(escape_path("a b/ü#1?.json"), "a%20b/%C3%BC%231%3F.json");
        assert_eq!(escape_path("1_Pooling/config.json"), "1_Pooling/config.json");
    }
}
