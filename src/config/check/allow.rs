//! `[[allow]]`: the rules.

mod table;
mod when;

use super::auth::Methods;
use super::upstream::languages;
use super::values::{account, distinct, voximplant_user};
use crate::config::document::{TomlNode, TomlTable};
use crate::config::source::Surroundings;
use crate::config::{Dialect, HostPattern};
use crate::model::account::{AdminLevel, Domain};
use crate::model::condition::When;
use crate::model::grant::{Choose, Lookup, PbxTemplate, REDIRECT, Rule};
use crate::model::template::{ROW, Template};

/// The parts of other tables that rules refer to.
pub(super) struct RuleContext<'m, 'd, 'i> {
    /// The methods and their names.
    pub(super) methods: &'m Methods<'d, 'i>,
    /// Whether there is a PBX administrator.
    pub(super) pbx_admin: bool,
    /// The form of requests for administrators' sessions, of each PBX; `None`: its table is invalid.
    pub(super) dialects: Vec<Option<Dialect>>,
    /// The tenants of each of several PBX nodes; `None`: one node has all tenants, or a table is invalid.
    pub(super) tenants: Option<Vec<&'m [HostPattern]>>,
    /// Whether there is `[voximplant]`.
    pub(super) voximplant: bool,
    /// The application of its `users`, and the further ones.
    pub(super) applications: (Option<&'m str>, &'m [&'m str]),
}

/// Reads the rules, in the order in which they are tried.
pub(super) fn rules(
    tables: &[TomlNode<'_, '_>],
    context: &RuleContext<'_, '_, '_>,
    around: &Surroundings<'_>,
) -> Vec<Rule> {
    let rules = tables.iter().enumerate();
    rules.filter_map(|(index, node)| node.table(|table| rule(table, index + 1, context, around))).collect()
}

fn rule(
    table: &TomlTable<'_, '_>,
    number: usize,
    context: &RuleContext<'_, '_, '_>,
    around: &Surroundings<'_>,
) -> Option<Rule> {
    let name = table.get("name").and_then(|node| node.word().map(str::to_owned));
    let auth = table.get("auth");
    if auth.is_none() && context.methods.named.is_empty() {
        table.refuse::<()>(
            "there is no method that can prove a caller",
            "add `whoami` to [app], or an [[auth]] table, or auth = \"redirect\" here",
        );
    }
    let methods = auth.clone().and_then(|node| method_names(node, context.methods));
    let choose = table.get("choose").and_then(|node| node.choice(&CHOICES));
    let (table_node, when) = (table.get("table"), table.get("when"));
    let when = when.map(|node| when::when(&node, table_node.is_some()));
    let lookup = table_node.map(|node| table::lookup(&node, choose.is_some(), around));
    let columns = lookup.as_ref().and_then(Option::as_ref);
    let (pbx, voximplant) = (table.get("pbx"), table.get("voximplant"));
    if pbx.is_none() && voximplant.is_none() {
        table.refuse::<()>("allows nothing", "add pbx = { domain = \"…\", account = \"…\" } or voximplant = \"…\"");
    }
    let pbx = pbx.and_then(|node| {
        let template = pbx_template(&node, columns, context)?;
        check_level(&node, template.level(), auth.as_ref(), methods.as_deref());
        Some(template)
    });
    let voximplant = voximplant.and_then(|node| voximplant_template(&node, columns, context));
    let languages = table.get("languages").and_then(|node| languages(&node));
    Some(Rule {
        name: name.unwrap_or_else(|| format!("rule {number}")),
        methods,
        // An invalid `when` must not count as a missing one.
        when: when.unwrap_or_else(|| Some(When::default()))?,
        table: lookup.map_or(Some(None), |lookup| lookup.map(Some))?,
        pbx,
        voximplant,
        choose,
        languages,
    })
}

const CHOICES: [(&str, Choose); 2] = [("first", Choose::First), ("ask", Choose::Ask)];

fn method_names(node: TomlNode<'_, '_>, methods: &Methods<'_, '_>) -> Option<Vec<String>> {
    distinct(&node.one_or_many()?, "method", |node| method_name(node, methods))
}

fn method_name(node: &TomlNode<'_, '_>, methods: &Methods<'_, '_>) -> Option<String> {
    let name = node.word()?;
    if name == REDIRECT || methods.has(name) {
        return Some(name.to_owned());
    }
    if name == "app" {
        let hint = "add `whoami` to [app]: it makes this method; or an [[auth]] table with this `name`";
        return node.refuse(format_args!("there is no method `{name}`"), hint);
    }
    let known: Vec<_> = methods.named.iter().map(|(name, _)| name.as_str()).chain([REDIRECT]).collect();
    node.refuse_word(format_args!("there is no method `{name}`"), name, &known)
}

fn pbx_template(
    node: &TomlNode<'_, '_>,
    columns: Option<&Lookup>,
    context: &RuleContext<'_, '_, '_>,
) -> Option<PbxTemplate> {
    if !context.pbx_admin {
        node.refuse::<()>(
            "there is no administrator to open sessions",
            "add admin = { user = \"…\", password = { file = \"…\" } } to [pbx]",
        );
    }
    node.table(|table| {
        let level = table.get("level").map_or(Some(AdminLevel::User), |node| level(&node, &context.dialects));
        let domain = table.require("domain").and_then(|node| {
            let template = domain_template(&node, columns)?;
            check_node(&node, &template, level?, context.tenants.as_deref());
            Some(template)
        });
        let account = match level? {
            AdminLevel::User => table.require("account"),
            AdminLevel::Domain | AdminLevel::Admin => table.get("account"),
        };
        Some(match level? {
            AdminLevel::User => PbxTemplate::User { domain: domain?, account: account_template(&account?, columns)? },
            AdminLevel::Domain => PbxTemplate::TenantAdmin { domain: without(account, domain)? },
            AdminLevel::Admin => PbxTemplate::SystemAdmin { domain: without(account, domain)? },
        })
    })
}

fn level(node: &TomlNode<'_, '_>, dialects: &[Option<Dialect>]) -> Option<AdminLevel> {
    let level = node.choice(&LEVELS)?;
    let is_legacy = |dialect: &Option<Dialect>| *dialect == Some(Dialect::Legacy);
    if level == AdminLevel::Admin && !dialects.is_empty() && dialects.iter().all(is_legacy) {
        return node.refuse(
            "the legacy dialect has no login for administrators of the system",
            "write dialect = \"modern\" into [pbx] if the PBX speaks it, or level = \"domain\" here",
        );
    }
    Some(level)
}

const LEVELS: [(&str, AdminLevel); 3] = [
    (AdminLevel::User.as_str(), AdminLevel::User),
    (AdminLevel::Domain.as_str(), AdminLevel::Domain),
    (AdminLevel::Admin.as_str(), AdminLevel::Admin),
];

/// An account beside the level of an administrator would be ignored, and mislead the reader.
fn without(account: Option<TomlNode<'_, '_>>, domain: Option<Template>) -> Option<Template> {
    match account {
        Some(account) => account.refuse("an administrator has no account", "remove `account`, or `level`"),
        None => domain,
    }
}

/// A rule for administrators must name the methods that may prove them.
fn check_level(pbx: &TomlNode<'_, '_>, level: AdminLevel, auth: Option<&TomlNode<'_, '_>>, methods: Option<&[String]>) {
    if level == AdminLevel::User {
        return;
    }
    match auth {
        None => {
            pbx.refuse("a rule for administrators must name its methods", "name the methods that may: auth = \"…\"")
        }
        Some(node) if methods.is_some_and(|methods| methods.iter().any(|name| name == REDIRECT)) => {
            node.refuse("a redirect names an account, and an administrator has none", "leave `redirect` to other rules")
        }
        Some(_) => Some(()),
    };
}

fn domain_template(node: &TomlNode<'_, '_>, table: Option<&Lookup>) -> Option<Template> {
    let template = template(node, table)?;
    check_dollar(node, &template)?;
    match template.outline("a").parse::<Domain>() {
        Err(error) => node.refuse(error, "write a host name, or a claim in braces: \"{tenant}.example.com\""),
        Ok(_) => Some(template),
    }
}

/// Checks that a domain that is written out is at a PBX node. The host of a login tells the node of a user alone.
fn check_node(node: &TomlNode<'_, '_>, domain: &Template, level: AdminLevel, tenants: Option<&[&[HostPattern]]>) {
    let Some(domain) = domain.literal().and_then(|domain| domain.parse::<Domain>().ok()) else { return };
    let has_domain = |tenants: &&[HostPattern]| tenants.iter().any(|pattern| pattern.matches(domain.as_str()));
    if tenants.is_none_or(|all| all.iter().any(has_domain)) {
        return;
    }
    let hint = "add it to `domains` of its [[pbx]]";
    match level {
        AdminLevel::User => node.warn(
            format_args!("no [[pbx]] has the domain `{domain}`: its users log in only at a host of their node"),
            hint,
        ),
        AdminLevel::Domain | AdminLevel::Admin => {
            node.refuse::<()>(format_args!("no [[pbx]] has the domain `{domain}`"), hint);
        }
    }
}

fn account_template(node: &TomlNode<'_, '_>, table: Option<&Lookup>) -> Option<Template> {
    let template = template(node, table)?;
    check_dollar(node, &template)?;
    account(node, &template.outline("1"))?;
    Some(template)
}

/// Refuses claims in shell syntax: a result with a `$` is never an account or a domain.
fn check_dollar(node: &TomlNode<'_, '_>, template: &Template) -> Option<()> {
    if template.claims().next().is_some() && template.outline("").contains('$') {
        return node.refuse("an account or a domain never has a $", "write the claim in braces alone: \"{ext}\"");
    }
    Some(())
}

fn voximplant_template(
    node: &TomlNode<'_, '_>,
    table: Option<&Lookup>,
    context: &RuleContext<'_, '_, '_>,
) -> Option<Template> {
    if !context.voximplant {
        node.refuse::<()>("there are no Voximplant users", "add [voximplant] with `users`");
    }
    check_application(node, context.applications);
    let template = template(node, table)?;
    if let Some(literal) = template.literal() {
        voximplant_user(node, literal)?;
    }
    Some(template)
}

/// Reads a template; the columns that it uses must exist in the rule's table.
fn template(node: &TomlNode<'_, '_>, table: Option<&Lookup>) -> Option<Template> {
    let template: Template = node.parsed()?;
    let Some(Lookup { table, .. }) = table else { return Some(template) };
    let columns: Vec<_> = table.columns().iter().map(String::as_str).collect();
    let unknown = template.claims().filter_map(|name| name.strip_prefix(ROW)).find(|name| !columns.contains(name));
    if let Some(name) = unknown {
        return node.refuse_word(format_args!("the table has no column `{name}`"), name, &columns);
    }
    Some(template)
}

/// Checks an application that is written behind the `@`. The application of a claim is checked at login.
fn check_application(node: &TomlNode<'_, '_>, (own, others): (Option<&str>, &[&str])) {
    let written = node.string().and_then(|text| text.rsplit_once('@')).map(|(_, application)| application);
    let Some(application) = written.filter(|written| !written.contains(['{', '}'])) else { return };
    if own == Some(application) {
        node.refuse::<()>("the users of this application have no name behind the @", "write nothing behind the user");
    } else if !others.contains(&application) {
        let hint = "list it as [[voximplant.applications]], or correct its name";
        node.refuse::<()>(format_args!("there is no application `{application}`"), hint);
    }
}

/// Warns about settings that no rule uses.
pub(super) fn warn_unused(
    rules: &[Rule],
    context: &RuleContext<'_, '_, '_>,
    admins: &[TomlNode<'_, '_>],
    voximplant: Option<&TomlNode<'_, '_>>,
) {
    let uses =
        |name: &String| rules.iter().any(|rule| rule.methods.as_ref().is_none_or(|methods| methods.contains(name)));
    for (name, node) in context.methods.named.iter().filter(|(name, _)| !uses(name)) {
        node.warn(format_args!("no rule uses the method `{name}`"), NO_RULE);
    }
    for admin in admins.iter().filter(|_| rules.iter().all(|rule| rule.pbx.is_none())) {
        admin.warn("no rule opens PBX sessions", NO_RULE);
    }
    if let Some(voximplant) = voximplant.filter(|_| rules.iter().all(|rule| rule.voximplant.is_none())) {
        voximplant.warn("no rule answers Voximplant keys", NO_RULE);
    }
}

/// Warns about rules for administrators behind a rule for all: callers that the earlier rule fits never reach them.
pub(super) fn warn_late(rules: &[Rule], nodes: &[TomlNode<'_, '_>]) {
    // A rule that could not be read has a node as well, and problems of its own.
    if rules.len() != nodes.len() {
        return;
    }
    let level = |rule: &Rule| rule.pbx.as_ref().map(PbxTemplate::level);
    for (index, (late, node)) in rules.iter().zip(nodes).enumerate() {
        if level(late).is_none_or(|level| level == AdminLevel::User) {
            continue;
        }
        let shares = |early: &Rule| match (&early.methods, &late.methods) {
            (Some(early), Some(late)) => early.iter().any(|name| late.contains(name)),
            (None, _) | (_, None) => true,
        };
        let takes_all = |early: &&Rule| {
            level(early) == Some(AdminLevel::User)
                && early.when == When::default()
                && early.table.is_none()
                && shares(early)
        };
        if let Some(early) = rules.iter().take(index).find(takes_all) {
            node.warn(
                format_args!("is never reached by callers that the rule `{}` before it fits", early.name),
                "write rules for administrators first",
            );
        }
    }
}

const NO_RULE: &str = "add an [[allow]] table that does: without a rule there is no login";
