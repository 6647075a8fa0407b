//! Who may become whom: rules turn a proven caller into a grant. The first rule that applies decides.
//! What the caller asks for only selects inside what the rule grants; it never widens it.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;

use super::account::{self, Account, Domain, Language, Level, Role, SystemAdmin, TenantAdmin};
use super::condition::{Unmet, When};
use super::ott::{NotAVoximplantUser, VoximplantUser};
use super::principal::{Claim, Claims, Principal};
use super::table::{Row, Table};
use super::template::{ROW, Template, Unfilled, Values};

/// The built-in method of redirects of the app. A rule must name it to apply to it.
pub const REDIRECT: &str = "redirect";
/// The claim by which a credential names the one account it is for, if it does.
pub const ACCOUNT: &str = "account";

/// The most accounts of one person that are looked at.
const MAX_CHOICES: usize = 64;

/// One `[[allow]]` table.
#[derive(Debug, Clone)]
pub struct Rule {
    /// The name, for the audit log.
    pub name: String,
    /// The auth methods it applies to; none: all but [`REDIRECT`].
    pub methods: Option<Vec<String>>,
    /// What must be so for it to apply.
    pub when: When,
    /// The table that says more of a caller than its claims.
    pub table: Option<Lookup>,
    /// Who the caller may become on the PBX.
    pub pbx: Option<PbxTemplate>,
    /// The Voximplant user the caller may become.
    pub voximplant: Option<Template>,
    /// What to do when it leads to several accounts; none: it never may.
    pub choose: Option<Choose>,
    /// The languages the caller may choose; none: all that the PBX has.
    pub languages: Option<Vec<Language>>,
}

/// How a rule finds whom a session of the PBX is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PbxTemplate {
    /// A user of a domain (tenant).
    User {
        /// The domain.
        domain: Template,
        /// The user within the domain.
        account: Template,
    },
    /// The administrator of a domain.
    TenantAdmin {
        /// The domain.
        domain: Template,
    },
    /// An administrator of the PBX.
    SystemAdmin {
        /// The domain of the login.
        domain: Template,
    },
}

/// A look into a table. Without a row there, the rule does not apply.
#[derive(Debug, Clone)]
pub struct Lookup {
    /// The table.
    pub table: Arc<Table>,
    /// The key of the row.
    pub key: Template,
}

