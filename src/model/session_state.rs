//! Whether a session of the PBX is alive, as the PBX describes it (`GET /rest/system/session`).

use super::json::Json;

/// The state of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionState {
    /// A user or an administrator is logged in.
    Alive,
    /// The session has ended, or there never was one.
    Over,
    /// The PBX did not tell.
    Unknown,
}

/// The members of the description that only a live session has. One of them is enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionMarkers(Vec<SessionMarker>);

/// A member of the description of a live session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionMarker {
    /// Its name.
    pub member: String,
    /// Its values; empty: any but `null`, `false`, `0`, `""`, `[]` and `{}`.
    pub values: Vec<String>,
}

impl SessionMarkers {
    /// Takes the markers of a dialect.
    #[must_use]
    pub const fn new(markers: Vec<SessionMarker>) -> Self {
        Self(markers)
    }

    /// Reads a description. A member that decides and stands twice leaves the state unknown, because readers take the
    /// first or the last.
    #[must_use]
    pub fn read(&self, description: &[u8]) -> SessionState {
        let Ok(Json::Object(members)) = Json::read(description) else { return SessionState::Unknown };
        let mut state = SessionState::Over;
        for marker in &self.0 {
            let mut named = members.iter().filter(|(name, _)| *name == marker.member);
            match (named.next(), named.next()) {
                (Some(_), Some(_)) => return SessionState::Unknown,
                (Some((_, value)), None) if marker.fits(value) => state = SessionState::Alive,
                (Some(_) | None, None) | (None, Some(_)) => {}
            }
        }
        state
    }
}

impl SessionMarker {
    fn fits(&self, value: &Json) -> bool {
        match value {
            Json::Text(text) if !self.values.is_empty() => self.values.contains(text),
            _ if !self.values.is_empty() => false,
            Json::Null => false,
            Json::Bool(is_so) => *is_so,
            Json::Number(number) => number.as_f64() != Some(0.0),
            Json::Text(text) => !text.is_empty(),
            Json::List(items) => !items.is_empty(),
            Json::Object(members) => !members.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(description: &str, expected: SessionState) {
        let marker = |member: &str, values: &[&str]| SessionMarker {
            member: member.to_owned(),
            values: values.iter().map(|value| (*value).to_owned()).collect(),
        };
        let markers = SessionMarkers::new(vec![marker("type", &["admin", "user"]), marker("user", &[])]);
        assert_eq!(markers.read(description.as_bytes()), expected, "{description}");
    }

    #[test]
    fn one_marker_of_a_live_session_is_enough() {
        for text in [
            r#"{"type":"admin"}"#,
            r#"{"type":"user","lang":"en","user":""}"#,
            r#"{"user":"40"}"#,
            r#"{"user":{"number":"40"}}"#,
            r#"{"user":40,"type":""}"#,
            r#"{"user":true}"#,
            r#"{"user":["40"]}"#,
        ] {
            check(text, SessionState::Alive);
        }
    }

    #[test]
    fn a_description_without_markers_is_of_a_session_that_is_over() {
        for text in [
            "{}",
            r#"{"type":""}"#,
            r#"{"type":"guest"}"#,
            r#"{"type":null,"user":null}"#,
            r#"{"type":true}"#,
            r#"{"Type":"admin"}"#,
            r#"{"user":false,"type":[]}"#,
            r#"{"user":0}"#,
            r#"{"user":[]}"#,
            r#"{"user":{}}"#,
            r#"{"nested":{"type":"admin"}}"#,
        ] {
            check(text, SessionState::Over);
        }
    }

    #[test]
    fn what_is_no_clear_description_says_nothing() {
        for text in ["", "false", "\"user\"", "[]", "<html>", r#"{"type":"admin""#, r#"{"type":"","type":"admin"}"#] {
            check(text, SessionState::Unknown);
        }
    }
}
