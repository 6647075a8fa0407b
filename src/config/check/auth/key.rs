//! Method `key`: the rights of another server's key.

use jiff::{SignedDuration, Timestamp, civil, tz};
use toml::de::DeValue;

use super::Methods;
use crate::config::check::values::{self, each};
use crate::config::document::{TomlNode, TomlTable};
use crate::config::source::Surroundings;
use crate::config::{KeyConfig, MethodKind};
use crate::model::account::Domain;

/// Reads a table of type `key`.
pub(super) fn read(
    table: &TomlTable<'_, '_>,
    before: &Methods<'_, '_>,
    around: &Surroundings<'_>,
) -> Option<KeyConfig> {
    let sha256 = table.require("sha256").and_then(|node| sha256(&node, before));
    let scopes = table.require("scopes").and_then(|node| scopes(&node));
    let domains = table.get("domains").and_then(|node| each(&node.list()?, domain));
    let accounts =
        table.get("accounts").and_then(|node| each(&node.list()?, |node| values::account(node, node.string()?)));
    let users =
        table.get("users").and_then(|node| each(&node.list()?, |node| values::voximplant_user(node, node.string()?)));
    let from = table.get("from").and_then(|node| each(&node.list()?, values::network));
    let expires = table.get("expires").and_then(|node| expires(&node, around.now));
    let (sha256, scopes) = (sha256?, scopes?);
    for (scope, list) in [(KeyScope::Pbx, "domains"), (KeyScope::Ott, "users")] {
        if scopes.contains(&scope) {
            table.require(list);
        }
    }
    let [pbx, ott] = [KeyScope::Pbx, KeyScope::Ott].map(|scope| scopes.contains(&scope));
    Some(KeyConfig {
        sha256,
        pbx,
        ott,
        domains: domains.unwrap_or_default(),
        accounts,
        users: users.unwrap_or_default(),
        from: from.unwrap_or_default(),
        expires,
    })
}

fn sha256(node: &TomlNode<'_, '_>, before: &Methods<'_, '_>) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    if hex::decode_to_slice(node.string()?, &mut hash).is_err() {
        return node.refuse("not a SHA-256", "write 64 hex digits: printf %s \"$KEY\" | sha256sum");
    }
    let same = before.methods.iter().find(|method| matches!(&method.kind, MethodKind::Key(key) if key.sha256 == hash));
    match same {
        Some(method) => node.refuse(
            format_args!("the key of method `{}` once more", method.name),
            "make another key, or remove one of the two",
        ),
        None => Some(hash),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum KeyScope {
    Pbx,
    Ott,
}

fn scopes(node: &TomlNode<'_, '_>) -> Option<Vec<KeyScope>> {
    each(&node.list()?, |node| node.choice(&[("pbx", KeyScope::Pbx), ("ott", KeyScope::Ott)]))
}

fn domain(node: &TomlNode<'_, '_>) -> Option<Domain> {
    let domain = node.string()?.parse().ok();
    domain.or_else(|| node.refuse("not a PBX domain", "write its host name, such as \"acme.example.com\""))
}

// === expires ===

fn expires(node: &TomlNode<'_, '_>, now: Timestamp) -> Option<Timestamp> {
    const FORMS: &str = "write 2027-01-31 or 2027-01-31T18:00:00Z, without quotes";
    let DeValue::Datetime(written) = node.value() else {
        return node.refuse("not a date", FORMS);
    };
    match end_of(written) {
        Some(end) if end > now => Some(end),
        Some(_) => node.refuse("the key has expired already", "remove the method, or give it a later date"),
        None => node.refuse("not a date, or a time without an offset", FORMS),
    }
}

/// Returns the time of a date-time, or the end of a day in UTC.
fn end_of(written: &toml::value::Datetime) -> Option<Timestamp> {
    let date = written.date?;
    let date =
        civil::Date::new(date.year.try_into().ok()?, date.month.try_into().ok()?, date.day.try_into().ok()?).ok()?;
    let (offset, time) = match (written.offset, written.time) {
        (None, None) => return tz::Offset::UTC.to_timestamp(date.tomorrow().ok()?.at(0, 0, 0, 0)).ok(),
        (Some(offset), Some(time)) => (offset, time),
        (None, Some(_)) | (Some(_), None) => return None,
    };
    let since_midnight = SignedDuration::from_secs(
        i64::from(time.hour) * 3600 + i64::from(time.minute) * 60 + i64::from(time.second.unwrap_or(0)),
    );
    let offset = match offset {
        toml::value::Offset::Z => tz::Offset::UTC,
        toml::value::Offset::Custom { minutes } => tz::Offset::from_seconds(i32::from(minutes) * 60).ok()?,
    };
    offset.to_timestamp(date.at(0, 0, 0, 0).checked_add(since_midnight).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(written: &str, expected: Option<&str>) {
        let end = end_of(&written.parse().unwrap());
        assert_eq!(end.map(|end| end.to_string()).as_deref(), expected, "{written}");
    }

    #[test]
    fn a_day_ends_at_its_last_midnight_in_utc() {
        check("2027-01-31", Some("2027-02-01T00:00:00Z"));
        check("2028-02-28", Some("2028-02-29T00:00:00Z"));
    }

    #[test]
    fn a_time_needs_an_offset() {
        check("2027-01-31T18:00:00Z", Some("2027-01-31T18:00:00Z"));
        check("2027-01-31T18:00:00+02:00", Some("2027-01-31T16:00:00Z"));
        check("2027-01-31T23:30:00-01:30", Some("2027-02-01T01:00:00Z"));
        check("2027-01-31T18:00:00", None);
        check("18:00:00", None);
    }
}
