//! `[[auth]]`: how callers prove who they are.

mod app;
mod header;
mod jwt;
mod key;
mod link;
mod mtls;
mod oidc;

use super::tls::ReadCertificates;
use crate::config::document::{TomlNode, TomlTable};
use crate::config::source::Surroundings;
use crate::config::{MethodConfig, MethodKind};
use crate::model::grant::REDIRECT;

/// What `[[auth]]` says, with the method that `[app] whoami` is short for.
#[derive(Default)]
pub(super) struct Methods<'d, 'i> {
    /// The methods that could be read, in the order they are asked.
    pub(super) methods: Vec<MethodConfig>,
    /// Every name and where it is given, also of methods that were refused.
    pub(super) named: Vec<(String, TomlNode<'d, 'i>)>,
}

impl<'d, 'i> Methods<'d, 'i> {
    /// Tells whether a method has this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.named.iter().any(|(known, _)| known == name)
    }

    /// Adds the method of `[app] whoami`.
    pub(super) fn add_app(&mut self, node: TomlNode<'d, 'i>) {
        self.methods.extend(app::short(&node).map(|whoami| MethodConfig {
            name: "app".to_owned(),
            kind: MethodKind::App(whoami),
            ignore_cookies: false,
        }));
        self.named.push(("app".to_owned(), node));
    }

    /// Adds the method of one `[[auth]]` table.
    pub(super) fn add(&mut self, node: &TomlNode<'d, 'i>, has_app: bool, around: &Surroundings<'_>) {
        let method = node.table(|table| {
            let kind_node = table.require("type");
            let kind = kind_node.as_ref().and_then(kind);
            let name = name(table, kind, self);
            self.named.extend(name.map(|name| (name.to_owned(), node.clone())));
            let Some(kind) = kind else {
                return table.leave_unread();
            };
            if matches!(kind, MethodType::App) && !has_app {
                kind_node?.refuse::<()>("there is no app to ask", "add [app] with its `url`");
            }
            // A cookie is all that these look at: it cannot be ignored for its own sake.
            let ignore_cookies = match kind {
                MethodType::App | MethodType::Oidc => None,
                MethodType::Key | MethodType::Jwt | MethodType::Link | MethodType::Header | MethodType::Mtls => {
                    table.get("ignore_cookies").and_then(|node| node.boolean())
                }
            };
            let kind = match kind {
                MethodType::App => app::read(table).map(MethodKind::App),
                MethodType::Key => key::read(table, self, around).map(MethodKind::Key),
                MethodType::Header => header::read(table, around).map(MethodKind::Header),
                MethodType::Mtls => mtls::read(table, around).map(MethodKind::Mtls),
                MethodType::Link => link::read(table, self, around).map(MethodKind::Link),
                MethodType::Jwt => jwt::read(table, self, around).map(MethodKind::Jwt),
                MethodType::Oidc => oidc::read(table, around).map(MethodKind::Oidc),
            };
            Some(MethodConfig {
                name: name?.to_owned(),
                kind: kind?,
                ignore_cookies: ignore_cookies.unwrap_or_default(),
            })
        });
        self.methods.extend(method);
    }

    /// Warns of methods whose credentials work once, unless a restart remembers which were used.
    pub(super) fn warn_forgetful(&self, remembers: bool) {
        if !remembers {
            link::warn_forgetful(self);
            jwt::warn_forgetful(self);
        }
    }

    /// Checks what methods must know of each other and of the listeners.
    pub(super) fn check(&self, tls: Option<&TomlNode<'_, '_>>, certificates: Option<&ReadCertificates>) {
        header::check_apart(self);
        if let (Some(tls), Some(certificates)) = (tls, certificates) {
            mtls::check_asked(self, certificates);
            mtls::check_optional(self, tls, certificates);
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum MethodType {
    App,
    Key,
    Jwt,
    Link,
    Header,
    Mtls,
    Oidc,
}

/// The types by the words that name them, which also name a method that has no name of its own.
const KINDS: [(&str, MethodType); 7] = [
    ("app", MethodType::App),
    ("key", MethodType::Key),
    ("jwt", MethodType::Jwt),
    ("link", MethodType::Link),
    ("header", MethodType::Header),
    ("mtls", MethodType::Mtls),
    ("oidc", MethodType::Oidc),
];

fn kind(node: &TomlNode<'_, '_>) -> Option<MethodType> {
    if node.string()? == REDIRECT {
        return node.refuse("`redirect` is built in", "remove this table, and name it in a rule: auth = \"redirect\"");
    }
    node.choice(&KINDS)
}

/// Reads the name, which is the type when none is written.
fn name<'d>(table: &TomlTable<'d, '_>, kind: Option<MethodType>, before: &Methods<'_, '_>) -> Option<&'d str> {
    let Some(node) = table.get("name") else {
        let kind = kind?;
        let (name, _) = KINDS.iter().find(|(_, known)| *known == kind)?;
        return if before.has(name) {
            table.refuse(format_args!("another method is called `{name}`"), "give this one a `name`")
        } else {
            Some(name)
        };
    };
    match node.word()? {
        REDIRECT => node.refuse("`redirect` is the name of the built-in method", "choose another name"),
        name if before.has(name) => {
            node.refuse(format_args!("another method is called `{name}`"), "choose another name")
        }
        name => Some(name),
    }
}
