//! `/rest/system/session`: mint, exchange, password login, language, logout.

use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;

use super::state::{Identity, Level, State};
use super::{Ask, Dialect, Faults, Pbx, pages};
use crate::demo::body::Body;
use crate::demo::server::{self, lock};

impl Pbx {
    /// Answers whatever comes to `/rest/system/session`.
    pub(super) fn session(&self, ask: &Ask, faults: &Faults) -> Response<Body> {
        match ask.head.method.as_str() {
            "GET" => self.describe(ask),
            "POST" => open_to_origin(self.act(ask, faults), ask),
            "PUT" => self.act(ask, faults),
            "DELETE" => self.log_out(ask),
            "OPTIONS" => pages::error(StatusCode::FORBIDDEN, "forbidden"),
            _ => pages::error(StatusCode::METHOD_NOT_ALLOWED, "method not allowed"),
        }
    }

    fn act(&self, ask: &Ask, faults: &Faults) -> Response<Body> {
        match ask.text("name") {
            Some("3rd") => self.mint(ask, faults),
            Some("session") => self.exchange(ask, faults),
            Some("auth") => self.log_in(ask, faults),
            Some("lang") => self.set_language(ask),
            Some("reset") => truth(self.knows(ask)),
            Some(_) => truth(false),
            None => pages::error(StatusCode::BAD_REQUEST, "no name"),
        }
    }

    // === Mint and exchange ===

    fn mint(&self, ask: &Ask, faults: &Faults) -> Response<Body> {
        let minted = self.minted(ask, faults);
        self.record_mint(ask, minted.as_ref().ok().cloned());
        match minted {
            Ok(value) => faults.minted(&value),
            Err(StatusCode::UNAUTHORIZED) => faults.refusal(),
            Err(status) => pages::error(status, status.canonical_reason().unwrap_or_default()),
        }
    }

    fn minted(&self, ask: &Ask, faults: &Faults) -> Result<String, StatusCode> {
        let rotated = self.is_rotated();
        let mut state = lock(&self.state);
        if rotated || ask.basic() != Some(state.admin()) {
            state.failed(ask.source);
            return Err(StatusCode::UNAUTHORIZED);
        }
        state.succeeded(ask.source);
        let identity = wanted(&state, ask)?;
        Ok(match state.options().dialect {
            Dialect::A => state.open(identity, faults.session_ttl),
            Dialect::B | Dialect::C => state.issue(identity, faults.token_ttl),
        })
    }

    /// Counts a mint against `refuse_after`, and tells whether the password has been rotated by now.
    fn is_rotated(&self) -> bool {
        match &mut lock(&self.faults).refuse_after {
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }

    fn exchange(&self, ask: &Ask, faults: &Faults) -> Response<Body> {
        let mut state = lock(&self.state);
        let token = ask.text("value").unwrap_or_default();
        let Some(identity) = state.redeem(token) else { return truth(false) };
        // Another id than the token's, so that a client that takes one for the other fails loudly.
        let id = state.open(identity, faults.session_ttl);
        with_cookie(truth(true), &id, state.options().dialect)
    }

    // === Login, language, logout ===

    fn log_in(&self, ask: &Ask, faults: &Faults) -> Response<Body> {
        let mut state = lock(&self.state);
        let (user, digest) = ask.text("value").and_then(|value| value.split_once(' ')).unwrap_or_default();
        let identity = state.tenant_of_host(ask.host()).and_then(|tenant| state.authenticate(tenant, user, digest));
        let Some(identity) = identity else {
            state.failed(ask.source);
            return faults.refusal();
        };
        state.succeeded(ask.source);
        let id = state.open(identity, faults.session_ttl);
        with_cookie(server::json(StatusCode::OK, &json!(id)), &id, state.options().dialect)
    }

    fn set_language(&self, ask: &Ask) -> Response<Body> {
        let mut state = lock(&self.state);
        let id = ask.cookie().unwrap_or_default();
        let Some(session) = state.session(&id) else {
            return pages::error(StatusCode::UNAUTHORIZED, "unauthorized");
        };
        ask.text("value").unwrap_or("en").clone_into(&mut session.lang);
        truth(true)
    }

    fn log_out(&self, ask: &Ask) -> Response<Body> {
        let mut state = lock(&self.state);
        let id = ask.cookie().unwrap_or_default();
        if state.session(&id).is_none() {
            return pages::error(StatusCode::UNAUTHORIZED, "unauthorized");
        }
        state.close(&id);
        let mut response = truth(true);
        response.headers_mut().insert(header::SET_COOKIE, HeaderValue::from_static("session=; Path=/; Max-Age=0"));
        response
    }

    /// Tells who is asking; answers strangers too. Basic credentials open no session here.
    fn describe(&self, ask: &Ask) -> Response<Body> {
        let mut state = lock(&self.state);
        let is_admin = ask.basic() == Some(state.admin());
        let (level, lang) = match state.session(&ask.cookie().unwrap_or_default()) {
            Some(session) => (session.identity.level.as_str(), session.lang.clone()),
            None if is_admin => (Level::Admin.as_str(), "en".to_owned()),
            None => ("", "en".to_owned()),
        };
        let description = json!({ "type": level, "lang": lang, "country": "", "password_policy": "medium", "edit": !level.is_empty() });
        server::json(StatusCode::OK, &description)
    }

    fn knows(&self, ask: &Ask) -> bool {
        let state = lock(&self.state);
        let user = ask.text("value").unwrap_or_default();
        state.tenant_of_host(ask.host()).is_some_and(|tenant| tenant.extension(user).is_some())
    }
}

/// Returns whom a mint asks for. A missing or empty user name is the tenant's administrator in every dialect:
/// the trap a careful client stays out of.
fn wanted(state: &State, ask: &Ask) -> Result<Identity, StatusCode> {
    let domain = ask.text("domain").ok_or(StatusCode::BAD_REQUEST)?;
    let tenant = state.tenant(domain).ok_or(StatusCode::NOT_FOUND)?;
    let identity = |level, user: &str| Identity { level, user: user.to_owned(), domain: tenant.name.clone() };
    match ask.text("username") {
        None if state.options().dialect == Dialect::C && ask.json["admin"] == true => {
            Ok(identity(Level::Admin, "admin"))
        }
        None | Some("" | "admin") => Ok(identity(Level::Domain, "admin")),
        Some(user) => {
            let extension = tenant.extension(user).ok_or(StatusCode::NOT_FOUND)?;
            Ok(identity(Level::User, &extension.number))
        }
    }
}

fn truth(value: bool) -> Response<Body> {
    server::json(StatusCode::OK, &json!(value))
}

/// Sets the session cookie, with the attributes of the dialect.
pub(super) fn with_cookie(mut response: Response<Body>, id: &str, dialect: Dialect) -> Response<Body> {
    let attributes = match dialect {
        Dialect::A => "Path=/",
        Dialect::B | Dialect::C => "Path=/; SameSite=Strict; Secure; HttpOnly",
    };
    let cookie = HeaderValue::from_str(&format!("session={id}; {attributes}")).expect("an id is letters and digits");
    response.headers_mut().insert(header::SET_COOKIE, cookie);
    response
}

/// Lets the page that asks read the answer, whoever it is: so does the real one.
fn open_to_origin(mut response: Response<Body>, ask: &Ask) -> Response<Body> {
    let Some(origin) = ask.head.headers.get(header::ORIGIN) else { return response };
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    response
}
