//! `[voximplant]`: the users whose one-time keys are answered, and the pages that may ask.

mod management;

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use super::origins::origins;
use crate::config::document::{TomlNode, TomlTable};
use crate::config::source::Surroundings;
use crate::config::{VoximplantApplication, VoximplantConfig, can_write};
use crate::model::freeze_target::FreezeMeans;
use crate::model::ott::{self, Ha1, is_application};
use crate::model::rate::Rate;

/// The longest key, in bytes, with which a caller cannot push the HA1 across an MD5 block.
const MAX_KEY_LENGTH: usize = 95;

/// Reads `[voximplant]`.
pub(super) fn voximplant(table: &TomlTable<'_, '_>, around: &Surroundings<'_>) -> Option<VoximplantConfig> {
    // Where callgate can add users, a users file may be without any.
    let may_be_empty = table.get("management").is_some();
    let users = users(table, may_be_empty, around);
    let application_node = table.get("application");
    let application = application_node.as_ref().and_then(application);
    let others = table.get("applications").and_then(|node| {
        if application_node.is_none() {
            let hint = "add application = \"myapp.myaccount\": that of the `users` above";
            node.refuse::<()>("there are several applications, and the first has no name", hint);
        }
        others(&node, application.as_deref(), may_be_empty, around)
    });
    let management = table.get("management").and_then(|node| node.table(|table| management::management(table, around)));
    if management.is_some() && application_node.is_none() {
        let hint = "add application = \"myapp.myaccount\": the part between the @ and .voximplant.com of a login name";
        table.get("management").and_then(|node| node.refuse::<()>("the application has no name", hint));
    }
    let freeze = freeze(table);
    let adds_users = adds_users(table);
    let new_users = table.get("new_users").and_then(|node| node.parsed());
    let max_key_length = table.get("max_key_length").and_then(|node| max_key_length(&node));
    let distinct_keys = table.get("distinct_keys").and_then(|node| node.parsed());
    let origins = table.get("origins").and_then(|node| origins(&node));
    let (users, users_file) = users?;
    let config = VoximplantConfig {
        users,
        users_file,
        application,
        others: others.unwrap_or_default(),
        management,
        freeze: freeze.unwrap_or_default(),
        adds_users: adds_users.unwrap_or_default(),
        new_users: new_users.unwrap_or_else(VoximplantConfig::default_new_users),
        max_key_length: max_key_length.unwrap_or(MAX_KEY_LENGTH),
        distinct_keys: distinct_keys.unwrap_or_else(default_distinct_keys),
        origins: origins.unwrap_or_default(),
    };
    let key = if config.adds_users { "provision" } else { "freeze" };
    if config.adds_users || config.freeze == FreezeMeans::Rotate {
        check_files(&config, &table.get(key)?)?;
    }
    Some(config)
}

/// Checks that callgate can write the users file of each application.
fn check_files(config: &VoximplantConfig, node: &TomlNode<'_, '_>) -> Option<()> {
    for one in config.applications() {
        let Some(file) = one.users_file else {
            return node.refuse(
                format_args!("the users of {} are not in a file, which callgate could write", one.name),
                "write users = { file = \"/var/lib/callgate/voximplant.htdigest\" }",
            );
        };
        // The file is replaced by another one in its folder.
        let written = fs::canonicalize(file).and_then(|file| can_write(&file.with_extension("callgate-draft")));
        if let Err(error) = written {
            return node.refuse(
                format_args!("callgate cannot write in the folder of {}: {}", file.display(), error.kind()),
                "move the users file to a folder that the user callgate runs as may write, such as /var/lib/callgate",
            );
        }
    }
    Some(())
}

const MEANS: [(&str, FreezeMeans); 2] = [("deactivate", FreezeMeans::Deactivate), ("rotate", FreezeMeans::Rotate)];
const NO_MANAGEMENT: &str = "add `management`, by which callgate changes users at Voximplant";

const WHEN: [(&str, bool); 2] = [("never", false), ("on-first-login", true)];

/// Reads `freeze`.
fn freeze(table: &TomlTable<'_, '_>) -> Option<FreezeMeans> {
    managed(table, "freeze")?.choice(&MEANS)
}

/// Reads `provision`.
fn adds_users(table: &TomlTable<'_, '_>) -> Option<bool> {
    managed(table, "provision")?.choice(&WHEN)
}

