//! The metadata of a provider (OpenID Connect Discovery 1.0 §3). Members that every login needs are read strictly. Members
//! that only some logins need are read by those. All others are ignored.

use http::Uri;

use super::members;
use crate::model::json::Json;
use crate::model::jwt::{self, Algorithm, VerificationKeys};
use crate::upstream::Fetcher;

/// A problem of a discovery document. It never contains the document's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadDocument {
    /// It is not a JSON object.
    #[error("its discovery document is not a JSON object")]
    NotAnObject,
    /// It is another provider's.
    #[error("it says that it is another issuer than the configured one")]
    Issuer,
    /// A needed member is missing.
    #[error("its discovery document has no `{0}`")]
    Missing(&'static str),
    /// A needed member cannot be used.
    #[error("`{0}` in its discovery document {1}")]
    Odd(&'static str, &'static str),
}

/// A discovery document. Every login uses its addresses and algorithms.
#[derive(Debug)]
pub(super) struct DiscoveryDocument {
    json: Json,
    authorization_endpoint: String,
    token_endpoint: Uri,
    jwks_uri: Uri,
    algorithms: Option<Vec<Algorithm>>,
}

/// The document and the keys of a provider.
#[derive(Debug)]
pub(crate) struct Metadata {
    pub(super) document: DiscoveryDocument,
    pub(crate) keys: VerificationKeys,
}

/// How the client shows its secret (OpenID Connect Core 1.0 §9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientAuth {
    /// In `Authorization`: `client_secret_basic`.
    Basic,
    /// In the body: `client_secret_post`.
    Post,
}

impl DiscoveryDocument {
    /// Reads the document of an issuer.
    pub(super) fn read(text: &[u8], issuer: &str) -> Result<Self, BadDocument> {
        let json = Json::read(text).ok().filter(|json| matches!(json, Json::Object(_)));
        let json = json.ok_or(BadDocument::NotAnObject)?;
        if needed(&json, "issuer")? != issuer {
            return Err(BadDocument::Issuer);
        }
        let asked = |name| fetchable(name, needed(&json, name)?);
        let (token_endpoint, jwks_uri) = (asked("token_endpoint")?, asked("jwks_uri")?);
        let authorization_endpoint = page("authorization_endpoint", needed(&json, "authorization_endpoint")?)?;
        let algorithms = texts(&json, "id_token_signing_alg_values_supported")?;
        let algorithms = algorithms.map(|names| names.into_iter().filter_map(jwt::algorithm).collect());
        Ok(Self { authorization_endpoint, token_endpoint, jwks_uri, algorithms, json })
    }

    /// Returns the address of the page where people log in.
    pub(super) fn authorization_endpoint(&self) -> &str {
        &self.authorization_endpoint
    }

    pub(super) const fn token_endpoint(&self) -> &Uri {
        &self.token_endpoint
    }

    pub(super) const fn jwks_uri(&self) -> &Uri {
        &self.jwks_uri
    }

    /// Returns the known algorithms among those that sign ID tokens. `None`: the document does not list them.
    pub(super) fn algorithms(&self) -> Option<&[Algorithm]> {
        self.algorithms.as_deref()
    }

    pub(super) fn userinfo_endpoint(&self) -> Result<Uri, BadDocument> {
        fetchable("userinfo_endpoint", needed(&self.json, "userinfo_endpoint")?)
    }

    /// Returns the address for logouts (OpenID Connect RP-Initiated Logout 1.0 §2.1), if there is one.
    pub(super) fn end_session_endpoint(&self) -> Result<Option<String>, BadDocument> {
        let name = "end_session_endpoint";
        text(&self.json, name)?.map(|address| page(name, address)).transpose()
    }

    /// Tells whether the provider's answers contain `iss` (RFC 9207 §3).
    pub(super) fn names_itself(&self) -> Result<bool, BadDocument> {
        let name = "authorization_response_iss_parameter_supported";
        match member(&self.json, name)? {
            None => Ok(false),
            Some(Json::Bool(flag)) => Ok(*flag),
            Some(_) => Err(BadDocument::Odd(name, "is not true or false")),
        }
    }

