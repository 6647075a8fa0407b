//! Who may become whom: rules turn a proven caller into a grant. The first rule that applies decides.
//! What the caller asks for only selects inside what the rule grants; it never widens it.

mod outcome;

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;

pub use self::outcome::{GrantError, RuleError, SkipReason, SkippedRule, Trace};
use super::account::{Account, AdminLevel, Domain, Language, Role, SystemAdmin, TenantAdmin};
use super::condition::When;
use super::ott::VoximplantUser;
use super::principal::{Claim, Claims, Principal};
use super::table::{LookupTable, TableRow};
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
    pub table: Arc<LookupTable>,
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

/// What the caller asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Requested {
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
pub fn pbx(rules: &[Rule], principal: &Principal, wish: &Requested, now: Timestamp) -> Result<PbxGrant, GrantError> {
    decide_pbx(rules, principal, wish, now, |_| {})
}

/// Decides as [`pbx`], and tells how.
#[must_use]
pub fn explain_pbx<'r>(
    rules: &'r [Rule],
    principal: &Principal,
    wish: &Requested,
    now: Timestamp,
) -> Trace<'r, PbxGrant> {
    let mut passed = Vec::new();
    let outcome = decide_pbx(rules, principal, wish, now, |rule| passed.push(rule));
    Trace { passed, outcome }
}

fn decide_pbx<'r>(
    rules: &'r [Rule],
    principal: &Principal,
    wish: &Requested,
    now: Timestamp,
    note: impl FnMut(SkippedRule<'r>),
) -> Result<PbxGrant, GrantError> {
    let (rule, roles) = decide(rules, principal, now, note, |rule| {
        let template = rule.pbx.as_ref().ok_or(SkipReason::Silent)?;
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
    wish: &Requested,
    now: Timestamp,
) -> Result<VoximplantGrant, GrantError> {
    decide_voximplant(rules, principal, wish, now, |_| {})
}

/// Decides as [`voximplant`], and tells how.
#[must_use]
pub fn explain_voximplant<'r>(
    rules: &'r [Rule],
    principal: &Principal,
    wish: &Requested,
    now: Timestamp,
) -> Trace<'r, VoximplantGrant> {
    let mut passed = Vec::new();
    let outcome = decide_voximplant(rules, principal, wish, now, |rule| passed.push(rule));
    Trace { passed, outcome }
}

fn decide_voximplant<'r>(
    rules: &'r [Rule],
    principal: &Principal,
    wish: &Requested,
    now: Timestamp,
    note: impl FnMut(SkippedRule<'r>),
) -> Result<VoximplantGrant, GrantError> {
    let (rule, users) = decide(rules, principal, now, note, |rule| {
        let template = rule.voximplant.as_ref().ok_or(SkipReason::Silent)?;
        candidates(rule, &principal.claims, &[template], |values| {
            template.render(values)?.parse::<VoximplantUser>().map_err(|error| RuleError::VoximplantUser(error).into())
        })
    })?;
    Ok(VoximplantGrant { rule: rule.name.clone(), user: select(rule, users, wish)? })
}

// === Deciding ===

/// Why a rule grants nothing.
enum Stop<'r> {
    /// It does not apply: the next one is asked.
    Pass(SkipReason<'r>),
    /// It applies, and leads to what cannot be granted: nobody else is asked.
    Refuse(RuleError),
}

impl<'r> From<SkipReason<'r>> for Stop<'r> {
    fn from(why: SkipReason<'r>) -> Self {
        Self::Pass(why)
    }
}

impl<'r> From<Unfilled<'r>> for Stop<'r> {
    fn from(unfilled: Unfilled<'r>) -> Self {
        Self::Pass(SkipReason::Unfilled(unfilled))
    }
}

impl From<RuleError> for Stop<'_> {
    fn from(invalid: RuleError) -> Self {
        Self::Refuse(invalid)
    }
}

/// Returns the first rule that applies, with what it leads to; notes those before it.
fn decide<'r, T>(
    rules: &'r [Rule],
    principal: &Principal,
    now: Timestamp,
    mut note: impl FnMut(SkippedRule<'r>),
    lead: impl Fn(&'r Rule) -> Result<T, Stop<'r>>,
) -> Result<(&'r Rule, T), GrantError> {
    for rule in rules {
        match rule.applies(principal, now).map_err(Stop::Pass).and_then(|()| lead(rule)) {
            Ok(found) => return Ok((rule, found)),
            Err(Stop::Pass(why)) => note(SkippedRule { rule: &rule.name, why }),
            Err(Stop::Refuse(what)) => return Err(GrantError::Invalid { rule: rule.name.clone(), what }),
        }
    }
    Err(GrantError::NoRule)
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

    fn applies(&self, principal: &Principal, now: Timestamp) -> Result<(), SkipReason<'_>> {
        if !self.is_for(&principal.method) {
            return Err(SkipReason::Method);
        }
        self.when.holds(&principal.claims, now).map_err(SkipReason::Unmet)
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
                return Err(RuleError::TooMany.into());
            }
        }
    }
    if found.is_empty() { Err(SkipReason::NoRow.into()) } else { Ok(found) }
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
        return Err(RuleError::TwoLists.into());
    }
    match items.len() {
        0 => Err(SkipReason::EmptyList(name).into()),
        1..=MAX_CHOICES => Ok(items.iter().map(|item| Some((name, item.as_str()))).collect()),
        _ => Err(RuleError::TooMany.into()),
    }
}

