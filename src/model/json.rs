//! JSON that every reader understands alike. Of a name that stands twice, some readers take the first value and others
//! the last; an integer that exceeds 64 bits loses digits in some readers only (RFC 8259 §4, §6; RFC 7493 §2.2, §2.3).
//!
//! [`object`] checks the whole text, which fits claims. [`Json`] checks only the members that are asked for, and
//! ignores the rest.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// The reason why a text is not JSON with one reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// The text is not JSON, or more text follows it.
    #[error("not JSON")]
    Syntax,
    /// The text is JSON, but not an object.
    #[error("not a JSON object")]
    NotAnObject,
    /// A name stands twice in one object.
    #[error("a name stands twice in a JSON object")]
    Twice,
    /// An integer is longer than 64 bits.
    #[error("an integer is longer than 64 bits")]
    LongInteger,
}

/// A JSON value with every member that is written, in the order in which they are written.
#[derive(Debug, Clone, PartialEq)]
pub enum Json {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number. An integer that is longer than 64 bits is a float.
    Number(Number),
    /// A text, without its escapes.
    Text(String),
    /// A list.
    List(Vec<Self>),
    /// The members of an object, also those of the same name.
    Object(Vec<(String, Self)>),
}

/// Reads an object that has one reading at every depth.
///
/// # Errors
/// When the text is not such an object.
pub fn object(text: &[u8]) -> Result<Map<String, Value>, JsonError> {
    let Json::Object(members) = Json::read(text)? else { return Err(JsonError::NotAnObject) };
    if has_long_integer(text) {
        return Err(JsonError::LongInteger);
    }
    unique(members)
}

fn unique(members: Vec<(String, Json)>) -> Result<Map<String, Value>, JsonError> {
    let mut object = Map::new();
    for (name, value) in members {
        if object.insert(name, value.into_value()?).is_some() {
            return Err(JsonError::Twice);
        }
    }
    Ok(object)
}

/// Tells whether a JSON text has an integer that fits no 64-bit type. After parsing, it would be a float like any
/// other.
fn has_long_integer(json: &[u8]) -> bool {
    let (mut is_text, mut at) = (false, 0);
    while let Some(byte) = json.get(at) {
        match byte {
            b'\\' => at += 1,
            b'"' => is_text = !is_text,
            b'-' | b'0'..=b'9' if !is_text => {
                let rest = &json[at..];
                let end = rest.iter().position(|byte| !b"+-.0123456789Ee".contains(byte)).unwrap_or(rest.len());
                if is_long_integer(&rest[..end]) {
                    return true;
                }
                at += end - 1;
            }
            _ => {}
        }
        at += 1;
    }
    false
}

fn is_long_integer(number: &[u8]) -> bool {
    let number = str::from_utf8(number).unwrap_or_default();
    let is_integer = !number.contains(['.', 'e', 'E']);
    is_integer && number.parse::<i64>().is_err() && number.parse::<u64>().is_err()
}

impl Json {
    /// Reads a text, repeated names included.
    ///
    /// # Errors
    /// When the text is not JSON.
    pub fn read(text: &[u8]) -> Result<Self, JsonError> {
        serde_json::from_slice(text).map_err(|_| JsonError::Syntax)
    }

    /// Finds a member of an object; `None` when there is no such name, or when the value is not an object.
    ///
    /// # Errors
    /// When the name stands twice.
    pub fn member(&self, name: &str) -> Result<Option<&Self>, JsonError> {
        let Self::Object(members) = self else { return Ok(None) };
        let mut found = members.iter().filter(|(known, _)| known == name).map(|(_, value)| value);
        match (found.next(), found.next()) {
            (found, None) => Ok(found),
            (_, Some(_)) => Err(JsonError::Twice),
        }
    }

    /// Returns the text; `None` for other values.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Null | Self::Bool(_) | Self::Number(_) | Self::List(_) | Self::Object(_) => None,
        }
    }

    /// Returns the items of a list; `None` for other values.
    #[must_use]
    pub fn list(&self) -> Option<&[Self]> {
        match self {
            Self::List(items) => Some(items),
            Self::Null | Self::Bool(_) | Self::Number(_) | Self::Text(_) | Self::Object(_) => None,
        }
    }

    fn into_value(self) -> Result<Value, JsonError> {
        Ok(match self {
            Self::Null => Value::Null,
            Self::Bool(flag) => Value::Bool(flag),
            Self::Number(number) => Value::Number(number),
            Self::Text(text) => Value::String(text),
            Self::List(items) => Value::Array(items.into_iter().map(Self::into_value).collect::<Result<_, _>>()?),
            Self::Object(members) => Value::Object(unique(members)?),
        })
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyJson)
    }
}