/// What to do with several accounts of one person, of which the caller selects none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choose {
    /// Take the first.
    First,
    /// Ask the person.
    Ask,
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
    /// The caller may become several, and has to say which.
    #[error("rule {rule:?} grants several accounts, and none was selected")]
    Choose {
        /// The name of the rule.
        rule: String,
        /// What to ask for: each selects one of them.
        among: Vec<Wish>,
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
    /// Two claims are lists: which item of the one goes with which of the other, nobody knows.
    #[error("two of the claims are lists")]
    TwoLists,
    /// More accounts than one person has.
    #[error("more than {MAX_CHOICES} accounts")]
    TooMany,
    /// Several accounts, and nothing said about choosing.
    #[error("several accounts, and no `choose`")]
    Several,
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
    /// Its `when` does not hold.
    #[error(transparent)]
    Unmet(Unmet<'r>),
    /// A template cannot be filled in.
    #[error(transparent)]
    Unfilled(Unfilled<'r>),
    /// The claim that it takes accounts from is a list of none.
    #[error("the claim {0:?} is an empty list")]
    EmptyList(&'r str),
    /// Its table has no row for the caller.
    #[error("its table has no such row")]
    NoRow,
    /// It is for administrators, and the credential is for one account.
    #[error("the credential names an account, and the rule is for administrators")]
    NamesAccount,
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

/// The right to one session of the PBX. Only [`pbx`] makes one.
#[derive(Debug)]
pub struct PbxGrant {
    rule: String,
    role: Role,
    languages: Option<Vec<Language>>,
}

impl PbxGrant {
    /// Returns the name of the rule that granted it.
    #[must_use]
    pub fn rule(&self) -> &str {
        &self.rule
    }

    /// Returns whom it is for.
    #[must_use]
    pub const fn role(&self) -> &Role {
        &self.role
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

/// Returns the claims of a method's callers that rules may ask for, in their order and each once: also those that make
/// rules not apply.
#[must_use]
pub fn claims_used(rules: &[Rule], method: &str) -> Vec<String> {
    let rules = rules.iter().filter(|rule| rule.is_for(method));
    let used: BTreeSet<_> =
        rules.flat_map(|rule| rule.pbx_claims().into_iter().chain(rule.voximplant_claims())).collect();
    let flags = used.iter().filter_map(|name| super::principal::flag_of_address(name));
    let all: BTreeSet<_> =
        used.iter().map(|name| (*name).to_owned()).chain(flags).chain([ACCOUNT.to_owned()]).collect();
    all.into_iter().collect()
}

/// Finds who a caller may become on the PBX now.
///
/// # Errors
/// When no rule applies, or the first that does leads to nobody, to others than wished, or to several.
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
    let (rule, roles) = decide(rules, principal, now, note, |rule| {
        let template = rule.pbx.as_ref().ok_or(Why::Silent)?;
        template.is_for(&principal.claims)?;
        candidates(rule, &principal.claims, &template.parts(), |values| template.role(values))
    })?;
    let role = select(rule, roles, wish)?;
    Ok(PbxGrant { rule: rule.name.clone(), role, languages: rule.languages.clone() })
}

/// Finds the Voximplant user a caller may become now.
///
/// # Errors
/// When no rule applies, or the first that does leads to no user, to others than wished, or to several.
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
    let (rule, users) = decide(rules, principal, now, note, |rule| {
        let template = rule.voximplant.as_ref().ok_or(Why::Silent)?;
        candidates(rule, &principal.claims, &[template], |values| {
            template.render(values)?.parse::<VoximplantUser>().map_err(|error| Invalid::VoximplantUser(error).into())
        })
    })?;
    Ok(VoximplantGrant { rule: rule.name.clone(), user: select(rule, users, wish)? })
}

// === Deciding ===

/// Why a rule grants nothing.
enum Stop<'r> {
    /// It does not apply: the next one is asked.
    Pass(Why<'r>),
    /// It applies, and leads to what cannot be granted: nobody else is asked.
    Refuse(Invalid),
}

impl<'r> From<Why<'r>> for Stop<'r> {
    fn from(why: Why<'r>) -> Self {
        Self::Pass(why)
    }
}

impl<'r> From<Unfilled<'r>> for Stop<'r> {
    fn from(unfilled: Unfilled<'r>) -> Self {
        Self::Pass(Why::Unfilled(unfilled))
    }
}

impl From<Invalid> for Stop<'_> {
    fn from(invalid: Invalid) -> Self {
        Self::Refuse(invalid)
    }
}

/// Returns the first rule that applies, with what it leads to; notes those before it.
fn decide<'r, T>(
    rules: &'r [Rule],
    principal: &Principal,
    now: Timestamp,
    mut note: impl FnMut(Passed<'r>),
    lead: impl Fn(&'r Rule) -> Result<T, Stop<'r>>,
) -> Result<(&'r Rule, T), Refusal> {
    for rule in rules {
        match rule.applies(principal, now).map_err(Stop::Pass).and_then(|()| lead(rule)) {
            Ok(found) => return Ok((rule, found)),
            Err(Stop::Pass(why)) => note(Passed { rule: &rule.name, why }),
            Err(Stop::Refuse(what)) => return Err(Refusal::Invalid { rule: rule.name.clone(), what }),
        }
    }
    Err(Refusal::NoRule)
}

impl Rule {
    /// Returns the names of the claims by which it finds an account of the PBX.
    #[must_use]
    pub fn pbx_claims(&self) -> BTreeSet<&str> {
        self.claims(self.pbx.iter().flat_map(PbxTemplate::parts))
    }

    /// Returns the names of the claims by which it finds a Voximplant user.
    #[must_use]
    pub fn voximplant_claims(&self) -> BTreeSet<&str> {
        self.claims(self.voximplant.iter())
    }

    /// Returns the names of the claims that decide, which columns of a table are not.
    fn claims<'r>(&'r self, templates: impl Iterator<Item = &'r Template>) -> BTreeSet<&'r str> {
        let conditions = self.when.conditions.iter().map(|condition| condition.claim.as_str());
        let keys = self.table.iter().flat_map(|lookup| lookup.key.claims());
        let used = templates.flat_map(Template::claims).filter(|name| self.table.is_none() || !name.starts_with(ROW));
        conditions.chain(keys).chain(used).collect()
    }

    fn is_for(&self, method: &str) -> bool {
        self.methods.as_ref().map_or(method != REDIRECT, |methods| methods.iter().any(|name| name == method))
    }

    fn applies(&self, principal: &Principal, now: Timestamp) -> Result<(), Why<'_>> {
        if !self.is_for(&principal.method) {
            return Err(Why::Method);
        }
        self.when.holds(&principal.claims, now).map_err(Why::Unmet)
    }
}

/// Finds all that a rule leads to: one, unless it lets the caller choose.
fn candidates<'r, T: PartialEq>(
    rule: &'r Rule,
    claims: &Claims,
    templates: &[&'r Template],
    make: impl Fn(&Values<'_>) -> Result<T, Stop<'r>>,
) -> Result<Vec<T>, Stop<'r>> {
    let mut found = Vec::new();
    for item in items(rule, claims, templates)? {
        let values = Values { item, ..Values::of(claims) };
        for row in rows(rule, &values)? {
            let candidate = make(&Values { row, ..values })?;
            if !found.contains(&candidate) {
                found.push(candidate);
            }
            if found.len() > MAX_CHOICES {
                return Err(Invalid::TooMany.into());
            }
        }
    }
    if found.is_empty() { Err(Why::NoRow.into()) } else { Ok(found) }
}

/// Finds the items of the one list that the caller may choose from; a single nothing where there is none to choose from.
fn items<'r, 'c>(
    rule: &'r Rule,
    claims: &'c Claims,
    templates: &[&'r Template],
) -> Result<Vec<Option<(&'r str, &'c str)>>, Stop<'r>> {
    if rule.choose.is_none() {
        return Ok(vec![None]);
    }
    let key = rule.table.iter().map(|lookup| &lookup.key);
    // What begins like a column is one, whatever claims are called.
    let is_claim = |name: &&str| rule.table.is_none() || !name.starts_with(ROW);
    let used = templates.iter().copied().chain(key).flat_map(Template::claims).filter(is_claim);
    let mut lists = used.filter_map(|name| {
        let Claim::List(items) = claims.get(name)? else { return None };
        Some((name, items))
    });
    let Some((name, items)) = lists.next() else { return Ok(vec![None]) };
    if lists.any(|(other, _)| other != name) {
        return Err(Invalid::TwoLists.into());
    }
    match items.len() {
        0 => Err(Why::EmptyList(name).into()),
        1..=MAX_CHOICES => Ok(items.iter().map(|item| Some((name, item.as_str()))).collect()),
        _ => Err(Invalid::TooMany.into()),
    }
}

/// Finds the rows of the rule's table; a single nothing where it has no table.
fn rows<'r>(rule: &'r Rule, values: &Values<'_>) -> Result<Vec<Option<Row<'r>>>, Stop<'r>> {
    let Some(Lookup { table, key }) = &rule.table else { return Ok(vec![None]) };
    Ok(table.rows(&key.render(values)?).map(Some).collect())
}

