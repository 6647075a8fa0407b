//! Members of a provider's JSON. Only those that are read must be well-formed.

use crate::model::json::Json;

/// Finds a member. `null` counts as missing.
///
/// # Errors
/// Returns the problem if the name stands twice.
pub(super) fn member<'j>(json: &'j Json, name: &str) -> Result<Option<&'j Json>, &'static str> {
    let member = json.member(name).map_err(|_| "stands there twice")?;
    Ok(member.filter(|member| **member != Json::Null))
}

/// Finds a text. `null` counts as missing.
///
/// # Errors
/// Returns the problem if the name stands twice, or the member is not a text.
pub(super) fn text<'j>(json: &'j Json, name: &str) -> Result<Option<&'j str>, &'static str> {
    let Some(member) = member(json, name)? else { return Ok(None) };
    member.text().map(Some).ok_or("is not a text")
}
