//! The `when` of a rule: conditions over claims, and hours. All of them must hold. A missing claim fulfils no
//! condition. For the same reason there is no "not": it would hold for every caller without the claim.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;

use super::account::Domain;
use super::hours::Hours;
use super::principal::{self, Claim, Claims};

/// The `when` table of a rule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct When {
    /// The conditions on claims; all must hold.
    pub conditions: Vec<Condition>,
    /// The hours; the current time must be within one of them. Empty: always.
    pub hours: Vec<Hours>,
}

/// A condition on one claim: its value must match one of the patterns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// The name of the claim.
    pub claim: String,
    /// The patterns. Of a list, one item must match.
    pub wanted: Vec<ClaimPattern>,
}

/// A pattern for the value of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimPattern {
    /// Exactly this text.
    Exactly(String),
    /// An e-mail address at this domain.
    AddressAt(Domain),
}

/// The reason why `when` does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unmet<'r> {
    /// The claim is missing or cannot be relied on.
    #[error(transparent)]
    Absent(principal::Absent<'r>),
    /// The claim has another value.
    #[error("{0}")]
    Condition(&'r Condition),
    /// The current time is outside the hours.
    #[error("it is not for this time of the week")]
    Hours,
}

impl When {
    /// Checks that all conditions hold at a time.
    ///
    /// # Errors
    /// The first condition that does not hold.
    pub fn holds(&self, claims: &Claims, now: Timestamp) -> Result<(), Unmet<'_>> {
        self.conditions.iter().try_for_each(|condition| condition.holds(claims))?;
        let is_open = self.hours.is_empty() || self.hours.iter().any(|hours| hours.include(now));
        if is_open { Ok(()) } else { Err(Unmet::Hours) }
    }
}

impl Condition {
    fn holds(&self, claims: &Claims) -> Result<(), Unmet<'_>> {
        let says = |text: &String| self.wanted.iter().any(|wanted| wanted.fits(text));
        let holds = match principal::find(claims, &self.claim).map_err(Unmet::Absent)? {
            Claim::Text(text) => says(text),
            Claim::List(items) => items.iter().any(says),
        };
        if holds { Ok(()) } else { Err(Unmet::Condition(self)) }
    }
}

impl fmt::Display for Condition {
    /// Writes the negation of the condition, as the reason why it does not hold.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wanted: Vec<_> = self.wanted.iter().map(ClaimPattern::to_string).collect();
        write!(f, "the claim {:?} does not say {}", self.claim, wanted.join(" or "))
    }
}

impl ClaimPattern {
    fn fits(&self, text: &str) -> bool {
        match self {
            Self::Exactly(wanted) => wanted == text,
            Self::AddressAt(domain) => is_address_at(text, domain),
        }
    }
}

impl fmt::Display for ClaimPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(text) => write!(f, "{text:?}"),
            Self::AddressAt(domain) => write!(f, "\"*@{domain}\""),
        }
    }
}

/// Tells whether a text is a plain address at exactly this domain. An address in quotes or with a second `@` does not
/// count: another reader could find another domain in it.
fn is_address_at(text: &str, domain: &Domain) -> bool {
    let Some((name, place)) = text.split_once('@') else { return false };
    let plain = |letter: char| !letter.is_whitespace() && !letter.is_control() && !"\"'()<>[],:;\\".contains(letter);
    !name.is_empty() && name.chars().all(plain) && place.eq_ignore_ascii_case(domain.as_str())
}

/// The text has a `*` outside `*@` and a host name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a * stands only for the name in an address: \"*@example.com\"")]
pub struct NotAClaimPattern;

impl FromStr for ClaimPattern {
    type Err = NotAClaimPattern;