/// Finds the rows of the rule's table; a single nothing where it has no table.
fn rows<'r>(rule: &'r Rule, values: &Values<'_>) -> Result<Vec<Option<TableRow<'r>>>, Stop<'r>> {
    let Some(Lookup { table, key }) = &rule.table else { return Ok(vec![None]) };
    Ok(table.rows(&key.render(values)?).map(Some).collect())
}

// === Choosing ===

/// What a wish can select.
trait Choice: Sized {
    /// Writes the wish that selects exactly this.
    fn wish(&self) -> Requested;
    /// Tells whether a wish leaves this possible.
    fn fits(&self, wish: &Requested) -> bool;
}

/// Takes the one that was wished for; without a wish, the one there is, or what the rule says of several.
fn select<T: Choice>(rule: &Rule, mut found: Vec<T>, wish: &Requested) -> Result<T, GrantError> {
    let name = || rule.name.clone();
    if found.len() > 1 && rule.choose.is_none() {
        return Err(GrantError::Invalid { rule: name(), what: RuleError::Several });
    }
    found.retain(|choice| choice.fits(wish));
    if found.len() > 1 && rule.choose == Some(Choose::Ask) {
        return Err(GrantError::Choose { rule: name(), among: found.iter().map(Choice::wish).collect() });
    }
    found.into_iter().next().ok_or_else(|| GrantError::Foreign { rule: name() })
}

impl Choice for Role {
    fn wish(&self) -> Requested {
        let account = self.user().map(str::to_owned);
        Requested { account, domain: Some(self.domain().to_string()), user: None }
    }

    /// A wish for an account is none for an administrator, whatever the account is called.
    fn fits(&self, wish: &Requested) -> bool {
        let same_domain =
            wish.domain.as_deref().is_none_or(|wished| wished.eq_ignore_ascii_case(self.domain().as_str()));
        same_domain && wish.account.as_deref().is_none_or(|wished| self.user() == Some(wished))
    }
}

impl Choice for VoximplantUser {
    fn wish(&self) -> Requested {
        Requested { user: Some(self.as_str().to_owned()), ..Requested::default() }
    }

    fn fits(&self, wish: &Requested) -> bool {
        wish.user.as_deref().is_none_or(|wished| wished == self.as_str())
    }
}

// === Whom a template leads to ===

impl PbxTemplate {
    /// Returns how much the sessions may do.
    #[must_use]
    pub const fn level(&self) -> AdminLevel {
        match self {
            Self::User { .. } => AdminLevel::User,
            Self::TenantAdmin { .. } => AdminLevel::Domain,
            Self::SystemAdmin { .. } => AdminLevel::Admin,
        }
    }

    fn parts(&self) -> Vec<&Template> {
        match self {
            Self::User { domain, account } => vec![account, domain],
            Self::TenantAdmin { domain } | Self::SystemAdmin { domain } => vec![domain],
        }
    }

    /// Tells whether it is for a credential: one that names an account is good for that account, never for more.
    fn is_for(&self, claims: &Claims) -> Result<(), SkipReason<'static>> {
        let names_account = claims.contains_key(ACCOUNT);
        if self.level() != AdminLevel::User && names_account { Err(SkipReason::NamesAccount) } else { Ok(()) }
    }

    fn role(&self, values: &Values<'_>) -> Result<Role, Stop<'_>> {
        match self {
            Self::User { domain, account } => {
                let (user, domain) = (account.render(values)?, domain_of(domain, values)?);
                Account::new(&user, domain).map(Role::User).map_err(|error| RuleError::Account(error).into())
            }
            Self::TenantAdmin { domain } => Ok(Role::TenantAdmin(TenantAdmin::new(domain_of(domain, values)?))),
            Self::SystemAdmin { domain } => Ok(Role::SystemAdmin(SystemAdmin::new(domain_of(domain, values)?))),
        }
    }
}

fn domain_of<'r>(template: &'r Template, values: &Values<'_>) -> Result<Domain, Stop<'r>> {
    template.render(values)?.parse().map_err(|_| RuleError::Domain.into())
}

#[cfg(test)]
mod tests;
