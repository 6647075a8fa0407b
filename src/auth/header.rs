//! Method `header`: a proxy before us has logged the caller in, and says so in fields of the request.
//!
//! Anybody can write fields. They count only from the proxy's own end of the connection, in exactly the configured
//! spelling, and nobody else's go on to an upstream in any spelling.

use std::net::IpAddr;

use aws_lc_rs::constant_time;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{Ask, Proof, Verdict};
use crate::config::{HeaderClaim, HeaderConfig};
use crate::message::fields::only;
use crate::model::principal::{Claim, Claims, Principal};

/// One kind of proxy that is believed.
#[derive(Debug)]
pub struct Header {
    name: String,
    settings: HeaderConfig,
}

/// What a field of a proxy says.
#[derive(Debug, PartialEq, Eq)]
enum Said<'a> {
    /// Nothing: the field is not there, empty, or what Apache writes for a variable that is not set.
    Nothing,
    /// One clear text.
    Text(&'a str),
    /// It stands twice, or is no clear text.
    Unclear,
}

impl Header {
    /// Prepares to believe.
    #[must_use]
    pub const fn new(name: String, settings: HeaderConfig) -> Self {
        Self { name, settings }
    }

    /// Tells whether a proxy that may says who is calling. What others say is no credential, whatever it says.
    pub(super) fn finds_credential(&self, ask: &Ask<'_>) -> bool {
        self.is_from(ask.peer) && said(ask.headers, &self.settings.user) != Said::Nothing
    }

    /// Believes the proxy if it proves itself, and is clear.
    pub(super) fn judge(&self, ask: &Ask<'_>) -> Verdict {
        if !self.has_secret(ask.headers) {
            return Verdict::refuse(self.name.clone(), "the secret of the proxy is missing or wrong");
        }
        let refuse = |reason: String| Verdict::reject(self.name.clone(), reason);
        let mut claims = Claims::new();
        let user = HeaderClaim { field: self.settings.user.clone(), separator: None };
        let others = self.settings.claims.iter().map(|(name, claim)| (name.as_str(), claim));
        for (name, claim) in others.chain([("user", &user)]) {
            match read(ask.headers, claim) {
                Ok(value) => claims.extend(value.map(|value| (name.to_owned(), value))),
                Err(reason) => return refuse(format!("{} {reason}", claim.field)),
            }
        }
        let Some(user) = claims.get("user").and_then(Claim::text).filter(|user| user.is_ascii()) else {
            return refuse(format!("{} is not plain ASCII", user.field));
        };
        let subject = user.to_lowercase();
        Verdict::Admit(Proof::ambient(Principal { method: self.name.clone(), subject, claims }))
    }

    fn is_from(&self, peer: IpAddr) -> bool {
        self.settings.from.iter().any(|network| network.contains(&peer))
    }

    /// Compares in a time that says nothing about the secret.
    fn has_secret(&self, headers: &HeaderMap) -> bool {
        self.settings.secret.as_ref().is_none_or(|secret| {
            only(headers, &secret.field).is_some_and(|shown| {
                constant_time::verify_slices_are_equal(shown.as_bytes(), secret.value.expose().as_bytes()).is_ok()
            })
        })
    }

    /// Returns every field that nobody else may send.
    pub(super) fn fields(&self) -> impl Iterator<Item = &HeaderName> {
        self.settings.fields()
    }

    /// Tells whether an upstream may hear what this end of a connection says.
    pub(super) fn vouches(&self, headers: &HeaderMap, peer: IpAddr) -> bool {
        self.is_from(peer) && self.has_secret(headers)
    }

    /// Returns what it says, but for what it says twice; and not the secret, which is for us alone.
    pub(super) fn told(&self, headers: &HeaderMap) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let secret = self.settings.secret.as_ref().map(|secret| &secret.field);
        let told = self.settings.fields().filter(move |field| Some(*field) != secret);
        told.filter_map(|field| Some((field.clone(), only(headers, field)?.clone())))
    }
}

/// Reads a claim: nothing if the field says nothing.
fn read(headers: &HeaderMap, claim: &HeaderClaim) -> Result<Option<Claim>, &'static str> {
    match (said(headers, &claim.field), claim.separator) {
        (Said::Nothing, _) => Ok(None),
        (Said::Unclear, _) => Err("was sent twice, or is no text"),
        // Proxies that join lines join them with a comma.
        (Said::Text(text), None) if text.contains(',') => Err("has a comma in it: it may be two lines joined"),
        (Said::Text(text), None) => Ok(Some(text.into())),
        (Said::Text(text), Some(separator)) => {
            let items = text.split(separator).map(str::trim).filter(|item| !item.is_empty());
            Ok(Some(Claim::List(items.map(str::to_owned).collect())))
        }
    }
}

fn said<'h>(headers: &'h HeaderMap, field: &HeaderName) -> Said<'h> {
    if !headers.contains_key(field) {
        return Said::Nothing;
    }
    let Some(value) = only(headers, field) else { return Said::Unclear };
    match std::str::from_utf8(value.as_bytes()).map(str::trim) {
        Ok("" | "(null)") => Said::Nothing,
        Ok(text) if !text.chars().any(char::is_control) => Said::Text(text),
        Ok(_) | Err(_) => Said::Unclear,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: HeaderName = HeaderName::from_static("remote-user");

    fn headers(lines: &[&[u8]]) -> HeaderMap {
        lines.iter().map(|line| (USER, HeaderValue::from_bytes(line).unwrap())).fold(
            HeaderMap::new(),
            |mut headers, (name, value)| {
                headers.append(name, value);
                headers
            },
        )
    }

    #[test]
    fn a_field_says_one_clear_text_or_nothing() {
        #[track_caller]
        fn check(lines: &[&[u8]], expected: &Said<'_>) {
            assert_eq!(said(&headers(lines), &USER), *expected);
        }
        check(&[], &Said::Nothing);
        check(&[b""], &Said::Nothing);
        check(&[b"  "], &Said::Nothing);
        check(&[b"(null)"], &Said::Nothing);
        check(&[b"ann"], &Said::Text("ann"));
        check(&[b" ann "], &Said::Text("ann"));
        check(&["ä".as_bytes()], &Said::Text("ä"));
        check(&["a\u{85}b".as_bytes()], &Said::Unclear);
        check(&[b"a\tb"], &Said::Unclear);
        check(&[b"\xe4"], &Said::Unclear);
        check(&[b"ann", b"bob"], &Said::Unclear);
        check(&[b"ann", b"ann"], &Said::Unclear);
        check(&[b"", b""], &Said::Unclear);
    }

    #[test]
    fn a_text_has_no_comma_and_a_list_no_empty_items() {
        let claim = |separator| HeaderClaim { field: USER, separator };
        let list = |items: &[&str]| Ok(Some(Claim::List(items.iter().map(|item| (*item).to_owned()).collect())));
        let joined = headers(&[b"a, b,,c|d"]);
        assert!(read(&joined, &claim(None)).is_err());
        assert_eq!(read(&joined, &claim(Some(','))), list(&["a", "b", "c|d"]));
        assert_eq!(read(&joined, &claim(Some('|'))), list(&["a, b,,c", "d"]));
        assert_eq!(read(&headers(&[b","]), &claim(Some(','))), list(&[]));
        assert_eq!(read(&headers(&[]), &claim(Some(','))), Ok(None));
    }
}
