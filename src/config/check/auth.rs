//! `[[auth]]`: how callers prove who they are.

mod app;
mod header;
mod jwt;
mod key;
mod link;
mod mtls;
mod oidc;

use crate::config::document::{Node, Table};
use crate::config::source::Surroundings;
use crate::config::{Certificate, Method, MethodKind};
use crate::model::grant::REDIRECT;

/// What `[[auth]]` says, with the method that `[app] whoami` is short for.
#[derive(Default)]
pub(super) struct Methods<'d, 'i> {
    /// The methods that could be read, in the order they are asked.
    pub(super) methods: Vec<Method>,
    /// Every name and where it is given, also of methods that were refused.
    pub(super) named: Vec<(String, Node<'d, 'i>)>,
}

impl<'d, 'i> Methods<'d, 'i> {
    /// Tells whether a method has this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.named.iter().any(|(known, _)| known == name)
    }

    /// Adds the method of `[app] whoami`.
    pub(super) fn add_app(&mut self, node: Node<'d, 'i>) {
        self.methods.extend(app::short(&node).map(|whoami| Method {
            name: "app".to_owned(),
            kind: MethodKind::App(whoami),
            ignore_cookies: false,
        }));
        self.named.push(("app".to_owned(), node));
    }

    /// Adds the method of one `[[auth]]` table.
    pub(super) fn add(&mut self, node: &Node<'d, 'i>, has_app: bool, around: &Surroundings<'_>) {
        let method = node.table(|table| {
            let kind_node = table.require("type");
            let kind = kind_node.as_ref().and_then(kind);
            let name = name(table, kind, self);
            self.named.extend(name.map(|name| (name.to_owned(), node.clone())));
            let Some(kind) = kind else {
                return table.leave_unread();
            };
            if matches!(kind, Kind::App) && !has_app {
                kind_node?.refuse::<()>("there is no app to ask", "add [app] with its `url`");
            }
            // A cookie is all that these look at: it cannot be ignored for its own sake.
            let ignore_cookies = match kind {
                Kind::App | Kind::Oidc => None,
                Kind::Key | Kind::Jwt | Kind::Link | Kind::Header | Kind::Mtls => {
                    table.get("ignore_cookies").and_then(|node| node.boolean())
                }
            };
            let kind = match kind {
                Kind::App => app::read(table).map(MethodKind::App),
                Kind::Key => key::read(table, self, around).map(MethodKind::Key),
                Kind::Header => header::read(table, around).map(MethodKind::Header),
                Kind::Mtls => mtls::read(table, around).map(MethodKind::Mtls),
                Kind::Link => link::read(table, self, around).map(MethodKind::Link),
                Kind::Jwt => jwt::read(table, self, around).map(MethodKind::Jwt),
                Kind::Oidc => oidc::read(table, around).map(MethodKind::Oidc),
            };
            Some(Method { name: name?.to_owned(), kind: kind?, ignore_cookies: ignore_cookies.unwrap_or_default() })
        });
        self.methods.extend(method);
    }

    /// Warns of methods whose credentials work once, where a restart forgets which were used.
    pub(super) fn warn_forgetful(&self) {
        link::warn_forgetful(self);
        jwt::warn_forgetful(self);
    }

    /// Checks what methods must know of each other and of the listeners.
    pub(super) fn check(&self, certificates: Option<&[Certificate]>) {
        header::check_apart(self);
        if let Some(certificates) = certificates {
            mtls::check_asked(self, certificates);
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    App,
    Key,
    Jwt,
    Link,
    Header,
    Mtls,
    Oidc,
}

/// The types by the words that name them, which also name a method that has no name of its own.
const KINDS: [(&str, Kind); 7] = [
    ("app", Kind::App),
    ("key", Kind::Key),
    ("jwt", Kind::Jwt),
    ("link", Kind::Link),
    ("header", Kind::Header),
    ("mtls", Kind::Mtls),
    ("oidc", Kind::Oidc),
];

fn kind(node: &Node<'_, '_>) -> Option<Kind> {
    if node.string()? == REDIRECT {
        return node.refuse("`redirect` is built in", "remove this table, and name it in a rule: auth = \"redirect\"");
    }
    node.choice(&KINDS)
}

/// Reads the name, which is the type when none is written.
fn name<'d>(table: &Table<'d, '_>, kind: Option<Kind>, before: &Methods<'_, '_>) -> Option<&'d str> {
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
