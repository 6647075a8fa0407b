//! The part of Voximplant's Management API that adds, deactivates and activates users and sets their passwords.

use std::error::Error as StdError;
use std::time::Duration;

use bytes::Bytes;
use form_urlencoded::{Serializer, byte_serialize};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use crate::config::{ManagementConfig, ManagementProof, Trust};
use crate::model::rsa::RsaKey;
use crate::model::secret::Secret;
use crate::upstream::{FetchError, Fetcher};

/// How long a signed token is valid, in seconds. The API refuses tokens that are valid for much longer.
const TOKEN_LIFE: i64 = 60;
/// The longest message of the API that is repeated, in characters.
const MAX_MESSAGE: usize = 200;
/// The code of a user name that exists already.
const NOT_UNIQUE: i64 = 118;
/// The codes of refusals that pass: internal errors, an ended session, too many requests, "try later" and "repeat after N seconds".
const PASSING: [i64; 8] = [1, 2, 4, 5, 135, 162, 340, 416];
/// The codes that concern the account, its credentials or the application, not the user of the request: a failed
/// authorization, a command that is not permitted, an unknown application, a full account, an account that is not activated.
const OF_THE_ACCOUNT: [i64; 7] = [100, 103, 104, 107, 109, 116, 131];

/// A client of the API.
pub(crate) struct ManagementApi {
    management: ManagementConfig,
    fetcher: Fetcher,
}

/// An application as the API names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ApplicationRef {
    Id(u64),
    Name(String),
}

/// A change of one user.
#[derive(Debug)]
pub(crate) enum UserChange<'a> {
    /// Adds the user.
    Add { display_name: &'a str, password: &'a Secret },
    /// Sets the password of a user that exists.
    SetPassword(&'a Secret),
    /// Activates or deactivates a user that exists.
    SetActive(bool),
}

/// Why a change was not made, or may not have been.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// The request was not sent.
    #[error("cannot ask Voximplant")]
    Unsent(#[source] Box<dyn StdError + Send + Sync>),
    /// The request may have arrived; no answer came.
    #[error("Voximplant gave no answer")]
    Unanswered(#[source] FetchError),
    /// The answer is not one of the API's.
    #[error("Voximplant sent an unreadable answer: {0}")]
    Nonsense(StatusCode),
    /// The API refused.
    #[error("Voximplant refuses, code {code}: {message}")]
    Refused { code: i64, message: String },
}

/// An answer of the API. Its status is 200 for errors as well.
#[derive(Deserialize)]
struct ApiReply {
    result: Option<serde_json::Value>,
    error: Option<ApiFault>,
}

#[derive(Deserialize)]
struct ApiFault {
    #[serde(default)]
    msg: String,
    #[serde(default)]
    code: i64,
}

impl ApplicationRef {
    /// Names the application `myapp.myaccount`.
    #[must_use]
    pub(crate) fn named(application: &str) -> Self {
        Self::Name(format!("{application}.voximplant.com"))
    }
}

impl ApiError {
    /// Returns whether the API refuses this user, and may accept another.
    #[must_use]
    pub(crate) fn is_about_user(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if !PASSING.contains(code) && !OF_THE_ACCOUNT.contains(code))
    }

    /// Returns whether the API says that the user exists already.
    #[must_use]
    pub(crate) const fn is_taken(&self) -> bool {
        matches!(self, Self::Refused { code: NOT_UNIQUE, .. })
    }

    /// Returns whether the same request may succeed a little later.
    #[must_use]
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Unsent(_) | Self::Unanswered(_) | Self::Nonsense(_) => true,
            Self::Refused { code, .. } => PASSING.contains(code),
        }
    }

    /// Returns whether the change may have been made although no answer says so.
    #[must_use]
    pub(crate) const fn is_unclear(&self) -> bool {
        matches!(self, Self::Unanswered(_) | Self::Nonsense(_))
    }
}

