//! `[[allow]]`: who may become whom.

use super::auth::Methods;
use super::upstream::languages;
use super::values::{account, distinct, voximplant_user};
use crate::config::document::{Node, Table};
use crate::model::account::Domain;
use crate::model::grant::{PbxTemplate, REDIRECT, Rule};
use crate::model::template::Template;

/// What the other tables offer to rules.
pub(super) struct Offer<'m, 'd, 'i> {
    /// The methods and their names.
    pub(super) methods: &'m Methods<'d, 'i>,
    /// Is there a PBX administrator?
    pub(super) pbx_admin: bool,
    /// Is there `[voximplant]`?
    pub(super) voximplant: bool,
    /// The application of its `users`, and the others.
    pub(super) applications: (Option<&'m str>, &'m [&'m str]),
}

/// Reads the rules, in the order they are tried.
pub(super) fn rules(tables: &[Node<'_, '_>], offer: &Offer<'_, '_, '_>) -> Vec<Rule> {
    let rules = tables.iter().enumerate();
    rules.filter_map(|(index, node)| node.table(|table| rule(table, index + 1, offer))).collect()
}

fn rule(table: &Table<'_, '_>, number: usize, offer: &Offer<'_, '_, '_>) -> Option<Rule> {
    let name = table.get("name").and_then(|node| node.word().map(str::to_owned));
    let auth = table.get("auth");
    if auth.is_none() && offer.methods.named.is_empty() {
        table.refuse::<()>(
            "nobody can prove to be anybody",
            "add `whoami` to [app], or an [[auth]] table, or auth = \"redirect\" here",
        );
    }
    let methods = auth.and_then(|node| method_names(node, offer.methods));
    let (pbx, voximplant) = (table.get("pbx"), table.get("voximplant"));
    if pbx.is_none() && voximplant.is_none() {
        table.refuse::<()>("allows nothing", "add pbx = { domain = \"…\", account = \"…\" } or voximplant = \"…\"");
    }
    Some(Rule {
        name: name.unwrap_or_else(|| format!("rule {number}")),
        methods,
        pbx: pbx.and_then(|node| pbx_template(&node, offer)),
        voximplant: voximplant.and_then(|node| voximplant_template(&node, offer)),
        languages: table.get("languages").and_then(|node| languages(&node)),
    })
}

fn method_names(node: Node<'_, '_>, methods: &Methods<'_, '_>) -> Option<Vec<String>> {
    distinct(&node.one_or_many()?, "method", |node| method_name(node, methods))
}

fn method_name(node: &Node<'_, '_>, methods: &Methods<'_, '_>) -> Option<String> {
    let name = node.word()?;
    if name == REDIRECT || methods.has(name) {
        return Some(name.to_owned());
    }
    let known: Vec<_> = methods.named.iter().map(|(name, _)| name.as_str()).chain([REDIRECT]).collect();
    node.refuse_word(format_args!("there is no method `{name}`"), name, &known)
}

fn pbx_template(node: &Node<'_, '_>, offer: &Offer<'_, '_, '_>) -> Option<PbxTemplate> {
    if !offer.pbx_admin {
        node.refuse::<()>(
            "there is no administrator to open sessions",
            "add admin = { user = \"…\", password = { file = \"…\" } } to [pbx]",
        );
    }
    node.table(|table| {
        let domain = table.require("domain").and_then(|node| domain_template(&node));
        let account = table.require("account").and_then(|node| account_template(&node));
        Some(PbxTemplate { domain: domain?, account: account? })
    })
}

fn domain_template(node: &Node<'_, '_>) -> Option<Template> {
    let template: Template = node.parsed()?;
    match template.literal().map(str::parse::<Domain>) {
        Some(Err(error)) => node.refuse(error, "write a host name, or a claim in braces: \"{tenant}.example.com\""),
        Some(Ok(_)) | None => Some(template),
    }
}

fn account_template(node: &Node<'_, '_>) -> Option<Template> {
    let template: Template = node.parsed()?;
    if let Some(literal) = template.literal() {
        account(node, literal)?;
    }
    Some(template)
}

fn voximplant_template(node: &Node<'_, '_>, offer: &Offer<'_, '_, '_>) -> Option<Template> {
    if !offer.voximplant {
        node.refuse::<()>("there are no Voximplant users", "add [voximplant] with `users`");
    }
    check_application(node, offer.applications);
    let template: Template = node.parsed()?;
    if let Some(literal) = template.literal() {
        voximplant_user(node, literal)?;
    }
    Some(template)
}

/// Checks an application that is written behind the `@`. A claim may bring one along, which nobody knows yet.
fn check_application(node: &Node<'_, '_>, (own, others): (Option<&str>, &[&str])) {
    let written = node.string().and_then(|text| text.rsplit_once('@')).map(|(_, application)| application);
    let Some(application) = written.filter(|written| !written.contains(['{', '}'])) else { return };
    if own == Some(application) {
        node.refuse::<()>("this application goes without saying: `users` are its own", "write nothing behind the user");
    } else if !others.contains(&application) {
        let hint = "list it as [[voximplant.applications]], or correct its name";
        node.refuse::<()>(format_args!("there is no application `{application}`"), hint);
    }
}

/// Notes what is configured but no rule leads to.
pub(super) fn warn_unused(
    rules: &[Rule],
    offer: &Offer<'_, '_, '_>,
    admin: Option<Node<'_, '_>>,
    voximplant: Option<&Node<'_, '_>>,
) {
    let uses =
        |name: &String| rules.iter().any(|rule| rule.methods.as_ref().is_none_or(|methods| methods.contains(name)));
    for (name, node) in offer.methods.named.iter().filter(|(name, _)| !uses(name)) {
        node.warn(format_args!("no rule uses the method `{name}`"), NO_RULE);
    }
    if let Some(admin) = admin.filter(|_| rules.iter().all(|rule| rule.pbx.is_none())) {
        admin.warn("no rule opens PBX sessions", NO_RULE);
    }
    if let Some(voximplant) = voximplant.filter(|_| rules.iter().all(|rule| rule.voximplant.is_none())) {
        voximplant.warn("no rule answers Voximplant keys", NO_RULE);
    }
}

const NO_RULE: &str = "add an [[allow]] table that does: no rule, no login";
