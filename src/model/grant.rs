//! Rules turn a proven caller into a grant. The first rule that applies decides. The selection in the request picks
//! one of the accounts that the rule grants; it never adds one.

mod outcome;
mod stored;

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;

pub use self::outcome::{Decision, GrantError, RuleError, SkipReason, SkippedRule};
pub use self::stored::StoredGrant;
use super::account::{Account, AdminLevel, Domain, Language, Role, SystemAdmin, TenantAdmin};
use super::condition::When;
use super::ott::VoximplantUser;
use super::principal::{Claim, Claims, Principal};
use super::table::{LookupTable, TableRow};
use super::template::{ROW, Template, Unfilled, Values};

/// The built-in method for redirects of the app. A rule applies to it only if it names it.
pub const REDIRECT: &str = "redirect";
/// The claim by which a credential names the one account that it is for.
pub const ACCOUNT: &str = "account";

/// The most accounts of one caller that are considered.
const MAX_CHOICES: usize = 64;

/// One `[[allow]]` table.
#[derive(Debug, Clone)]
pub struct Rule {
    /// The name, for the audit log.
    pub name: String,
    /// The auth methods that the rule is for; `None`: all but [`REDIRECT`].
    pub methods: Option<Vec<String>>,
    /// The conditions under which the rule applies.
    pub when: When,
    /// The row of a table that the templates use besides the claims.
    pub table: Option<Lookup>,
    /// The identity on the PBX that the rule grants.
    pub pbx: Option<PbxTemplate>,
    /// The Voximplant user that the rule grants.
    pub voximplant: Option<Template>,
    /// The way to choose when the rule leads to several accounts; `None`: several accounts are an error.
    pub choose: Option<Choose>,
    /// The languages that the caller may choose; `None`: all languages of the PBX.
    pub languages: Option<Vec<Language>>,
}

/// The templates of the identity that a session of the PBX is for.
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

/// A look-up of a row in a table. Without such a row, the rule does not apply.
#[derive(Debug, Clone)]
pub struct Lookup {
    /// The table.
    pub table: Arc<LookupTable>,
    /// The key of the row.
    pub key: Template,
}

/// The way to choose one of several accounts when the request selects none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choose {
    /// The first account is taken.
    First,
    /// The person is asked.
    Ask,
}

/// The selection in a request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Requested {
    /// The user name on the PBX.
    pub account: Option<String>,
    /// The PBX domain.
    pub domain: Option<String>,
    /// The Voximplant user, without `@` and what follows it.
    pub user: Option<String>,
}

/// The permission for one session of the PBX. Only [`pbx`] creates it, and [`StoredGrant::restore`] from one that it made.
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

    /// Returns the identity that the session is for.
    #[must_use]
    pub const fn role(&self) -> &Role {
        &self.role
    }

    /// Returns the languages that may be chosen; `None`: all languages of the PBX.
    #[must_use]
    pub fn languages(&self) -> Option<&[Language]> {
        self.languages.as_deref()
    }
}

/// The permission for one login token of one Voximplant user. Only [`voximplant`] creates it.
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

/// Returns the claims that rules read of a method's callers, in order and without repetition. Claims that only keep a
/// rule from applying are included.
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

/// Decides which identity of the PBX a caller gets at a time.
#[must_use]
pub fn pbx<'r>(
    rules: &'r [Rule],
    principal: &Principal,
    requested: &Requested,
    now: Timestamp,
) -> Decision<'r, PbxGrant> {
    let roles = |rule: &'r Rule| {
        let template = rule.pbx.as_ref().ok_or(SkipReason::Silent)?;
        template.is_for(&principal.claims)?;
        candidates(rule, &principal.claims, &template.parts(), |values| template.role(values))
    };
    decide(rules, principal, requested, now, roles, |rule, role| PbxGrant {
        rule: rule.name.clone(),
        role,
        languages: rule.languages.clone(),
    })
}

/// Decides which Voximplant user a caller gets at a time.
#[must_use]
pub fn voximplant<'r>(
    rules: &'r [Rule],
    principal: &Principal,
    requested: &Requested,
    now: Timestamp,
) -> Decision<'r, VoximplantGrant> {
    let users = |rule: &'r Rule| {
        let template = rule.voximplant.as_ref().ok_or(SkipReason::Silent)?;
        candidates(rule, &principal.claims, &[template], |values| {
            template.render(values)?.parse::<VoximplantUser>().map_err(|error| RuleError::VoximplantUser(error).into())
        })
    };
    decide(rules, principal, requested, now, users, |rule, user| VoximplantGrant { rule: rule.name.clone(), user })
}

// === Deciding ===