// === Choosing ===

/// What a wish can select.
trait Choice: Sized {
    /// Writes the wish that selects exactly this.
    fn wish(&self) -> Wish;
    /// Tells whether a wish leaves this possible.
    fn fits(&self, wish: &Wish) -> bool;
}

/// Takes the one that was wished for; without a wish, the one there is, or what the rule says of several.
fn select<T: Choice>(rule: &Rule, mut found: Vec<T>, wish: &Wish) -> Result<T, Refusal> {
    let name = || rule.name.clone();
    if found.len() > 1 && rule.choose.is_none() {
        return Err(Refusal::Invalid { rule: name(), what: Invalid::Several });
    }
    found.retain(|choice| choice.fits(wish));
    if found.len() > 1 && rule.choose == Some(Choose::Ask) {
        return Err(Refusal::Choose { rule: name(), among: found.iter().map(Choice::wish).collect() });
    }
    found.into_iter().next().ok_or_else(|| Refusal::Foreign { rule: name() })
}

impl Choice for Role {
    fn wish(&self) -> Wish {
        let account = self.user().map(str::to_owned);
        Wish { account, domain: Some(self.domain().to_string()), user: None }
    }

    /// A wish for an account is none for an administrator, whatever the account is called.
    fn fits(&self, wish: &Wish) -> bool {
        let same_domain =
            wish.domain.as_deref().is_none_or(|wished| wished.eq_ignore_ascii_case(self.domain().as_str()));
        same_domain && wish.account.as_deref().is_none_or(|wished| self.user() == Some(wished))
    }
}