/// Returns a key that needs `management`.
fn managed<'d, 'i>(table: &TomlTable<'d, 'i>, key: &'static str) -> Option<TomlNode<'d, 'i>> {
    let node = table.get(key)?;
    if table.get("management").is_none() {
        return node.refuse("there is no access to Voximplant's users", NO_MANAGEMENT);
    }
    Some(node)
}

fn default_distinct_keys() -> Rate {
    "5/5min".parse().expect("a rate")
}

/// The users of an application, and their file if they come from one.
type Users = (Arc<HashMap<String, Ha1>>, Option<PathBuf>);

/// Reads `users = { file = … }` or another source.
fn users(table: &TomlTable<'_, '_>, may_be_empty: bool, around: &Surroundings<'_>) -> Option<Users> {
    let node = table.require("users")?;
    if node.value().is_str() {
        return node.refuse("must be a table", "write users = { file = \"voximplant.htdigest\" }");
    }
    let users = users_of(&node, may_be_empty, around)?;
    let file = node.entry("file").and_then(|file| Some(around.base.join(file.string()?)));
    Some((Arc::new(users), file))
}

/// Reads `[[voximplant.applications]]`.
fn others(
    node: &TomlNode<'_, '_>,
    own: Option<&str>,
    may_be_empty: bool,
    around: &Surroundings<'_>,
) -> Option<Vec<VoximplantApplication>> {
    let nodes = node.tables()?;
    let mut others: Vec<VoximplantApplication> = Vec::new();
    for node in nodes {
        let other = node.table(|table| {
            let name_node = table.require("name");
            let name = name_node.as_ref().and_then(application);
            let users = users(table, may_be_empty, around);
            let name = name?;
            let known = own.into_iter().chain(others.iter().map(|other| other.name.as_str()));
            if known.into_iter().any(|known| without_node(known) == without_node(&name)) {
                return name_node?.refuse("this application has users already", "add them to its one users file");
            }
            let (users, users_file) = users?;
            Some(VoximplantApplication { name, users, users_file })
        });
        others.extend(other);
    }
    Some(others)
}

/// Removes the node of an account: the application is the same with and without it.
fn without_node(name: &str) -> &str {
    name.match_indices('.').nth(1).map_or(name, |(at, _)| &name[..at])
}

fn users_of(node: &TomlNode<'_, '_>, may_be_empty: bool, around: &Surroundings<'_>) -> Option<HashMap<String, Ha1>> {
    let content = around.secret_content(node)?;
    if content.is_unseen {
        return Some(HashMap::new());
    }
    let name = &content.name;
    let source = ["file", "env", "credential"].iter().find_map(|key| node.entry(key));
    let node = source.as_ref().unwrap_or(node);
    let Ok(text) = std::str::from_utf8(&content.bytes) else {
        return node.refuse(format_args!("{name} is not text in UTF-8"), "write it with callgate hash or htdigest");
    };
    match ott::parse_users(text) {
        Ok(users) if users.is_empty() && !may_be_empty => {
            node.refuse(format_args!("{name} names no user"), "add one: htdigest FILE voximplant.com USER")
        }
        Ok(users) => Some(users),
        Err(faults) => {
            for fault in faults {
                node.refuse::<()>(
                    format_args!("{name} line {}: {}", fault.line, fault.problem),
                    "write each line with callgate hash or htdigest",
                );
            }
            None
        }
    }
}

/// Reads `myapp.myaccount`, optionally followed by the account's node.
fn application(node: &TomlNode<'_, '_>) -> Option<String> {
    let text = node.string()?;
    if is_application(text) {
        return Some(text.to_owned());
    }
    node.refuse(
        "not of the form myapp.myaccount",
        "write the part between the @ and .voximplant.com of a login name, in lower case",
    )
}

fn max_key_length(node: &TomlNode<'_, '_>) -> Option<usize> {
    const ATTACK: &str = "at most 95: with a longer key the caller decides how HA1 is split between MD5 blocks, and can guess it piece by piece (the chosen-challenge attack on APOP)";
    match node.integer(1..=usize::MAX)? {
        length @ 1..=MAX_KEY_LENGTH => Some(length),
        _ => node.refuse("keys this long give the password away", ATTACK),
    }
}
