//! The host that a request is for: exactly one, named once or twice the same (RFC 9110 §7.2, RFC 9112 §3.2).

use std::net::Ipv6Addr;

use http::Version;
use http::header::{self, HeaderMap, HeaderValue};
use http::uri::{Scheme, Uri};

/// The reason why a request has no valid host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoHost {
    /// No host at all.
    #[error("no Host")]
    Missing,
    /// More than one `Host` line.
    #[error("more than one Host")]
    Several,
    /// Not `host[:port]`.
    #[error("not a host and port")]
    Malformed,
    /// The request target and `Host` disagree.
    #[error("Host and request target differ")]
    Differ,
}

/// The host and port a request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// `host[:port]` as the client wrote it.
    pub raw: HeaderValue,
    /// The host in lower case, without a final dot, IPv6 in brackets.
    pub host: String,
    /// The port, when one was written.
    pub port: Option<u16>,
}

impl Authority {
    /// Returns another host with the same port.
    #[must_use]
    pub fn with_host(&self, host: &str) -> String {
        self.port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    /// Returns the authority of another host with the same port.
    ///
    /// # Errors
    /// When that is not a host name or an IP address.
    pub fn at_host(&self, host: &str) -> Result<Self, NoHost> {
        written(&self.with_host(host))
    }

    /// Tells whether another authority is the same for a URI of this scheme (RFC 9110 §4.2.3).
    fn is_same(&self, other: &Self, scheme: Option<&Scheme>) -> bool {
        let default = if scheme == Some(&Scheme::HTTP) { 80 } else { 443 };
        self.host == other.host && self.port.unwrap_or(default) == other.port.unwrap_or(default)
    }

    /// Returns the origin of the pages of this host (RFC 6454), as browsers write it.
    #[must_use]
    pub fn origin(&self) -> String {
        match self.port {
            Some(port) if port != 443 => format!("https://{}:{port}", self.host),
            _ => format!("https://{}", self.host),
        }
    }
}

/// Finds the host of a request over TLS. An HTTP/1.0 request may omit it: then the `name` of the TLS handshake (SNI)
/// counts.
///
/// # Errors
/// As [`authority`].
pub fn authority_over_tls(
    version: Version,
    uri: &Uri,
    headers: &HeaderMap,
    name: Option<&str>,
) -> Result<Authority, NoHost> {
    match (authority(version, uri, headers), name) {
        (Err(NoHost::Missing), Some(name)) if version == Version::HTTP_10 => written(name),
        (found, _) => found,
    }
}

/// Finds the host of a request.
///
/// # Errors
/// When the host is missing, given twice or malformed, or differs between the request target and `Host`.
pub fn authority(version: Version, uri: &Uri, headers: &HeaderMap) -> Result<Authority, NoHost> {
    let mut lines = headers.get_all(header::HOST).into_iter();
    let line = lines.next();
    if lines.next().is_some() {
        return Err(NoHost::Several);
    }
    if uri.scheme().is_some_and(|scheme| *scheme != Scheme::HTTPS && *scheme != Scheme::HTTP) {
        return Err(NoHost::Malformed);
    }
    match (uri.authority(), line) {
        // HTTP/1.1 requires `Host` even when the target has the host (RFC 9112 §3.2).
        (_, None) if version == Version::HTTP_11 => Err(NoHost::Missing),
        (None, Some(line)) => parse(line.clone()),
        (Some(target), None) => written(target.as_str()),
        (Some(target), Some(line)) => {
            let said = parse(line.clone())?;
            if !line.as_bytes().eq_ignore_ascii_case(target.as_str().as_bytes())
                && !said.is_same(&written(target.as_str())?, uri.scheme())
            {
                return Err(NoHost::Differ);
            }
            Ok(said)
        }
        (None, None) => Err(NoHost::Missing),
    }
}

fn written(text: &str) -> Result<Authority, NoHost> {
    parse(HeaderValue::from_str(text).map_err(|_| NoHost::Malformed)?)
}

fn parse(raw: HeaderValue) -> Result<Authority, NoHost> {
    let text = raw.to_str().map_err(|_| NoHost::Malformed)?;
    let (host, port) = split(text).ok_or(NoHost::Malformed)?;
    // A name with its final dot is the same name (RFC 1034 §3.1).
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    Ok(Authority { host, port, raw })
}

/// Splits `host[:port]`; the host is an IPv6 address in brackets, or letters, digits, `-`, `.` and `_`.
fn split(text: &str) -> Option<(&str, Option<u16>)> {
    let end = if text.starts_with('[') { text.find(']')? + 1 } else { text.find(':').unwrap_or(text.len()) };
    let (host, rest) = text.split_at(end);
    let valid = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']')?.parse::<Ipv6Addr>().is_ok(),
        None => is_name(host),
    };
    let port = match rest.strip_prefix(':') {
        // A port may be empty behind its colon (RFC 3986 §3.2.3).
        None | Some("") => None,
        Some(digits) => Some(port(digits)?),
    };
    (valid && (rest.is_empty() || rest.starts_with(':'))).then_some((host, port))
}