struct AnyJson;

impl<'de> Visitor<'de> for AnyJson {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Json, E> {
        Ok(Json::Text(text))
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Json, E> {
        Ok(Json::Bool(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Json, E> {
        Ok(Json::Number(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Json, E> {
        Ok(Json::Number(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Json, E> {
        Ok(Number::from_f64(number).map_or(Json::Null, Json::Number))
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Json, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Json::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Json, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = object.next_entry()? {
            members.push(member);
        }
        Ok(Json::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&str, JsonError>) {
        let read = object(text.as_bytes()).map(|object| Value::Object(object).to_string());
        assert_eq!(read.as_deref().map_err(|error| *error), expected, "{text}");
    }

    #[test]
    fn json_with_one_reading_is_read() {
        check(r#"{"a":[1,-1,null,true,{"a":"b"}],"b":1.5}"#, Ok(r#"{"a":[1,-1,null,true,{"a":"b"}],"b":1.5}"#));
        check(r#"{"a":{"x":1},"b":{"x":2}}"#, Ok(r#"{"a":{"x":1},"b":{"x":2}}"#));
        check(r#"{"a":"A"}"#, Ok(r#"{"a":"A"}"#));
        check(
            r#"{"a":18446744073709551615,"b":-9223372036854775808}"#,
            Ok(r#"{"a":18446744073709551615,"b":-9223372036854775808}"#),
        );
        for text in ["", "{", "{} {}", "\u{feff}{}", r#"{"a":01}"#, r#"{"a":1e999}"#, r#"{"a":"\ud800"}"#, "{'a':1}"] {
            check(text, Err(JsonError::Syntax));
        }
        for text in ["[]", "1", "null", r#""{}""#] {
            check(text, Err(JsonError::NotAnObject));
        }
        assert_eq!(object(b"{\"a\":\"\xff\"}"), Err(JsonError::Syntax));
    }

    #[test]
    fn a_name_that_stands_twice_has_two_readings() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"b":2,"\u0061":3}"#,
            r#"{"o":{"a":1,"a":2}}"#,
            r#"{"l":[1,[{"a":1,"a":2}]]}"#,
        ] {
            check(text, Err(JsonError::Twice));
        }
    }

    #[test]
    fn a_long_integer_has_two_readings() {
        for number in [
            "18446744073709551616",
            "-9223372036854775809",
            "12345678901234567890123",
            "-12345678901234567890123",
            "100000000000000000000000000000000000000000000000000",
        ] {
            check(&format!(r#"{{"a":{number}}}"#), Err(JsonError::LongInteger));
            check(&format!(r#"{{"a":[{{"b":{number}}}]}}"#), Err(JsonError::LongInteger));
            check(&format!(r#"{{"\\":{{"a\"":[0,1.5e3,{number}]}}}}"#), Err(JsonError::LongInteger));
            let text = format!(r#"{{"a":"{number}","b\"{number}":"\\"}}"#);
            assert!(object(text.as_bytes()).is_ok(), "{text}");
        }
        for float in ["1e300", "12345678901234567890123.5", "1E+30"] {
            assert!(object(format!(r#"{{"a":{float}}}"#).as_bytes()).is_ok(), "{float}");
        }
    }

    #[test]
    fn a_member_is_read_whatever_the_others_are() {
        let json = Json::read(br#"{"a":"x","b":1,"b":2,"c":{"d":1,"d":2},"e":12345678901234567890123}"#).unwrap();
        assert_eq!(json.member("a").unwrap().and_then(Json::text), Some("x"));
        assert_eq!(json.member("b"), Err(JsonError::Twice));
        assert_eq!(json.member("z"), Ok(None));
        assert_eq!(json.member("a").unwrap().unwrap().member("a"), Ok(None));
    }
}
