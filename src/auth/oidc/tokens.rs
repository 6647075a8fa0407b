//! Exchanges an authorization code for tokens, verifies them, reads the claims, and drops the tokens.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::attempt::OidcAttempt;
use super::ended;
use super::members;
use super::metadata::{ClientAuth, DiscoveryDocument, Metadata};
use super::{OidcCause, OidcError, OidcMethod};
use crate::auth::claims;
use crate::message::target::Authority;
use crate::model::json::{self, Json, JsonError};
use crate::model::jwt::{IdTokenError, IdTokenRules, ProviderTokenRules, UnverifiedToken};
use crate::model::principal::Principal;
use crate::model::secret::Secret;

/// The names of the endpoints in messages for the operator.
const TOKENS: &str = "token endpoint";
const USERINFO: &str = "userinfo endpoint";

/// The answer of the token endpoint.
struct TokenResponse {
    id_token: String,
    /// The bearer token for the userinfo endpoint.
    access_token: Option<String>,
}

impl OidcMethod {
    /// Checks that an answer comes from this provider (RFC 9207 §2.4).
    pub(super) fn check_issuer(&self, document: &DiscoveryDocument, told: Option<&str>) -> Result<(), OidcError> {
        let another = OidcError::Denied(OidcCause::Reason("the answer is another provider's"));
        let untold =
            OidcError::Denied(OidcCause::Reason("the answer does not say whose it is, as this provider's would"));
        match told {
            Some(told) if told == self.settings.issuer => Ok(()),
            Some(_) => Err(another),
            None if document.names_itself().map_err(unusable)? => Err(untold),
            None => Ok(()),
        }
    }

    /// Returns the person who logged in.
    pub(super) async fn principal(
        &self,
        metadata: Arc<Metadata>,
        authority: &Authority,
        code: &str,
        attempt: &OidcAttempt,
    ) -> Result<Principal, OidcError> {
        let tokens = self.tokens(&metadata.document, authority, code, attempt).await?;
        let token = UnverifiedToken::read_id_token(tokens.id_token.as_bytes()).map_err(unverified)?;
        let said = match self.verify(&token, &tokens, &metadata, attempt) {
            // The provider may have new keys.
            Err(IdTokenError::UnknownKey) => {
                let metadata = self
                    .provider
                    .renewed()
                    .await
                    .ok_or(OidcError::Denied(OidcCause::Token(IdTokenError::UnknownKey)))?;
                self.verify(&token, &tokens, &metadata, attempt)
            }
            verified => verified,
        };
        let said = said.map_err(unverified)?;
        let mut found = claims::of(said);
        if self.settings.userinfo {
            let more = self.userinfo(&metadata.document, &tokens, said).await?;
            claims::add(&mut found, claims::of(&more));
        }
        // A number with a fraction is no claim, but says when this login began.
        let issued = said.get(ended::ISSUED).and_then(Value::as_f64).unwrap_or_default();
        found.insert(ended::ISSUED.to_owned(), (issued.floor() as i64).to_string().into());
        Ok(Principal { method: self.name.clone(), subject: claims::subject(&found), claims: found })
    }

