//! `when` of a rule: conditions on claims, and hours.

use jiff::tz::TimeZone;
use toml::de::DeValue;

use crate::config::check::values::{distinct, each};
use crate::config::document::TomlNode;
use crate::model::condition::{ClaimPattern, Condition, When};
use crate::model::hours::{Hours, NotHours};
use crate::model::template::ROW;

/// The key that is not a claim.
const HOURS: &str = "hours";
/// The nesting of tables, the same as that of claims.
const MAX_DEPTH: usize = 3;

/// Reads the table. `has_table`: whether the rule has a table, whose columns are not claims.
pub(super) fn when(node: &TomlNode<'_, '_>, has_table: bool) -> Option<When> {
    let entries = node.table(|table| Some(table.all()))?;
    if entries.is_empty() {
        return node
            .refuse("has no condition", "write the value that a claim must have, such as { groups = \"support\" }");
    }
    let (hours, claims): (Vec<_>, Vec<_>) = entries.into_iter().partition(|(key, _)| *key == HOURS);
    let hours: Vec<_> = hours.into_iter().map(|(_, node)| each(&node.one_or_many()?, read_hours)).collect();
    let mut conditions = Vec::new();
    for (claim, node) in claims {
        read_claim(claim, &node, MAX_DEPTH, &mut conditions)?;
    }
    if has_table && conditions.iter().any(|condition| condition.claim.starts_with(ROW)) {
        return node.refuse(
            "asks for a column of the table",
            "conditions check claims: remove the rows that must not apply from the table",
        );
    }
    Some(When { conditions, hours: hours.into_iter().collect::<Option<Vec<_>>>()?.concat() })
}

/// Reads the patterns of one claim. TOML turns a dotted key into a table: `realm.roles` is the claim of that name.
fn read_claim(claim: &str, node: &TomlNode<'_, '_>, depth: usize, conditions: &mut Vec<Condition>) -> Option<()> {
    if node.value().is_table() {
        if depth == 1 {
            return node.refuse("is nested too deep", "name the claim with dots, such as \"realm_access.roles\"");
        }
        for (inner, node) in node.table(|table| Some(table.all()))? {
            read_claim(&format!("{claim}.{inner}"), &node, depth - 1, conditions)?;
        }
        return Some(());
    }
    let nodes = if node.value().is_array() { node.list()? } else { vec![node.clone()] };
    let wanted = distinct(&nodes, "value", wanted)?;
    conditions.push(Condition { claim: claim.to_owned(), wanted });
    Some(())
}

fn wanted(node: &TomlNode<'_, '_>) -> Option<ClaimPattern> {
    match node.value() {
        DeValue::Boolean(flag) => Some(ClaimPattern::Exactly(flag.to_string())),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Some(ClaimPattern::Exactly(number.to_string())),
            Err(_) => node.refuse("is not a number that a claim can have", "write it in quotes, as the claim has it"),
        },
        DeValue::String(_) => node.parsed(),
        _ => {
            node.refuse("is not a value that a claim can have", "write a text in quotes, a whole number, true or false")
        }
    }
}

fn read_hours(node: &TomlNode<'_, '_>) -> Option<Hours> {
    // The end of the message quotes the operator's text.
    Hours::read(node.string()?, |name| TimeZone::get(name).ok()).map_err(|error| refuse_hours(node, &error)).ok()
}

fn refuse_hours(node: &TomlNode<'_, '_>, error: &NotHours) {
    let hint = match error {
        NotHours::Form => "write \"Mon-Fri 08:00-18:00 Europe/Berlin\"",
        NotHours::Days(_) => "write Mon, Tue, Wed, Thu, Fri, Sat, Sun, such as Mon-Fri or Mon,Wed,Sat-Sun",
        NotHours::Times(_) => "write 08:00-18:00, 22:00-06:00 for a night, 00:00-24:00 for a day",
        NotHours::Zone(_) => "write a name of the IANA time zone database, such as Europe/Berlin or UTC",
    };
    node.refuse::<()>(error, hint);
}
