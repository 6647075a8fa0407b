//! From a code to a proven caller: the tokens are asked for, checked, read, and let go.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, StatusCode};
use jiff::Timestamp;
use openidconnect::core::{
    CoreClient, CoreClientAuthMethod, CoreErrorResponseType, CoreIdToken, CoreIdTokenClaims, CoreIdTokenVerifier,
    CoreJwsSigningAlgorithm, CoreTokenResponse,
};
use openidconnect::{
    AccessTokenHash, AuthType, AuthorizationCode, ClaimsVerificationError, ClientId, ClientSecret, EndpointMaybeSet,
    EndpointNotSet, EndpointSet, Nonce, OAuth2TokenResponse, PkceCodeVerifier, RedirectUrl, RequestTokenError,
    SignatureVerificationError, StandardErrorResponse,
};
use serde_json::{Map, Value};

use super::attempt::Attempt;
use super::provider::Metadata;
use super::{CALLBACK, Oidc, OidcError, Why};
use crate::auth::claims;
use crate::message::target::Authority;
use crate::model::principal::Principal;
use crate::upstream::FetchError;

/// How far the provider's clock may be ahead of ours, in seconds.
const LEEWAY: i64 = 30;

/// A client that knows the provider's endpoints.
type Client =
    CoreClient<EndpointSet, EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointMaybeSet, EndpointMaybeSet>;
type NotGiven = RequestTokenError<FetchError, StandardErrorResponse<CoreErrorResponseType>>;

impl Oidc {
    /// Makes the client of one host: its name is in the address that the provider sends browsers back to.
    pub(super) fn client(&self, metadata: &Metadata, authority: &Authority) -> Result<Client, OidcError> {
        let secret = self.settings.client_secret.as_ref().map(|secret| ClientSecret::new(secret.expose().to_owned()));
        let id = ClientId::new(self.settings.client_id.clone());
        let back = RedirectUrl::new(format!("{}{CALLBACK}{}", authority.origin(), self.name));
        let back =
            back.map_err(|_| OidcError::Nonsense(Why::Wrong("the host of the request is no part of an address")))?;
        let client = CoreClient::from_provider_metadata(metadata.clone(), id, secret);
        Ok(client.set_redirect_uri(back).set_auth_type(auth_type(metadata)))
    }

    /// Checks that an answer is this provider's (RFC 9207 §2.4).
    pub(super) fn check_issuer(&self, metadata: &Metadata, told: Option<&str>) -> Result<(), OidcError> {
        match told {
            Some(told) if told == metadata.issuer().as_str() => Ok(()),
            Some(_) => Err(OidcError::Denied(Why::Wrong("the answer is another provider's"))),
            None if metadata.additional_metadata().authorization_response_iss_parameter_supported => {
                Err(OidcError::Denied(Why::Wrong("the answer does not say whose it is, as this provider's would")))
            }
            None => Ok(()),
        }
    }

    /// Finds who logged in.
    pub(super) async fn principal(
        &self,
        metadata: Arc<Metadata>,
        authority: &Authority,
        code: String,
        attempt: &Attempt,
    ) -> Result<Principal, OidcError> {
        let client = self.client(&metadata, authority)?;
        let tokens = client
            .exchange_code(AuthorizationCode::new(code))
            .map_err(|_| OidcError::Nonsense(Why::Wrong("the provider has no token endpoint")))?
            .set_pkce_verifier(PkceCodeVerifier::new(attempt.verifier.clone()))
            .request_async(&self.provider.client())
            .await
            .map_err(not_given)?;
        let id_token = tokens.extra_fields().id_token();
        let id_token = id_token.ok_or(OidcError::Nonsense(Why::Wrong("the token endpoint gave no ID token")))?;
        let nonce = Nonce::new(attempt.nonce.clone());
        match verify(&client, &metadata, id_token, &nonce, &tokens) {
            // Its keys may be newer than those that are known.
            Err(Unverified::UnknownKey) => {
                let metadata = self.provider.renewed().await.ok_or(Unverified::UnknownKey)?;
                verify(&self.client(&metadata, authority)?, &metadata, id_token, &nonce, &tokens)?;
            }
            verified => verified?,
        }
        let mut found = claims::of(&payload(id_token)?);
        if self.settings.userinfo {
            let told = self.userinfo(&metadata, &tokens, &payload(id_token)?).await?;
            for (name, claim) in claims::of(&told) {
                found.entry(name).or_insert(claim);
            }
        }
        Ok(Principal { method: self.name.clone(), subject: claims::subject(&found), claims: found })
    }

    /// Asks what more the provider tells of the person (OpenID Connect Core 1.0 §5.3).
    async fn userinfo(
        &self,
        metadata: &Metadata,
        tokens: &CoreTokenResponse,
        id: &Map<String, Value>,
    ) -> Result<Map<String, Value>, OidcError> {
        let wrong = |why| OidcError::Nonsense(Why::Wrong(why));
        let url = metadata.userinfo_endpoint().ok_or_else(|| wrong("the provider has no userinfo endpoint"))?;
        let bearer = HeaderValue::try_from(format!("Bearer {}", tokens.access_token().secret()));
        let mut bearer = bearer.map_err(|_| wrong("the access token is none"))?;
        bearer.set_sensitive(true);
        let request = Request::get(url.as_str()).header(header::ACCEPT, "application/json");
        let request = request.header(header::AUTHORIZATION, bearer).body(Bytes::new());
        let request = request.map_err(|_| wrong("the userinfo endpoint is no address"))?;
        let answer = self.provider.fetch(request).await.map_err(|error| OidcError::Down(error.into()))?;
        match serde_json::from_slice(answer.body()) {
            // Whoever owns the access token must be who logged in (§5.3.4).
            Ok(Value::Object(told)) if answer.status() == StatusCode::OK && told.get("sub") == id.get("sub") => {
                Ok(told)
            }
            _ => Err(wrong("the userinfo endpoint does not tell of the person who logged in")),
        }
    }
}