    fn verify<'t>(
        &self,
        token: &'t UnverifiedToken<'_>,
        tokens: &TokenResponse,
        metadata: &Metadata,
        attempt: &OidcAttempt,
    ) -> Result<&'t Map<String, Value>, IdTokenError> {
        let rules = IdTokenRules {
            provider: self.token_rules(metadata),
            nonce: &attempt.nonce,
            access_token: tokens.access_token.as_deref(),
        };
        token.prove_login(&metadata.keys, &rules, Timestamp::now().as_duration().as_secs_f64())
    }

    /// Returns the rules for every token that the provider makes for us.
    pub(super) fn token_rules<'r>(&'r self, metadata: &'r Metadata) -> ProviderTokenRules<'r> {
        ProviderTokenRules {
            issuer: &self.settings.issuer,
            client: &self.settings.client_id,
            trusted_audiences: self.settings.trusted_audiences.as_deref(),
            algorithms: metadata.document.algorithms(),
        }
    }

    // === The token endpoint (RFC 6749 §4.1.3) ===

    async fn tokens(
        &self,
        document: &DiscoveryDocument,
        authority: &Authority,
        code: &str,
        attempt: &OidcAttempt,
    ) -> Result<TokenResponse, OidcError> {
        let back = self.back(authority)?;
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.extend_pairs([
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", &back),
            ("code_verifier", &attempt.verifier),
        ]);
        let (client, mut fields) = (&self.settings.client_id, HeaderMap::new());
        match &self.settings.client_secret {
            None => drop(form.append_pair("client_id", client)),
            Some(secret) => match document.client_auth().map_err(unusable)? {
                ClientAuth::Basic => drop(fields.insert(header::AUTHORIZATION, basic(client, secret))),
                ClientAuth::Post => {
                    form.append_pair("client_id", client).append_pair("client_secret", secret.expose());
                }
            },
        }
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        let asked = request(Method::POST, document.token_endpoint().clone(), fields, form.finish().into());
        let answer = self.provider.fetch(asked).await.map_err(|error| OidcError::Unavailable(error.into()))?;
        given(answer.status(), answer.body())
    }

    // === The userinfo endpoint (OpenID Connect Core 1.0 §5.3) ===

    /// Fetches further claims of the person.
    async fn userinfo(
        &self,
        document: &DiscoveryDocument,
        tokens: &TokenResponse,
        said: &Map<String, Value>,
    ) -> Result<Map<String, Value>, OidcError> {
        let endpoint = document.userinfo_endpoint().map_err(unusable)?;
        let bearer = tokens.access_token.as_deref().map(|token| HeaderValue::try_from(format!("Bearer {token}")));
        let Some(Ok(mut bearer)) = bearer else {
            return Err(member(TOKENS, "access_token", "is missing, or is not a token"));
        };
        bearer.set_sensitive(true);
        let fields = HeaderMap::from_iter([(header::AUTHORIZATION, bearer)]);
        let asked = request(Method::GET, endpoint, fields, Bytes::new());
        let answer = self.provider.fetch(asked).await.map_err(|error| OidcError::Unavailable(error.into()))?;
        if answer.status() != StatusCode::OK {
            return Err(OidcError::BadResponse(OidcCause::Reason(
                "the userinfo endpoint does not tell of the person who logged in",
            )));
        }
        let told =
            json::object(answer.body()).map_err(|error| OidcError::BadResponse(OidcCause::Answer(USERINFO, error)))?;
        // The access token must belong to the person who logged in (§5.3.4).
        match told.get("sub") == said.get("sub") {
            true => Ok(told),
            false => Err(member(USERINFO, "sub", "does not tell of the person who logged in")),
        }
    }
}

fn request(method: Method, address: Uri, fields: HeaderMap, body: Bytes) -> Request<Bytes> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = address;
    *request.headers_mut() = fields;
    request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    request
}

/// Returns the `Authorization` of the client (RFC 6749 §2.3.1).
fn basic(client: &str, secret: &Secret) -> HeaderValue {
    let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let pair = BASE64_STANDARD.encode(format!("{}:{}", encode(client), encode(secret.expose())));
    let mut field = HeaderValue::try_from(format!("Basic {pair}")).expect("base64 is visible ASCII");
    field.set_sensitive(true);
    field
}

/// Reads the answer of the token endpoint (RFC 6749 §5.1). Other members than the two tokens are ignored.
fn given(status: StatusCode, body: &[u8]) -> Result<TokenResponse, OidcError> {
    let wrong = |why| OidcError::BadResponse(OidcCause::Reason(why));
    let answer = Json::read(body).ok().filter(|answer| matches!(answer, Json::Object(_)));
    let answer = answer.ok_or(OidcError::BadResponse(OidcCause::Answer(TOKENS, JsonError::NotAnObject)))?;
    if status != StatusCode::OK {
        return Err(not_given(&answer));
    }
    let id_token = text(&answer, "id_token")?;
    let Some(id_token) = id_token else {
        // Some providers send errors with status 200.
        let is_refusal = matches!(answer.member("error"), Ok(Some(Json::Text(_))));
        return Err(if is_refusal { not_given(&answer) } else { wrong("the token endpoint gave no ID token") });
    };
    let access_token = text(&answer, "access_token")?.map(str::to_owned);
    Ok(TokenResponse { id_token: id_token.to_owned(), access_token })
}