impl Choice for VoximplantUser {
    fn wish(&self) -> Wish {
        Wish { user: Some(self.as_str().to_owned()), ..Wish::default() }
    }

    fn fits(&self, wish: &Wish) -> bool {
        wish.user.as_deref().is_none_or(|wished| wished == self.as_str())
    }
}

// === Whom a template leads to ===

impl PbxTemplate {
    /// Returns how much the sessions may do.
    #[must_use]
    pub const fn level(&self) -> Level {
        match self {
            Self::User { .. } => Level::User,
            Self::TenantAdmin { .. } => Level::Domain,
            Self::SystemAdmin { .. } => Level::Admin,
        }
    }

    fn parts(&self) -> Vec<&Template> {
        match self {
            Self::User { domain, account } => vec![account, domain],
            Self::TenantAdmin { domain } | Self::SystemAdmin { domain } => vec![domain],
        }
    }

    /// Tells whether it is for a credential: one that names an account is good for that account, never for more.
    fn is_for(&self, claims: &Claims) -> Result<(), Why<'static>> {
        let names_account = claims.contains_key(ACCOUNT);
        if self.level() != Level::User && names_account { Err(Why::NamesAccount) } else { Ok(()) }
    }

    fn role(&self, values: &Values<'_>) -> Result<Role, Stop<'_>> {
        match self {
            Self::User { domain, account } => {
                let (user, domain) = (account.render(values)?, domain_of(domain, values)?);
                Account::new(&user, domain).map(Role::User).map_err(|error| Invalid::Account(error).into())
            }
            Self::TenantAdmin { domain } => Ok(Role::TenantAdmin(TenantAdmin::new(domain_of(domain, values)?))),
            Self::SystemAdmin { domain } => Ok(Role::SystemAdmin(SystemAdmin::new(domain_of(domain, values)?))),
        }
    }
}