impl UserChange<'_> {
    const fn function(&self) -> &'static str {
        match self {
            Self::Add { .. } => "AddUser",
            Self::SetPassword(_) | Self::SetActive(_) => "SetUserInfo",
        }
    }

    const fn password(&self) -> Option<&Secret> {
        match self {
            Self::Add { password, .. } | Self::SetPassword(password) => Some(password),
            Self::SetActive(_) => None,
        }
    }

    fn fields(&self) -> Vec<(&'static str, &str)> {
        match self {
            Self::Add { display_name, password } => {
                vec![("user_display_name", display_name), ("user_password", password.expose())]
            }
            Self::SetPassword(password) => vec![("user_password", password.expose())],
            Self::SetActive(is_active) => vec![("user_active", if *is_active { "true" } else { "false" })],
        }
    }
}

impl ManagementApi {
    /// Prepares to ask the API. `deadline`: for one request and its answer.
    ///
    /// # Errors
    /// When no trust roots can be used.
    pub(crate) fn new(management: &ManagementConfig, deadline: Duration) -> Result<Self, rustls::Error> {
        let fetcher = Fetcher::new(&Trust::roots(None), deadline, management.outbound_proxy.clone())?;
        Ok(Self { management: management.clone(), fetcher })
    }

    /// Changes the user `name` of an application.
    ///
    /// # Errors
    /// When the change was not made, or may not have been ([`ApiError::is_unclear`]).
    pub(crate) async fn change(
        &self,
        name: &str,
        application: &ApplicationRef,
        change: UserChange<'_>,
    ) -> Result<(), ApiError> {
        let (request, secrets) = self.request(name, application, &change)?;
        let response = self.fetcher.fetch(request).await.map_err(|error| match error {
            FetchError::Url(_) | FetchError::Connect(_) | FetchError::Proxy(_) => unsent(error.into()),
            FetchError::Broken(_) | FetchError::Body | FetchError::Timeout => ApiError::Unanswered(error),
        })?;
        let status = response.status();
        let told = serde_json::from_slice(response.body()).ok().filter(|_| status == StatusCode::OK);
        check_reply(told.ok_or(ApiError::Nonsense(status))?, status, &secrets)
    }

