//! Who may become whom: rules turn a proven caller into a grant. The first rule that applies decides.
//! What the caller asks for only selects inside what the rule grants; it never widens it.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::account::{self, Account, Domain, Language};
use super::ott::{NotAVoximplantUser, VoximplantUser};
use super::principal::{Claims, Principal};
use super::template::{Template, Unfilled};

/// The built-in method of redirects of the app. A rule must name it to apply to it.
pub const REDIRECT: &str = "redirect";

/// One `[[allow]]` table.
#[derive(Debug, Clone)]
pub struct Rule {
    /// The name, for the audit log.
    pub name: String,
    /// The auth methods it applies to; none: all but [`REDIRECT`].
    pub methods: Option<Vec<String>>,
    /// Who the caller may become on the PBX.
    pub pbx: Option<PbxTemplate>,
    /// The Voximplant user the caller may become.
    pub voximplant: Option<Template>,
    /// The languages the caller may choose; none: all that the PBX has.
    pub languages: Option<Vec<Language>>,
}

/// How a rule finds an account of the PBX.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PbxTemplate {
    /// The domain (tenant).
    pub domain: Template,
    /// The user within the domain.
    pub account: Template,
}

/// Why a proven caller is not granted what he wants. For the audit log, never for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No rule names the method and finds all its claims.
    #[error("no rule applies")]
    NoRule,
    /// The deciding rule leads to something that cannot be granted. No later rule is asked.
    #[error("rule {rule:?}: {what}")]
    Invalid {
        /// The name of the rule.
        rule: String,
        /// What is wrong.
        what: Invalid,
    },
    /// The caller asked for somebody else than the deciding rule grants.
    #[error("rule {rule:?} grants somebody else than was asked for")]
    Foreign {
        /// The name of the rule.
        rule: String,
    },
}

/// What a rule led to that cannot be granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The result of the account's template.
    #[error("{0}")]
    Account(account::Invalid),
    /// The result of the domain's template.
    #[error("the domain is not a host name")]
    Domain,
    /// The result of the Voximplant user's template.
    #[error("{0}")]
    VoximplantUser(NotAVoximplantUser),
}

/// A rule that does not apply, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passed<'r> {
    /// The name of the rule.
    pub rule: &'r str,
    /// Why it does not apply.
    pub why: Why<'r>,
}

/// Why a rule does not apply. For the operator, never for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Why<'r> {
    /// It is not for the method that proved the caller.
    #[error("it is not for this auth method")]
    Method,
    /// It allows something else than was asked for.
    #[error("it says nothing of what is asked for")]
    Silent,
    /// A template cannot be filled in.
    #[error(transparent)]
    Unfilled(Unfilled<'r>),
}

/// How it was decided who a caller may become.
#[derive(Debug)]
pub struct Trace<'r, G> {
    /// The rules that do not apply, in their order: those before the one that decides.
    pub passed: Vec<Passed<'r>>,
    /// What is granted, or why nothing is.
    pub outcome: Result<G, Refusal>,
}

/// What the caller asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    /// The user name on the PBX.
    pub account: Option<String>,
    /// The PBX domain.
    pub domain: Option<String>,
    /// The Voximplant user, without `@` and what follows it.
    pub user: Option<String>,
}

/// The right to one session of one PBX account. Only [`pbx`] makes one.
#[derive(Debug)]
pub struct PbxGrant {
    rule: String,
    account: Account,
    languages: Option<Vec<Language>>,
}

impl PbxGrant {
    /// Returns the name of the rule that granted it.
    #[must_use]
    pub fn rule(&self) -> &str {
        &self.rule
    }

    /// Returns the account.
    #[must_use]
    pub const fn account(&self) -> &Account {
        &self.account
    }

    /// Returns the languages that may be chosen; none: all that the PBX has.
    #[must_use]
    pub fn languages(&self) -> Option<&[Language]> {
        self.languages.as_deref()
    }
}

/// The right to one login token of one Voximplant user. Only [`voximplant`] makes one.
#[derive(Debug)]
pub struct VoximplantGrant {
    rule: String,
    user: VoximplantUser,
}

