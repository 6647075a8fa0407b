//! The pages a browser ends at: the portal of whoever is logged in, else the login page.

use http::{Response, StatusCode};
use serde_json::json;

use super::{Ask, Dialect, Level, Pbx, Session, session};
use crate::demo::body::Body;
use crate::demo::server::lock;
use crate::demo::{page, server};

/// The words of the portal in one language.
struct Words {
    code: &'static str,
    welcome: &'static str,
    account: &'static str,
    tenant: &'static str,
    level: &'static str,
    language: &'static str,
    leave: &'static str,
}

/// English comes first: it is used for every language without words of its own.
const WORDS: &[Words] = &[
    Words {
        code: "en",
        welcome: "Welcome",
        account: "Extension",
        tenant: "Tenant",
        level: "Access",
        language: "Language",
        leave: "Sign out",
    },
    Words {
        code: "fr",
        welcome: "Bienvenue",
        account: "Poste",
        tenant: "Domaine",
        level: "Accès",
        language: "Langue",
        leave: "Se déconnecter",
    },
    Words {
        code: "sp",
        welcome: "Bienvenido",
        account: "Extensión",
        tenant: "Dominio",
        level: "Acceso",
        language: "Idioma",
        leave: "Cerrar sesión",
    },
    Words {
        code: "de",
        welcome: "Willkommen",
        account: "Nebenstelle",
        tenant: "Domäne",
        level: "Zugang",
        language: "Sprache",
        leave: "Abmelden",
    },
];

impl Pbx {
    /// Answers `/`, `/welcome.htm` and `/thirdparty.htm`.
    pub(super) fn page(&self, ask: &Ask) -> Response<Body> {
        let mut state = lock(&self.state);
        let dialect = state.options().dialect;
        if dialect == Dialect::A && ask.path() == "/thirdparty.htm" {
            return error(StatusCode::NOT_FOUND, "not found");
        }
        let handed_over = if ask.path() == "/welcome.htm" { server::query(&ask.head, "sessId") } else { None };
        let id = handed_over.clone().or_else(|| ask.cookie()).unwrap_or_default();
        let lang = server::query(&ask.head, "lang");
        let Some(session) = state.session(&id) else {
            let domain = state.tenant_of_host(ask.host()).map_or("", |tenant| &tenant.name);
            return server::html(StatusCode::OK, login(domain, lang.as_deref().unwrap_or("en")));
        };
        if handed_over.is_some() || lang.is_some() {
            session.lang = lang.unwrap_or_else(|| "en".to_owned());
        }
        let session = session.clone();
        let name = state.tenant(&session.identity.domain).and_then(|tenant| tenant.extension(&session.identity.user));
        let page = portal(&session, name.map_or("Administrator", |extension| &extension.name));
        let response = server::html(StatusCode::OK, page);
        if handed_over.is_some() { session::with_cookie(response, &id, dialect) } else { response }
    }
}

fn portal(session: &Session, name: &str) -> String {
    let words = WORDS.iter().find(|words| words.code == session.lang).unwrap_or(&WORDS[0]);
    let level = match session.identity.level {
        Level::Admin => "System administrator",
        Level::Domain => "Tenant administrator",
        Level::User => "User",
    };
    let initials: String = name.split(' ').filter_map(|word| word.chars().next()).collect();
    page::fill(
        include_str!("../pages/pbx_portal.html"),
        &[
            ("user", &session.identity.user),
            ("domain", &session.identity.domain),
            ("lang", &session.lang),
            ("scope", session.identity.level.as_str()),
            ("level", level),
            ("name", name),
            ("first", name.split(' ').next().unwrap_or(name)),
            ("initials", &initials),
            ("welcome", words.welcome),
            ("account_word", words.account),
            ("tenant_word", words.tenant),
            ("level_word", words.level),
            ("language_word", words.language),
            ("leave", words.leave),
        ],
    )
}

/// Returns the login page.
pub(super) fn login(domain: &str, lang: &str) -> String {
    page::fill(include_str!("../pages/pbx_login.html"), &[("domain", domain), ("lang", lang)])
}

/// Returns a JSON error as the REST interface words it.
pub(super) fn error(status: StatusCode, message: &str) -> Response<Body> {
    server::json(status, &json!({ "error": message, "code": status.as_u16() }))
}
