//! The proxy between callgate and the internet, named by variables that other programs read as well: `HTTPS_PROXY`,
//! `ALL_PROXY` and `NO_PROXY`. Only what callgate itself fetches goes through it.

use std::net::IpAddr;

use http::uri::{Authority, Scheme};
use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use ipnet::IpNet;

use super::HostPort;
use crate::model::loopback::is_loopback;

/// The variables that name the proxy. The first one that is not empty counts.
const PROXY_VARIABLES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
/// The variables that name the exceptions. The first one that is not empty counts.
const EXCEPTION_VARIABLES: [&str; 2] = ["NO_PROXY", "no_proxy"];
/// The exception that matches every host.
const ALL_HOSTS: &str = "*";
/// The port of an `http` URL without one.
const DEFAULT_PORT: u16 = 80;

/// A proxy that opens connections to other hosts (CONNECT, RFC 9110 §9.3.6), and the hosts that are reached without it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboundProxy {
    /// Where it listens for plain HTTP.
    pub address: HostPort,
    /// The value of `Proxy-Authorization`, marked as sensitive; `None`: the variable names no user.
    pub authorization: Option<HeaderValue>,
    /// The environment variable that names the proxy.
    pub variable: &'static str,
    exceptions: Exceptions,
}

/// The hosts that are reached without the proxy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Exceptions {
    /// The environment variable that names them.
    variable: &'static str,
    text: String,
}

/// Why a variable names no proxy that can be used. It holds nothing of the value, which may contain a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct UnusableProxy {
    variable: &'static str,
    flaw: ProxyFlaw,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ProxyFlaw {
    /// The URL has another scheme than `http`.
    Scheme,
    /// The URL cannot be read.
    Unreadable,
}

impl UnusableProxy {
    pub(super) fn message(self) -> String {
        let Self { variable, flaw } = self;
        match flaw {
            ProxyFlaw::Scheme => {
                format!("the environment variable {variable} names a proxy of a kind that callgate cannot use")
            }
            ProxyFlaw::Unreadable => format!("the environment variable {variable} is not the address of a proxy"),
        }
    }

    pub(super) fn hint(self) -> String {
        let example = format!("{}=http://proxy.example.com:3128", self.variable);
        match self.flaw {
            ProxyFlaw::Scheme => {
                format!(
                    "name an HTTP proxy, as in {example}: https:// and socks are not supported; or unset the variable"
                )
            }
            ProxyFlaw::Unreadable => format!(
                "write {example}, a user as http://user:password@… with @ as %40, : as %3A, / as %2F; or unset the variable"
            ),
        }
    }
}

impl OutboundProxy {
    /// Reads the proxy from the environment. `None`: no variable names one.
    ///
    /// # Errors
    /// When a variable names no proxy that can be used.
    pub(super) fn read(env: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>, UnusableProxy> {
        let Some((variable, value)) = first_of(&PROXY_VARIABLES, env) else { return Ok(None) };
        let exceptions = first_of(&EXCEPTION_VARIABLES, env)
            .map_or_else(Exceptions::default, |(variable, text)| Exceptions { variable, text });
        Self::of(variable, &value, exceptions).map(Some).map_err(|flaw| UnusableProxy { variable, flaw })
    }

    fn of(variable: &'static str, value: &str, exceptions: Exceptions) -> Result<Self, ProxyFlaw> {
        let rest = match value.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case(Scheme::HTTP.as_str()) => rest,
            Some(_) => return Err(ProxyFlaw::Scheme),
            None => value,
        };
        // More than an authority is part of a password that is not encoded.
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#']) || authority.matches('@').count() > 1 {
            return Err(ProxyFlaw::Unreadable);
        }
        let proxy = intercept(&format!("http://{authority}")).ok_or(ProxyFlaw::Unreadable)?;
        let address = proxy.uri().authority().and_then(address).ok_or(ProxyFlaw::Unreadable)?;
        Ok(Self { address, authorization: proxy.basic_auth().cloned(), variable, exceptions })
    }

    /// Tells whether a URL is fetched through the proxy. Loopback hosts never are.
    #[must_use]
    pub fn is_for(&self, uri: &Uri) -> bool {
        let Some(host) = uri.host().filter(|host| !is_loopback(host)) else { return false };
        // The matcher compares addresses with addresses and networks alone.
        if self.exceptions.entries().any(|entry| entry == ALL_HOSTS) {
            return false;
        }
        // A final dot only says that the name is complete.
        let bare = format!("https://{}/", host.strip_suffix('.').unwrap_or(host));
        let matcher = Matcher::builder().https("http://proxy.invalid").no(&self.exceptions.text).build();
        bare.parse().is_ok_and(|bare| matcher.intercept(&bare).is_some())
    }

    /// Returns what is wrong with the first exception that matches no host, and the remedy.
    pub(super) fn idle_exception(&self) -> Option<(String, String)> {
        let Exceptions { variable, .. } = self.exceptions;
        let idle = self.exceptions.entries().find(|entry| !is_exception(entry))?;
        // Perhaps the URL of the proxy, with its password.
        let shown = if idle.contains('@') { "***" } else { idle };
        let hint = "write a domain such as example.com, which includes all names below it, an address, a network such as 10.0.0.0/8, or * alone, with commas in between";
        Some((
            format!("the environment variable {variable} has the entry {shown:?}, which matches no host"),
            hint.to_owned(),
        ))
    }
}

