//! The answer to a login that may become several accounts: a page with a link to each for a person, a list for a
//! program.

use http::Response;
use serde_json::Value;

use super::audience::Audience;
use super::page::Page;
use super::reader::Reader;
use super::{json_of, response};
use crate::exchange::Body;
use crate::model::grant::Requested;
use crate::model::page_text::PageText;
use crate::proxy::error::{AccountChoices, Error};
use crate::proxy::login::link_options::{LinkOptions, path_for};

/// Offers the accounts that `error` carries.
pub(super) fn answer(
    choices: &AccountChoices,
    error: &Error,
    audience: &Audience,
    reader: Reader<'_>,
) -> Response<Body> {
    let (status, _) = error.status();
    match choices {
        AccountChoices::PbxByLink { among, options } if audience.wants_html => {
            page(reader, among, options).with_status(status).respond()
        }
        AccountChoices::PbxByLink { among, .. } | AccountChoices::Pbx(among) | AccountChoices::Voximplant(among) => {
            let mut value = json_of(error, audience);
            value["choices"] = among.iter().map(parameters).collect();
            response::json_with_status(status, &value)
        }
    }
}

/// Returns the parameters of a request that selects one account.
fn parameters(choice: &Requested) -> Value {
    let Requested { account, domain, user } = choice;
    let named = [("account", account), ("domain", domain), ("appUser", user)];
    named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), Value::String(value.clone()?)))).collect()
}

fn page<'p>(reader: Reader<'p>, among: &[Requested], options: &LinkOptions) -> Page<'p> {
    let choice = |choice: &Requested| (path_for(choice, options, &[]), display_name(choice));
    Page::new(reader, PageText::WhichAccount).with_choices(among.iter().map(choice))
}

fn display_name(choice: &Requested) -> String {
    let domain = choice.domain.as_deref().unwrap_or_default();
    choice.account.as_deref().map_or_else(|| domain.to_owned(), |account| format!("{account} ({domain})"))
}
