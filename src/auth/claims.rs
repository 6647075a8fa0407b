//! Turns a JSON object into the claims of a caller.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::model::grant::ACCOUNT;
use crate::model::principal::{self, Claim, Claims};

/// The most claims of one object.
const MAX_CLAIMS: usize = 100;
/// The deepest level of nested objects that is read.
const MAX_DEPTH: usize = 3;
/// The claims that name the caller, the preferred first.
const SUBJECTS: [&str; 8] = ["sub", "id", "user", "username", "login", "email", "uid", "name"];

/// Returns the claims: scalars, lists of scalars, and those of inner objects as `outer.inner`.
///
/// A claim that restricts the caller is never left out, even if its value is unclear or [`MAX_CLAIMS`] is reached.
pub(super) fn of(object: &Map<String, Value>) -> Claims {
    let mut claims = Claims::new();
    take(object, "", MAX_DEPTH, &mut claims);
    claims
}

fn take(object: &Map<String, Value>, prefix: &str, depth: usize, claims: &mut Claims) {
    // Scalars and lists come first: a member of the object itself wins over an inner object that spells the same name.
    for (name, value) in object {
        let claim = match value {
            Value::Array(items) => items.iter().map(scalar).collect::<Option<_>>().map(Claim::List),
            value => scalar(value).map(Claim::Text),
        };
        let restricts = restricts(name);
        // An empty list: the claim exists and has no value.
        let claim = claim.or_else(|| restricts.then(|| Claim::List(Vec::new())));
        if let Some(claim) = claim
            && (restricts || claims.len() < MAX_CLAIMS)
        {
            claims.entry(format!("{prefix}{name}")).or_insert(claim);
        }
    }
    for (name, value) in object {
        if let Value::Object(inner) = value
            && depth > 1
        {
            take(inner, &format!("{prefix}{name}."), depth - 1, claims);
        }
    }
}

/// Adds the claims of another source about the same person. Existing claims stay. Only the source of a mail address can
/// say that the address is verified; that it is not verified counts from either source.
pub(super) fn add(claims: &mut Claims, more: Claims) {
    // A flag without its address verifies no address.
    let vouches = |claims: &Claims, name: &str| {
        principal::address_of_flag(name).is_some_and(|address| claims.contains_key(address))
    };
    let is_yes = |claim: &Claim| claim.text() == Some("true");
    let unfounded: Vec<_> = claims
        .iter()
        .filter(|(name, claim)| principal::is_flag_of_address(name) && is_yes(claim) && !vouches(claims, name))
        .map(|(name, _)| name.clone())
        .collect();
    claims.retain(|name, _| !unfounded.contains(name));
    let before: Claims = claims.clone();
    for (name, claim) in more {
        if !principal::is_flag_of_address(&name) {
            claims.entry(name).or_insert(claim);
        } else if !is_yes(&claim) {
            claims.insert(name, claim);
        } else if !vouches(&before, &name) {
            claims.entry(name).or_insert(claim);
        }
    }
}