impl VoximplantGrant {
    /// Returns the name of the rule that granted it.
    #[must_use]
    pub fn rule(&self) -> &str {
        &self.rule
    }

    /// Returns the user.
    #[must_use]
    pub const fn user(&self) -> &VoximplantUser {
        &self.user
    }
}

/// Returns the claims of a method's callers that rules use, in their order and each once.
#[must_use]
pub fn claims_used(rules: &[Rule], method: &str) -> Vec<String> {
    let rules = rules.iter().filter(|rule| rule.fits(method));
    let used: BTreeSet<_> = rules.flat_map(Rule::claims).collect();
    used.into_iter().map(str::to_owned).collect()
}

/// Finds the PBX account a caller may become now.
///
/// # Errors
/// When no rule applies, or the first that does leads to no account below the administrator's, or to another than wished.
pub fn pbx(rules: &[Rule], principal: &Principal, wish: &Wish, now: Timestamp) -> Result<PbxGrant, Refusal> {
    decide_pbx(rules, principal, wish, now, |_| {})
}

/// Decides as [`pbx`], and tells how.
#[must_use]
pub fn explain_pbx<'r>(rules: &'r [Rule], principal: &Principal, wish: &Wish, now: Timestamp) -> Trace<'r, PbxGrant> {
    let mut passed = Vec::new();
    let outcome = decide_pbx(rules, principal, wish, now, |rule| passed.push(rule));
    Trace { passed, outcome }
}

fn decide_pbx<'r>(
    rules: &'r [Rule],
    principal: &Principal,
    wish: &Wish,
    now: Timestamp,
    note: impl FnMut(Passed<'r>),
) -> Result<PbxGrant, Refusal> {
    let (rule, (user, domain)) = decide(rules, principal, now, note, |rule, claims| {
        let template = rule.pbx.as_ref().ok_or(Why::Silent)?;
        let rendered = |template: &'r Template| template.render(claims).map_err(Why::Unfilled);
        Ok((rendered(&template.account)?, rendered(&template.domain)?))
    })?;
    let account = account_of(&user, &domain).map_err(|what| Refusal::Invalid { rule: rule.name.clone(), what })?;
    let same_user = wish.account.as_deref().is_none_or(|wished| wished == account.user());
    let same_domain =
        wish.domain.as_deref().is_none_or(|wished| wished.eq_ignore_ascii_case(account.domain().as_str()));
    if !(same_user && same_domain) {
        return Err(Refusal::Foreign { rule: rule.name.clone() });
    }
    Ok(PbxGrant { rule: rule.name.clone(), account, languages: rule.languages.clone() })
}

/// Finds the Voximplant user a caller may become now.
///
/// # Errors
/// When no rule applies, or the first that does leads to no user name, or to another than wished.
pub fn voximplant(
    rules: &[Rule],
    principal: &Principal,
    wish: &Wish,
    now: Timestamp,
) -> Result<VoximplantGrant, Refusal> {
    decide_voximplant(rules, principal, wish, now, |_| {})
}

/// Decides as [`voximplant`], and tells how.
#[must_use]
pub fn explain_voximplant<'r>(
    rules: &'r [Rule],
    principal: &Principal,
    wish: &Wish,
    now: Timestamp,
) -> Trace<'r, VoximplantGrant> {
    let mut passed = Vec::new();
    let outcome = decide_voximplant(rules, principal, wish, now, |rule| passed.push(rule));
    Trace { passed, outcome }
}

fn decide_voximplant<'r>(
    rules: &'r [Rule],
    principal: &Principal,
    wish: &Wish,
    now: Timestamp,
    note: impl FnMut(Passed<'r>),
) -> Result<VoximplantGrant, Refusal> {
    let (rule, user) = decide(rules, principal, now, note, |rule, claims| {
        rule.voximplant.as_ref().ok_or(Why::Silent)?.render(claims).map_err(Why::Unfilled)
    })?;
    let user: VoximplantUser = user
        .parse()
        .map_err(|error| Refusal::Invalid { rule: rule.name.clone(), what: Invalid::VoximplantUser(error) })?;
    if wish.user.as_deref().is_some_and(|wished| wished != user.as_str()) {
        return Err(Refusal::Foreign { rule: rule.name.clone() });
    }
    Ok(VoximplantGrant { rule: rule.name.clone(), user })
}