    fn from_str(text: &str) -> Result<Self, NotAClaimPattern> {
        match text.strip_prefix("*@") {
            Some(domain) => domain.parse().map(Self::AddressAt).map_err(|_| NotAClaimPattern),
            None if text.contains('*') => Err(NotAClaimPattern),
            None => Ok(Self::Exactly(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;

    fn claims() -> Claims {
        let list = |items: &[&str]| Claim::List(items.iter().map(|item| (*item).to_owned()).collect());
        Claims::from([
            ("plan".to_owned(), "pro".into()),
            ("age".to_owned(), "42".into()),
            ("email".to_owned(), "Ann@Acme.example.com".into()),
            ("email_verified".to_owned(), "true".into()),
            ("groups".to_owned(), list(&["staff", "support"])),
            ("none".to_owned(), list(&[])),
            ("empty".to_owned(), "".into()),
        ])
    }

    fn when(claim: &str, wanted: &[&str]) -> When {
        let wanted = wanted.iter().map(|text| text.parse().unwrap()).collect();
        When { conditions: vec![Condition { claim: claim.to_owned(), wanted }], hours: Vec::new() }
    }

    fn monday_noon() -> Timestamp {
        "2026-11-23T12:00:00Z".parse().unwrap()
    }

    #[track_caller]
    fn check(claim: &str, wanted: &[&str], expected: bool) {
        let held = when(claim, wanted).holds(&claims(), monday_noon()).is_ok();
        assert_eq!(held, expected, "{claim} {wanted:?}");
    }

    #[test]
    fn a_claim_says_one_of_what_is_wanted() {
        check("plan", &["pro"], true);
        check("plan", &["team", "pro"], true);
        check("age", &["42"], true);
        check("email_verified", &["true"], true);
        check("empty", &[""], true);
        for wanted in ["Pro", "pro ", "", "pr", "prox"] {
            check("plan", &[wanted], false);
        }
        check("plan", &["team", "free"], false);
        check("age", &["42.0"], false);
        check("email_verified", &["false", "1", "True"], false);
    }

    #[test]
    fn of_a_list_one_item_says_it() {
        check("groups", &["support"], true);
        check("groups", &["admins", "staff"], true);
        check("groups", &["Support"], false);
        check("groups", &["staff,support"], false);
        check("none", &[""], false);
    }

    #[test]
    fn a_missing_claim_says_nothing() {
        check("role", &["admin"], false);
        check("role", &[""], false);
        check("Plan", &["pro"], false);
    }

    #[test]
    fn an_address_is_at_exactly_the_domain() {
        check("email", &["*@acme.example.com"], true);
        check("email", &["*@ACME.example.com"], true);
        check("email", &["*@example.com"], false);
        check("plan", &["*@acme.example.com"], false);
        let domain: Domain = "acme.test".parse().unwrap();
        for text in ["ann@acme.test", "a.b+c@acme.test", "ü@ACME.TEST"] {
            assert!(is_address_at(text, &domain), "{text}");
        }
        for text in [
            "",
            "ann",
            "acme.test",
            "@acme.test",
            "ann@acme.test.evil.test",
            "ann@evil.test@acme.test",
            "ann@evil.acme.test",
            "ann@acme.test ",
            " ann@acme.test",
            "ann@acme.test\0",
            "ann\n@acme.test",
            "ann,bob@acme.test",
            "\"ann@evil.test\"@acme.test",
            "<ann@acme.test>",
            "ann@acme.test.",
            "ann@notacme.test",
        ] {
            assert!(!is_address_at(text, &domain), "{text:?}");
        }
    }

    #[test]
    fn an_address_that_is_not_proven_says_nothing() {
        let claims = |verified: Option<&str>| {
            let mut claims = Claims::from([("email".to_owned(), "ann@acme.test".into())]);
            claims.extend(verified.map(|verified| ("email_verified".to_owned(), verified.into())));
            claims
        };
        let when = when("email", &["ann@acme.test"]);
        for (verified, expected) in [
            (None, true),
            (Some("true"), true),
            (Some("false"), false),
            (Some("0"), false),
            (Some(""), false),
            (Some("True"), false),
        ] {
            assert_eq!(when.holds(&claims(verified), monday_noon()).is_ok(), expected, "{verified:?}");
        }
    }

    #[test]
    fn all_must_hold_and_one_of_the_hours_be_now() {
        let hours = |text: &str| Hours::read(text, |name| TimeZone::get(name).ok()).unwrap();
        let both = |first: &str, second: &str| When {
            conditions: [when("plan", &[first]), when("groups", &[second])]
                .map(|mut when| when.conditions.remove(0))
                .into(),
            hours: vec![hours("Mon 00:00-06:00 UTC"), hours("Mon 08:00-18:00 UTC")],
        };
        let check = |first: &str, second: &str, now: &str, expected: Result<(), &str>| {
            let when = both(first, second);
            let held = when.holds(&claims(), now.parse().unwrap()).map_err(|unmet| unmet.to_string());
            assert_eq!(
                held.as_ref().map_err(String::as_str),
                expected.as_ref().map_err(|why| *why),
                "{first} {second} {now}"
            );
        };
        check("pro", "staff", "2026-11-23T12:00:00Z", Ok(()));
        check("pro", "staff", "2026-11-23T05:00:00Z", Ok(()));
        check("free", "staff", "2026-11-23T12:00:00Z", Err("the claim \"plan\" does not say \"free\""));
        check("pro", "admins", "2026-11-23T12:00:00Z", Err("the claim \"groups\" does not say \"admins\""));
        check("pro", "staff", "2026-11-23T07:00:00Z", Err("it is not for this time of the week"));
    }

    #[test]
    fn a_star_stands_for_nothing_but_a_name_in_an_address() {
        for text in ["*", "*@", "a*", "*.example.com", "*@*.example.com", "ann@*", "*@a b", "**@a.test"] {
            assert_eq!(text.parse::<ClaimPattern>(), Err(NotAClaimPattern), "{text}");
        }
        assert_eq!("ann@a.test".parse::<ClaimPattern>().unwrap().to_string(), "\"ann@a.test\"");
        assert_eq!("*@A.test".parse::<ClaimPattern>().unwrap().to_string(), "\"*@a.test\"");
    }
}
