//! Method `header`: a proxy before callgate has logged the caller in, and says so in fields of the request.
//!
//! Every client can write such fields. They count only from the proxy's own end of the connection and in exactly the
//! configured spelling. From all others they are not forwarded to an upstream, in any spelling.

use std::net::IpAddr;

use aws_lc_rs::constant_time;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::credentials::{Credentials, Shown};
use super::{AuthRequest, Error, Proof, Verdict};
use crate::config::{HeaderClaim, HeaderConfig};
use crate::message::fields::only;
use crate::model::principal::{Claim, Claims, Principal};
use crate::observe::metrics;

/// The proxies of one method, which are believed.
#[derive(Debug)]
pub(super) struct HeaderMethod {
    name: String,
    settings: HeaderConfig,
}

/// The text of a field.
#[derive(Debug, PartialEq, Eq)]
enum FieldText<'a> {
    /// The field is missing, empty, or `(null)`, which Apache writes for a variable that is not set.
    Absent,
    /// One text in UTF-8.
    Text(&'a str),
    /// The field stands twice, or is not text.
    Unclear,
}

impl Credentials for HeaderMethod {
    fn label(&self) -> metrics::CountedMethod {
        metrics::CountedMethod::Header
    }

    /// Finds the user that a believed proxy names. Fields from another address are not a credential.
    fn find<'a>(&self, request: &AuthRequest<'a>) -> Option<Shown<'a>> {
        let names_user = || field_text(request.headers, &self.settings.user) != FieldText::Absent;
        (self.is_from(request.peer) && names_user()).then_some(Shown::InRequest)
    }

    async fn judge(&self, _shown: &Shown<'_>, request: &AuthRequest<'_>) -> Result<Verdict, Error> {
        Ok(self.judge_fields(request))
    }

    fn fingerprint(&self, _shown: &Shown<'_>, request: &AuthRequest<'_>) -> Vec<Vec<u8>> {
        let values = self.fields().flat_map(|name| request.headers.get_all(name));
        values.map(|value| value.as_bytes().to_vec()).collect()
    }
}

impl HeaderMethod {
    pub(super) const fn new(name: String, settings: HeaderConfig) -> Self {
        Self { name, settings }
    }

    /// Admits the user if the proxy shows its secret and every field is clear.
    fn judge_fields(&self, request: &AuthRequest<'_>) -> Verdict {
        if !self.has_secret(request.headers) {
            return Verdict::refuse(self.name.clone(), "the secret of the proxy is missing or wrong");
        }
        let refuse = |reason: String| Verdict::reject(self.name.clone(), reason);
        let mut claims = Claims::new();
        let user = HeaderClaim { field: self.settings.user.clone(), separator: None };
        let others = self.settings.claims.iter().map(|(name, claim)| (name.as_str(), claim));
        for (name, claim) in others.chain([("user", &user)]) {
            match read(request.headers, claim) {
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

    /// Compares the secret in constant time.
    fn has_secret(&self, headers: &HeaderMap) -> bool {
        self.settings.secret.as_ref().is_none_or(|secret| {
            only(headers, &secret.field).is_some_and(|shown| {
                constant_time::verify_slices_are_equal(shown.as_bytes(), secret.value.expose().as_bytes()).is_ok()
            })
        })
    }

    /// Returns the fields that only the proxies may send.
    pub(super) fn fields(&self) -> impl Iterator<Item = &HeaderName> {
        self.settings.fields()
    }

    /// Tells whether the other end of the connection is a believed proxy, whose fields upstreams may receive.
    pub(super) fn vouches(&self, headers: &HeaderMap, peer: IpAddr) -> bool {
        self.is_from(peer) && self.has_secret(headers)
    }

    /// Returns the fields that upstreams receive: without the secret, and without fields that stand twice.
    pub(super) fn forwarded_fields(&self, headers: &HeaderMap) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let secret = self.settings.secret.as_ref().map(|secret| &secret.field);
        let forwarded = self.settings.fields().filter(move |field| Some(*field) != secret);
        forwarded.filter_map(|field| Some((field.clone(), only(headers, field)?.clone())))
    }
}

/// Reads a claim. `None`: the field is absent.
fn read(headers: &HeaderMap, claim: &HeaderClaim) -> Result<Option<Claim>, &'static str> {
    match (field_text(headers, &claim.field), claim.separator) {
        (FieldText::Absent, _) => Ok(None),
        (FieldText::Unclear, _) => Err("was sent twice, or is not text"),
        // Proxies that join lines join them with a comma.
        (FieldText::Text(text), None) if text.contains(',') => Err("has a comma in it: it may be two lines joined"),
        (FieldText::Text(text), None) => Ok(Some(text.into())),
        (FieldText::Text(text), Some(separator)) => {
            let items = text.split(separator).map(str::trim).filter(|item| !item.is_empty());
            Ok(Some(Claim::List(items.map(str::to_owned).collect())))
        }
    }
}

fn field_text<'h>(headers: &'h HeaderMap, field: &HeaderName) -> FieldText<'h> {
    if !headers.contains_key(field) {
        return FieldText::Absent;
    }
    let Some(value) = only(headers, field) else { return FieldText::Unclear };
    match std::str::from_utf8(value.as_bytes()).map(str::trim) {
        Ok("" | "(null)") => FieldText::Absent,
        Ok(text) if !text.chars().any(char::is_control) => FieldText::Text(text),
        Ok(_) | Err(_) => FieldText::Unclear,
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
        fn check(lines: &[&[u8]], expected: &FieldText<'_>) {
            assert_eq!(field_text(&headers(lines), &USER), *expected);
        }
        check(&[], &FieldText::Absent);
        check(&[b""], &FieldText::Absent);
        check(&[b"  "], &FieldText::Absent);
        check(&[b"(null)"], &FieldText::Absent);
        check(&[b"ann"], &FieldText::Text("ann"));
        check(&[b" ann "], &FieldText::Text("ann"));
        check(&["ä".as_bytes()], &FieldText::Text("ä"));
        check(&["a\u{85}b".as_bytes()], &FieldText::Unclear);
        check(&[b"a\tb"], &FieldText::Unclear);
        check(&[b"\xe4"], &FieldText::Unclear);
        check(&[b"ann", b"bob"], &FieldText::Unclear);
        check(&[b"ann", b"ann"], &FieldText::Unclear);
        check(&[b"", b""], &FieldText::Unclear);
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