/// Shows the secret as the provider wants it (RFC 6749 §2.3.1): in a field, unless it takes it only in the body.
fn auth_type(metadata: &Metadata) -> AuthType {
    match metadata.token_endpoint_auth_methods_supported() {
        Some(methods)
            if !methods.contains(&CoreClientAuthMethod::ClientSecretBasic)
                && methods.contains(&CoreClientAuthMethod::ClientSecretPost) =>
        {
            AuthType::RequestBody
        }
        _ => AuthType::BasicAuth,
    }
}

/// Says why there are no tokens. What the provider wrote is not told.
fn not_given(error: NotGiven) -> OidcError {
    let wrong = |why| OidcError::Nonsense(Why::Wrong(why));
    match error {
        RequestTokenError::Request(error) => OidcError::Down(error.into()),
        RequestTokenError::ServerResponse(told) => match told.error() {
            CoreErrorResponseType::InvalidGrant => {
                OidcError::Lost(Why::Wrong("the provider does not take the code: it is used, too old, or another's"))
            }
            CoreErrorResponseType::InvalidClient => {
                wrong("the provider does not know the client, or not with this secret")
            }
            _ => wrong("the provider gives no tokens, for a reason of its own"),
        },
        RequestTokenError::Parse(..) | RequestTokenError::Other(_) => {
            wrong("the token endpoint's answer cannot be read")
        }
    }
}

/// Why an ID token proves nobody.
#[derive(Debug, Clone, Copy)]
enum Unverified {
    /// It is signed by a key that is not known.
    UnknownKey,
    /// Something else is wrong with it.
    Wrong(&'static str),
}

impl From<Unverified> for OidcError {
    fn from(unverified: Unverified) -> Self {
        Self::Denied(Why::Wrong(match unverified {
            Unverified::UnknownKey => "the ID token is signed with a key that the provider does not have",
            Unverified::Wrong(why) => why,
        }))
    }
}

/// Checks an ID token (OpenID Connect Core 1.0 §3.1.3.7).
fn verify(
    client: &Client,
    metadata: &Metadata,
    token: &CoreIdToken,
    nonce: &Nonce,
    tokens: &CoreTokenResponse,
) -> Result<(), Unverified> {
    let algorithms = metadata.id_token_signing_alg_values_supported();
    let signed = algorithms.iter().filter(|algorithm| **algorithm != CoreJwsSigningAlgorithm::None).cloned();
    let verifier =
        client.id_token_verifier().set_allowed_algs(signed).set_issue_time_verifier_fn(|issued| {
            match issued.timestamp() <= Timestamp::now().as_second() + LEEWAY {
                true => Ok(()),
                false => Err("issued in the future".to_owned()),
            }
        });
    let claims = token.claims(&verifier, nonce).map_err(|error| unverified(&error))?;
    if claims.authorized_party().is_some_and(|party| party != client.client_id()) {
        return Err(Unverified::Wrong("the ID token is for another client (azp)"));
    }
    check_hash(claims, token, &verifier, tokens)
}

/// Checks that the access token came with the ID token (§3.1.3.8).
fn check_hash(
    claims: &CoreIdTokenClaims,
    token: &CoreIdToken,
    verifier: &CoreIdTokenVerifier<'_>,
    tokens: &CoreTokenResponse,
) -> Result<(), Unverified> {
    let Some(told) = claims.access_token_hash() else { return Ok(()) };
    let made = token.signing_alg().ok().zip(token.signing_key(verifier).ok());
    let made =
        made.and_then(|(algorithm, key)| AccessTokenHash::from_token(tokens.access_token(), algorithm, key).ok());
    match made {
        Some(made) if made == *told => Ok(()),
        _ => Err(Unverified::Wrong("the access token is not the one of the ID token (at_hash)")),
    }
}

fn unverified(error: &ClaimsVerificationError) -> Unverified {
    use ClaimsVerificationError as E;
    Unverified::Wrong(match error {
        E::SignatureVerification(SignatureVerificationError::NoMatchingKey) => return Unverified::UnknownKey,
        E::SignatureVerification(
            SignatureVerificationError::DisallowedAlg(_) | SignatureVerificationError::UnsupportedAlg(_),
        ) => "the ID token is signed by an algorithm that the provider does not use",
        E::SignatureVerification(SignatureVerificationError::NoSignature) => "the ID token is not signed",
        E::SignatureVerification(_) => "the signature of the ID token is wrong",
        E::Expired(_) => "the ID token has expired, or is not valid yet",
        E::InvalidAudience(_) => "the ID token is for another client (aud)",
        E::InvalidIssuer(_) => "the ID token is another provider's",
        E::InvalidNonce(_) => "the ID token is of another login (nonce)",
        _ => "the ID token cannot be read",
    })
}

/// Reads what a token says that was verified.
fn payload(token: &CoreIdToken) -> Result<Map<String, Value>, OidcError> {
    let text = token.to_string();
    let payload = text.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    let object = payload.and_then(|payload| serde_json::from_slice(&payload).ok());
    object.ok_or(OidcError::Nonsense(Why::Wrong("the ID token cannot be read")))
}