fn domain_of<'r>(template: &'r Template, values: &Values<'_>) -> Result<Domain, Stop<'r>> {
    template.render(values)?.parse().map_err(|_| Invalid::Domain.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A rule for any method: `account` and `domain` templates of the PBX, and a `voximplant` template.
    fn rule(name: &str, account: &str, domain: &str, voximplant: &str) -> Rule {
        Rule {
            name: name.to_owned(),
            methods: None,
            when: When::default(),
            table: None,
            choose: None,
            pbx: Some(PbxTemplate::User { domain: domain.parse().unwrap(), account: account.parse().unwrap() }),
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
        assert_eq!(claims_used(&rules, "sso"), ["account", "email", "email_verified", "ext", "tenant", "vox"]);
        assert_eq!(claims_used(&rules, "app"), ["account", "app", "ext", "tenant", "vox"]);
        assert_eq!(claims_used(&rules[1..], "other"), ["account"]);
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
            .map(|grant| format!("{}: {}", grant.rule(), grant.role()))
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

    // === Levels ===

    fn domain_admin(name: &str) -> Rule {
        Rule {
            pbx: Some(PbxTemplate::TenantAdmin { domain: "{tenant}.test".parse().unwrap() }),
            ..rule(name, "", "", "")
        }
    }

    #[test]
    fn only_a_rule_with_that_level_makes_an_administrator() {
        let system = PbxTemplate::SystemAdmin { domain: "{tenant}.test".parse().unwrap() };
        for (rule, level) in [
            (usual(), Level::User),
            (domain_admin("tenant"), Level::Domain),
            (Rule { pbx: Some(system), ..usual() }, Level::Admin),
        ] {
            let grant = pbx(&[rule], &ann(), &Wish::default(), noon()).unwrap();
            assert_eq!((grant.role().level(), grant.role().domain().as_str()), (level, "acme.test"));
        }
    }

    #[test]
    fn no_wish_raises_the_level() {
        let rules = [usual(), domain_admin("tenant")];
        for account in ["admin", "", "ADMIN", "40", "*", "domain"] {
            let outcome = pbx_outcome(&rules, &ann(), &wish(Some(account), None, None));
            let expected = if account == "40" { Ok("usual: 40@acme.test") } else { Err(()) };
            assert_eq!(outcome.as_deref().map_err(|_| ()), expected, "{account}");
        }
    }

    #[test]
    fn a_wish_for_an_account_is_none_for_an_administrator() {
        let rules = [domain_admin("tenant")];
        for account in ["admin", "", "40"] {
            let outcome = pbx_outcome(&rules, &ann(), &wish(Some(account), None, None));
            assert_eq!(outcome, Err("rule \"tenant\" grants somebody else than was asked for".to_owned()), "{account}");
        }
        assert!(pbx(&rules, &ann(), &wish(None, Some("Acme.test"), None), noon()).is_ok());
        assert!(pbx(&rules, &ann(), &wish(None, Some("other.test"), None), noon()).is_err());
    }

    #[test]
    fn a_credential_for_an_account_makes_no_administrator() {
        let named = principal("link", &[("account", "40"), ("tenant", "acme")]);
        let rules = [domain_admin("tenant")];
        let trace = explain_pbx(&rules, &named, &Wish::default(), noon());
        assert_eq!((trace.passed[0].why, trace.outcome.unwrap_err()), (Why::NamesAccount, Refusal::NoRule));
    }

    #[test]
    fn an_administrator_of_no_domain_is_refused() {
        for domain in ["", "a b", "a/b", "\0"] {
            let rules =
                [Rule { pbx: Some(PbxTemplate::TenantAdmin { domain: "{tenant}".parse().unwrap() }), ..usual() }];
            let outcome = pbx_outcome(&rules, &principal("app", &[("tenant", domain)]), &Wish::default());
            assert_eq!(outcome, Err("rule \"usual\": the domain is not a host name".to_owned()), "{domain:?}");
        }
    }

    // === Tables and choices ===

    fn list(items: &[&str]) -> Claim {
        Claim::List(items.iter().map(|item| (*item).to_owned()).collect())
    }

    /// Ann, whose accounts are a list.
    fn ann_of(exts: &[&str]) -> Principal {
        let mut ann = ann();
        ann.claims.insert("exts".to_owned(), list(exts));
        ann
    }

    fn many(choose: Option<Choose>) -> Rule {
        Rule { choose, ..rule("many", "{exts}", "{tenant}.test", "ann-{exts}") }
    }

    /// The rule and the account, what there is to choose from, or the text of the refusal.
    #[track_caller]
    fn check_choice(rule: &Rule, caller: &Principal, wished: Option<&str>, expected: &str) {
        let found = match pbx(std::slice::from_ref(rule), caller, &wish(wished, None, None), noon()) {
            Ok(grant) => grant.role().to_string(),
            Err(Refusal::Choose { among, .. }) => {
                let shown = among
                    .iter()
                    .map(|wish| format!("{}@{}", wish.account.as_deref().unwrap(), wish.domain.as_deref().unwrap()));
                format!("choose {}", shown.collect::<Vec<_>>().join(" "))
            }
            Err(refusal) => refusal.to_string(),
        };
        assert_eq!(found, expected, "{wished:?}");
    }

    #[test]
    fn a_list_is_rendered_only_by_a_rule_that_says_how_to_choose() {
        check_choice(&many(None), &ann_of(&["40"]), None, "no rule applies");
        check_choice(&many(Some(Choose::First)), &ann_of(&["40"]), None, "40@acme.test");
        check_choice(&many(Some(Choose::Ask)), &ann_of(&["40"]), None, "40@acme.test");
    }

    #[test]
    fn of_several_accounts_the_first_is_taken_or_the_caller_asked() {
        let ann = ann_of(&["40", "41", "40"]);
        check_choice(&many(Some(Choose::First)), &ann, None, "40@acme.test");
        check_choice(&many(Some(Choose::Ask)), &ann, None, "choose 40@acme.test 41@acme.test");
        for choose in [Choose::First, Choose::Ask] {
            check_choice(&many(Some(choose)), &ann, Some("41"), "41@acme.test");
            check_choice(
                &many(Some(choose)),
                &ann,
                Some("42"),
                "rule \"many\" grants somebody else than was asked for",
            );
        }
        let token = voximplant(&[many(Some(Choose::Ask))], &ann, &wish(None, None, Some("ann-41")), noon()).unwrap();
        assert_eq!(token.user().as_str(), "ann-41");
        let several = voximplant(&[many(Some(Choose::Ask))], &ann, &Wish::default(), noon()).unwrap_err();
        let among = ["ann-40", "ann-41"].map(|user| wish(None, None, Some(user))).to_vec();
        assert_eq!(several, Refusal::Choose { rule: "many".to_owned(), among });
    }

    #[test]
    fn one_bad_item_spoils_the_list() {
        for bad in ["", "admin", "4 0", "40\0"] {
            for exts in [[bad, "41"], ["41", bad]] {
                let refused = pbx(&[many(Some(Choose::First))], &ann_of(&exts), &wish(Some("41"), None, None), noon());
                assert!(matches!(refused, Err(Refusal::Invalid { .. })), "{exts:?}");
            }
        }
    }

    #[test]
    fn what_nobody_could_choose_from_is_refused() {
        let first = many(Some(Choose::First));
        let too_many: Vec<_> = (0..=MAX_CHOICES).map(|number| number.to_string()).collect();
        let too_many: Vec<_> = too_many.iter().map(String::as_str).collect();
        check_choice(&first, &ann_of(&too_many), None, "rule \"many\": more than 64 accounts");
        check_choice(&first, &ann_of(&too_many[1..]), None, "1@acme.test");
        check_choice(&first, &ann_of(&[]), None, "no rule applies");
        let mut two = ann_of(&["40", "41"]);
        two.claims.insert("tenant".to_owned(), list(&["acme", "other"]));
        check_choice(&first, &two, None, "rule \"many\": two of the claims are lists");
    }

    /// A rule with a table of mail addresses.
    fn listed(rows: &[(&str, &str)], choose: Option<Choose>) -> Rule {
        let mut table = Table::new(vec!["ext".to_owned()]);
        for (key, ext) in rows {
            table.add((*key).to_owned(), vec![(*ext).to_owned()]);
        }
        let lookup = Lookup { table: Arc::new(table), key: "{mail|lower}".parse().unwrap() };
        Rule { table: Some(lookup), choose, ..rule("listed", "{row.ext}", "acme.test", "") }
    }

    #[test]
    fn a_table_says_what_the_claims_do_not() {
        let rows = [("ann@a.test", "40"), ("bob@a.test", "admin"), ("cid@a.test", ""), ("dee@a.test", "4 0")];
        let mail = |mail: &str| principal("app", &[("mail", mail), ("row.ext", "99")]);
        let rule = listed(&rows, None);
        check_choice(&rule, &mail("Ann@a.test"), None, "40@acme.test");
        check_choice(&rule, &mail("eve@a.test"), None, "no rule applies");
        check_choice(&rule, &principal("app", &[]), None, "no rule applies");
        check_choice(&rule, &mail("bob@a.test"), None, "rule \"listed\": the account is the administrator's");
        check_choice(&rule, &mail("dee@a.test"), None, "rule \"listed\": not of the form the PBX knows");
        let empty = "rule \"listed\": the account is empty, which the PBX reads as the tenant administrator";
        check_choice(&rule, &mail("cid@a.test"), None, empty);
        let trace =
            explain_pbx(std::slice::from_ref(&rule), &mail("eve@a.test"), &Wish::default(), noon()).passed[0].why;
        assert_eq!(trace, Why::NoRow);
    }

    #[test]
    fn several_rows_are_several_accounts() {
        let rows = [("ann@a.test", "40"), ("ann@a.test", "41")];
        let ann = principal("app", &[("mail", "ann@a.test")]);
        check_choice(&listed(&rows, None), &ann, None, "rule \"listed\": several accounts, and no `choose`");
        check_choice(&listed(&rows, None), &ann, Some("41"), "rule \"listed\": several accounts, and no `choose`");
        check_choice(&listed(&rows, Some(Choose::First)), &ann, None, "40@acme.test");
        check_choice(&listed(&rows, Some(Choose::Ask)), &ann, None, "choose 40@acme.test 41@acme.test");
        check_choice(&listed(&rows, Some(Choose::Ask)), &ann, Some("41"), "41@acme.test");
    }

    #[test]
    fn a_list_may_be_looked_up() {
        let rows = [("ann@a.test", "40"), ("ann@b.test", "41")];
        let mut ann = principal("app", &[]);
        ann.claims.insert("mail".to_owned(), list(&["none@a.test", "ann@b.test", "Ann@a.test"]));
        check_choice(&listed(&rows, Some(Choose::Ask)), &ann, None, "choose 41@acme.test 40@acme.test");
        check_choice(&listed(&rows, None), &ann, None, "no rule applies");
    }

    #[test]
    fn a_rule_applies_when_its_conditions_hold() {
        let staff = |wanted: &str| When {
            conditions: vec![super::super::condition::Condition {
                claim: "tenant".to_owned(),
                wanted: vec![wanted.parse().unwrap()],
            }],
            hours: Vec::new(),
        };
        let rules = [Rule { when: staff("other"), ..rule("first", "1", "a.test", "x") }, usual()];
        let trace = explain_pbx(&rules, &ann(), &Wish::default(), noon());
        assert_eq!(passed(&trace), ["first: the claim \"tenant\" does not say \"other\""]);
        assert_eq!(trace.outcome.unwrap().rule(), "usual");
        let rules = [Rule { when: staff("Acme"), ..rule("first", "1", "a.test", "abc") }, usual()];
        check(&rules, &ann(), Ok("first: 1@a.test"), Ok("first: abc"));
    }

    #[test]
    fn tells_the_claims_that_decide() {
        let rule = Rule { when: When::default(), ..listed(&[("a", "1")], None) };
        assert_eq!(rule.pbx_claims().into_iter().collect::<Vec<_>>(), ["mail"]);
        assert_eq!(usual().pbx_claims().into_iter().collect::<Vec<_>>(), ["ext", "tenant"]);
        assert_eq!(usual().voximplant_claims().into_iter().collect::<Vec<_>>(), ["vox"]);
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
                    let user = grant.role().user().unwrap();
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
