//! What a caller asks for at `/auth/pbx`: an account, a language, a page to land at; and the links that ask for the same
//! again.

use super::form::Fields;
use super::link_options::{LinkOptions, NEXT, STATE, path_for, query_for};
use crate::model::account::Language;
use crate::model::grant::{PbxGrant, Requested};
use crate::proxy::error::Error;

/// The parameter that marks the second try of a navigation that another site began, or that comes from a login.
const AGAIN: &str = "again";
/// Its value behind a login.
const LOGIN: &str = "login";

/// What a caller asks for.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Selectors {
    pub(in crate::proxy) requested: Requested,
    pub(in crate::proxy) options: LinkOptions,
    again: Option<String>,
}

impl Selectors {
    /// Asks for no account in particular.
    pub(super) fn in_language(language: Option<Language>) -> Self {
        Self { options: LinkOptions { language, ..LinkOptions::default() }, ..Self::default() }
    }

    /// Reads `account`, `domain`, `lang`, `next`, `state` and `again`.
    ///
    /// # Errors
    /// When `lang` is not a language.
    pub(super) fn read(mut fields: Fields) -> Result<Self, Error> {
        let language = fields.take("lang").filter(|code| !code.is_empty());
        let language =
            language.map(|code| code.parse()).transpose().map_err(|_| Error::Malformed("lang is not a language"))?;
        let requested = Requested { account: fields.take("account"), domain: fields.take("domain"), user: None };
        let options = LinkOptions { language, next: fields.take(NEXT), back: fields.take(STATE) };
        Ok(Self { requested, options, again: fields.take(AGAIN) })
    }

    /// Reads the query of a link.
    ///
    /// # Errors
    /// When a parameter is given twice, or `lang` is not a language.
    pub(super) fn of_query(query: Option<&str>) -> Result<Self, Error> {
        Self::read(Fields::of_form(query.unwrap_or_default().as_bytes())?)
    }

    /// Tells whether this is the first try.
    pub(super) const fn are_first_try(&self) -> bool {
        self.again.is_none()
    }

    /// Tells whether a login at a provider has just ended.
    pub(super) fn are_after_login(&self) -> bool {
        self.again.as_deref() == Some(LOGIN)
    }

    // === Asking for the same again ===

    /// Writes the path of the second try.
    pub(super) fn second_try(&self) -> String {
        path_for(&self.requested, &self.options, &[(AGAIN, "1")])
    }

    /// Writes the path that asks for the same after a login.
    pub(super) fn after_login(&self) -> String {
        path_for(&self.requested, &self.options, &[(AGAIN, LOGIN)])
    }

    /// Writes a query that asks for the same, with more parameters.
    pub(super) fn query(&self, more: &[(&str, &str)]) -> String {
        query_for(&self.requested, &self.options, more)
    }

    // === The language ===

    /// Checks the language against those that the PBX and the rule have.
    ///
    /// # Errors
    /// When it is not among them.
    pub(super) fn check_language(&self, grant: &PbxGrant, offered: &[Language]) -> Result<Option<Language>, Error> {
        let Some(language) = &self.options.language else { return Ok(None) };
        let permits = |languages: &[Language]| languages.contains(language);
        if permits(offered) && grant.languages().is_none_or(permits) {
            Ok(Some(language.clone()))
        } else {
            Err(Error::Malformed("lang is not one of the configured languages"))
        }
    }
}
