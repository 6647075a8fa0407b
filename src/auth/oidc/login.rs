//! The content of a login's sealed cookie.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use crate::auth::claims;
use crate::model::principal::{Claim, Claims};

/// A person that a cookie remembers.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RememberedLogin {
    pub(super) subject: String,
    pub(super) until: Timestamp,
    pub(super) claims: Claims,
}

/// How far this clock may have been set back, or be behind the clock of another callgate with the same key.
pub(super) const SET_BACK: SignedDuration = SignedDuration::from_secs(60);

impl RememberedLogin {
    /// Tells whether the login is still valid; `remember` bounds its time. A clock that was set back by days does not
    /// extend it by days.
    pub(super) fn is_good(&self, now: Timestamp, remember: Duration) -> bool {
        let left = self.until.duration_since(now);
        let longest = SignedDuration::try_from(remember).unwrap_or(SignedDuration::ZERO);
        left.is_positive() && left <= longest.saturating_add(SET_BACK)
    }

    pub(super) fn write(&self) -> Vec<u8> {
        let claims: Map<_, _> = self.claims.iter().map(|(name, claim)| (name.clone(), written(claim))).collect();
        json!([self.subject, self.until.as_second(), claims]).to_string().into_bytes()
    }

    pub(super) fn read(text: &[u8]) -> Option<Self> {
        let (subject, until, claims): (String, i64, Map<String, Value>) = serde_json::from_slice(text).ok()?;
        Some(Self { subject, until: Timestamp::from_second(until).ok()?, claims: claims::of(&claims) })
    }
}

fn written(claim: &Claim) -> Value {
    match claim {
        Claim::Text(text) => text.as_str().into(),
        Claim::List(items) => items.as_slice().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_good_for_as_long_as_logins_are_remembered() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let login = RememberedLogin { subject: String::new(), until: at(10_000), claims: Claims::new() };
        let hour = Duration::from_secs(3600);
        for (now, good) in [(6400, true), (9_999, true), (10_000, false), (6340, true), (6339, false), (0, false)] {
            assert_eq!(login.is_good(at(now), hour), good, "{now}");
        }
    }

    #[test]
    fn survives_its_cookie() {
        let claims = [
            ("ext".to_owned(), "40".into()),
            ("groups".to_owned(), Claim::List(vec!["a".into(), "b".into()])),
            ("outer.inner".to_owned(), "true".into()),
        ];
        let login = RememberedLogin {
            subject: "ann".into(),
            until: Timestamp::from_second(1_900_000_000).unwrap(),
            claims: claims.into(),
        };
        assert_eq!(RememberedLogin::read(&login.write()).unwrap(), login);
        for text in ["", "[]", r#"["ann",1]"#, r#"["ann","1",{}]"#] {
            assert_eq!(RememberedLogin::read(text.as_bytes()), None, "{text}");
        }
    }
}
