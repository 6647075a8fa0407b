//! The part of Voximplant's Management API that sets passwords of users.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use crate::config::{ManagementConfig, ManagementProof, Trust};
use crate::model::rsa::RsaKey;
use crate::model::secret::Secret;
use crate::upstream::{FetchError, Fetcher};

/// How long one request may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long a signed token is valid, in seconds. The API refuses tokens that are valid for much longer.
const TOKEN_LIFE: i64 = 60;

/// A client of the API.
pub(crate) struct ManagementApi<'c> {
    management: &'c ManagementConfig,
    fetcher: Fetcher,
}

/// An application as the API names it.
pub(crate) enum ApplicationRef {
    Id(u64),
    Name(String),
}

/// Why a password was not set, or may not have been.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// The request was not sent.
    #[error("cannot ask Voximplant")]
    Unsent(#[source] Box<dyn std::error::Error>),
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

impl<'c> ManagementApi<'c> {
    pub(crate) fn new(management: &'c ManagementConfig) -> Result<Self, rustls::Error> {
        Ok(Self { management, fetcher: Fetcher::new(&Trust::roots(None), DEADLINE)? })
    }

    /// Sets the password of a user, and adds the user first if `create` is set.
    pub(crate) async fn set_password(
        &self,
        user: &str,
        password: &Secret,
        application: ApplicationRef,
        create: bool,
    ) -> Result<(), ApiError> {
        let function = if create { "AddUser" } else { "SetUserInfo" };
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("user_name", user).append_pair("user_password", password.expose());
        if create {
            form.append_pair("user_display_name", user);
        }
        match application {
            ApplicationRef::Id(id) => form.append_pair("application_id", &id.to_string()),
            ApplicationRef::Name(name) => form.append_pair("application_name", &name),
        };
        self.ask(function, form, password).await
    }

    async fn ask(
        &self,
        function: &str,
        mut form: form_urlencoded::Serializer<'_, String>,
        password: &Secret,
    ) -> Result<(), ApiError> {
        let uri = format!("{}{function}", self.management.url).parse::<Uri>().map_err(|error| unsent(error.into()))?;
        // URLs are logged on the way, so secrets are in the body and the headers.
        let bearer = match &self.management.proof {
            ManagementProof::ApiKey(key) => {
                form.append_pair("account_id", &self.management.account_id.to_string());
                form.append_pair("api_key", key.expose());
                None
            }
            ManagementProof::ServiceAccount { key_id, key } => Some(self.token(key_id, key)?),
        };
        let mut request = Request::new(Bytes::from(form.finish()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers_mut().insert(CONTENT_TYPE, kind);
        request.headers_mut().extend(bearer.map(|bearer| (AUTHORIZATION, bearer)));
        let response = self.fetcher.fetch(request).await.map_err(|error| match error {
            FetchError::Url(_) | FetchError::Connect(_) => unsent(error.into()),
            FetchError::Broken(_) | FetchError::Body | FetchError::Timeout => ApiError::Unanswered(error),
        })?;
        let status = response.status();
        let told = serde_json::from_slice(response.body()).ok().filter(|_| status == StatusCode::OK);
        check_reply(told.ok_or(ApiError::Nonsense(status))?, status, password)
    }

    /// Signs a token for one request.
    fn token(&self, key_id: &str, key: &Secret) -> Result<HeaderValue, ApiError> {
        let key = RsaKey::from_pem(key.expose()).map_err(|error| unsent(error.into()))?;
        let now = Timestamp::now().as_second();
        let claims = json!({ "iss": self.management.account_id, "iat": now, "exp": now + TOKEN_LIFE });
        let mut bearer = HeaderValue::try_from(format!("Bearer {}", key.sign(key_id, &claims)))
            .map_err(|error| unsent(error.into()))?;
        bearer.set_sensitive(true);
        Ok(bearer)
    }
}

fn unsent(error: Box<dyn std::error::Error>) -> ApiError {
    ApiError::Unsent(error)
}

/// Accepts `"result": 1` without an error, and nothing else.
fn check_reply(told: ApiReply, status: StatusCode, password: &Secret) -> Result<(), ApiError> {
    match told {
        ApiReply { error: Some(fault), .. } => {
            // A message that quotes the request would show the password.
            let quotes = fault.msg.contains(password.expose());
            Err(ApiError::Refused { code: fault.code, message: if quotes { "***".to_owned() } else { fault.msg } })
        }
        ApiReply { result: Some(result), error: None } if result == 1 => Ok(()),
        ApiReply { .. } => Err(ApiError::Nonsense(status)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let checked =
            check_reply(serde_json::from_str(text).unwrap(), StatusCode::OK, &Secret::new("Pass-w0rd".to_owned()));
        let told = checked.map_or_else(|error| error.to_string(), |()| "set".to_owned());
        assert_eq!(told, expected, "{text}");
    }

    #[test]
    fn only_result_1_is_success() {
        check(r#"{"result":1}"#, "set");
        check(r#"{"result":1,"user_id":5}"#, "set");
        check(r#"{"error":{"msg":"user not found","code":121}}"#, "Voximplant refuses, code 121: user not found");
        check(r#"{"result":1,"error":{"msg":"odd","code":1}}"#, "Voximplant refuses, code 1: odd");
        check(r#"{"error":{"msg":"bad user_password=Pass-w0rd","code":2}}"#, "Voximplant refuses, code 2: ***");
        for text in ["{}", r#"{"result":0}"#, r#"{"result":"1"}"#, r#"{"result":true}"#, r#"{"result":null}"#] {
            check(text, "Voximplant sent an unreadable answer: 200 OK");
        }
    }
}
