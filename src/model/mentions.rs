//! The accounts that a request to the PBX mentions, in every spelling that some reader accepts. The parser of the PBX
//! is not known for `user=40@acme.test`, `user[]=40`, `domain=acme.test.` or `%2540`. So while any account is frozen,
//! each parameter is read in every way.

use std::collections::BTreeSet;

use percent_encoding::percent_decode_str;

use super::account::{Account, Domain};
use super::session::{SESSION, SESSION_PARAMETER};

/// How often a text is decoded. No reader is known that decodes more often.
const MAX_DECODED: usize = 4;
/// The most names of one kind. More than that count as [`Mention::Unknown`]; no client sends as many.
const MAX_NAMES: usize = 32;

/// The accounts and sessions that a request mentions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccountMentions {
    /// The names after each round of percent-decoding. In the last reading nothing is left to decode.
    readings: Vec<MentionedNames>,
    sessions: BTreeSet<String>,
}

/// The names of one reading, in lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct MentionedNames {
    users: BTreeSet<String>,
    domains: BTreeSet<String>,
}

/// An account that a name may stand for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mention {
    /// This account.
    Account(Account),
    /// An unknown account of this domain.
    InDomain(Domain),
    /// An unknown account of an unknown domain.
    Unknown,
}

impl AccountMentions {
    /// Reads the path, the query and the cookies of a request for a host.
    pub fn read<'h>(path: &str, query: Option<&str>, cookies: impl Iterator<Item = &'h [u8]>, host: &str) -> Self {
        let mut mentions = Self::default();
        // Some servers decode before they look for the query, and some read parameters in the path.
        let (paths, queries) = (decoded(path), decoded(query.unwrap_or_default()));
        for at in 0..paths.len().max(queries.len()) {
            let mut names = MentionedNames::default();
            let [path, query] =
                [&paths, &queries].map(|all| all.get(at).or_else(|| all.last()).map_or("", String::as_str));
            for (name, value) in parameters(path).chain(parameters(query)) {
                match bare_name(name).as_str() {
                    "user" => names.take_user(value),
                    "domain" => drop(names.domains.insert(bare_host(value))),
                    name if is_session(name) => drop(mentions.sessions.insert(bare(value).to_owned())),
                    _ => {}
                }
            }
            // Without another name, the PBX picks the tenant by the host. The domain `localhost` may be any tenant.
            if !names.users.is_empty() && !names.domains.iter().any(|domain| domain.contains('.')) {
                names.domains.insert(bare_host(host));
            }
            mentions.readings.push(names);
        }
        cookies.for_each(|line| mentions.take_cookies(&String::from_utf8_lossy(line)));
        mentions
    }

    /// Takes the sessions of a `Cookie` line with any separators: `a=b, session = "…"`.
    fn take_cookies(&mut self, line: &str) {
        let line = line.split('=').map(str::trim).collect::<Vec<_>>().join("=");
        let pairs = line.split(is_between).filter_map(|pair| pair.split_once('='));
        for (_, value) in pairs.filter(|(name, _)| is_session(&bare_name(name))) {
            self.sessions.extend(decoded(value).iter().map(|value| bare(value).to_owned()));
        }
    }

    /// Returns the values that may be session ids.
    pub fn sessions(&self) -> impl Iterator<Item = &str> {
        self.sessions.iter().map(String::as_str)
    }

    /// Returns all accounts that the names may stand for.
    #[must_use]
    pub fn mentioned(&self) -> Vec<Mention> {
        let mut all: Vec<Mention> = Vec::new();
        for (at, names) in self.readings.iter().enumerate() {
            let is_last = at + 1 == self.readings.len();
            // A name that is still encoded appears decoded in a later reading, or is not a name.
            let found =
                names.mentioned().into_iter().filter(|mentioned| is_last || matches!(mentioned, Mention::Account(_)));
            found.for_each(|mentioned| {
                if !all.contains(&mentioned) {
                    all.push(mentioned)
                }
            });
        }
        all
    }
}