    /// Makes the request for a change. Returns it with the secrets in it.
    fn request(
        &self,
        name: &str,
        application: &ApplicationRef,
        change: &UserChange<'_>,
    ) -> Result<(Request<Bytes>, Vec<Secret>), ApiError> {
        let mut form = Serializer::new(String::new());
        form.append_pair("user_name", name);
        match application {
            ApplicationRef::Id(id) => form.append_pair("application_id", &id.to_string()),
            ApplicationRef::Name(name) => form.append_pair("application_name", name),
        };
        form.extend_pairs(change.fields());
        // URLs are logged on the way, so secrets are in the body and the headers.
        let (proof, bearer) = match &self.management.proof {
            ManagementProof::ApiKey(key) => {
                form.append_pair("account_id", &self.management.account_id.to_string());
                form.append_pair("api_key", key.expose());
                (key.clone(), None)
            }
            ManagementProof::ServiceAccount { key_id, key } => {
                let token = self.token(key_id, key)?;
                let mut bearer = HeaderValue::try_from(format!("Bearer {}", token.expose()))
                    .map_err(|error| unsent(error.into()))?;
                bearer.set_sensitive(true);
                (token, Some(bearer))
            }
        };
        let mut request = Request::new(Bytes::from(form.finish()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = format!("{}{}", self.management.url, change.function())
            .parse::<Uri>()
            .map_err(|error| unsent(error.into()))?;
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers_mut().insert(CONTENT_TYPE, kind);
        request.headers_mut().extend(bearer.map(|bearer| (AUTHORIZATION, bearer)));
        Ok((request, change.password().into_iter().chain([&proof]).cloned().collect()))
    }

    /// Signs a token for one request.
    fn token(&self, key_id: &str, key: &Secret) -> Result<Secret, ApiError> {
        let key = RsaKey::from_pem(key.expose()).map_err(|error| unsent(error.into()))?;
        let now = Timestamp::now().as_second();
        let claims = json!({ "iss": self.management.account_id, "iat": now, "exp": now + TOKEN_LIFE });
        Ok(Secret::new(key.sign(key_id, &claims)))
    }
}

fn unsent(error: Box<dyn StdError + Send + Sync>) -> ApiError {
    ApiError::Unsent(error)
}

/// Accepts `"result": 1` without an error, and nothing else. `secrets`: what the request contained.
fn check_reply(told: ApiReply, status: StatusCode, secrets: &[Secret]) -> Result<(), ApiError> {
    match told {
        ApiReply { error: Some(fault), .. } => {
            Err(ApiError::Refused { code: fault.code, message: harmless(&fault.msg, secrets) })
        }
        ApiReply { result: Some(result), error: None } if result == 1 => Ok(()),
        ApiReply { .. } => Err(ApiError::Nonsense(status)),
    }
}

/// Returns a message of the API for logs and terminals: short, on one line, and `***` if it quotes a secret.
fn harmless(message: &str, secrets: &[Secret]) -> String {
    let quotes = |secret: &Secret| {
        let encoded = byte_serialize(secret.expose().as_bytes()).collect::<String>();
        message.contains(secret.expose()) || message.contains(&encoded)
    };
    if secrets.iter().any(quotes) {
        return "***".to_owned();
    }
    message.chars().filter(|letter| !letter.is_control()).take(MAX_MESSAGE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let secrets = ["Pass-w0rd", "key/of=account"].map(|text| Secret::new(text.to_owned()));
        let checked = check_reply(serde_json::from_str(text).unwrap(), StatusCode::OK, &secrets);
        let told = checked.map_or_else(|error| error.to_string(), |()| "set".to_owned());
        assert_eq!(told, expected, "{text}");
    }

    #[test]
    fn only_result_1_is_success() {
        check(r#"{"result":1}"#, "set");
        check(r#"{"result":1,"user_id":5}"#, "set");
        check(r#"{"error":{"msg":"user not found","code":121}}"#, "Voximplant refuses, code 121: user not found");
        check(r#"{"result":1,"error":{"msg":"odd","code":1}}"#, "Voximplant refuses, code 1: odd");
        for text in ["{}", r#"{"result":0}"#, r#"{"result":"1"}"#, r#"{"result":true}"#, r#"{"result":null}"#] {
            check(text, "Voximplant sent an unreadable answer: 200 OK");
        }
    }

    #[test]
    fn a_message_shows_no_secret_and_stays_on_its_line() {
        check(r#"{"error":{"msg":"bad user_password=Pass-w0rd","code":2}}"#, "Voximplant refuses, code 2: ***");
        check(r#"{"error":{"msg":"bad key/of=account","code":2}}"#, "Voximplant refuses, code 2: ***");
        check(r#"{"error":{"msg":"bad api_key=key%2Fof%3Daccount","code":2}}"#, "Voximplant refuses, code 2: ***");
        check(r#"{"error":{"msg":"one\n\u001b[2Jtwo","code":2}}"#, "Voximplant refuses, code 2: one[2Jtwo");
        let long = format!(r#"{{"error":{{"msg":"{}","code":2}}}}"#, "x".repeat(5000));
        check(&long, &format!("Voximplant refuses, code 2: {}", "x".repeat(MAX_MESSAGE)));
    }

    #[test]
    fn a_refusal_of_one_user_is_not_one_of_the_account() {
        let refused = |code| ApiError::Refused { code, message: String::new() };
        for code in [117, 118, 122, 157] {
            assert!(refused(code).is_about_user() && !refused(code).is_unclear(), "{code}");
        }
        for code in [1, 340, 416] {
            assert!(!refused(code).is_about_user() && refused(code).is_passing(), "{code}");
        }
        for code in [100, 109] {
            assert!(!refused(code).is_about_user() && !refused(code).is_passing(), "{code}");
        }
        assert!(refused(118).is_taken() && !refused(117).is_taken());
        let nonsense = ApiError::Nonsense(StatusCode::OK);
        assert!(nonsense.is_unclear() && !nonsense.is_about_user());
    }
}