/// Returns the first rule that applies, with what it rendered; notes those before it.
fn decide<'r, T>(
    rules: &'r [Rule],
    principal: &Principal,
    _now: Timestamp,
    mut note: impl FnMut(Passed<'r>),
    render: impl Fn(&'r Rule, &Claims) -> Result<T, Why<'r>>,
) -> Result<(&'r Rule, T), Refusal> {
    for rule in rules {
        let rendered = if rule.fits(&principal.method) { render(rule, &principal.claims) } else { Err(Why::Method) };
        match rendered {
            Ok(rendered) => return Ok((rule, rendered)),
            Err(why) => note(Passed { rule: &rule.name, why }),
        }
    }
    Err(Refusal::NoRule)
}

fn account_of(user: &str, domain: &str) -> Result<Account, Invalid> {
    let domain: Domain = domain.parse().map_err(|_| Invalid::Domain)?;
    Account::new(user, domain).map_err(Invalid::Account)
}

impl Rule {
    /// Returns the names of the claims by which it finds an account of the PBX.
    #[must_use]
    pub fn pbx_claims(&self) -> BTreeSet<&str> {
        self.pbx.iter().flat_map(|pbx| pbx.domain.claims().chain(pbx.account.claims())).collect()
    }

    /// Returns the names of the claims by which it finds a Voximplant user.
    #[must_use]
    pub fn voximplant_claims(&self) -> BTreeSet<&str> {
        self.voximplant.iter().flat_map(Template::claims).collect()
    }

    fn fits(&self, method: &str) -> bool {
        self.methods.as_ref().map_or(method != REDIRECT, |methods| methods.iter().any(|name| name == method))
    }

    /// Returns the claims it uses.
    fn claims(&self) -> impl Iterator<Item = &str> {
        // Each field is named, so that whoever adds one thinks of its claims.
        let Self { name: _, methods: _, pbx: _, voximplant: _, languages: _ } = self;
        self.pbx_claims().into_iter().chain(self.voximplant_claims())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A rule for any method: `account` and `domain` templates of the PBX, and a `voximplant` template.
    fn rule(name: &str, account: &str, domain: &str, voximplant: &str) -> Rule {
        Rule {
            name: name.to_owned(),
            methods: None,
            pbx: Some(PbxTemplate { domain: domain.parse().unwrap(), account: account.parse().unwrap() }),
            voximplant: Some(voximplant.parse().unwrap()),
            languages: Some(vec!["fr".parse().unwrap()]),
        }
    }

    fn noon() -> Timestamp {
        "2026-11-23T12:00:00Z".parse().unwrap()
    }

    fn usual() -> Rule {
        rule("usual", "{ext}", "{tenant}.test", "{vox}")
    }

    fn only(methods: &[&str], rule: Rule) -> Rule {
        Rule { methods: Some(methods.iter().map(|&name| name.to_owned()).collect()), ..rule }
    }

    #[test]
    fn knows_the_claims_that_rules_use() {
        let rules = [
            usual(),
            only(&["sso"], rule("sso", "{ext}", "acme.test", "{email|before:@}")),
            only(&["app"], rule("app", "{app}", "acme.test", "ann")),
        ];
        assert_eq!(claims_used(&rules, "sso"), ["email", "ext", "tenant", "vox"]);
        assert_eq!(claims_used(&rules, "app"), ["app", "ext", "tenant", "vox"]);
        assert_eq!(claims_used(&rules[1..], "other"), [""; 0]);
    }

    fn principal(method: &str, claims: &[(&str, &str)]) -> Principal {
        Principal {
            method: method.to_owned(),
            subject: "ann".to_owned(),
            claims: claims.iter().map(|&(name, value)| (name.to_owned(), value.into())).collect(),
        }
    }

    fn ann() -> Principal {
        principal("app", &[("ext", "40"), ("tenant", "Acme"), ("vox", "ann")])
    }

    fn wish(account: Option<&str>, domain: Option<&str>, user: Option<&str>) -> Wish {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Wish { account: owned(account), domain: owned(domain), user: owned(user) }
    }

    /// The rule and the account of a grant, or the text of the refusal.
    fn pbx_outcome(rules: &[Rule], principal: &Principal, wish: &Wish) -> Result<String, String> {
        pbx(rules, principal, wish, noon())
            .map(|grant| format!("{}: {}", grant.rule(), grant.account()))
            .map_err(|refusal| refusal.to_string())
    }

    fn ott_outcome(rules: &[Rule], principal: &Principal, wish: &Wish) -> Result<String, String> {
        voximplant(rules, principal, wish, noon())
            .map(|grant| format!("{}: {}", grant.rule(), grant.user()))
            .map_err(|refusal| refusal.to_string())
    }

    #[track_caller]
    fn check(
        rules: &[Rule],
        principal: &Principal,
        expected_pbx: Result<&str, &str>,
        expected_ott: Result<&str, &str>,
    ) {
        let outcome = pbx_outcome(rules, principal, &Wish::default());
        assert_eq!(outcome.as_deref().map_err(String::as_str), expected_pbx);
        let outcome = ott_outcome(rules, principal, &Wish::default());
        assert_eq!(outcome.as_deref().map_err(String::as_str), expected_ott);
    }

    const NONE: Result<&str, &str> = Err("no rule applies");

    #[test]
    fn grants_what_the_rule_renders() {
        check(&[usual()], &ann(), Ok("usual: 40@acme.test"), Ok("usual: ann"));
        let grant = pbx(&[usual()], &ann(), &Wish::default(), noon()).unwrap();
        assert_eq!(grant.languages().unwrap()[0].as_str(), "fr");
    }

    #[test]
    fn no_rule_means_no_login() {
        check(&[], &ann(), NONE, NONE);
        check(&[usual()], &principal("app", &[]), NONE, NONE);
        check(&[Rule { pbx: None, voximplant: None, ..usual() }], &ann(), NONE, NONE);
    }

    #[test]
    fn the_first_rule_that_applies_decides() {
        let first = rule("first", "{staff}", "staff.test", "{staff}");
        let rules = [first, usual(), rule("last", "99", "other.test", "nobody")];
        check(&rules, &ann(), Ok("usual: 40@acme.test"), Ok("usual: ann"));
        let staff = principal("app", &[("ext", "40"), ("tenant", "acme"), ("staff", "sue")]);
        check(&rules, &staff, Ok("first: sue@staff.test"), Ok("first: sue"));
    }

    #[test]
    fn each_side_is_decided_by_a_rule_that_has_it() {
        let rules = [Rule { voximplant: None, ..rule("pbx", "{ext}", "a.test", "") }, Rule { pbx: None, ..usual() }];
        check(&rules, &ann(), Ok("pbx: 40@a.test"), Ok("usual: ann"));
    }

    #[test]
    fn a_rule_applies_to_the_methods_it_names() {
        let rules = [only(&["key", "jwt"], rule("machines", "1", "a.test", "machine")), usual()];
        check(&rules, &ann(), Ok("usual: 40@acme.test"), Ok("usual: ann"));
        check(&rules, &principal("jwt", &[]), Ok("machines: 1@a.test"), Ok("machines: machine"));
        check(&[only(&[], usual())], &ann(), NONE, NONE);
        check(&[only(&["App"], usual())], &ann(), NONE, NONE);
    }

    #[test]
    fn redirects_need_a_rule_that_names_them() {
        let redirect = principal(REDIRECT, &[("ext", "40"), ("tenant", "acme"), ("vox", "ann")]);
        check(&[usual()], &redirect, NONE, NONE);
        check(&[only(&[REDIRECT], usual())], &redirect, Ok("usual: 40@acme.test"), Ok("usual: ann"));
        check(&[only(&[REDIRECT], usual())], &ann(), NONE, NONE);
    }

    #[test]
    fn a_result_outside_the_grammar_is_refused_and_no_later_rule_asked() {
        let rules = [rule("first", "{ext}", "{tenant}", "{vox}"), rule("last", "40", "acme.test", "ann")];
        let bad = principal("app", &[("ext", "4 0"), ("tenant", "acme"), ("vox", "Ann")]);
        check(
            &rules,
            &bad,
            Err("rule \"first\": not of the form the PBX knows"),
            Err(
                "rule \"first\": a Voximplant user name is 3 to 50 of a-z, 0-9, _ and -, beginning with a letter or digit",
            ),
        );
        for domain in ["", "a/b", "acme.test:1", "acme..test", "acme.test\0"] {
            let bad = principal("app", &[("ext", "40"), ("tenant", domain)]);
            let what = Refusal::Invalid { rule: "first".to_owned(), what: Invalid::Domain };
            assert_eq!(pbx(&rules, &bad, &Wish::default(), noon()).unwrap_err(), what, "{domain:?}");
        }
    }

    #[track_caller]
    fn check_wish(account: Option<&str>, domain: Option<&str>, granted: bool) {
        let foreign = Err("rule \"usual\" grants somebody else than was asked for");
        let outcome = pbx_outcome(&[usual()], &ann(), &wish(account, domain, None));
        let expected = if granted { Ok("usual: 40@acme.test") } else { foreign };
        assert_eq!(outcome.as_deref().map_err(String::as_str), expected);
    }

    #[test]
    fn a_wish_selects_only_what_is_granted() {
        check_wish(None, None, true);
        check_wish(Some("40"), None, true);
        check_wish(Some("40"), Some("acme.test"), true);
        check_wish(None, Some("ACME.Test"), true);
        for account in ["41", "", "040", "40 ", " 40", "40\0", "admin", "４０"] {
            check_wish(Some(account), None, false);
        }
        for domain in ["other.test", "", "acme.test.", " acme.test"] {
            check_wish(Some("40"), Some(domain), false);
        }
    }

    #[test]
    fn the_case_of_a_wished_account_matters() {
        let rules = [rule("usual", "Ann", "acme.test", "")];
        assert!(pbx(&rules, &ann(), &wish(Some("Ann"), None, None), noon()).is_ok());
        assert!(pbx(&rules, &ann(), &wish(Some("ann"), None, None), noon()).is_err());
    }

    #[test]
    fn a_wished_voximplant_user_must_be_the_granted_one() {
        let outcome = |user| ott_outcome(&[usual()], &ann(), &wish(None, None, Some(user)));
        assert_eq!(outcome("ann"), Ok("usual: ann".to_owned()));
        for user in ["bob", "", "Ann", "ann ", "ann@app"] {
            assert!(outcome(user).is_err(), "{user:?}");
        }
    }

    #[test]
    fn a_foreign_wish_is_not_granted_by_a_later_rule() {
        let rules = [usual(), rule("last", "41", "acme.test", "bob")];
        assert!(pbx(&rules, &ann(), &wish(Some("41"), None, None), noon()).is_err());
        assert!(voximplant(&rules, &ann(), &wish(None, None, Some("bob")), noon()).is_err());
    }

    /// What is said of the rules before the one that decides, as `name: why` lines.
    fn passed<G>(trace: &Trace<'_, G>) -> Vec<String> {
        trace.passed.iter().map(|passed| format!("{}: {}", passed.rule, passed.why)).collect()
    }

    #[test]
    fn tells_why_rules_do_not_apply() {
        let rules = [
            only(&["jwt"], rule("machines", "1", "a.test", "machine")),
            Rule { pbx: None, ..rule("phones", "", "", "{phone}") },
            rule("managers", "{desk}", "a.test", "{mail|before:@}"),
            usual(),
            rule("last", "1", "a.test", "x"),
        ];
        let ann = principal("app", &[("ext", "40"), ("tenant", "acme"), ("vox", "ann"), ("mail", "ann")]);
        let trace = explain_pbx(&rules, &ann, &Wish::default(), noon());
        assert_eq!(
            passed(&trace),
            [
                "machines: it is not for this auth method",
                "phones: it says nothing of what is asked for",
                "managers: there is no claim \"desk\"",
            ]
        );
        assert_eq!(trace.outcome.unwrap().rule(), "usual");
        let trace = explain_voximplant(&rules, &ann, &Wish::default(), noon());
        assert_eq!(
            passed(&trace),
            [
                "machines: it is not for this auth method",
                "phones: there is no claim \"phone\"",
                "managers: the claim \"mail\" has no \"@\" in it",
            ]
        );
        assert_eq!(trace.outcome.unwrap().rule(), "usual");
        let trace = explain_pbx(&rules[..3], &ann, &Wish::default(), noon());
        assert_eq!((trace.passed.len(), trace.outcome.unwrap_err()), (3, Refusal::NoRule));
    }

    /// Whatever a claim holds, no grant is for the tenant administrator (an empty name) or `admin`.
    #[test]
    fn nobody_becomes_an_administrator() {
        let hostile = [
            "",
            " ",
            "\0",
            "\t",
            "\r\n",
            "\u{a0}",
            "\u{200b}",
            "\u{feff}",
            "\u{3000}",
            "admin",
            "ADMIN",
            "Admin",
            "aDmIn",
            " admin",
            "admin ",
            "admin\0",
            "\0admin",
            "admin\n",
            "\tadmin",
            "\u{feff}admin",
            "ad\u{ad}min",
            "admin\u{200b}",
            "admin\u{301}",
            "\u{430}dmin",
            "adm\u{131}n",
            "ADM\u{130}N",
            "\u{ff41}\u{ff44}\u{ff4d}\u{ff49}\u{ff4e}",
            "\u{1d41a}dmin",
            "\u{202e}nimda",
            "admin\"",
            "\",\"admin\":true,\"x\":\"",
            "@acme",
            "admin@acme",
            "ADMIN@acme",
            " admin@acme",
            "\0@acme",
            "@",
            "a@admin",
            "a@",
            "a@\0",
            "{ext}",
            "%61dmin",
            "admin%00",
            "&#97;dmin",
        ];
        let templates = [
            "{ext}",
            "{ext|lower}",
            "{ext|before:@}",
            "{ext|before:@|lower}",
            "{ext|after:@}",
            "{ext|after:@|lower}",
            "{ext|before:\0}",
            "{ext|after:\0}",
            "{ext|before: }",
            "{ext|after: }",
            "",
            "admin",
            "AdMiN",
            " ",
        ];
        for template in templates {
            let rules = [rule("hostile", template, "acme.test", "")];
            for value in hostile {
                let granted = pbx(&rules, &principal("app", &[("ext", value)]), &Wish::default(), noon());
                if let Ok(grant) = granted {
                    let user = grant.account().user();
                    let bare: String = user.chars().filter(char::is_ascii_alphanumeric).collect();
                    assert!(
                        !bare.is_empty() && !bare.eq_ignore_ascii_case("admin"),
                        "{template:?} of {value:?}: {user:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn nobody_becomes_an_administrator_by_parts() {
        let parts = principal("app", &[("a", "ad"), ("b", "MIN"), ("none", "")]);
        for (template, what) in [
            ("{a}{b}", account::Invalid::Admin),
            ("{none}admin{none}", account::Invalid::Admin),
            ("{none}{none}", account::Invalid::Empty),
            ("{none}", account::Invalid::Empty),
        ] {
            let refusal =
                pbx(&[rule("parts", template, "acme.test", "")], &parts, &Wish::default(), noon()).unwrap_err();
            assert_eq!(
                refusal,
                Refusal::Invalid { rule: "parts".to_owned(), what: Invalid::Account(what) },
                "{template}"
            );
        }
    }
}
