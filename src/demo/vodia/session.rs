//! `/rest/system/session`: mint, exchange, password login, language, logout.

use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use super::answers::{error, refusal, truth, with_cookie};
use super::state::{SessionIdentity, SessionLevel, VodiaState, WebSession};
use super::{PbxRequest, VodiaDialect, VodiaPbx};
use crate::demo::server::{self, DemoBody, lock};

impl VodiaPbx {
    /// Answers `/rest/system/session`.
    pub(super) fn session(&self, request: &PbxRequest) -> Response<DemoBody> {
        match request.head.method.as_str() {
            "GET" => self.describe(request),
            "POST" => open_to_origin(self.act(request), request),
            "PUT" => self.act(request),
            "DELETE" => self.log_out(request),
            "OPTIONS" => error(StatusCode::FORBIDDEN, "forbidden"),
            _ => error(StatusCode::METHOD_NOT_ALLOWED, "method not allowed"),
        }
    }

    fn act(&self, request: &PbxRequest) -> Response<DemoBody> {
        match request.text("name") {
            Some("3rd") => self.mint(request),
            Some("session") => self.exchange(request),
            Some("auth") => self.log_in(request),
            Some("lang") => self.set_language(request),
            Some("reset") => truth(self.knows(request)),
            Some(_) => truth(false),
            None => error(StatusCode::BAD_REQUEST, "no name"),
        }
    }

    // === Mint and exchange ===

    fn mint(&self, request: &PbxRequest) -> Response<DemoBody> {
        match self.minted(request) {
            Ok(value) => server::json(StatusCode::OK, &json!(value)),
            Err(StatusCode::UNAUTHORIZED) => refusal(),
            Err(status) => error(status, status.canonical_reason().unwrap_or_default()),
        }
    }

    fn minted(&self, request: &PbxRequest) -> Result<String, StatusCode> {
        let mut state = lock(&self.state);
        if request.basic() != Some(state.admin()) {
            state.failed(request.source);
            return Err(StatusCode::UNAUTHORIZED);
        }
        state.succeeded(request.source);
        let identity = wanted(&state, request)?;
        Ok(match state.options().dialect {
            VodiaDialect::A => state.open(identity),
            VodiaDialect::B | VodiaDialect::C => state.issue(identity),
        })
    }

    fn exchange(&self, request: &PbxRequest) -> Response<DemoBody> {
        let mut state = lock(&self.state);
        let token = request.text("value").unwrap_or_default();
        let Some(identity) = state.redeem(token) else { return truth(false) };
        // The id differs from the token, so that a client that mixes them up fails.
        let id = state.open(identity);
        with_cookie(truth(true), &id, state.options().dialect)
    }

    // === Login, language, logout ===

    fn log_in(&self, request: &PbxRequest) -> Response<DemoBody> {
        let mut state = lock(&self.state);
        let (user, digest) = request.text("value").and_then(|value| value.split_once(' ')).unwrap_or_default();
        let identity = state.tenant_of_host(request.host()).and_then(|tenant| state.authenticate(tenant, user, digest));
        let Some(identity) = identity else {
            state.failed(request.source);
            return refusal();
        };
        state.succeeded(request.source);
        let id = state.open(identity);
        with_cookie(server::json(StatusCode::OK, &json!(id)), &id, state.options().dialect)
    }

    fn set_language(&self, request: &PbxRequest) -> Response<DemoBody> {
        let mut state = lock(&self.state);
        let id = request.cookie().unwrap_or_default();
        let Some(session) = state.session(&id) else {
            return error(StatusCode::UNAUTHORIZED, "unauthorized");
        };
        request.text("value").unwrap_or("en").clone_into(&mut session.lang);
        truth(true)
    }

    fn log_out(&self, request: &PbxRequest) -> Response<DemoBody> {
        let mut state = lock(&self.state);
        let id = request.cookie().unwrap_or_default();
        if state.session(&id).is_none() {
            return error(StatusCode::UNAUTHORIZED, "unauthorized");
        }
        state.close(&id);
        let mut response = truth(true);
        response.headers_mut().insert(header::SET_COOKIE, HeaderValue::from_static("session=; Path=/; Max-Age=0"));
        response
    }

    /// Describes the session of the request. Basic credentials do not open a session here.
    fn describe(&self, request: &PbxRequest) -> Response<DemoBody> {
        let mut state = lock(&self.state);
        if state.options().dialect == VodiaDialect::C {
            let session = state.session(&request.cookie().unwrap_or_default());
            return server::json(StatusCode::OK, &capabilities(session.as_deref()));
        }
        let is_admin = request.basic() == Some(state.admin());
        let (level, lang) = match state.session(&request.cookie().unwrap_or_default()) {
            Some(session) => (session.identity.level.as_str(), session.lang.clone()),
            None if is_admin => (SessionLevel::Admin.as_str(), "en".to_owned()),
            None => ("", "en".to_owned()),
        };
        let description = json!({ "type": level, "lang": lang, "country": "", "password_policy": "medium", "edit": !level.is_empty() });
        server::json(StatusCode::OK, &description)
    }

    fn knows(&self, request: &PbxRequest) -> bool {
        let state = lock(&self.state);
        let user = request.text("value").unwrap_or_default();
        state.tenant_of_host(request.host()).is_some_and(|tenant| tenant.extension(user).is_some())
    }
}

/// Describes a session in the modern dialect: what the PBX can do, and the user, if there is one.
fn capabilities(session: Option<&WebSession>) -> Value {
    let lang = session.map_or("en", |session| &session.lang);
    let mut description = json!({ "lang": lang, "webrtc": true, "chat": true, "apps": { "ios": "", "android": "" } });
    if let Some(WebSession { identity, .. }) = session {
        description["user"] = json!(identity.user);
        description["domain"] = json!(identity.domain);
        description["admin"] = json!(identity.level != SessionLevel::User);
    }
    description
}

/// Returns the user that a mint asks for.
///
/// As on the real PBX, a missing or empty user name means the tenant's administrator: a client must not send one.
fn wanted(state: &VodiaState, request: &PbxRequest) -> Result<SessionIdentity, StatusCode> {
    let domain = request.text("domain").ok_or(StatusCode::BAD_REQUEST)?;
    let tenant = state.tenant(domain).ok_or(StatusCode::NOT_FOUND)?;
    let identity = |level, user: &str| SessionIdentity { level, user: user.to_owned(), domain: tenant.name.clone() };
    match request.text("username") {
        None if state.options().dialect == VodiaDialect::C && request.json["admin"] == true => {
            Ok(identity(SessionLevel::Admin, "admin"))
        }
        None | Some("" | "admin") => Ok(identity(SessionLevel::Domain, "admin")),
        Some(user) => {
            let extension = tenant.extension(user).ok_or(StatusCode::NOT_FOUND)?;
            Ok(identity(SessionLevel::User, &extension.number))
        }
    }
}

/// Allows the page that asks to read the answer, whatever its origin, as the real PBX does.
fn open_to_origin(mut response: Response<DemoBody>, request: &PbxRequest) -> Response<DemoBody> {
    let Some(origin) = request.head.headers.get(header::ORIGIN) else { return response };
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    response
}