    /// Returns how the client shows its secret: in `Authorization`, unless the provider accepts only the body.
    pub(super) fn client_auth(&self) -> Result<ClientAuth, BadDocument> {
        let methods = texts(&self.json, "token_endpoint_auth_methods_supported")?.unwrap_or_default();
        let takes = |method: &str| methods.contains(&method);
        match takes("client_secret_post") && !takes("client_secret_basic") {
            true => Ok(ClientAuth::Post),
            false => Ok(ClientAuth::Basic),
        }
    }
}

fn member<'j>(json: &'j Json, name: &'static str) -> Result<Option<&'j Json>, BadDocument> {
    members::member(json, name).map_err(|problem| BadDocument::Odd(name, problem))
}

fn text<'j>(json: &'j Json, name: &'static str) -> Result<Option<&'j str>, BadDocument> {
    members::text(json, name).map_err(|problem| BadDocument::Odd(name, problem))
}

fn needed<'j>(json: &'j Json, name: &'static str) -> Result<&'j str, BadDocument> {
    text(json, name)?.ok_or(BadDocument::Missing(name))
}

/// Reads a list. Items that are not texts are left out.
fn texts<'j>(json: &'j Json, name: &'static str) -> Result<Option<Vec<&'j str>>, BadDocument> {
    let Some(member) = member(json, name)? else { return Ok(None) };
    let items = member.list().ok_or(BadDocument::Odd(name, "is not a list"))?;
    Ok(Some(items.iter().filter_map(Json::text).collect()))
}

/// Reads an address that callgate fetches: over TLS, or on this machine.
fn fetchable(name: &'static str, text: &str) -> Result<Uri, BadDocument> {
    let uri = address(text).filter(|uri| Fetcher::check(uri).is_ok());
    uri.ok_or(BadDocument::Odd(name, "is not an https:// address"))
}

/// Reads an address where a browser is redirected to.
fn page(name: &'static str, text: &str) -> Result<String, BadDocument> {
    let is_web = |uri: &Uri| matches!(uri.scheme_str(), Some("https" | "http")) && uri.authority().is_some();
    match address(text).filter(is_web) {
        Some(_) => Ok(text.to_owned()),
        None => Err(BadDocument::Odd(name, "is not a web address")),
    }
}

/// An endpoint has no fragment (OpenID Connect Core 1.0 §3.1.2, RFC 6749 §3.1).
fn address(text: &str) -> Option<Uri> {
    text.parse().ok().filter(|_| !text.contains('#'))
}

