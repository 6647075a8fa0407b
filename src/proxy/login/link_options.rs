//! What a link to `/auth/pbx` asks for beside the account, and the links that ask for it.

use crate::model::account::Language;
use crate::model::grant::Requested;
use crate::model::path::PBX_PATH;

/// The parameter that names a page of `[pbx] landings`.
pub(super) const NEXT: &str = "next";
/// The parameter of an automatic login: the page where it began.
pub(super) const STATE: &str = "state";

/// What a caller asks for beside the account. It goes along through all steps of a login.
#[derive(Debug, Clone, Default)]
pub(in crate::proxy) struct LinkOptions {
    pub(in crate::proxy) language: Option<Language>,
    /// The page of `[pbx] landings` at which the login shall end.
    pub(in crate::proxy) next: Option<String>,
    /// The page of the PBX to which an automatic login leads back, sealed.
    pub(in crate::proxy) back: Option<String>,
}

impl LinkOptions {
    fn pairs(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let language = self.language.as_ref().map(Language::as_str);
        let pairs = [("lang", language), (NEXT, self.next.as_deref()), (STATE, self.back.as_deref())];
        pairs.into_iter().filter_map(|(name, value)| Some((name, value?)))
    }
}

/// Writes the path at which a session is asked for.
pub(in crate::proxy) fn path_for(requested: &Requested, options: &LinkOptions, more: &[(&str, &str)]) -> String {
    format!("{PBX_PATH}?{}", query_for(requested, options, more))
}

/// Writes the query that asks for a session.
pub(super) fn query_for(requested: &Requested, options: &LinkOptions, more: &[(&str, &str)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (name, value) in [("account", &requested.account), ("domain", &requested.domain)] {
        query.extend_pairs(value.as_deref().map(|value| (name, value)));
    }
    query.extend_pairs(options.pairs());
    query.extend_pairs(more);
    query.finish()
}