/// The reason why a rule grants nothing.
enum Stop<'r> {
    /// The rule does not apply: the next rule is tried.
    Pass(SkipReason<'r>),
    /// The rule applies, and its result cannot be granted: no further rule is tried.
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

/// Grants by the first rule that applies, and records the rules before it. `lead`: the results of a rule, one of which is
/// granted.
fn decide<'r, T: Choice, G>(
    rules: &'r [Rule],
    principal: &Principal,
    requested: &Requested,
    now: Timestamp,
    lead: impl Fn(&'r Rule) -> Result<Vec<T>, Stop<'r>>,
    grant: impl FnOnce(&'r Rule, T) -> G,
) -> Decision<'r, G> {
    let mut skipped = Vec::new();
    for rule in rules {
        let outcome = match rule.applies(principal, now).map_err(Stop::Pass).and_then(|()| lead(rule)) {
            Ok(found) => select(rule, found, requested).map(|choice| grant(rule, choice)),
            Err(Stop::Refuse(what)) => Err(GrantError::Invalid { rule: rule.name.clone(), what }),
            Err(Stop::Pass(why)) => {
                skipped.push(SkippedRule { rule: &rule.name, why });
                continue;
            }
        };
        return Decision { skipped, outcome };
    }
    Decision { skipped, outcome: Err(GrantError::NoRule) }
}

impl Rule {
    /// Returns the names of the claims that decide about an account of the PBX.
    #[must_use]
    pub fn pbx_claims(&self) -> BTreeSet<&str> {
        self.claims(self.pbx.iter().flat_map(PbxTemplate::parts))
    }

    /// Returns the names of the claims that decide about a Voximplant user.
    #[must_use]
    pub fn voximplant_claims(&self) -> BTreeSet<&str> {
        self.claims(self.voximplant.iter())
    }

    /// Returns the names of the claims that decide. Columns of the rule's table are not claims.
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

/// Returns every result of a rule: one, or several if the rule lets the caller choose.
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

/// Returns the items of the one list claim that the caller may choose from. Without such a claim, returns a single
/// `None`.
fn items<'r, 'c>(
    rule: &'r Rule,
    claims: &'c Claims,
    templates: &[&'r Template],
) -> Result<Vec<Option<(&'r str, &'c str)>>, Stop<'r>> {
    if rule.choose.is_none() {
        return Ok(vec![None]);
    }
    let key = rule.table.iter().map(|lookup| &lookup.key);
    // In a rule with a table, every name that begins with `row.` is a column, also if a claim has that name.
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

/// Returns the rows of the rule's table. Without a table, returns a single `None`.
fn rows<'r>(rule: &'r Rule, values: &Values<'_>) -> Result<Vec<Option<TableRow<'r>>>, Stop<'r>> {
    let Some(Lookup { table, key }) = &rule.table else { return Ok(vec![None]) };
    Ok(table.rows(&key.render(values)?).map(Some).collect())
}

// === Choosing ===

/// A result that the selection of a request can pick.
trait Choice: Sized {
    /// Returns the selection that picks exactly this result.
    fn requested(&self) -> Requested;
    /// Tells whether a selection allows this result.
    fn fits(&self, requested: &Requested) -> bool;
}

/// Picks the result that the request selects. Without a selection, takes the only result, or the one that `choose`
/// says.
fn select<T: Choice>(rule: &Rule, mut found: Vec<T>, requested: &Requested) -> Result<T, GrantError> {
    let name = || rule.name.clone();
    if found.len() > 1 && rule.choose.is_none() {
        return Err(GrantError::Invalid { rule: name(), what: RuleError::Several });
    }
    found.retain(|choice| choice.fits(requested));
    if found.len() > 1 && rule.choose == Some(Choose::Ask) {
        return Err(GrantError::Choose { rule: name(), among: found.iter().map(Choice::requested).collect() });
    }
    found.into_iter().next().ok_or_else(|| GrantError::Foreign { rule: name() })
}

impl Choice for Role {
    fn requested(&self) -> Requested {
        let account = self.user().map(str::to_owned);
        Requested { account, domain: Some(self.domain().to_string()), user: None }
    }

    /// A selection of an account never fits an administrator, even if the names are the same.
    fn fits(&self, requested: &Requested) -> bool {
        let same_domain =
            requested.domain.as_deref().is_none_or(|wished| wished.eq_ignore_ascii_case(self.domain().as_str()));
        same_domain && requested.account.as_deref().is_none_or(|wished| self.user() == Some(wished))
    }
}

impl Choice for VoximplantUser {
    fn requested(&self) -> Requested {
        Requested { user: Some(self.as_str().to_owned()), ..Requested::default() }
    }

    fn fits(&self, requested: &Requested) -> bool {
        requested.user.as_deref().is_none_or(|wished| wished == self.as_str())
    }
}

// === The identity of a template ===

impl PbxTemplate {
    /// Returns the rights of the sessions.
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

    /// Checks that the template may be used for a credential. A credential that names an account is good for that
    /// account only, never for an administrator.
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
