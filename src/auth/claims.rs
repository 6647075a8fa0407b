//! From a JSON object to the claims of a caller.

use serde_json::{Map, Value};

use crate::model::grant::ACCOUNT;
use crate::model::principal::{self, Claim, Claims};

/// The most claims that are taken from one object.
const MAX_CLAIMS: usize = 100;
/// How deep objects in objects are looked into.
const MAX_DEPTH: usize = 3;
/// The claims that say who somebody is, in the order of preference.
const SUBJECTS: [&str; 8] = ["sub", "id", "user", "username", "login", "email", "uid", "name"];

/// Takes the claims: scalars, lists of scalars, and those of inner objects as `outer.inner`.
///
/// What keeps its bearer from something is never left out, however unclear it is or however much stands before it.
pub(super) fn of(object: &Map<String, Value>) -> Claims {
    let mut claims = Claims::new();
    take(object, "", MAX_DEPTH, &mut claims);
    claims
}

fn take(object: &Map<String, Value>, prefix: &str, depth: usize, claims: &mut Claims) {
    // Scalars and lists first: what stands in the object itself beats an inner object that spells the same name.
    for (name, value) in object {
        let claim = match value {
            Value::Array(items) => items.iter().map(scalar).collect::<Option<_>>().map(Claim::List),
            value => scalar(value).map(Claim::Text),
        };
        let binds = binds(name);
        // An empty list: it is there, and says nothing.
        let claim = claim.or_else(|| binds.then(|| Claim::List(Vec::new())));
        if let Some(claim) = claim
            && (binds || claims.len() < MAX_CLAIMS)
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

/// Tells whether a claim of this name keeps its bearer from something by being there: from an administrator's session, or
/// from an address that nobody has verified.
fn binds(name: &str) -> bool {
    name == ACCOUNT || principal::is_flag_of_address(name)
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Names the caller for limits and audit: by the usual claim, or by all of them. Case does not make another person.
pub(super) fn subject(claims: &Claims) -> String {
    let texts = || claims.iter().filter_map(|(name, claim)| Some((name, claim.text()?)));
    let known = SUBJECTS.iter().find_map(|name| claims.get(*name)?.text()).filter(|value| !value.is_empty());
    let all = || texts().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ");
    known.map_or_else(all, str::to_owned).to_lowercase()
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
        check(r#"{"ext":"40","tenant":"ACME","groups":["a"]}"#, "ext=40 tenant=acme");
        check(r#"{"sub":"","ext":"40"}"#, "ext=40 sub=");
    }
}