impl MentionedNames {
    /// Takes `40`, `40@acme.test` and `sip:40@acme.test;transport=tls`.
    fn take_user(&mut self, value: &str) {
        let value = bare(value).to_ascii_lowercase();
        let value = ["sip:", "sips:", "tel:"].iter().find_map(|scheme| value.strip_prefix(scheme)).unwrap_or(&value);
        match value.split_once('@') {
            None => drop(self.users.insert(bare(value).to_owned())),
            Some((user, domain)) => {
                self.users.insert(bare(user).to_owned());
                self.domains.insert(bare_host(domain));
            }
        }
    }

    fn mentioned(&self) -> Vec<Mention> {
        if self.users.len().max(self.domains.len()) > MAX_NAMES {
            return vec![Mention::Unknown];
        }
        let pairs = self.domains.iter().flat_map(|domain| self.users.iter().map(move |user| (user, domain)));
        pairs.filter_map(|(user, domain)| mentioned(user, domain)).collect()
    }
}

/// Splits a query twice: at all separators that some readers know, and at `&` only.
fn parameters(query: &str) -> impl Iterator<Item = (&str, &str)> {
    let parts = query.split(is_between).chain(query.split('&'));
    parts.filter_map(|part| part.split_once('='))
}

/// Returns the account that a user of a domain stands for; `None` if no account can have this name.
fn mentioned(user: &str, domain: &str) -> Option<Mention> {
    if user.is_empty() || user == "admin" {
        return None;
    }
    let Ok(domain) = domain.parse::<Domain>() else { return Some(Mention::Unknown) };
    Some(Account::new(user, domain.clone()).map_or(Mention::InDomain(domain), Mention::Account))
}

fn is_between(c: char) -> bool {
    "&;,?#".contains(c) || c.is_whitespace() || c.is_control()
}

