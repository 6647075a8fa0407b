//! Which of several accounts? To a person a page with a link for each, to a program a list.

use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::login::pbx::path_for;
use super::reply::{self, Audience};
use crate::exchange::Body;
use crate::model::account::Language;
use crate::model::grant::Requested;

/// What a caller can ask for instead: each wish selects one of the accounts a rule grants.
#[derive(Debug)]
pub(super) enum Choices {
    /// Accounts of the PBX, for a link.
    Accounts {
        among: Vec<Requested>,
        /// The language that was asked for.
        language: Option<Language>,
    },
    /// Accounts of the PBX, for a request that no link can repeat.
    Named(Vec<Requested>),
    /// Voximplant users.
    Users(Vec<Requested>),
}

impl Choices {
    pub(super) fn without_links(self) -> Self {
        match self {
            Self::Accounts { among, .. } => Self::Named(among),
            choices => choices,
        }
    }

    /// Offers the choices.
    pub(super) fn answer(&self, status: StatusCode, code: &str, message: &str, audience: &Audience) -> Response<Body> {
        match self {
            Self::Accounts { among, language } if audience.html => page(status, among, language.as_ref()),
            Self::Accounts { among, .. } | Self::Named(among) | Self::Users(among) => {
                let choices: Vec<_> = among.iter().map(members).collect();
                let problem = json!({ "error": code, "message": message, "choices": choices, "request_id": audience.id.as_str() });
                reply::json_with(status, &problem)
            }
        }
    }
}

/// Writes a wish as the members of a request that selects it.
fn members(wish: &Requested) -> Value {
    let Requested { account, domain, user } = wish;
    let named = [("account", account), ("domain", domain), ("appUser", user)];
    named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), Value::String(value.clone()?)))).collect()
}

fn page(status: StatusCode, among: &[Requested], language: Option<&Language>) -> Response<Body> {
    let item = |wish: &Requested| {
        let (path, name) = (reply::escape(&path_for(wish, language, &[])), reply::escape(&name(wish)));
        format!("<li><a href=\"{path}\">{name}</a></li>")
    };
    let items: String = among.iter().map(item).collect();
    reply::html(status, "Which account?", &format!("<h1>Which account?</h1><ul>{items}</ul>"))
}

fn name(wish: &Requested) -> String {
    let domain = wish.domain.as_deref().unwrap_or_default();
    wish.account.as_deref().map_or_else(|| domain.to_owned(), |account| format!("{account} ({domain})"))
}