/// Tells whether a claim of this name restricts the caller: it excludes administrators' sessions, or an address that is not
/// verified.
fn restricts(name: &str) -> bool {
    name == ACCOUNT || principal::is_flag_of_address(name)
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        // Some readers take 40.0, 4e1 and 40.00000000000000000001 for one number, others for several: not an identity.
        Value::Number(number) if number.is_f64() => None,
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Returns the subject for limits and the audit log: the first claim of [`SUBJECTS`], else all claims. In lower case,
/// because case does not make another person.
pub(super) fn subject(claims: &Claims) -> String {
    let known = SUBJECTS.iter().find_map(|name| claims.get(*name)?.text()).filter(|value| !value.is_empty());
    let all = || claims.iter().map(|(name, claim)| format!("{}={}", quoted(name), shown(claim)));
    known.map_or_else(|| all().collect::<Vec<_>>().join(" "), str::to_owned).to_lowercase()
}

fn shown(claim: &Claim) -> String {
    match claim {
        Claim::Text(text) => quoted(text).into_owned(),
        Claim::List(items) => format!("[{}]", items.iter().map(|item| quoted(item)).collect::<Vec<_>>().join(",")),
    }
}

/// Quotes a text that could be read as several, so that two callers never have the same subject.
fn quoted(text: &str) -> Cow<'_, str> {
    let is_plain = |c: char| !c.is_whitespace() && !c.is_control() && !"=[],\"\\".contains(c);
    if text.chars().all(is_plain) { text.into() } else { format!("{text:?}").into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Claims {
        of(serde_json::from_str::<Value>(text).unwrap().as_object().unwrap())
    }

    #[test]
    fn claims_are_scalars_lists_and_what_inner_objects_have() {
        let found = read(
            r#"{"ext":"40","n":41,"ok":true,"none":null,"groups":["a",1],"mixed":["a",{}],
                "realm":{"roles":["r"],"a":{"b":1,"c":{"d":2}}},"realm.roles":"own"}"#,
        );
        let list = |items: &[&str]| Claim::List(items.iter().map(|item| (*item).to_owned()).collect());
        let expected = [
            ("ext", "40".into()),
            ("groups", list(&["a", "1"])),
            ("n", "41".into()),
            ("ok", "true".into()),
            ("realm.a.b", "1".into()),
            ("realm.roles", "own".into()),
        ];
        assert_eq!(found, expected.map(|(name, claim): (&str, Claim)| (name.to_owned(), claim)).into());
    }

    #[test]
    fn what_one_source_says_of_an_address_is_not_said_of_the_others() {
        #[track_caller]
        fn check(said: &str, more: &str, expected: &str) {
            let mut claims = read(said);
            add(&mut claims, read(more));
            assert_eq!(claims, read(expected), "{said} {more}");
        }
        check(r#"{"ext":"40"}"#, r#"{"ext":"41","tenant":"a"}"#, r#"{"ext":"40","tenant":"a"}"#);
        let (yes, no) = (r#"{"email":"b","email_verified":true}"#, r#"{"email":"b","email_verified":false}"#);
        check("{}", yes, yes);
        check("{}", no, no);
        check(yes, "{}", yes);
        check(yes, yes, yes);
        // A no counts from either source.
        check(yes, no, no);
        check(no, yes, no);
        check(yes, r#"{"email_verified":"no"}"#, r#"{"email":"b","email_verified":"no"}"#);
        check(yes, r#"{"email_verified":null}"#, r#"{"email":"b","email_verified":[]}"#);
        check(r#"{"email_verified":false}"#, yes, no);
        // A yes counts for the address beside it.
        check(r#"{"email_verified":true}"#, r#"{"email":"b"}"#, r#"{"email":"b"}"#);
        check(r#"{"email_verified":true}"#, no, no);
        check(r#"{"email_verified":true}"#, yes, yes);
        check(r#"{"email":"a"}"#, yes, r#"{"email":"a"}"#);
        check(r#"{"email":"a"}"#, no, r#"{"email":"a","email_verified":false}"#);
        check(r#"{"user":{"email_verified":true}}"#, r#"{"user":{"email":"b"}}"#, r#"{"user":{"email":"b"}}"#);
        check(
            r#"{"voicemail_verified":true}"#,
            r#"{"voicemail":"b"}"#,
            r#"{"voicemail_verified":true,"voicemail":"b"}"#,
        );
    }

    #[test]
    fn there_are_only_so_many() {
        let text: Vec<_> = (0..2 * MAX_CLAIMS).map(|number| format!("\"{number}\":1")).collect();
        assert_eq!(read(&format!("{{{}}}", text.join(","))).len(), MAX_CLAIMS);
    }

    #[test]
    fn the_subject_is_the_usual_claim_or_all() {
        #[track_caller]
        fn check(body: &str, expected: &str) {
            assert_eq!(subject(&read(body)), expected);
        }
        check(r#"{"email":"Ann@Acme.test","sub":"Ann"}"#, "ann");
        check(r#"{"ext":"40","tenant":"ACME","groups":["a","b c"]}"#, "ext=40 groups=[a,\"b c\"] tenant=acme");
        check(r#"{"sub":"","ext":"40"}"#, "ext=40 sub=");
    }

    #[test]
    fn no_two_callers_without_a_usual_claim_are_one() {
        let bodies = [
            r#"{"accounts":["40"]}"#,
            r#"{"accounts":["41"]}"#,
            r#"{"accounts":["40","41"]}"#,
            r#"{"accounts":["40,41"]}"#,
            r#"{"accounts":"40"}"#,
            r#"{"accounts":"[40]"}"#,
            r#"{"accounts":[]}"#,
            r#"{"a":"1","b":"2"}"#,
            r#"{"a":"1 b=2"}"#,
            r#"{"a b":"1"}"#,
            r#"{"a=1 b":"2"}"#,
        ];
        let subjects: std::collections::BTreeSet<_> = bodies.iter().map(|body| subject(&read(body))).collect();
        assert_eq!(subjects.len(), bodies.len(), "{subjects:?}");
    }

    #[test]
    fn a_number_with_a_fraction_is_no_claim() {
        assert_eq!(read(r#"{"a":40.0,"b":4e1,"c":[1.5],"d":-0,"e":40}"#), [("e".to_owned(), "40".into())].into());
        // What keeps its bearer from something stays, however it is written.
        assert_eq!(read(r#"{"email_verified":1.0}"#)["email_verified"], Claim::List(Vec::new()));
    }
}
