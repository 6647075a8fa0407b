//! JSON Schema (2020-12), as far as docs/openapi.json uses it. A keyword that is not known here fails the test.

use serde_json::Value;

/// Follows `$ref`, which leads to another part of the document.
pub fn resolved<'v>(document: &'v Value, value: &'v Value) -> &'v Value {
    match value["$ref"].as_str() {
        Some(to) => document.pointer(to.strip_prefix('#').unwrap()).unwrap_or_else(|| panic!("{to} leads nowhere")),
        None => value,
    }
}

/// Checks a value against a schema.
///
/// # Errors
/// Says what does not fit.
pub fn check(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let schema = resolved(document, schema);
    for (keyword, expected) in schema.as_object().unwrap() {
        let fits = match keyword.as_str() {
            "description" | "example" => true,
            "type" => is_of_type(value, expected.as_str().unwrap()),
            "const" => value == expected,
            "minimum" => value.as_i64() >= expected.as_i64(),
            "minLength" => value.as_str().unwrap().len() >= expected.as_u64().unwrap() as usize,
            "maxLength" => value.as_str().unwrap().len() <= expected.as_u64().unwrap() as usize,
            "pattern" => matches(expected.as_str().unwrap(), value.as_str().unwrap()),
            "required" => expected.as_array().unwrap().iter().all(|name| value.get(name.as_str().unwrap()).is_some()),
            "additionalProperties" => {
                assert_eq!(*expected, false);
                value.as_object().unwrap().keys().all(|name| schema["properties"].get(name).is_some())
            }
            "properties" => {
                let known = value.as_object().unwrap().iter();
                for (name, value) in known.filter(|(name, _)| expected.get(name).is_some()) {
                    check(document, &expected[name], value)?;
                }
                true
            }
            "items" => value.as_array().unwrap().iter().try_for_each(|item| check(document, expected, item)).is_ok(),
            "anyOf" => expected.as_array().unwrap().iter().any(|one| check(document, one, value).is_ok()),
            other => panic!("{other} is not known"),
        };
        if !fits {
            return Err(format!("{keyword} {expected}: {value}"));
        }
    }
    Ok(())
}

fn is_of_type(value: &Value, name: &str) -> bool {
    match name {
        "string" => value.is_string(),
        "object" => value.is_object(),
        "array" => value.is_array(),
        "integer" => value.is_i64(),
        other => panic!("type {other} is not known"),
    }
}

/// Matches a pattern of the form `^[class]{least,most}$`, with `+` and `*` in the place of the bounds, or a row of such.
pub fn matches(pattern: &str, text: &str) -> bool {
    let mut rest = text;
    let mut left = pattern.strip_prefix('^').and_then(|pattern| pattern.strip_suffix('$')).expect("anchors");
    while !left.is_empty() {
        let (class, after) = left.strip_prefix('[').expect("a class").split_once(']').unwrap();
        let (bounds, after) = match after.split_at_checked(1) {
            Some(("+", after)) => ((1, usize::MAX), after),
            Some(("*", after)) => ((0, usize::MAX), after),
            Some(("{", after)) => {
                let (bounds, after) = after.split_once('}').unwrap();
                let (least, most) = bounds.split_once(',').unwrap_or((bounds, bounds));
                ((least.parse().unwrap(), most.parse().unwrap()), after)
            }
            _ => ((1, 1), after),
        };
        let length = rest.bytes().take_while(|byte| is_in(class, *byte)).count().min(bounds.1);
        if length < bounds.0 {
            return false;
        }
        (rest, left) = (&rest[length..], after);
    }
    rest.is_empty()
}

fn is_in(class: &str, byte: u8) -> bool {
    let class = class.as_bytes();
    let range = |from: usize| class.get(from + 1) == Some(&b'-') && from + 2 < class.len();
    let mut from = 0;
    while from < class.len() {
        let last = if range(from) { class[from + 2] } else { class[from] };
        if (class[from]..=last).contains(&byte) {
            return true;
        }
        from += if range(from) { 3 } else { 1 };
    }
    false
}

#[test]
fn patterns_match_whole_texts() {
    for (pattern, text, expected) in [
        ("^[0-9a-f]{32}$", "0123456789abcdef0123456789abcdef", true),
        ("^[0-9a-f]{32}$", "0123456789abcdef0123456789abcde", false),
        ("^[A-Za-z0-9+*_.-]{1,64}$", "a-+B", true),
        ("^[A-Za-z0-9+*_.-]{1,64}$", "a b", false),
        ("^[1-9][0-9]*$", "10", true),
        ("^[1-9][0-9]*$", "01", false),
    ] {
        assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
    }
}