/// Adds parameters to an address, which may already have a query.
pub(super) fn with_query(address: &str, pairs: &[(&str, &str)]) -> String {
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
    let joint = match address.rsplit_once('?') {
        None => "?",
        Some((_, "")) => "",
        Some((_, last)) if last.ends_with('&') => "",
        Some(_) => "&",
    };
    format!("{address}{joint}{query}")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const ISSUER: &str = "https://id.test";

    /// Reads a good document with some members changed; `null` removes one.
    fn read(changes: &Value) -> Result<DiscoveryDocument, BadDocument> {
        let mut document = json!({
            "issuer": ISSUER,
            "authorization_endpoint": "https://id.test/authorize?tenant=a",
            "token_endpoint": "https://id.test/token",
            "jwks_uri": "https://id.test/jwks",
        });
        for (name, value) in changes.as_object().unwrap() {
            document[name] = value.clone();
        }
        document.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        DiscoveryDocument::read(document.to_string().as_bytes(), ISSUER)
    }

    #[test]
    fn what_nobody_needs_may_be_missing_or_odd() {
        let document = read(&json!({})).unwrap();
        assert_eq!((document.algorithms(), document.names_itself()), (None, Ok(false)));
        assert_eq!((document.end_session_endpoint(), document.client_auth()), (Ok(None), Ok(ClientAuth::Basic)));
        for odd in [json!(1), json!("x"), json!([1]), json!({ "a": {} })] {
            read(&json!({
                "response_types_supported": odd, "subject_types_supported": odd, "scopes_supported": odd,
                "claims_supported": odd, "ui_locales_supported": odd, "userinfo_endpoint": odd,
                "end_session_endpoint": odd, "token_endpoint_auth_methods_supported": odd,
                "authorization_response_iss_parameter_supported": odd, "registration_endpoint": odd,
            }))
            .unwrap();
        }
        let twice = format!("{{\"x\":1,\"x\":12345678901234567890123,{}", &document_text()[1..]);
        DiscoveryDocument::read(twice.as_bytes(), ISSUER).unwrap();
    }

    fn document_text() -> String {
        let address = |end: &str| format!("{ISSUER}/{end}");
        json!({ "issuer": ISSUER, "authorization_endpoint": address("a"), "token_endpoint": address("t"), "jwks_uri": address("j") })
            .to_string()
    }

    #[test]
    fn what_is_needed_is_named() {
        #[track_caller]
        fn check(changes: Value, expected: &str) {
            assert_eq!(read(&changes).unwrap_err().to_string(), expected, "{changes}");
        }
        for name in ["issuer", "authorization_endpoint", "token_endpoint", "jwks_uri"] {
            check(json!({ name: null }), &format!("its discovery document has no `{name}`"));
            check(json!({ name: 1 }), &format!("`{name}` in its discovery document is not a text"));
        }
        check(json!({ "issuer": "https://id.test/" }), "it says that it is another issuer than the configured one");
        for odd in ["http://id.test/", "/token", "", "https://a@id.test/", "https://id.test/#a", "javascript:alert(1)"]
        {
            let expected = "`token_endpoint` in its discovery document is not an https:// address";
            check(json!({ "token_endpoint": odd }), expected);
        }
        for odd in ["javascript:alert(1)", "/authorize", "https://id.test/#a", "https://id test/", "data:text/html,"] {
            let expected = "`authorization_endpoint` in its discovery document is not a web address";
            check(json!({ "authorization_endpoint": odd }), expected);
        }
        let name = "id_token_signing_alg_values_supported";
        check(json!({ name: "RS256" }), &format!("`{name}` in its discovery document is not a list"));
        let twice = format!("{{\"jwks_uri\":\"https://evil.test\",{}", &document_text()[1..]);
        let expected = BadDocument::Odd("jwks_uri", "stands there twice");
        assert_eq!(DiscoveryDocument::read(twice.as_bytes(), ISSUER).unwrap_err(), expected);
        for text in ["", "[]", "<html>", "null"] {
            assert_eq!(DiscoveryDocument::read(text.as_bytes(), ISSUER).unwrap_err(), BadDocument::NotAnObject);
        }
    }

    #[test]
    fn what_some_logins_need_is_read_when_they_do() {
        let odd = read(&json!({
            "userinfo_endpoint": 1, "token_endpoint_auth_methods_supported": "none",
            "authorization_response_iss_parameter_supported": "true", "end_session_endpoint": "javascript:alert(1)",
        }))
        .unwrap();
        assert!(odd.userinfo_endpoint().unwrap_err().to_string().contains("`userinfo_endpoint`"));
        assert!(odd.client_auth().unwrap_err().to_string().contains("`token_endpoint_auth_methods_supported`"));
        assert!(odd.names_itself().unwrap_err().to_string().contains("iss_parameter_supported`"));
        assert!(odd.end_session_endpoint().is_err());
        let wants = |methods: &[&str]| {
            read(&json!({ "token_endpoint_auth_methods_supported": methods })).unwrap().client_auth()
        };
        assert_eq!(wants(&["client_secret_post"]), Ok(ClientAuth::Post));
        assert_eq!(wants(&["client_secret_post", "client_secret_basic"]), Ok(ClientAuth::Basic));
        assert_eq!(wants(&["private_key_jwt"]), Ok(ClientAuth::Basic));
        let listed = read(&json!({ "id_token_signing_alg_values_supported": ["none", 1, "ES512", "RS256"] })).unwrap();
        assert_eq!(listed.algorithms(), Some(&[Algorithm::RS256][..]));
    }

    #[test]
    fn parameters_stand_behind_those_that_are_there() {
        for (address, expected) in [
            ("https://a/b", "https://a/b?x=1+2"),
            ("https://a/b?", "https://a/b?x=1+2"),
            ("https://a/b?c=d", "https://a/b?c=d&x=1+2"),
            ("https://a/b?c=d&", "https://a/b?c=d&x=1+2"),
        ] {
            assert_eq!(with_query(address, &[("x", "1 2")]), expected);
        }
    }
}