impl Exceptions {
    fn entries(&self) -> impl Iterator<Item = &str> {
        self.text.split(',').map(str::trim).filter(|entry| !entry.is_empty())
    }
}

/// Returns the first variable with a value that is not empty.
fn first_of(names: &[&'static str], env: &dyn Fn(&str) -> Option<String>) -> Option<(&'static str, String)> {
    names.iter().find_map(|name| {
        let value = env(name)?;
        let value = value.trim();
        (!value.is_empty()).then(|| (*name, value.to_owned()))
    })
}

/// Reads the URL of a proxy as curl does: the user and the password are percent-decoded.
fn intercept(url: &str) -> Option<Intercept> {
    Matcher::builder().https(url).build().intercept(&Uri::from_static("https://any.invalid/"))
}

fn address(authority: &Authority) -> Option<HostPort> {
    let host = authority.host();
    let port = match authority.as_str().strip_prefix(host)? {
        "" => DEFAULT_PORT,
        port => port.strip_prefix(':')?.parse().ok().filter(|port| *port != 0)?,
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    (!bare.is_empty()).then(|| HostPort { host: bare.to_owned(), port })
}

/// Tells whether an entry can match a host.
fn is_exception(entry: &str) -> bool {
    let is_domain = || entry.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
    entry == ALL_HOSTS || entry.parse::<IpNet>().is_ok() || entry.parse::<IpAddr>().is_ok() || is_domain()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<OutboundProxy>, UnusableProxy> {
        OutboundProxy::read(&|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[track_caller]
    fn check(value: &str, address: &str, user: Option<&str>) {
        use base64::Engine as _;
        let proxy = read(&[("HTTPS_PROXY", value)]).unwrap().unwrap();
        assert_eq!(proxy.address.to_string(), address, "{value}");
        let basic = user.map(|user| format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(user)));
        assert_eq!(proxy.authorization.as_ref().map(|value| value.to_str().unwrap()), basic.as_deref(), "{value}");
        assert!(proxy.authorization.is_none_or(|value| value.is_sensitive()), "{value}");
    }

    #[test]
    fn a_proxy_has_an_address_and_perhaps_a_user() {
        check("http://proxy.test:3128", "proxy.test:3128", None);
        check(" HTTP://proxy.test:3128/\n", "proxy.test:3128", None);
        check("http://proxy.test", "proxy.test:80", None);
        check("proxy.test:3128", "proxy.test:3128", None);
        check("10.0.0.1", "10.0.0.1:80", None);
        check("http://[2001:db8::1]:8080", "[2001:db8::1]:8080", None);
        check("http://ann:secret@proxy.test:3128", "proxy.test:3128", Some("ann:secret"));
        check("ann:secret@proxy.test:3128", "proxy.test:3128", Some("ann:secret"));
        check("http://ann@proxy.test:3128", "proxy.test:3128", Some("ann:"));
        check("http://a%40b:%2F%3a%25%20@proxy.test", "proxy.test:80", Some("a@b:/:% "));
    }

    #[test]
    fn a_value_that_cannot_be_used_is_refused_and_not_shown() {
        let unreadable = [
            "http://",
            "http://:3128",
            "http://ann:hunter2@",
            "http://ann:hunter2@proxy.test:99999",
            "http://ann:hunter2@proxy.test:0",
            "http://ann:hunter2@proxy.test:",
            "http://ann:hunter2@proxy.test:31x8",
            "http://ann:hunter2/x@proxy.test",
            "http://ann:12/hunter2@proxy.test",
            "http://ann:12#hunter2@proxy.test",
            "http://ann:12?hunter2@proxy.test",
            "http://ann@hunter2@proxy.test:3128",
            "http://ann:hun ter2@proxy.test",
            "http://ann:hunter2\\@proxy.test",
            "http://ann:hunter2\u{fffd}@proxy.test",
            "hunter2 and more",
        ];
        let schemes = ["https://ann:hunter2@proxy.test", "socks5h://ann:hunter2@proxy.test", "://hunter2"];
        for (value, flaw) in unreadable
            .map(|value| (value, ProxyFlaw::Unreadable))
            .into_iter()
            .chain(schemes.map(|value| (value, ProxyFlaw::Scheme)))
        {
            let refused = read(&[("HTTPS_PROXY", value)]).unwrap_err();
            assert_eq!(refused, UnusableProxy { variable: "HTTPS_PROXY", flaw }, "{value}");
            let told = refused.message() + &refused.hint();
            assert!(told.contains("HTTPS_PROXY") && !told.contains("hunter2"), "{told}");
        }
    }

    #[test]
    fn the_first_variable_with_a_value_counts() {
        let variable = |variables: &[(&str, &str)]| read(variables).unwrap().map(|proxy| proxy.variable);
        assert_eq!(variable(&[]), None);
        assert_eq!(variable(&[("HTTP_PROXY", "http://a"), ("http_proxy", "http://a")]), None);
        assert_eq!(variable(&[("HTTPS_PROXY", ""), ("all_proxy", "http://a")]), Some("all_proxy"));
        assert_eq!(variable(&[("all_proxy", "http://a"), ("https_proxy", "http://a")]), Some("https_proxy"));
        assert_eq!(variable(&[("https_proxy", "socks5://a"), ("HTTPS_PROXY", "http://a")]), Some("HTTPS_PROXY"));
    }

    #[track_caller]
    fn check_used(exceptions: &str, url: &str, is_used: bool) {
        for variable in EXCEPTION_VARIABLES {
            let proxy = read(&[("ALL_PROXY", "http://proxy.test"), (variable, exceptions)]).unwrap().unwrap();
            assert_eq!(proxy.is_for(&url.parse().unwrap()), is_used, "{variable}={exceptions}: {url}");
        }
    }

    #[test]
    fn exceptions_and_loopback_are_reached_directly() {
        check_used("", "https://id.test/keys", true);
        for url in ["http://localhost:8080/", "http://127.0.0.1/", "https://[::1]/", "https://127.8.0.1/"] {
            check_used("", url, false);
        }
        for exceptions in ["id.test", ".test", "TEST", "other.test, id.test", "*"] {
            check_used(exceptions, "https://id.test:8443/keys", false);
            check_used(exceptions, "https://ID.test./keys", false);
        }
        for exceptions in ["d.test", "www.id.test", "example.com", "10.0.0.0/8"] {
            check_used(exceptions, "https://id.test/keys", true);
        }
        check_used("10.0.0.0/8", "https://10.1.2.3/", false);
        check_used("example.com, *", "https://10.1.2.3/", false);
        check_used("10.1.2.3", "https://10.1.2.3/", false);
        check_used("2001:db8::/32", "https://[2001:db8::7]/", false);
        check_used("10.0.0.0/8", "https://192.0.2.1/", true);
    }

    #[test]
    fn an_exception_that_matches_no_host_is_noted() {
        let note = |exceptions: &str| {
            let proxy = read(&[("ALL_PROXY", "http://proxy.test"), ("no_proxy", exceptions)]).unwrap().unwrap();
            proxy.idle_exception().map(|(message, _)| message)
        };
        for exceptions in ["", "*", "a.test,, .b.test", "10.0.0.0/8, ::1, fe80::/10, 192.0.2.1"] {
            assert_eq!(note(exceptions), None, "{exceptions}");
        }
        for idle in ["*.a.test", "a.test:443", "[::1]", "https://a.test", "a.test b.test"] {
            let expected = format!("the environment variable no_proxy has the entry {idle:?}, which matches no host");
            assert_eq!(note(&format!("b.test, {idle}")), Some(expected), "{idle}");
        }
        let expected = "the environment variable no_proxy has the entry \"***\", which matches no host";
        assert_eq!(note("http://ann:secret@proxy.test").as_deref(), Some(expected));
    }
}