fn is_name(host: &str) -> bool {
    // No label is empty.
    let mut before = b'.';
    let fits = |byte: u8| {
        let last = std::mem::replace(&mut before, byte);
        byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') || (byte == b'.' && last != b'.')
    };
    !host.is_empty() && host.len() <= 255 && host.bytes().all(fits)
}

fn port(digits: &str) -> Option<u16> {
    let plain = !digits.is_empty() && digits.len() <= 5 && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten().filter(|port| *port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(uri: &str, hosts: &[&str], expected: Result<(&str, Option<u16>), NoHost>) {
        check_version(Version::HTTP_11, uri, hosts, expected);
    }

    #[track_caller]
    fn check_version(version: Version, uri: &str, hosts: &[&str], expected: Result<(&str, Option<u16>), NoHost>) {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(header::HOST, HeaderValue::from_bytes(host.as_bytes()).unwrap());
        }
        let found = authority(version, &uri.parse().unwrap(), &headers);
        let found = found.as_ref().map(|authority| (authority.host.as_str(), authority.port)).map_err(|error| *error);
        assert_eq!(found, expected, "{uri} {hosts:?}");
    }

    #[test]
    fn one_host_is_needed() {
        check("/", &["a.test"], Ok(("a.test", None)));
        check("/", &["A.Test:8443"], Ok(("a.test", Some(8443))));
        check("/", &["a.test.:443"], Ok(("a.test", Some(443))));
        check("/", &["[::1]:443"], Ok(("[::1]", Some(443))));
        check("/", &["a.test:"], Ok(("a.test", None)));
        check("/", &["[::1]:"], Ok(("[::1]", None)));
        check("/", &[], Err(NoHost::Missing));
        check("/", &["a.test", "a.test"], Err(NoHost::Several));
    }

    #[test]
    fn the_target_and_host_must_agree() {
        check("https://a.test/x", &["A.test"], Ok(("a.test", None)));
        check("https://a.test/x", &[], Err(NoHost::Missing));
        check_version(Version::HTTP_2, "https://a.test/x", &[], Ok(("a.test", None)));
        check_version(Version::HTTP_10, "http://a.test/x", &[], Ok(("a.test", None)));
        check("https://a.test/x", &["b.test"], Err(NoHost::Differ));
        check("https://a.test:1/x", &["a.test"], Err(NoHost::Differ));
        check("https://a.test:80/x", &["a.test"], Err(NoHost::Differ));
        check("http://a.test:443/x", &["a.test"], Err(NoHost::Differ));
        check("https://a.test:443/x", &["A.test"], Ok(("a.test", None)));
        check("http://a.test/x", &["a.test:80"], Ok(("a.test", Some(80))));
        check("http://a.test./x", &["a.test:"], Ok(("a.test", None)));
        check("https://a.test/x", &["a b"], Err(NoHost::Malformed));
        check("ftp://a.test/x", &["a.test"], Err(NoHost::Malformed));
    }

    #[test]
    fn the_handshake_names_the_host_where_http_1_0_does_not() {
        #[track_caller]
        fn check(version: Version, host: Option<&'static str>, name: Option<&str>, expected: Result<&str, NoHost>) {
            let headers = host.map(|host| (header::HOST, HeaderValue::from_static(host))).into_iter().collect();
            let found = authority_over_tls(version, &Uri::from_static("/"), &headers, name);
            assert_eq!(found.map(|found| found.host), expected.map(str::to_owned));
        }
        check(Version::HTTP_10, None, Some("tls.test"), Ok("tls.test"));
        check(Version::HTTP_10, None, None, Err(NoHost::Missing));
        check(Version::HTTP_10, Some("a.test"), Some("tls.test"), Ok("a.test"));
        check(Version::HTTP_10, Some("a b"), Some("tls.test"), Err(NoHost::Malformed));
        check(Version::HTTP_11, None, Some("tls.test"), Err(NoHost::Missing));
        check(Version::HTTP_2, None, Some("tls.test"), Err(NoHost::Missing));
    }

    #[test]
    fn hosts_are_names_and_ports() {
        for host in [
            "",
            ":443",
            ":",
            "a.test:0",
            "a.test:65536",
            "a.test:+1",
            "a.test:1:2",
            "a b",
            "a/b",
            "u@a.test",
            "a.test,b.test",
            "a.test::",
            "a.test: ",
            "[::1",
            "[::1]x",
            "[x]",
            "::1",
            ".a",
            "a..b",
            "a\\b",
            "é",
        ] {
            check("/", &[host], Err(NoHost::Malformed));
        }
    }
}