fn is_session(name: &str) -> bool {
    [SESSION, SESSION_PARAMETER].iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Returns the text after each round of decoding, the original first.
fn decoded(text: &str) -> Vec<String> {
    let mut all = vec![text.to_owned()];
    for _ in 0..MAX_DECODED {
        let last = all.last().map_or("", String::as_str);
        let spaced = last.replace('+', " ");
        let next = percent_decode_str(&spaced).decode_utf8_lossy().into_owned();
        if next == *last {
            break;
        }
        all.push(next);
    }
    all
}

/// Removes quotes, brackets and white space around a value, and cuts it where some readers end: at control characters
/// and separators.
fn bare(text: &str) -> &str {
    let is_around = |c: char| c.is_whitespace() || c.is_control() || "\"'<>[]{}()\u{feff}".contains(c);
    let text = text.trim_start_matches(is_around);
    let text = text.split(|c: char| c.is_control() || ";,&?#".contains(c)).next().unwrap_or_default();
    text.trim_end_matches(is_around)
}

/// Normalizes the name of a parameter: `User`, ` user`, `user[]`, `user[0]` and `user%00x` become `user`.
fn bare_name(name: &str) -> String {
    let name = bare(name).split(['[', '.', ' ']).next().unwrap_or_default();
    name.trim().to_ascii_lowercase()
}

/// Normalizes a host name: lower case, without port and final dots.
fn bare_host(host: &str) -> String {
    let host = bare(host).to_ascii_lowercase();
    let host = host.rsplit_once("//").map_or(host.as_str(), |(_, host)| host);
    let host = host.rsplit('@').next().unwrap_or_default();
    let host = host.split([':', '/']).next().unwrap_or_default();
    host.trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(text: &str) -> Mention {
        let (user, domain) = text.split_once('@').unwrap();
        Mention::Account(Account::new(user, domain.parse().unwrap()).unwrap())
    }

    fn read(query: &str, cookies: &str, host: &str) -> AccountMentions {
        AccountMentions::read("/websocket", Some(query), [cookies.as_bytes()].into_iter(), host)
    }

    #[test]
    fn every_spelling_of_an_account_is_found() {
        for query in [
            "domain=acme.test&user=40",
            "user=40@acme.test",
            "user=40%40acme.test&domain=other.test",
            "user=sip:40@acme.test;transport=tls",
            "domain=acme.test.&user=40",
            "domain=ACME.Test..&USER=40",
            "domain=acme.test:443&user=40",
            "domain=%20acme.test%20&user=+40",
            "domain=acme.test%00.evil&user=40%00x",
            "domain=acme.test&user=%2534%2530",
            "domain=acme.test&user=4%2530",
            "user=40%2540acme.test",
            "%64omain=acme.test&us%65r=%34%30",
            "%2564omain=acme.test&us%2565r=40",
            "domain=acme.test%26user%3D40",
            "domain=acme.test;user=40",
            "user[]=40&domain[]=acme.test",
            "user%5B0%5D=40&domain[x]=acme.test",
            "user=41&user=42&user=40&user=43&domain=a.test&domain=acme.test&domain=b.test",
            "user=%22%34%30%22&domain='acme.test'",
            "user=40%0d%0a&domain=acme.test%09",
            "user=40,&domain=acme.test,",
            "a?domain=acme.test&b#user=40",
            "domain=https://acme.test/&user=40",
            "domain=localhost&user=40",
            "domain=&user=40",
            "user=40",
        ] {
            let mentioned = read(query, "", "Acme.Test.").mentioned();
            assert!(mentioned.contains(&account("40@acme.test")), "{query}: {mentioned:?}");
        }
    }

    #[test]
    fn parameters_in_the_path_are_found() {
        for (path, query) in [
            ("/websocket%3Fdomain=acme.test&user=40", None),
            ("/websocket%253Fdomain%3Dacme.test%26user%3D40", None),
            ("/websocket;user=40;domain=acme.test", None),
            ("/websocket;user=40", Some("domain=acme.test")),
            ("/websocket;user=%2534%2530", Some("domain=acme%2Etest")),
        ] {
            let mentioned = AccountMentions::read(path, query, std::iter::empty(), "pbx.test").mentioned();
            assert!(mentioned.contains(&account("40@acme.test")), "{path} {query:?}: {mentioned:?}");
        }
        assert_eq!(AccountMentions::read("/a=b/user", Some("c=d"), std::iter::empty(), "pbx.test").mentioned(), []);
    }

    #[test]
    fn a_name_that_no_account_can_have_may_mean_any() {
        let mentioned = |query| read(query, "", "pbx.test").mentioned();
        assert_eq!(mentioned("domain=acme.test&user=４０"), [Mention::InDomain("acme.test".parse().unwrap())]);
        assert_eq!(mentioned("domain=acme.test&user=40%zz"), [Mention::InDomain("acme.test".parse().unwrap())]);
        assert!(mentioned("domain=acme。test&user=40").contains(&Mention::Unknown));
        let many: Vec<_> = (0..=MAX_NAMES).map(|number| format!("user={number}")).collect();
        assert_eq!(mentioned(&format!("domain=acme.test&{}", many.join("&"))), [Mention::Unknown]);
    }

    #[test]
    fn a_clear_name_mentions_one_account_or_none() {
        let mentioned = |query| read(query, "a=b; theme=dark", "pbx.test").mentioned();
        assert_eq!(mentioned("domain=acme.test&user=41"), [account("41@acme.test")]);
        assert_eq!(mentioned("domain=acme.test&user=admin"), []);
        assert_eq!(mentioned("domain=acme.test&user="), []);
        assert_eq!(mentioned("domain=acme.test"), []);
        assert_eq!(mentioned("username=40&mydomain=acme.test&a=user&b=domain"), []);
        assert_eq!(mentioned("domain=acme%2Etest&user=4%31"), [account("41@acme.test")]);
        assert_eq!(mentioned("domain=acme.test&user=41&next=%2Fa%3Fb%26c"), [account("41@acme.test")]);
    }

    #[test]
    fn every_session_of_a_request_is_found() {
        let line = "a=b; session=one;session=\"two\"; mysession=no; Session = three, session=four\tsession=five; x=y session=six";
        let mentions = read("se%73sion=seven&SESSID=eight&sessId%5B%5D=nine", line, "");
        let expected = ["eight", "five", "four", "nine", "one", "seven", "six", "three", "two"];
        for session in expected {
            assert!(mentions.sessions().any(|found| found == session), "{session}: {mentions:?}");
        }
        assert!(!mentions.sessions().any(|found| found == "no"), "{mentions:?}");
        let odd = AccountMentions::read("/", None, [&b"name=\xe4; session=four"[..]].into_iter(), "");
        assert_eq!(odd.sessions().collect::<Vec<_>>(), ["four"]);
    }
}
