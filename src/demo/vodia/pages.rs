//! The pages of the PBX: the portal of the user who is logged in, else the login page.

use http::{Response, StatusCode};

use super::answers::{error, with_cookie};
use super::{PbxRequest, SessionLevel, VodiaDialect, VodiaPbx, WebSession};
use crate::demo::server::{DemoBody, lock};
use crate::demo::{page, server};

/// The texts of the portal in one language.
struct PortalTexts {
    code: &'static str,
    welcome: &'static str,
    account: &'static str,
    tenant: &'static str,
    level: &'static str,
    language: &'static str,
    leave: &'static str,
}

/// The first, English, also serves languages without texts.
const TEXTS: &[PortalTexts] = &[
    PortalTexts {
        code: "en",
        welcome: "Welcome",
        account: "Extension",
        tenant: "Tenant",
        level: "Access",
        language: "Language",
        leave: "Sign out",
    },
    PortalTexts {
        code: "fr",
        welcome: "Bienvenue",
        account: "Poste",
        tenant: "Domaine",
        level: "Accès",
        language: "Langue",
        leave: "Se déconnecter",
    },
    PortalTexts {
        code: "sp",
        welcome: "Bienvenido",
        account: "Extensión",
        tenant: "Dominio",
        level: "Acceso",
        language: "Idioma",
        leave: "Cerrar sesión",
    },
    PortalTexts {
        code: "de",
        welcome: "Willkommen",
        account: "Nebenstelle",
        tenant: "Domäne",
        level: "Zugang",
        language: "Sprache",
        leave: "Abmelden",
    },
];

impl VodiaPbx {
    /// Answers `/`, `/welcome.htm`, `/thirdparty.htm` and `/usr_index.htm`.
    pub(super) fn page(&self, request: &PbxRequest) -> Response<DemoBody> {
        let mut state = lock(&self.state);
        let dialect = state.options().dialect;
        if dialect == VodiaDialect::A && request.path() == "/thirdparty.htm" {
            return error(StatusCode::NOT_FOUND, "not found");
        }
        let handed_over = if request.path() == "/welcome.htm" { server::query(&request.head, "sessId") } else { None };
        let id = handed_over.clone().or_else(|| request.cookie()).unwrap_or_default();
        let lang = server::query(&request.head, "lang");
        let Some(session) = state.session(&id) else {
            let domain = state.tenant_of_host(request.host()).map_or("", |tenant| &tenant.name);
            return server::html(StatusCode::OK, login(domain, lang.as_deref().unwrap_or("en")));
        };
        if handed_over.is_some() || lang.is_some() {
            session.lang = lang.unwrap_or_else(|| "en".to_owned());
        }
        let session = session.clone();
        let name = state.tenant(&session.identity.domain).and_then(|tenant| tenant.extension(&session.identity.user));
        let page = portal(&session, name.map_or("Administrator", |extension| &extension.name));
        let response = server::html(StatusCode::OK, page);
        if handed_over.is_some() { with_cookie(response, &id, dialect) } else { response }
    }
}

fn portal(session: &WebSession, name: &str) -> String {
    let texts = TEXTS.iter().find(|texts| texts.code == session.lang).unwrap_or(&TEXTS[0]);
    let level = match session.identity.level {
        SessionLevel::Admin => "System administrator",
        SessionLevel::Domain => "Tenant administrator",
        SessionLevel::User => "User",
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
            ("welcome", texts.welcome),
            ("account_word", texts.account),
            ("tenant_word", texts.tenant),
            ("level_word", texts.level),
            ("language_word", texts.language),
            ("leave", texts.leave),
        ],
    )
}

/// Returns the login page.
fn login(domain: &str, lang: &str) -> String {
    page::fill(include_str!("../pages/pbx_login.html"), &[("domain", domain), ("lang", lang)])
}