fn text<'j>(answer: &'j Json, name: &'static str) -> Result<Option<&'j str>, OidcError> {
    members::text(answer, name).map_err(|problem| member(TOKENS, name, problem))
}

/// Returns the reason why there are no tokens (RFC 6749 §5.2), without the provider's text.
fn not_given(answer: &Json) -> OidcError {
    let wrong = |why| OidcError::BadResponse(OidcCause::Reason(why));
    match answer.member("error").ok().flatten().and_then(Json::text) {
        Some("invalid_grant") => OidcError::UnknownLogin(OidcCause::Reason(
            "the provider does not take the code: it is used, too old, or another's",
        )),
        Some("invalid_client") => wrong("the provider does not know the client, or not with this secret"),
        Some(_) => wrong("the provider gives no tokens, for a reason of its own"),
        None => wrong("the answer of the token endpoint cannot be read: neither tokens nor an error"),
    }
}

const fn member(endpoint: &'static str, name: &'static str, problem: &'static str) -> OidcError {
    OidcError::BadResponse(OidcCause::Member(endpoint, name, problem))
}

fn unusable(error: super::BadDocument) -> OidcError {
    OidcError::BadResponse(error.into())
}

fn unverified(bad: IdTokenError) -> OidcError {
    match bad {
        IdTokenError::Unreadable => OidcError::BadResponse(OidcCause::Token(bad)),
        bad => OidcError::Denied(OidcCause::Token(bad)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(status: u16, body: &str, expected: Result<(&str, Option<&str>), &str>) {
        let given = given(StatusCode::from_u16(status).unwrap(), body.as_bytes());
        match (given, expected) {
            (Ok(given), Ok(expected)) => {
                assert_eq!((given.id_token.as_str(), given.access_token.as_deref()), expected, "{body}");
            }
            (Err(error), Err(part)) => assert!(error.cause().contains(part), "{body}: {}", error.cause()),
            (given, _) => panic!("{body}: {:?}", given.map(drop)),
        }
    }

    #[test]
    fn two_members_are_read_whatever_the_others_are() {
        check(200, r#"{"id_token":"i","access_token":"a"}"#, Ok(("i", Some("a"))));
        check(200, r#"{"id_token":"i"}"#, Ok(("i", None)));
        for odd in [r#""3600""#, "1", "1.5", "12345678901234567890123", "null", "[]", r#"{"a":1,"a":2}"#] {
            let names = ["expires_in", "token_type", "refresh_token", "scope", "error", "session_state"];
            let others: String = names.iter().map(|name| format!(r#","{name}":{odd}"#)).collect();
            check(200, &format!(r#"{{"id_token":"i","access_token":"a"{others}{others}}}"#), Ok(("i", Some("a"))));
        }
        check(200, r#"{"id_token":1}"#, Err("`id_token` in the answer of the token endpoint"));
        check(200, r#"{"id_token":"i","id_token":"j"}"#, Err("`id_token` in the answer of the token endpoint"));
        check(200, r#"{"id_token":"i","access_token":{}}"#, Err("`access_token` in the answer of the token endpoint"));
        check(200, r#"{"access_token":"a"}"#, Err("gave no ID token"));
        check(200, r#"{"error":"invalid_grant"}"#, Err("does not take the code"));
        check(400, r#"{"error":"invalid_grant","error_uri":1}"#, Err("does not take the code"));
        check(400, r#"{"error":"slow_down"}"#, Err("for a reason of its own"));
        check(201, r#"{"id_token":"i"}"#, Err("cannot be read"));
        for text in ["", "null", "[]", "access_token=a&id_token=i"] {
            check(200, text, Err("the answer of the token endpoint cannot be read"));
        }
    }
}
